"""Claims about windows of one length."""

import pytest
import torch

from nemo_audio_restore.signal.windows import filled_windows


def windows(samples, length, count=4, seed=0):
    audio = torch.arange(samples, dtype=torch.float32)
    return filled_windows(audio, length, count=count, generator=torch.Generator().manual_seed(seed))


def test_short_recordings_are_repeated_whole():
    assert windows(3, 7).tolist() == [[0, 1, 2, 0, 1, 2, 0]]
    assert windows(3, 8).tolist() == [[0, 1, 2, 0, 1, 2, 0, 0]]


def test_exact_recordings_stay_as_they_are():
    assert windows(5, 5).tolist() == [[0, 1, 2, 3, 4]]


def test_windows_are_pieces_spread_over_the_recording():
    found = windows(1000, 10, count=5)
    starts = found[:, 0]
    torch.testing.assert_close(found, starts[:, None] + torch.arange(10.0))
    # One in each fifth of the 991 possible starts.
    assert (starts / 991 * 5).floor().tolist() == [0, 1, 2, 3, 4]


def test_places_depend_on_the_seed_alone():
    assert torch.equal(windows(1000, 10), windows(1000, 10))
    assert not torch.equal(windows(1000, 10), windows(1000, 10, seed=1))


def test_channels_stay_together():
    audio = torch.stack([torch.arange(50.0), 100 + torch.arange(50.0)])
    found = filled_windows(audio, 8, count=3, generator=torch.Generator().manual_seed(0))
    assert found.shape == (3, 2, 8)
    torch.testing.assert_close(found[:, 1], found[:, 0] + 100)


@pytest.mark.parametrize('options', [{'samples': 0, 'length': 4}, {'samples': 8, 'length': 4, 'count': 0}])
def test_nothing_is_refused(options):
    with pytest.raises(ValueError, match='at least one sample'):
        windows(**options)
