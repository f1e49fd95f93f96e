"""Claims about the faster way to compute waveform networks without gradients."""

import pytest
import torch

from nemo_audio_restore.networks import waveform_autoencoder
from nemo_audio_restore.networks.waveform_autoencoder import WaveformAutoencoder
from nemo_audio_restore.networks.waveform_coder import WaveformDecoder, WaveformEncoder
from nemo_audio_restore.networks.waveform_inference import prepared

DAC = {'activation': 'snake', 'output_bias': True, 'output_tanh': True}


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(network):
    """Draws all parameters, so that every one shows in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.double()


@pytest.mark.parametrize('options', [{}, DAC])
@pytest.mark.parametrize('strides', [(4, 2), (8, 6)])
def test_decoder_computes_the_same(options, strides):
    network = drawn(WaveformDecoder(latent_channels=3, widths=(8, 6, 4), strides=strides, **options))
    latents = noise(2, 3, 300).double()
    kept = latents.clone()
    with torch.no_grad():
        torch.testing.assert_close(prepared(network)(latents), network(latents), atol=1e-12, rtol=0)
    assert torch.equal(latents, kept)


@pytest.mark.parametrize('options', [{}, {'activation': 'snake', 'inner_channels': 5}])
@pytest.mark.parametrize('strides', [(2, 4), (6, 8)])
def test_encoder_computes_the_same(options, strides):
    network = drawn(WaveformEncoder(latent_channels=3, widths=(4, 6, 8), strides=strides, **options))
    audio = noise(2, 2, 48 * 100).double()
    kept = audio.clone()
    with torch.no_grad():
        torch.testing.assert_close(prepared(network)(audio), network(audio), atol=1e-12, rtol=0)
    assert torch.equal(audio, kept)


def test_single_precision_differs_by_rounding_alone():
    network = drawn(WaveformDecoder(latent_channels=3, widths=(16, 8, 4), strides=(4, 2)))
    latents = noise(1, 3, 200)
    with torch.no_grad():
        exact = network(latents.double())
        error = (prepared(network.float())(latents) - exact).abs().max()
        assert error <= 2 * (network(latents) - exact).abs().max() + 1e-6 * exact.abs().max()


def test_autoencoder_takes_this_way_only_without_gradients(monkeypatch):
    taken = []
    monkeypatch.setattr(waveform_autoencoder, 'prepared', lambda network: taken.append(network) or network)
    sizes = {'latent_channels': 3}
    network = WaveformAutoencoder(
        encoder=WaveformEncoder(widths=(4, 6, 8), strides=(2, 4), **sizes),
        decoder=WaveformDecoder(widths=(8, 6, 4), strides=(4, 2), **sizes),
    )
    network.decode(network.encode(noise(1, 2, 64)))
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        network.decode(network.encode(noise(1, 2, 64)))
    assert taken == []
    with torch.no_grad():
        network.decode(network.encode(noise(1, 2, 64)))
    assert taken == [network.encoder, network.decoder]


def test_weights_changed_between_two_calls_are_the_new_ones():
    network = WaveformAutoencoder(
        encoder=WaveformEncoder(latent_channels=3, widths=(4, 6, 8), strides=(2, 4)),
        decoder=WaveformDecoder(latent_channels=3, widths=(8, 6, 4), strides=(4, 2)),
    )
    latents = noise(1, 3, 20)
    with torch.no_grad():
        before = network.decode(latents)
        network.decoder.layers[-1].parametrizations.weight.original0.data.mul_(2)
        torch.testing.assert_close(network.decode(latents), 2 * before)


def test_weights_are_prepared_once_until_they_change():
    network = WaveformDecoder(latent_channels=3, widths=(8, 6, 4), strides=(4, 2))
    first = prepared(network)
    assert prepared(network) is first
    with torch.no_grad():
        network.layers[0].bias.add_(1)
    second = prepared(network)
    assert second is not first and prepared(network) is second
    # What averaging does while it swaps weights is not counted as a change by the library.
    network.layers[-1].parametrizations.weight.original0.data.mul_(2)
    assert prepared(network) is not second
