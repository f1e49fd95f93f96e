"""Claims about recordings as levels, and scenes that are made of them."""

import numpy as np
import pytest
import torch

from nemo_audio_restore.data.level_pictures import (
    FLOOR_DB,
    STEP_DB,
    Recording,
    Scenes,
    as_bytes,
    decibels,
    roughened,
)

BANDS, FRAMES = 8, 256


def sound(band, frames=10, first=3):
    """A sound of one band from a frame on."""
    picture = np.full((BANDS, FRAMES), FLOOR_DB)
    picture[band, first : first + frames] = -20.0 - np.arange(frames)
    return as_bytes(picture)[None]


def singles():
    return [
        Recording(sound(1), {'drum': 'snare drum'}, single=True),
        Recording(sound(5), {'sound': 'bird', 'kind': 'sound effect'}, single=True),
        Recording(sound(6), {'sound': 'fire'}, single=False),
    ]


def test_bytes_keep_levels_to_half_a_step():
    levels = np.random.default_rng(0).uniform(-139, 10, (BANDS, FRAMES))
    back = decibels([as_bytes(levels)])[0].numpy()
    assert np.abs(back - levels).max() <= STEP_DB / 2 + 1e-4
    assert as_bytes(np.array([-500.0, 500.0])).tolist() == [0, 255]


def test_a_counted_scene_holds_as_many_hits_as_it_says():
    scenes, rng = Scenes(singles()), np.random.default_rng(0)
    names = ('one', 'two', 'three', 'four', 'five')
    seen = set()
    for _ in range(30):
        scene = scenes.counted(rng)
        loud = decibels(list(scene.levels))[0, 1] > -8  # hits differ by 3 dB and fall by 1 dB a frame
        begins = int((loud[1:] & ~loud[:-1]).sum() + loud[0])
        assert scene.facts == {'count': names[begins - 1]}
        seen.add(begins)
    assert seen == {1, 2, 3, 4, 5}


def test_the_first_of_two_sounds_is_over_before_the_second_begins():
    scenes, rng = Scenes(singles()), np.random.default_rng(0)
    bands = {'snare drum': 1, 'bird': 5}
    for _ in range(10):
        scene = scenes.ordered(rng)
        picture = decibels(list(scene.levels))[0]
        first, second = (
            torch.nonzero(picture[bands[scene.facts[key]]] > -60).flatten() for key in ('order', 'second')
        )
        assert first[-1] < second[0] and set(scene.facts.values()) == set(bands)


def test_scenes_need_single_sounds_of_two_kinds():
    with pytest.raises(ValueError, match='two kinds'):
        Scenes(singles()[1:])


def test_roughened_levels_are_others_and_the_argument_stays():
    levels = decibels([sound(2)[0], sound(3)[0]])
    kept = levels.clone()
    rough = roughened(levels, np.random.default_rng(0), whole=[True, False])
    assert torch.equal(levels, kept) and rough.shape == levels.shape and not torch.equal(rough, levels)
    again = roughened(levels, np.random.default_rng(0), whole=[True, False])
    assert torch.equal(rough, again)


def test_nothing_is_masked_moved_or_cut_short_of_what_must_stay_whole():
    picture = np.full((BANDS, FRAMES), FLOOR_DB)
    picture[:, 250:] = -20.0
    levels = decibels([as_bytes(picture)] * 60)
    rough = roughened(levels, np.random.default_rng(1), whole=[True] * 30 + [False] * 30)
    ends = rough[:, :, 250:].amax(dim=(1, 2)) > -60
    assert bool(ends[:30].all()) and not bool(ends[30:].all())
