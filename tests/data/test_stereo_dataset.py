"""Claims about stereo batches."""

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording

from nemo_audio_restore.data.stereo_dataset import StereoDataset, stereo_audio


@pytest.fixture(scope='module')
def cuts(tmp_path_factory):
    """Noise of one, two and three channels; the second at half the rate."""
    folder = tmp_path_factory.mktemp('stereo')
    rng = np.random.default_rng(0)
    found = []
    for channels, rate in ((1, 8000), (2, 4000), (3, 8000)):
        path = folder / f'{channels}.wav'
        soundfile.write(path, 0.2 * rng.standard_normal((rate, channels)), rate, subtype='FLOAT')
        found.append(Recording.from_file(path).to_cut())
    return found


def test_one_channel_is_copied_two_are_kept_more_are_mixed(cuts):
    audio = StereoDataset(sample_rate=8000)[CutSet.from_cuts(cuts)]['audio']
    assert audio.shape == (3, 2, 8000)
    assert torch.equal(audio[0, 0], audio[0, 1]) and torch.equal(audio[2, 0], audio[2, 1])
    correlation = torch.corrcoef(audio[1])[0, 1]
    assert abs(correlation) < 0.1
    three, _ = soundfile.read(cuts[2].recording.sources[0].source, dtype='float32')
    np.testing.assert_allclose(audio[2, 0].numpy(), three.mean(axis=1), atol=1e-6)


def test_resampled_crop_is_the_crop_of_what_is_resampled(cuts):
    whole = stereo_audio(cuts[1], 8000)
    crop = stereo_audio(cuts[1].truncate(offset=0.25, duration=0.5), 8000)
    np.testing.assert_allclose(crop, whole[:, 2000:6000], atol=1e-4)


def test_shorter_items_end_in_silence_and_say_how_long_they_are(cuts):
    batch = StereoDataset(sample_rate=8000)[CutSet.from_cuts([cuts[0], cuts[1].truncate(duration=0.5)])]
    assert batch['audio_lens'].tolist() == [8000, 4000]
    assert not batch['audio'][1, :, 4000:].any() and batch['audio'][1, :, 3900:4000].any()


def test_flips_turn_about_half_of_the_crops_and_always_the_same(cuts):
    crops = CutSet.from_cuts(cuts[0].truncate(offset=0.02 * i, duration=0.02).with_id(f'{i}') for i in range(40))
    plain = StereoDataset(sample_rate=8000)[crops]['audio']
    flipped = StereoDataset(sample_rate=8000, flips=True)[crops]['audio']
    signs = (plain * flipped).sum(dim=(1, 2)).sign()
    assert torch.equal(plain.abs(), flipped.abs()) and 8 < (signs < 0).sum() < 32
    assert torch.equal(StereoDataset(sample_rate=8000, flips=True)[crops]['audio'], flipped)
    assert not torch.equal(StereoDataset(sample_rate=8000, flips=True, seed=1)[crops]['audio'], flipped)


def test_rate_must_be_positive():
    with pytest.raises(ValueError, match='got 0'):
        StereoDataset(sample_rate=0)
