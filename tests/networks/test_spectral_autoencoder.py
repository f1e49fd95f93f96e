"""Claims about the autoencoder of spectra: reach, chunks, stereo, its head start."""

import pytest
import torch

from nemo_audio_restore.networks.frequency_bands import band_averages, band_interpolation
from nemo_audio_restore.networks.overlapping_windows import overlap_add, spectra
from nemo_audio_restore.networks.spectral_autoencoder import (
    SpectralAutoencoder,
    StereoSpectralDecoder,
    StereoSpectralEncoder,
)
from nemo_audio_restore.networks.spectral_autoencoder_start import standardize_latents, start_from_components
from nemo_audio_restore.networks.vae_bottleneck import latent_posterior

SIZES = {'latent_channels': 4, 'samples_per_latent': 256, 'hop_length': 64, 'channels': 8, 'frame_channels': 12}


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(**sizes):
    torch.manual_seed(0)
    arguments = {**SIZES, 'num_bands': 20, **sizes}
    encoder = StereoSpectralEncoder(**arguments, num_short_bands=6, num_blocks=2)
    decoder = StereoSpectralDecoder(**arguments, stereo_channels=4, num_blocks=2)
    return SpectralAutoencoder(encoder=encoder, decoder=decoder)


@pytest.fixture(scope='module')
def network():
    return small().eval()


@pytest.mark.parametrize('hop_length', [64, 32])
def test_context_is_as_far_as_anything_is_felt(hop_length):
    # NaN goes wherever an input goes.
    network, frames, at = small(hop_length=hop_length), 21, 10
    audio = torch.zeros(1, 2, frames * 256)
    audio[..., at * 256 : (at + 1) * 256] = float('nan')
    latents = torch.zeros(1, 4, frames)
    latents[..., at] = float('nan')
    with torch.no_grad():
        felt = network.encoder(audio).isnan().any(1)[0].nonzero().flatten()
        assert (felt - at).abs().max() == network.encoder_context
        felt = network.decoder(latents).isnan().any(1)[0].reshape(frames, 256).any(1).nonzero().flatten()
        assert (felt - at).abs().max() == network.decoder_context


@pytest.mark.parametrize('chunk', [5, 64])
def test_coding_in_chunks_equals_coding_at_once(chunk):
    network = small().double()
    audio, latents = 0.1 * noise(1, 2, 24 * 256).double(), noise(1, 4, 24).double()
    with torch.no_grad():
        whole = latent_posterior(network.encoder(audio))
        chunked = network.posterior(audio, chunk_latents=chunk)
        torch.testing.assert_close(chunked.mean, whole.mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(chunked.std, whole.std, atol=1e-6, rtol=0)
        decoded = network.decode(latents, chunk_latents=chunk)
        torch.testing.assert_close(decoded, network.decoder(latents), atol=1e-12, rtol=0)


def test_trimmed_clip_is_the_beginning_of_the_whole_and_decodes_only_what_it_needs():
    network, latents, seen = small().double(), noise(1, 4, 100).double(), []
    network.decoder.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[-1]))
    with torch.no_grad():
        whole = network.decode(latents)
        seen.clear()
        torch.testing.assert_close(network.decode(latents, length=300), whole[..., :300], atol=1e-12, rtol=0)
    assert seen == [2 + network.decoder_context]


def test_channels_that_share_everything_but_a_level_are_panned(network):
    # What both share comes from one place, so the difference is in one place too.
    silent = small()
    for parameter in (*silent.decoder.stereo_output.parameters(),):
        parameter.data.zero_()
    interpolation = silent.decoder.direct.weight.data.view(4, 2, -1, 4)
    interpolation[:, 1] = 0
    silent.decoder.direct.bias.data.view(4, 2, -1)[:, 1] = 0.5
    left, right = silent.decoder(noise(1, 4, 6))[0]
    torch.testing.assert_close(left, torch.e * right, rtol=1e-3, atol=1e-5)


def test_swapped_channels_change_only_the_sign_of_differences(network):
    audio = 0.1 * noise(1, 2, 512)
    bands = network.encoder.num_bands
    features, swapped = network.encoder.features(audio), network.encoder.features(audio.flip(1))
    torch.testing.assert_close(swapped[..., :bands], features[..., :bands])
    torch.testing.assert_close(swapped[..., bands : 2 * bands], -features[..., bands : 2 * bands])
    torch.testing.assert_close(swapped[..., 2 * bands :], features[..., 2 * bands :])


def test_true_levels_and_phases_give_back_the_audio(network):
    audio = 0.1 * noise(1, 2, 20 * 256)
    decoder = network.decoder
    spectrum = spectra(audio[0], torch.hann_window(256), 64)[None]
    rebuilt = decoder.synthesize(spectrum.abs().log(), spectrum.angle())
    torch.testing.assert_close(rebuilt[..., 256:-256], audio[..., 256:-256], atol=1e-5, rtol=0)


def test_windows_of_ones_add_up_to_four():
    assert torch.equal(overlap_add(torch.ones(1, 9, 32))[0, 16:-16], torch.full((40,), 4.0))


def test_bands_average_and_interpolate_without_gain():
    averages, interpolation = band_averages(129, 48), band_interpolation(129, 48)
    assert averages.shape[1] == len(interpolation) < 48
    torch.testing.assert_close(averages.sum(0), torch.ones(averages.shape[1]))
    torch.testing.assert_close(interpolation.sum(0), torch.ones(129))
    middles = torch.arange(129.0) @ averages
    inside = slice(int(middles[0]), int(middles[-1]))
    torch.testing.assert_close((middles @ interpolation)[inside], torch.arange(129.0)[inside], atol=1e-3, rtol=0)


def test_head_start_gives_latents_of_unit_deviation_and_reconstructs_levels():
    network = small()
    bursts = (
        0.1
        * noise(40, 2, 2048)
        * torch.rand(40, 1, 8, generator=torch.Generator().manual_seed(2)).repeat_interleave(256, dim=2)
    )
    with torch.no_grad():
        before = network.decode(network.encode(bursts))
        error = start_from_components(network, bursts)
        latents = network.encode(bursts)
        decoded = network.decode(latents)
    # The other layers add a tenth at first.
    assert 0.8 < float(latents.square().mean().sqrt()) < 1.25
    levels = [
        network.encoder.log_magnitudes(network.encoder.direct_features(network.encoder.features(x)))
        for x in (bursts, before, decoded)
    ]
    mean_only = (levels[0] - levels[0].mean(dim=(0, 1))).abs().mean()
    assert error < 0.8 * float(mean_only)
    assert (levels[2] - levels[0]).abs().mean() < 0.7 * (levels[1] - levels[0]).abs().mean()


@pytest.mark.parametrize('panning', [0, 2])
def test_standardized_latents_decode_to_the_same_audio(panning):
    network = small(latent_channels=4 + panning, panning_bands=panning).double()
    audio = 0.1 * noise(1, 2, 20 * 256).double()
    with torch.no_grad():
        network.encoder.output.bias[4:] = -4.0
        network.encoder.direct.weight.mul_(20)
        latents, spread = network.encode(audio).double(), network.posterior(audio).std.double()
        decoded, deviation = network.decode(latents), latents.std(dim=(0, 2))
        standardize_latents(network, latents.mean(dim=(0, 2)), deviation)
        standard = network.encode(audio).double()
        torch.testing.assert_close(standard[:, :4].mean(dim=(0, 2)), torch.zeros(4).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(standard[:, :4].std(dim=(0, 2)), torch.ones(4).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(standard[:, 4:], latents[:, 4:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network.decode(standard), decoded, atol=1e-5, rtol=1e-4)
        found = (network.posterior(audio).std * deviation[:, None])[:, :4]
        torch.testing.assert_close(found, spread[:, :4], rtol=0.05, atol=0)


def test_every_weight_learns(network):
    trained = small()
    reconstruction = trained(0.1 * noise(2, 2, 2048), noise(2, 4, 8))
    (reconstruction.audio.square().mean() + reconstruction.posterior.kl()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in trained.parameters())


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='multiple of 16; got 60'):
        StereoSpectralEncoder(hop_length=60)
    with pytest.raises(ValueError, match='four hops of 512 samples; got 1024'):
        StereoSpectralDecoder(samples_per_latent=1024, hop_length=512)
    with pytest.raises(ValueError, match='same latent_channels; got 4 and 5'):
        encoder = StereoSpectralEncoder(**SIZES)
        SpectralAutoencoder(encoder=encoder, decoder=StereoSpectralDecoder(**{**SIZES, 'latent_channels': 5}))
