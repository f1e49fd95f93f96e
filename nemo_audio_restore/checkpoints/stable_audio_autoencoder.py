"""The autoencoders of the Stable Audio family: from their configuration and tensors to our network."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.stable_audio_config import expect, expect_value, options
from nemo_audio_restore.checkpoints.tensor_files import fill
from nemo_audio_restore.networks.waveform_autoencoder import WaveformAutoencoder
from nemo_audio_restore.networks.waveform_coder import WaveformDecoder, WaveformEncoder


def autoencoder_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of our network.

    Args:
        section: ``model`` of an autoencoder's configuration, or ``model.pretransform.config`` of a whole model's.

    Returns:
        ``encoder`` and ``decoder`` with the arguments of their constructors.

    Raises:
        CheckpointError: a part of an unknown kind, or with an option that changes the network and is not supported.
    """
    latents = int(section['latent_dim'])
    bottleneck = section.get('bottleneck', {}).get('type')
    if bottleneck != 'vae':
        raise CheckpointError(f'the bottleneck must be of type vae; the configuration says {bottleneck!r}')
    encoder = _encoder(section['encoder'], latents)
    decoder = _decoder(section['decoder'], latents)
    if encoder['activation'] != decoder['activation']:
        raise CheckpointError('encoder and decoder must be of one type, dac or oobleck')
    return {'encoder': encoder, 'decoder': decoder}


def _encoder(part: Mapping[str, Any], latents: int) -> dict[str, Any]:
    kind, config = expect(part, 'encoder', ('dac', 'oobleck'))
    expect_value(config.get('latent_dim'), 2 * latents, 'the encoder gives mean and spread: its latent_dim')
    if kind == 'dac':
        read = options(
            config, {'in_channels': 1, 'd_model': 64, 'strides': (2, 4, 8, 8), 'latent_dim': None}, 'encoder'
        )
        widths = [read['d_model'] * 2**level for level in range(len(read['strides']) + 1)]
        extra = {'activation': 'snake', 'inner_channels': widths[-1]}
    else:
        read = options(
            config,
            {
                'in_channels': 2,
                'channels': 128,
                'c_mults': (1, 2, 4, 8),
                'strides': (2, 4, 8, 8),
                'latent_dim': None,
                'use_snake': False,
            },
            'encoder',
        )
        expect_value(read['use_snake'], True, 'use_snake of the encoder')
        widths = [read['channels'] * multiple for multiple in (1, *read['c_mults'])]
        extra = {'activation': 'snake_beta'}
    return {
        'audio_channels': read['in_channels'],
        'latent_channels': latents,
        'widths': widths,
        'strides': list(read['strides']),
        **extra,
    }


def _decoder(part: Mapping[str, Any], latents: int) -> dict[str, Any]:
    kind, config = expect(part, 'decoder', ('dac', 'oobleck'))
    expect_value(config.get('latent_dim'), latents, 'latent_dim of the decoder')
    if kind == 'dac':
        read = options(
            config, {'out_channels': 1, 'channels': 1536, 'rates': (8, 8, 4, 2), 'latent_dim': None}, 'decoder'
        )
        widths = [read['channels'] // 2**level for level in range(len(read['rates']) + 1)]
        return {
            'audio_channels': read['out_channels'],
            'latent_channels': latents,
            'widths': widths,
            'strides': list(read['rates']),
            'activation': 'snake',
            'output_bias': True,
            'output_tanh': True,
        }
    read = options(
        config,
        {
            'out_channels': 2,
            'channels': 128,
            'c_mults': (1, 2, 4, 8),
            'strides': (2, 4, 8, 8),
            'latent_dim': None,
            'use_snake': False,
            'final_tanh': True,
        },
        'decoder',
    )
    expect_value(read['use_snake'], True, 'use_snake of the decoder')
    return {
        'audio_channels': read['out_channels'],
        'latent_channels': latents,
        'widths': [read['channels'] * multiple for multiple in reversed((1, *read['c_mults']))],
        'strides': list(reversed(read['strides'])),
        'activation': 'snake_beta',
        'output_tanh': read['final_tanh'],
    }


def load_autoencoder(
    arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], *, prefix: str, latent_scale: float, source: str
) -> WaveformAutoencoder:
    """The network with the tensors of a file.

    Args:
        arguments: of :func:`autoencoder_arguments`.
        tensors: of the autoencoder alone, with ``prefix``.
        prefix: in front of every name, or ''.
        latent_scale: see :class:`WaveformAutoencoder`.
        source: of the tensors, for errors.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    with torch.device('meta'):
        network = build_autoencoder(arguments, latent_scale=latent_scale)
    dac = arguments['encoder']['activation'] == 'snake'
    fill(
        network,
        tensors,
        file_name=lambda name: prefix + autoencoder_file_name(name, dac=dac),
        part='the autoencoder',
        source=source,
    )
    return network.eval()


def build_autoencoder(arguments: Mapping[str, Any], *, latent_scale: float) -> WaveformAutoencoder:
    """The network that a configuration describes, untrained."""
    encoder, decoder = WaveformEncoder(**arguments['encoder']), WaveformDecoder(**arguments['decoder'])
    return WaveformAutoencoder(encoder=encoder, decoder=decoder, latent_scale=latent_scale)


def autoencoder_file_name(name: str, *, dac: bool) -> str:
    """The published name of a tensor.

    Args:
        name: in :class:`WaveformAutoencoder`.
        dac: the ``dac`` type, whose containers are called otherwise.

    Returns:
        The name without a prefix.
    """
    name = re.sub(r'parametrizations\.weight\.original([01])$', lambda match: 'weight_' + 'gv'[int(match[1])], name)
    if not dac or name.startswith('encoder.proj_out.'):
        return name
    side, rest = name.split('.', 1)
    outer = 'encoder.encoder.block' if side == 'encoder' else 'decoder.decoder.model'
    return outer + rest.removeprefix('layers').replace('.layers.', '.block.')
