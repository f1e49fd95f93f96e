"""Reads the autoencoder of the Stable Audio family from its own files, or out of those of a whole model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_audio_restore.checkpoints.stable_audio import load_stable_audio_autoencoder
from nemo_audio_restore.checkpoints.stable_audio_autoencoder import autoencoder_arguments, load_autoencoder
from nemo_audio_restore.checkpoints.stable_audio_config import read_config
from nemo_audio_restore.checkpoints.stable_audio_diffusers import read_diffusers_autoencoder
from nemo_audio_restore.networks.waveform_autoencoder import WaveformAutoencoder


@dataclass(frozen=True)
class PublishedAutoencoder:
    """An autoencoder, and what its files say about it."""

    network: WaveformAutoencoder
    arguments: Mapping[str, Any]
    """``encoder`` and ``decoder``, of the constructors."""
    sample_rate: int
    """In Hz."""


def read_stable_audio_autoencoder(
    weights: str | Path, model_config: str | Path | Mapping[str, Any] | None = None
) -> PublishedAutoencoder:
    """Loads an autoencoder.

    Args:
        weights: ``.safetensors`` or ``.ckpt`` of an autoencoder or of a whole model; or a folder in the layout of
            diffusers: of an ``AutoencoderOobleck``, or one that holds it as ``vae``.
        model_config: ``model_config.json`` that belongs to a file, or its content; a folder has its own.

    Returns:
        The network in evaluation mode, and how to build it again.

    Raises:
        CheckpointError: it is another kind of checkpoint, or a tensor is missing, left over or of another shape.
        FileNotFoundError: a file does not exist.
        ValueError: a file without configuration, or a folder with one.
    """
    if Path(weights).is_dir():
        if model_config is not None:
            raise ValueError(
                f'{weights} is a folder, so it must be in the layout of diffusers, with its configuration inside; '
                'leave model_config out, or give the weights file in it'
            )
        config, tensors = read_diffusers_autoencoder(weights)
        arguments = autoencoder_arguments(config['model'])
        network = load_autoencoder(arguments, tensors, prefix='', latent_scale=1.0, source=str(weights))
        return PublishedAutoencoder(network, arguments, config['sample_rate'])
    if model_config is None:
        raise ValueError(f'{weights} is a file and needs the model_config.json that was published with it')
    config = read_config(model_config)
    network = load_stable_audio_autoencoder(config, weights)
    model = config['model']
    section = model['pretransform']['config'] if 'pretransform' in model else model
    return PublishedAutoencoder(network, autoencoder_arguments(section), int(config['sample_rate']))
