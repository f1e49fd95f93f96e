"""Level differences of two channels as latents."""

import math

import pytest
import torch

from nemo_audio_restore.networks.band_panning import BandPanning
from nemo_audio_restore.networks.spectral_autoencoder import (
    SpectralAutoencoder,
    StereoSpectralDecoder,
    StereoSpectralEncoder,
)

BINS, HOPS = 65, 4
SIZES = {'samples_per_latent': 512, 'hop_length': 128, 'num_bands': 24, 'channels': 16, 'frame_channels': 24}


@pytest.fixture
def panning() -> BandPanning:
    return BandPanning(num_bins=BINS, num_bands=3, hops=HOPS, scale=0.5)


def levels(latents: int, seed: int = 0) -> torch.Tensor:
    """(1, 2, N, F) in nepers, well above silence."""
    return torch.randn(1, 2, latents * HOPS, BINS, generator=torch.Generator().manual_seed(seed)) + 1


def test_a_channel_turned_up_by_6_db_has_half_of_that_in_nepers(panning: BandPanning):
    same = levels(2)[:, :1].expand(-1, 2, -1, -1).exp()
    assert panning.measure(same).abs().max() < 1e-6
    louder = same * torch.tensor([2.0, 1.0])[:, None, None]
    torch.testing.assert_close(
        panning.measure(louder), torch.full((1, 2, 3), math.log(2) / 2 / 0.5), atol=1e-3, rtol=1e-3
    )


def test_applied_panning_is_what_is_measured_afterwards_and_keeps_the_product(panning: BandPanning):
    wanted = torch.tensor([[[0.0, 1.0, -2.0], [0.5, -0.5, 3.0]]])
    before = levels(2)
    after = panning.apply(before, wanted)
    torch.testing.assert_close(panning.measure(after.exp()), wanted, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(after.sum(dim=1), before.sum(dim=1))


def test_silence_is_in_the_middle(panning: BandPanning):
    faint = torch.stack([torch.full((HOPS, BINS), 1e-4), torch.zeros(HOPS, BINS)])[None]
    assert panning.measure(faint).abs().max() < 1e-4


def autoencoder(panning_bands: int) -> SpectralAutoencoder:
    sizes = {**SIZES, 'latent_channels': 5 + panning_bands, 'panning_bands': panning_bands}
    torch.manual_seed(0)
    return SpectralAutoencoder(
        encoder=StereoSpectralEncoder(**sizes, num_short_bands=6), decoder=StereoSpectralDecoder(**sizes)
    ).eval()


@torch.no_grad()
def test_a_panned_sound_comes_back_on_its_side_even_through_untrained_networks():
    noise = 0.2 * torch.randn(1, 1, 8192, generator=torch.Generator().manual_seed(1))
    audio = torch.cat([noise, 0.25 * noise], dim=1)

    def difference_db(samples: torch.Tensor) -> float:
        left, right = samples[0, :, 2048:-2048].square().mean(dim=1).log10()
        return 10 * float(left - right)

    assert difference_db(audio) == pytest.approx(12, abs=0.1)
    network = autoencoder(3)
    latents = network.encode(audio)
    assert latents.shape == (1, 8, 16)
    # Made-up phases differ between the channels, so that energies of overlapping windows add a little differently.
    assert difference_db(network.decode(latents)) == pytest.approx(12, abs=1)
    assert abs(difference_db(network.decode(torch.cat([latents[:, :5], 0 * latents[:, 5:]], dim=1)))) < 1


@torch.no_grad()
def test_the_learned_channels_are_those_of_an_autoencoder_without_panning():
    audio = 0.1 * torch.randn(1, 2, 4096, generator=torch.Generator().manual_seed(2))
    plain, panned = autoencoder(0), autoencoder(3)
    panned.load_state_dict(plain.state_dict())
    torch.testing.assert_close(panned.encode(audio)[:, :5], plain.encode(audio))


@torch.no_grad()
def test_chunks_equal_the_whole_with_panning():
    audio = 0.1 * torch.randn(1, 2, 512 * 24, generator=torch.Generator().manual_seed(3))
    network = autoencoder(2)
    latents = network.encode(audio)
    torch.testing.assert_close(network.encode(audio, chunk_latents=5), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.decode(latents, chunk_latents=5), network.decode(latents), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('bands', [-1, 8])
def test_number_of_bands_must_leave_a_learned_channel(bands: int):
    with pytest.raises(ValueError, match=r'panning_bands must be 0..7'):
        StereoSpectralDecoder(**{**SIZES, 'latent_channels': 8, 'panning_bands': bands})
