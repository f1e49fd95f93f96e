"""Short recordings joined to takes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.data.corpus import Track
from nemo_audio_restore.data.takes import join_takes


def recording(
    folder: Path, name: str, *, seconds: float, group: str = 'a/x', rate: int = 8000, language='da'
) -> Track:
    path = folder / f'{name}.wav'
    samples = 0.1 * np.ones(round(seconds * rate), np.float32)
    soundfile.write(path, samples, rate)
    return Track(path, group, 'GPL-2', 'train', rate, len(samples), 1, 4000.0, 0.1, 0.1, name, language=language)


def test_a_take_ends_with_the_recording_that_makes_it_long_enough(tmp_path):
    tracks = [recording(tmp_path, str(index), seconds=0.5) for index in range(5)]
    takes = join_takes(tracks, tmp_path / 'takes', sample_rate=8000, take_s=1.0)
    lengths = [soundfile.info(take.path).duration for take in takes]
    assert lengths == pytest.approx([1.1, 1.1, 0.5])


def test_recordings_fade_and_keep_their_distance(tmp_path):
    tracks = [recording(tmp_path, str(index), seconds=0.5) for index in range(2)]
    (take,) = join_takes(tracks, tmp_path / 'takes', sample_rate=8000, take_s=1.0)
    samples, rate = soundfile.read(take.path)
    assert rate == 8000
    assert samples[[0, 3999, 4800, 8799]] == pytest.approx(0, abs=0.003)
    assert not samples[4000:4800].any()
    assert samples[2000] == samples[6800] == pytest.approx(0.1, abs=1e-4)


def test_groups_and_languages_stay_apart(tmp_path):
    tracks = [
        recording(tmp_path, 'a', seconds=0.5),
        recording(tmp_path, 'b', seconds=0.5, group='b'),
        recording(tmp_path, 'c', seconds=0.5, group='b', language='fr'),
    ]
    takes = join_takes(tracks, tmp_path / 'takes', sample_rate=8000, take_s=9.0)
    assert [(take.group, take.language, take.licence, take.split) for take in takes] == [
        ('a/x', 'da', 'GPL-2', 'train'),
        ('b', 'da', 'GPL-2', 'train'),
        ('b', 'fr', 'GPL-2', 'train'),
    ]
    assert len({take.path for take in takes}) == 3


def test_takes_have_the_rate_of_the_model(tmp_path):
    tracks = [recording(tmp_path, 'a', seconds=1.0, rate=16000)]
    (take,) = join_takes(tracks, tmp_path / 'takes', sample_rate=11025, take_s=1.0)
    info = soundfile.info(take.path)
    assert (info.samplerate, info.frames) == (11025, 11025)


def test_a_take_has_a_length(tmp_path):
    with pytest.raises(ValueError, match='take_s must be positive'):
        join_takes([], tmp_path, sample_rate=8000, take_s=0)
