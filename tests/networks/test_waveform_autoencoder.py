import json

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints.stable_audio_autoencoder import autoencoder_arguments, load_autoencoder
from nemo_audio_restore.checkpoints.tensor_files import read_tensors
from nemo_audio_restore.networks.vae_bottleneck import LatentPosterior, latent_posterior
from nemo_audio_restore.networks.waveform_autoencoder import WaveformAutoencoder
from nemo_audio_restore.networks.waveform_chunks import pieces
from nemo_audio_restore.networks.waveform_coder import WaveformDecoder, WaveformEncoder

DAC = {
    'encoder': {
        'widths': (128, 256, 512, 1024, 2048),
        'strides': (4, 4, 8, 8),
        'activation': 'snake',
        'inner_channels': 2048,
    },
    'decoder': {
        'widths': (1536, 768, 384, 192, 96),
        'strides': (8, 8, 4, 4),
        'activation': 'snake',
        'output_bias': True,
        'output_tanh': True,
    },
}


def seeded(network, seed=0):
    """Draws all parameters, those of the activations too, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = 0.3 if name.endswith(('alpha', 'beta')) else 0.5 / max(1, parameter[0].numel()) ** 0.5
            offset = 1.0 if name.endswith('original0') else 0.0
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def small(*, activation='snake_beta', strides=(2, 4), latent_scale=1.0, **decoder):
    widths = (4, 6, 8)
    return seeded(
        WaveformAutoencoder(
            encoder=WaveformEncoder(latent_channels=3, widths=widths, strides=strides, activation=activation),
            decoder=WaveformDecoder(
                latent_channels=3, widths=widths[::-1], strides=strides[::-1], activation=activation, **decoder
            ),
            latent_scale=latent_scale,
        )
    )


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_defaults_are_oobleck_as_published():
    with torch.device('meta'):
        network = WaveformAutoencoder(encoder=WaveformEncoder(), decoder=WaveformDecoder())
    assert (count(network.encoder), count(network.decoder)) == (77_989_888, 78_122_626)
    assert network.ratio == 2048
    # 8 latents and 9.27 latents were measured on the published program.
    assert (network.encoder_context, network.decoder_context) == (8, 10)


def test_dac_has_the_size_of_the_paper():
    with torch.device('meta'):
        network = WaveformAutoencoder(
            encoder=WaveformEncoder(**DAC['encoder']), decoder=WaveformDecoder(**DAC['decoder'])
        )
    assert count(network) == 133_431_300
    assert network.ratio == 1024
    assert (network.encoder_context, network.decoder_context) == (8, 10)


@pytest.mark.parametrize('activation', ['snake', 'snake_beta'])
def test_context_is_as_far_as_the_gradient_reaches(activation):
    network = small(activation=activation)
    latents = noise(1, 3, 101).requires_grad_()
    middle = 50 * network.ratio
    network.decoder(latents)[..., middle : middle + network.ratio].square().sum().backward()
    reached = latents.grad.abs().sum((0, 1)).nonzero().flatten()
    assert max(50 - reached[0], reached[-1] - 50) == network.decoder_context

    audio = noise(1, 2, 101 * network.ratio).requires_grad_()
    network.encoder(audio)[..., 50].square().sum().backward()
    reached = audio.grad.abs().sum((0, 1)).nonzero().flatten() // network.ratio
    assert max(50 - reached[0], reached[-1] - 50) == network.encoder_context


@pytest.mark.parametrize('chunk', [1, 7, 30, 64])
@pytest.mark.parametrize('activation', ['snake', 'snake_beta'])
def test_coding_in_chunks_equals_coding_at_once(chunk, activation):
    network = small(activation=activation).double()
    audio = noise(2, 2, 64 * network.ratio).double()
    with torch.no_grad():
        encoded = network.encoder(audio)
        whole = latent_posterior(encoded)
        chunked = network.posterior(audio, chunk_latents=chunk)
        torch.testing.assert_close(chunked.mean, whole.mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(chunked.std, whole.std, atol=1e-6, rtol=0)
        latents = noise(2, 3, 64).double()
        # In float64 rounding leaves 1e-13 of the values: any missing context would show.
        torch.testing.assert_close(
            network.decode(latents, chunk_latents=chunk), network.decoder(latents), atol=1e-11, rtol=0
        )


def test_trimmed_clip_is_the_beginning_of_the_whole_and_decodes_only_what_it_needs():
    network = small()
    latents = noise(1, 3, 200)
    whole = network.decode(latents)
    seen = []
    network.decoder.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[-1]))
    trimmed = network.decode(latents, length=83)
    torch.testing.assert_close(trimmed, whole[..., :83], atol=1e-5, rtol=0)
    assert seen == [-(-83 // network.ratio) + network.decoder_context]


def test_pieces_cover_what_is_wanted_once_with_context_from_what_there_is():
    found = list(pieces(10, available=12, size=4, context=3))
    assert [(piece.start, piece.end) for piece in found] == [(0, 4), (4, 8), (8, 10)]
    assert [(piece.from_start, piece.from_end) for piece in found] == [(0, 7), (1, 11), (5, 12)]


def test_audio_of_any_length_is_filled_up_with_silence():
    network = small()
    audio = noise(1, 2, 3 * network.ratio + 1)
    filled = torch.cat([audio, torch.zeros(1, 2, network.ratio - 1)], -1)
    assert network.encode(audio).shape[-1] == 4
    assert torch.equal(network.encode(audio), network.encode(filled))


def test_latents_are_the_mean_or_with_noise_a_draw_and_scaled():
    network, halved = small(), small(latent_scale=2.0)
    audio, draw = noise(1, 2, 64), noise(1, 3, 8, seed=2)
    posterior = network.posterior(audio)
    assert torch.equal(network.encode(audio), posterior.mean)
    assert torch.equal(network.encode(audio, noise=draw), posterior.mean + posterior.std * draw)
    assert torch.equal(halved.encode(audio), posterior.mean / 2)
    torch.testing.assert_close(halved.decode(posterior.mean / 2), network.decode(posterior.mean))


def test_training_pass_reaches_every_parameter():
    network = small(output_bias=True).train()
    result = network(noise(2, 2, 64), noise(2, 3, 8))
    (result.audio.square().mean() + result.posterior.kl()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_tanh_limits_the_output():
    latents = 50 * noise(1, 3, 8)
    free, limited = small(), small(output_tanh=True)
    torch.testing.assert_close(limited.decode(latents), free.decode(latents).tanh())


def test_activation_without_gradients_equals_the_one_with():
    for activation in ('snake', 'snake_beta'):
        network, latents = small(activation=activation), noise(1, 3, 8)
        before = latents.clone()
        with torch.no_grad():
            quick = network.decode(latents)
        plain = network.decode(latents).detach()
        # The sums of the convolutions are taken in another order, too.
        torch.testing.assert_close(quick, plain, atol=2e-5 * plain.abs().max().item(), rtol=0)
        assert torch.equal(latents, before)


def test_divergence_is_zero_for_the_standard_normal_and_twice_the_closed_form_elsewhere():
    zero, one = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    assert LatentPosterior(zero, one).kl() == 0
    mean, std = torch.tensor(0.7), torch.tensor(0.3)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    )
    found = LatentPosterior(mean.expand(2, 3, 4), std.expand(2, 3, 4)).kl()
    torch.testing.assert_close(found, 2 * 3 * exact)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'strides': (2, 3), 'widths': (4, 6, 8)}, 'strides must be even'),
        ({'strides': (2, 4), 'widths': (4, 6)}, 'one more than strides'),
        ({'strides': (2, 4), 'widths': (4, 6, 8), 'activation': 'relu'}, 'activation must be one of'),
    ],
)
def test_wrong_layouts_are_refused(arguments, message):
    for coder in (WaveformEncoder, WaveformDecoder):
        with pytest.raises(ValueError, match=message):
            coder(**arguments)


def test_wrong_inputs_are_refused_in_the_users_terms():
    network = small()
    with pytest.raises(ValueError, match=r'audio must be \(B, 2, T\)'):
        network.encode(torch.zeros(1, 1, 64))
    with pytest.raises(ValueError, match=r'latents must be \(B, 3, L\)'):
        network.decode(torch.zeros(1, 4, 8))
    with pytest.raises(ValueError, match='8 latents hold 1 to 64 samples; asked for 65'):
        network.decode(torch.zeros(1, 3, 8), length=65)
    with pytest.raises(ValueError, match='at least one latent'):
        network.decode(torch.zeros(1, 3, 8), chunk_latents=0)
    with pytest.raises(ValueError, match='one ratio'):
        WaveformAutoencoder(
            encoder=WaveformEncoder(widths=(4, 4), strides=(2,)), decoder=WaveformDecoder(widths=(4, 4), strides=(4,))
        )


@pytest.mark.needs_fixtures
@pytest.mark.parametrize(('folder', 'file'), [('a1_oobleck', 'model.ckpt'), ('a2_dac', 'model.safetensors')])
def test_outputs_of_the_published_program(reference_arrays, folder, file):
    folder = reference_arrays / 'stable_audio' / folder
    config = json.loads((folder / 'model_config.json').read_text())
    network = load_autoencoder(
        autoencoder_arguments(config['model']),
        read_tensors(folder / file),
        prefix='',
        latent_scale=1.0,
        source=file,
    )
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / 'io.npz').items()}

    def same(found, name):
        expected = arrays[name]
        torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)

    with torch.no_grad():
        encoded = network.encoder(arrays['audio_in'])
        posterior = network.posterior(arrays['audio_in'])
        same(encoded, 'encoder_raw')
        same(encoded.chunk(2, 1)[1], 'scale_raw')
        same(posterior.mean, 'mean')
        same(posterior.std, 'std')
        same(network.encode(arrays['audio_in'], noise=arrays['eps']), 'z')
        same(posterior.kl(), 'kl')
        drawn = torch.randn(
            posterior.mean.shape, generator=torch.Generator().manual_seed(int(arrays['torch_seed_for_z_seeded']))
        )
        same(network.encode(arrays['audio_in'], noise=drawn), 'z_seeded')
        same(network.decode(arrays['mean']), 'decoded_from_mean')
        same(network.decode(arrays['z']), 'decoded_from_z')
        same(network.decode(arrays['latents_long'], chunk_latents=5), 'decoded_long')
        # The published program joins chunks with too little context on purpose in this array.
        size, overlap = int(arrays['chunk_size']), int(arrays['chunk_overlap'])
        same(stitched(network, arrays['latents_long'], size, overlap), 'decoded_long_chunked')


def stitched(network, latents, size, overlap):
    """Chunks of ``size`` that overlap; half of the overlap is dropped at inner edges, the last is right-aligned."""
    total, half = latents.shape[-1], overlap // 2
    starts = list(range(0, total - size + 1, size - overlap))
    if starts[-1] + size < total:
        starts.append(total - size)
    out = torch.zeros(1, network.audio_channels, total * network.ratio)
    for start in starts:
        audio = network.decoder(latents[..., start : start + size])
        left = half if start > 0 else 0
        right = half if start + size < total else 0
        out[..., (start + left) * network.ratio : (start + size - right) * network.ratio] = audio[
            ..., left * network.ratio : (size - right) * network.ratio
        ]
    return out
