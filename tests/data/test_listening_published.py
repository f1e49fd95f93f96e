"""Preparation of audio against the published one, on its own cases."""

import json

import numpy as np
import pytest
import torch

from nemo_audio_restore.data.listening import Listening
from nemo_audio_restore.signal.audio_windows import batch_windows, num_windows

pytestmark = pytest.mark.needs_fixtures


@pytest.fixture(scope='module')
def published(reference_arrays):
    folder = reference_arrays / 'audio_flamingo2'
    return np.load(folder / 'preprocess.npz'), json.loads((folder / 'preprocess.json').read_text())


def settings(config):
    return Listening(
        window_s=config['window_length'],
        overlap_s=config['window_overlap'],
        max_windows=config['max_num_window'],
        published_numerics=True,
    )


@pytest.mark.filterwarnings('ignore::nemo_audio_restore.data.listening.InputWarning')
def test_windows_are_the_published_ones(published):
    arrays, facts = published
    for name, case in facts['cases'].items():
        samples = arrays[f'{name}__pcm'].T.astype(np.float32) / 32768
        found = settings(case['config']).windows(samples, case['sr'])
        expected = arrays[f'{name}__windows_i16'].astype(np.int32)
        difference = np.abs(torch.round(found * 32767).int().numpy() - expected)
        # soxr's filters differ by a few steps between versions.
        assert difference.max() <= (0 if case['sr'] == 16000 else 3), name


def test_number_of_windows_is_the_published_one(published):
    for row in published[1]['num_windows_table']:
        read = settings(row)
        count = num_windows(row['T'], window_samples=read.window_samples, hop_samples=read.hop_samples)
        count = min(count, read.max_windows)
        assert [count, read.window_samples + (count - 1) * read.hop_samples] == row['out']


def test_batch_is_the_published_one(published):
    arrays, _ = published
    batch = batch_windows([torch.from_numpy(arrays[f'collate_in{index}_clips']) for index in range(3)])
    assert np.array_equal(batch.windows.numpy(), arrays['collate_out_audio_clips'])
    assert np.array_equal(batch.mask.numpy(), arrays['collate_out_audio_embed_mask'] > 0)
