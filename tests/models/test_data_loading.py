"""Claims about the data loader: what the ranks see, what a resumed run sees, and what is refused."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lhotse.audio import AudioSource

from nemo_audio_restore.data.manifest_safety import UnsafeManifestError
from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.data_loading import audio_dataset, lhotse_loader

RATE = 8000
CROP_S = 0.5


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Twelve tracks of 2 s; the value of a sample tells the track (hundredths) and the position in it."""
    folder = tmp_path_factory.mktemp('tracks')
    cuts = []
    for index in range(12):
        path = folder / f'track{index:02d}.wav'
        soundfile.write(path, index / 16 + np.arange(2 * RATE) * 2.0**-20, RATE, subtype='FLOAT')
        cut = Recording.from_file(path, recording_id=path.stem).to_cut()
        cut.recording.sources[0] = AudioSource('file', [0], path.name)
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(folder / 'cuts.jsonl.gz')
    return folder


def loader(folder, *, rank=0, world=1, step=0, **settings):
    config = {
        'cuts_path': str(folder / 'cuts.jsonl.gz'),
        'batch_size': 2,
        'shuffle': True,
        'truncate_duration': CROP_S,
        **settings,
    }
    config = {key: value for key, value in config.items() if value is not None}
    place = {'where': 'train_ds', 'sample_rate': RATE, 'global_rank': rank, 'step': step}
    return lhotse_loader(config, audio_dataset(config, **place), world_size=world, **place)


def seen(batches, limit=100):
    """(track, position) of every crop."""
    found = []
    for _, batch in zip(range(limit), batches, strict=False):
        for first in batch['audio'][:, 0].tolist():
            found.append((int(first * 16), round((first - int(first * 16) / 16) * 2**20)))
    return found


def test_an_epoch_holds_every_track_once_at_a_random_place(folder):
    crops = seen(loader(folder))
    assert sorted(track for track, _ in crops) == list(range(12))
    assert len({position for _, position in crops}) > 9
    assert max(position for _, position in crops) <= 1.5 * RATE


def test_same_seed_gives_the_same_batches(folder):
    assert seen(loader(folder, seed=5)) == seen(loader(folder, seed=5))
    assert seen(loader(folder, seed=5)) != seen(loader(folder, seed=6))


def test_ranks_see_different_tracks(folder):
    ranks = [[track for track, _ in seen(loader(folder, rank=rank, world=2))] for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == 6
    assert not set(ranks[0]) & set(ranks[1])


def test_a_resumed_run_does_not_replay_its_data(folder):
    start, resumed = seen(loader(folder)), seen(loader(folder, step=100))
    assert [track for track, _ in start] != [track for track, _ in resumed]
    assert not set(start) & set(resumed)
    assert resumed == seen(loader(folder, step=100))


def test_ranks_of_a_resumed_run_see_different_tracks(folder):
    ranks = [{track for track, _ in seen(loader(folder, rank=rank, world=2, step=7))} for rank in (0, 1)]
    assert not ranks[0] & ranks[1]


def test_global_random_numbers_stay_as_they_were(folder):
    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    loader(folder)
    assert draws() == expected


def test_validation_crops_are_the_same_in_every_epoch(folder):
    validation = loader(folder, shuffle=False, truncate_offset_type='middle')
    first, second = seen(validation), seen(validation)
    assert first == second and {position for _, position in first} == {int(0.75 * RATE)}


def test_fixed_truncation_is_left_to_lhotse(folder):
    assert {position for _, position in seen(loader(folder, truncate_offset_type='start'))} == {0}


def test_workers_read_the_same_data_as_the_main_process(folder):
    assert seen(loader(folder, num_workers=1)) == seen(loader(folder))


def test_a_nemo_manifest_gives_audio(folder, tmp_path):
    lines = [
        {'audio_filepath': str(folder / f'track{index:02d}.wav'), 'duration': 2.0, 'sampling_rate': RATE}
        for index in range(3)
    ]
    (tmp_path / 'm.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    crops = seen(loader(folder, cuts_path=None, manifest_filepath=str(tmp_path / 'm.jsonl')))
    assert sorted(track for track, _ in crops) == [0, 1, 2]


def test_weights_of_several_sources_are_kept(folder):
    sources = []
    for name, chosen in (('low', range(6)), ('high', range(6, 12))):
        path = folder / f'{name}.jsonl.gz'
        cuts = CutSet.from_file(folder / 'cuts.jsonl.gz')
        CutSet.from_cuts(cut for index, cut in enumerate(cuts) if index in chosen).to_file(path)
        sources.append({'type': 'lhotse', 'cuts_path': str(path), 'weight': 0.9 if name == 'low' else 0.1})
    crops = seen(loader(folder, cuts_path=None, input_cfg=sources, shuffle_buffer_size=12), limit=200)
    share = sum(track < 6 for track, _ in crops) / len(crops)
    assert share == pytest.approx(0.9, abs=0.06)


@pytest.fixture(scope='module')
def shar(folder, tmp_path_factory):
    """The tracks as Lhotse shar in four shards."""
    out = tmp_path_factory.mktemp('shar')
    cuts = []
    for cut in CutSet.from_file(folder / 'cuts.jsonl.gz'):
        cut.recording.sources[0].source = str(folder / cut.recording.sources[0].source)
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_shar(out, fields={'recording': 'wav'}, shard_size=3)
    return out


def test_shar_gives_all_tracks(folder, shar):
    crops = seen(loader(folder, cuts_path=None, shar_path=str(shar), shuffle_buffer_size=12), limit=40)
    assert {track for track, _ in crops} == set(range(12))


def test_ranks_read_shar_in_different_orders_and_a_resumed_run_in_another(folder, shar):
    def order(**place):
        return seen(loader(folder, cuts_path=None, shar_path=str(shar), shuffle_buffer_size=12, **place), limit=6)

    assert order() == order()
    assert order() != order(rank=1, world=2)
    assert order() != order(step=9)


def test_mixed_up_or_unknown_settings_are_refused(folder):
    with pytest.raises(ConfigError, match="'batch_sise'.*batch_size"):
        loader(folder, batch_sise=2)
    with pytest.raises(ConfigError, match='names no data'):
        loader(folder, cuts_path=None)
    with pytest.raises(ConfigError, match='works at 8000 Hz'):
        loader(folder, sample_rate=16000)
    with pytest.raises(ConfigError, match='set batch_size'):
        loader(folder, batch_size=None, batch_duration=10.0)
    with pytest.raises(ConfigError, match='level_rsm'):
        loader(folder, dataset={'level_rsm': 0.1})


def test_dataset_settings_reach_the_dataset(folder):
    (batch,) = [batch for _, batch in zip(range(1), loader(folder, dataset={'level_rms': 0.01}), strict=False)]
    rms = batch['audio'].square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, 0.01), rtol=1e-3, atol=0)


def test_a_manifest_with_a_command_is_refused_unless_it_is_allowed(folder, tmp_path):
    (cut,) = CutSet.from_file(folder / 'cuts.jsonl.gz').subset(first=1)
    cut.recording.sources[0] = AudioSource('command', [0], f'cat {folder}/track03.wav')
    CutSet.from_cuts([cut]).to_file(tmp_path / 'command.jsonl')
    with pytest.raises(UnsafeManifestError, match='command'):
        loader(folder, cuts_path=str(tmp_path / 'command.jsonl'))
    crops = seen(loader(folder, cuts_path=str(tmp_path / 'command.jsonl'), allow_commands=True, batch_size=1))
    assert Counter(track for track, _ in crops) == {3: 1}
