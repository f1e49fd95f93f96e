"""The estimate of missing levels that the small network starts from."""

import pytest
import torch

from nemo_audio_restore.networks.level_prior import LevelPrior


def prior(**changes) -> LevelPrior:
    module = LevelPrior(**({'num_bins': 16, 'reach_frames': 2.0, 'reach_bins': 2.0} | changes))
    with torch.no_grad():
        module.log_profile.copy_(torch.linspace(0.5, -1.5, 16))
    return module


def test_known_magnitudes_are_returned_as_they_are():
    magnitude = torch.rand(2, 1, 16, 12) + 0.5
    mask = torch.zeros(2, 1, 16, 12)
    mask[:, :, 8:] = 1
    estimate = prior()(magnitude, mask)
    assert torch.allclose(estimate[:, :, :8], magnitude[:, :, :8], atol=1e-6)


def test_missing_magnitudes_do_not_matter():
    magnitude, mask = torch.rand(1, 1, 16, 12), torch.zeros(1, 1, 16, 12)
    mask[:, :, 8:] = 1
    disturbed = magnitude + 100 * mask
    assert torch.equal(prior()(magnitude, mask), prior()(disturbed, mask))


def test_band_follows_the_profile_at_the_level_of_each_frame():
    module = prior()
    gains = torch.linspace(0.5, 2.0, 12)
    truth = (module.log_profile.exp()[:, None] * gains)[None, None]
    mask = torch.zeros(1, 1, 16, 12)
    mask[:, :, 8:] = 1
    assert torch.allclose(module(truth, mask), truth, atol=1e-5)


def test_gap_is_interpolated_between_its_ends_bin_by_bin():
    magnitude = torch.ones(1, 1, 16, 21)
    magnitude[:, :, :8, 13:] = 3.0
    mask = torch.zeros(1, 1, 16, 21)
    mask[..., 8:13] = 1
    estimate = prior()(magnitude, mask)[0, 0]
    assert torch.allclose(estimate[0, 10], torch.tensor(2.0), atol=1e-4)
    assert estimate[0, 8] < 2.0 < estimate[0, 12]
    assert torch.allclose(estimate[12, 8:13], torch.ones(5), atol=1e-5)


def test_band_inside_a_gap_follows_from_the_interpolated_bins():
    module = prior()
    truth = module.log_profile.exp()[:, None].expand(16, 21)[None, None] * 1.7
    mask = torch.zeros(1, 1, 16, 21)
    mask[..., 8:13] = 1
    mask[:, :, 8:] = 1
    assert torch.allclose(module(truth, mask), truth, atol=1e-5)


def test_nothing_known_gives_the_profile():
    module = prior()
    estimate = module(torch.rand(1, 1, 16, 4), torch.ones(1, 1, 16, 4))
    assert torch.allclose(estimate[0, 0, :, 2], module.log_profile.exp())


def test_distant_bins_of_a_real_spectrogram_stay_finite():
    mask = torch.zeros(1, 1, 1024, 128)
    mask[:, :, 20:] = 1
    estimate = LevelPrior(num_bins=1024)(torch.full((1, 1, 1024, 128), 0.7), mask)
    assert torch.allclose(estimate, torch.full_like(estimate, 0.7), atol=1e-4)


def test_reach_sets_how_local_the_level_is():
    magnitude, mask = torch.ones(1, 1, 16, 8), torch.zeros(1, 1, 16, 8)
    magnitude[:, :, :4] = 5.0
    mask[:, :, 8:] = 1
    near = LevelPrior(num_bins=16, reach_bins=0.5)(magnitude, mask)[0, 0, 12, 0]
    far = LevelPrior(num_bins=16, reach_bins=50.0)(magnitude, mask)[0, 0, 12, 0]
    assert near.item() == pytest.approx(1.0, abs=0.01)
    assert far > 2.5
    with pytest.raises(ValueError, match='must be positive'):
        LevelPrior(num_bins=16, reach_frames=0)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_the_prior(dtype):
    prior = LevelPrior(num_bins=512, reach_bins=10.0)
    magnitude = torch.rand(1, 1, 512, 8, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(512) >= 40).float()[None, None, :, None].expand(1, 1, 512, 8)
    with torch.no_grad():
        exact = prior(magnitude, mask)
        with torch.autocast('cpu', dtype):
            assert torch.equal(prior(magnitude, mask), exact)
