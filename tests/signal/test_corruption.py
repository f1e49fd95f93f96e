"""The damage that the bridge is trained on."""

import pytest
import torch

from nemo_audio_restore.signal.corruption import (
    RandomCorruption,
    bandwidth_mask,
    fill_with_noise,
    first_missing_row,
)
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

REPRESENTATION = MagnitudePhaseSpectrogram()
FULL_BAND = torch.tensor([22050.0])


def draw(corruption: RandomCorruption, *, seed: int = 0, items: int = 8, frames: int = 256) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(items, 3, REPRESENTATION.num_bins, frames, generator=generator)
    return clean, corruption(REPRESENTATION, clean, FULL_BAND.expand(items), generator)


def rows_and_frames(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return mask[0].amax(dim=1), mask[0].amax(dim=0)


def test_first_missing_row_lies_one_bin_above_the_cutoff():
    assert first_missing_row(2000.0, REPRESENTATION) == 92
    assert first_missing_row(16000.0, REPRESENTATION) == 743
    assert bandwidth_mask(4000.0, REPRESENTATION).sum() == 1024 - int(2048 * 4000 / 44100)


def test_degraded_is_clean_outside_the_mask_and_half_noise_inside():
    clean, damage = draw(RandomCorruption(), items=8)
    known = damage.mask.expand_as(clean) == 0
    assert torch.equal(damage.degraded[known], clean[known])
    assert damage.degraded[~known].std().item() == pytest.approx(0.5, abs=0.01)


def test_fill_with_noise_leaves_the_callers_tensor_alone():
    clean = torch.ones(1, 3, 4, 4)
    fill_with_noise(clean, torch.ones(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))
    assert torch.equal(clean, torch.ones(1, 3, 4, 4))


def test_bandwidth_masks_start_uniformly_between_the_cutoffs():
    _, damage = draw(RandomCorruption(bandwidth_probability=1.0), items=512, frames=2)
    starts = 1024 - damage.mask[:, 0, :, 0].sum(dim=1)
    assert starts.min() >= 92
    assert starts.max() < 743
    assert starts.mean().item() == pytest.approx((92 + 742) / 2, rel=0.06)
    assert (damage.mask[:, 0, :, 0].diff(dim=1) >= 0).all()


def test_gaps_have_lengths_in_seconds_and_cover_all_bins():
    _, damage = draw(RandomCorruption(bandwidth_probability=0.0), items=24)
    assert (damage.mask.amax(dim=2) == damage.mask.amin(dim=2)).all()
    lengths = damage.mask[:, 0, 0].sum(dim=1)
    assert lengths.min() >= 8
    assert lengths.max() <= 138
    assert (damage.mask[:, 0, 0].diff(dim=1).abs().sum(dim=1) <= 2).all()


def test_gap_longer_than_the_crop_is_cut_to_it():
    _, damage = draw(RandomCorruption(bandwidth_probability=0.0, gap_range_s=(5.0, 6.0)), items=4, frames=16)
    assert damage.mask.min() == 1


def test_both_probability_cuts_the_band_of_items_with_a_gap():
    corruption = RandomCorruption(bandwidth_probability=0.0, both_probability=1.0, gap_range_s=(0.1, 0.2))
    _, damage = draw(corruption)
    top, bottom = damage.mask[:, 0, -1], damage.mask[:, 0, 0]
    assert (top == 1).all()
    assert 0 < bottom.mean() < 0.2


def test_bandwidth_probability_sets_the_share_of_items():
    _, damage = draw(RandomCorruption(bandwidth_probability=0.25), items=300, frames=12)
    extended = (damage.mask[:, 0, 0] == 0).all(dim=1) & (damage.mask[:, 0, -1] == 1).all(dim=1)
    assert extended.float().mean().item() == pytest.approx(0.25, abs=0.07)


def test_rows_above_the_true_bandwidth_are_damaged_but_not_learned():
    clean = torch.randn(1, 3, 1024, 8)
    corruption = RandomCorruption(bandwidth_probability=1.0, cutoff_range_hz=(2000.0, 8000.0))
    damage = corruption(REPRESENTATION, clean, torch.tensor([11025.0]))
    limit = first_missing_row(11025.0, REPRESENTATION)
    assert damage.mask[:, :, limit:].min() == 1
    assert damage.loss_mask[:, :, limit:].max() == 0
    assert torch.equal(damage.loss_mask[:, :, :limit], damage.mask[:, :, :limit])


def test_same_seed_gives_the_same_damage():
    _, first = draw(RandomCorruption(), seed=3, items=4)
    _, second = draw(RandomCorruption(), seed=3, items=4)
    _, other = draw(RandomCorruption(), seed=4, items=4)
    assert torch.equal(first.degraded, second.degraded)
    assert not torch.equal(first.mask, other.mask)


@pytest.mark.parametrize(
    'settings',
    [
        {'bandwidth_probability': 1.5},
        {'both_probability': -0.1},
        {'cutoff_range_hz': (0.0, 1.0)},
        {'gap_range_s': (2.0, 1.0)},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict):
    with pytest.raises(ValueError, match=next(iter(settings))):
        RandomCorruption(**settings)
