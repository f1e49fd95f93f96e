"""Published models of the Stable Audio family as configs of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from nemo_audio_restore.checkpoints.stable_audio import StableAudio, load_stable_audio, load_stable_audio_folder
from nemo_audio_restore.checkpoints.stable_audio_autoencoder import autoencoder_arguments
from nemo_audio_restore.checkpoints.stable_audio_networks import network_arguments, network_class
from nemo_audio_restore.models.latent_diffusion_text import ClapText, TransformersText
from nemo_audio_restore.networks.conditioners import IntegerConditioner, NumberConditioner
from nemo_audio_restore.networks.latent_unet import LatentUNet
from nemo_audio_restore.networks.waveform_autoencoder import WaveformAutoencoder
from nemo_audio_restore.networks.waveform_coder import WaveformDecoder, WaveformEncoder

# Stable Audio 1.0 (its paper and its program's default for the rescaling), Open's model card, open-small.
_UNET_SAMPLER = {'sampler': 'dpmpp_2m', 'steps': 100, 'guidance': 6.0, 'guidance_rescale': 0.4, 'sigma_min': 0.03}
_OPEN_SAMPLER = {'sampler': 'dpmpp_3m_sde', 'steps': 100, 'guidance': 7.0, 'sigma_min': 0.3}
_SMALL_SAMPLER = {'sampler': 'ping_pong', 'spacing': 'log_snr', 'steps': 8, 'guidance': 1.0}
_FLOW_SAMPLER = {'sampler': 'dpmpp_2m', 'spacing': 'log_snr', 'steps': 100, 'guidance': 7.0}
_CARD = {
    'license': 'other',
    'license_name': 'that of the published weights',
    'summary': 'Latent diffusion of the Stable Audio family: stereo audio from a text, converted to this package.',
}


def read_stable_audio(
    model_config: str | Path | Mapping[str, Any] | None,
    weights: str | Path,
    *,
    text_encoder: str | Path | None,
    text_tokenizer: str | Path | None,
) -> StableAudio:
    """Loads a published model from its files or from a folder in the layout of the diffusers library.

    Args:
        model_config: ``model_config.json`` or its content; None for a folder, which holds its own.
        weights: ``.safetensors`` or ``.ckpt`` file, or the folder.
        text_encoder: folder or hub name of T5, or CLAP's file; None to work without.
        text_tokenizer: see :func:`load_stable_audio`.

    Returns:
        Its parts.

    Raises:
        ValueError: a file without its configuration, or a folder with one.
    """
    if Path(weights).is_dir():
        if model_config is not None:
            raise ValueError(
                f'{weights} is a folder, so it must be in the layout of diffusers, with its configurations inside; '
                'leave model_config out, or give the weights file in it'
            )
        return load_stable_audio_folder(weights)
    if model_config is None:
        raise ValueError(f'{weights} is a file and needs the model_config.json that was published with it')
    return load_stable_audio(model_config, weights, text_encoder=text_encoder, text_tokenizer=text_tokenizer)


def imported_config(loaded: StableAudio, *, source: str) -> dict[str, Any]:
    """The config of :class:`LatentDiffusionModel` for a published model.

    Args:
        loaded: its parts.
        source: name of its file, for the card.

    Returns:
        Plain nested data.
    """
    model = loaded.config['model']
    diffusion = model['diffusion']
    objective = diffusion.get('diffusion_objective', 'v')
    network = network_class(diffusion)
    coder = autoencoder_arguments(model['pretransform']['config'])
    if objective == 'v':
        sampler = _UNET_SAMPLER if network is LatentUNet else _OPEN_SAMPLER
    else:
        sampler = _SMALL_SAMPLER if objective == 'rf_denoiser' else _FLOW_SAMPLER
    return {
        'window_latents': loaded.window_samples // loaded.autoencoder.ratio,
        'objective': 'v' if objective == 'v' else 'rectified_flow',
        'autoencoder': {
            'sample_rate': loaded.sample_rate,
            'network': {
                '_target_': path_of(WaveformAutoencoder),
                'latent_scale': loaded.autoencoder.latent_scale,
                'encoder': {'_target_': path_of(WaveformEncoder), **coder['encoder']},
                'decoder': {'_target_': path_of(WaveformDecoder), **coder['decoder']},
            },
        },
        'network': {'_target_': path_of(network), **network_arguments(diffusion)},
        'conditions': {
            'conditioners': {
                entry['id']: _conditioner(loaded, entry, dim=int(model['conditioning']['cond_dim']))
                for entry in model['conditioning']['configs']
            },
            'cross_attention': list(diffusion.get('cross_attention_cond_ids', ())),
            'summary': list(diffusion.get('global_cond_ids', ())),
            'prepended': list(diffusion.get('prepend_cond_ids', ())),
        },
        'sampler': sampler,
        'card': {**_CARD, 'text': f'## Converted from\n\n{source}'},
    }


def _conditioner(loaded: StableAudio, entry: Mapping[str, Any], *, dim: int) -> dict[str, Any]:
    """The block of one conditioner."""
    kind, config = entry['type'], entry.get('config', {})
    if kind in ('number', 'int'):
        numbers = loaded.conditions.conditioners[entry['id']]
        cls = NumberConditioner if kind == 'number' else IntegerConditioner
        return {'_target_': path_of(cls), 'dim': dim, 'minimum': numbers.minimum, 'maximum': numbers.maximum}
    if kind == 'clap_text':
        return {'_target_': path_of(ClapText), 'feature_dim': dim}
    conditioners = loaded.conditions.conditioners
    projection = conditioners[entry['id']].proj_out if entry['id'] in conditioners else None
    projected = isinstance(projection, nn.Linear)
    return {
        '_target_': path_of(TransformersText),
        'source': config.get('t5_model_name', 't5-base'),
        'max_length': config.get('max_length', 128),
        'feature_dim': projection.in_features if projected else dim,
        'dim': dim if projected else None,
    }


def path_of(cls: type) -> str:
    """Dotted path of a class, as a config names it."""
    return f'{cls.__module__}.{cls.__qualname__}'
