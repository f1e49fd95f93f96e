"""Reads models of the Stable Audio family: a ``model_config.json`` and its weights, to our networks.

Accepted are ``.safetensors`` and ``.ckpt`` files of whole models or of autoencoders alone, and the checkpoints that
the published training program writes (their averaged weights are taken). Text encoders are not in these files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.stable_audio_autoencoder import autoencoder_arguments, load_autoencoder
from nemo_audio_restore.checkpoints.stable_audio_config import expect, expect_value, options, read_config
from nemo_audio_restore.checkpoints.stable_audio_diffusers import read_diffusers_folder
from nemo_audio_restore.checkpoints.stable_audio_networks import load_network, process_of
from nemo_audio_restore.checkpoints.tensor_files import fill, read_tensors
from nemo_audio_restore.checkpoints.text_encoders import load_clap_text_conditioner, load_text_conditioner
from nemo_audio_restore.networks.condition_builder import ConditionBuilder
from nemo_audio_restore.networks.conditioners import IntegerConditioner, NumberConditioner, TextConditioner
from nemo_audio_restore.networks.latent_transformer import LatentTransformer
from nemo_audio_restore.networks.latent_unet import LatentUNet
from nemo_audio_restore.networks.waveform_autoencoder import WaveformAutoencoder
from nemo_audio_restore.processes.diffusion import DiffusionProcess

_NETWORK, _AUTOENCODER, _CONDITIONERS = 'model.model.', 'pretransform.model.', 'conditioner.conditioners.'
_DIFFUSION_MODEL = 'diffusion_cond'
_TEXT_TYPES = ('t5', 'clap_text')
# What the published training program puts in front of the names, and in front of the averaged ones.
_TRAINING = (
    ('diffusion.', 'diffusion_ema.ema_model.', 'model.'),
    ('autoencoder.', 'autoencoder_ema.ema_model.', ''),
)


@dataclass(frozen=True)
class StableAudio:
    """A whole model: what its files hold, ready to use."""

    autoencoder: WaveformAutoencoder
    network: LatentUNet | LatentTransformer
    process: DiffusionProcess
    conditions: ConditionBuilder
    sample_rate: int
    """In Hz."""
    window_samples: int
    """Length of the clips that it was trained on."""
    config: Mapping[str, Any]
    """Content of its ``model_config.json``."""


def load_stable_audio(
    model_config: str | Path | Mapping[str, Any],
    weights: str | Path,
    *,
    text_encoder: str | Path | None = None,
    text_tokenizer: str | Path | None = None,
) -> StableAudio:
    """Loads autoencoder, diffusion network and conditioners.

    Args:
        model_config: ``model_config.json``, or its content.
        weights: ``.safetensors`` or ``.ckpt`` of the whole model.
        text_encoder: for T5 a folder or hub name, for CLAP the file in LAION's layout; None to work without
            texts, with features given by the caller.
        text_tokenizer: folder or hub name of the tokenizer; unless given, T5's is beside its encoder, and CLAP's is
            ``roberta-base``.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: the configuration is of another kind or asks for something that is not supported; a part is
            missing from the weights; or a tensor is missing, left over or of another shape.
        FileNotFoundError: a file does not exist.
    """
    config = read_config(model_config)
    expect_value(config.get('model_type'), _DIFFUSION_MODEL, 'model_type of a model that generates')
    tensors = released_tensors(read_tensors(weights))
    return _assemble(config, tensors, str(weights), text_encoder=text_encoder, text_tokenizer=text_tokenizer)


def load_stable_audio_folder(folder: str | Path) -> StableAudio:
    """Loads a folder in the layout of the diffusers library, with its text encoder if that is there.

    Args:
        folder: with ``transformer``, ``vae`` and ``projection_model``, perhaps ``text_encoder`` and ``tokenizer``.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: as :func:`load_stable_audio`.
        FileNotFoundError: a part of the folder is missing.
    """
    config, tensors = read_diffusers_folder(folder)
    encoder, tokenizer = Path(folder) / 'text_encoder', Path(folder) / 'tokenizer'
    complete = encoder.is_dir() and tokenizer.is_dir()
    return _assemble(
        config,
        tensors,
        str(folder),
        text_encoder=encoder if complete else None,
        text_tokenizer=tokenizer if complete else None,
    )


def _assemble(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    text_encoder: str | Path | None,
    text_tokenizer: str | Path | None,
) -> StableAudio:
    model = _section(config, 'model')
    diffusion, pretransform = _section(model, 'diffusion'), _section(model, 'pretransform')
    known = (_NETWORK, _AUTOENCODER, _CONDITIONERS)
    stray = [name for name in tensors if not name.startswith(known)]
    if stray:
        raise CheckpointError(f'{source}: {stray[0]} and {len(stray) - 1} more tensors belong to no known part')
    builder = _condition_builder(
        model, _part(tensors, _CONDITIONERS), source, text_encoder=text_encoder, text_tokenizer=text_tokenizer
    )
    return StableAudio(
        autoencoder=_autoencoder(pretransform, _part(tensors, _AUTOENCODER), source),
        network=load_network(diffusion, _part(tensors, _NETWORK), prefix=_NETWORK, source=source),
        process=process_of(diffusion),
        conditions=builder,
        sample_rate=int(config['sample_rate']),
        window_samples=int(config['sample_size']),
        config=config,
    )


def load_stable_audio_autoencoder(
    model_config: str | Path | Mapping[str, Any], weights: str | Path
) -> WaveformAutoencoder:
    """Loads an autoencoder from its own files, or from those of a whole model.

    Args:
        model_config: ``model_config.json`` of an autoencoder or of a whole model, or its content.
        weights: ``.safetensors`` or ``.ckpt`` that holds the autoencoder, alone or with a whole model.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: as :func:`load_stable_audio`.
        FileNotFoundError: a file does not exist.
    """
    config = read_config(model_config)
    tensors = released_tensors(read_tensors(weights))
    whole = _part(tensors, _AUTOENCODER)
    if config.get('model_type') == _DIFFUSION_MODEL:
        pretransform = _section(_section(config, 'model'), 'pretransform')
        return _autoencoder(pretransform, whole or tensors, str(weights), prefix=_AUTOENCODER if whole else '')
    expect_value(config.get('model_type'), 'autoencoder', f'model_type, if it is not {_DIFFUSION_MODEL},')
    return load_autoencoder(
        autoencoder_arguments(_section(config, 'model')),
        whole or tensors,
        prefix=_AUTOENCODER if whole else '',
        latent_scale=1.0,
        source=str(weights),
    )


def released_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives the tensors of a training checkpoint the names of a release.

    Args:
        tensors: of a file; those of a release come back unchanged.

    Returns:
        Without the discriminator and the trainer's own; averaged weights in place of the trained ones.
    """
    for prefix, averaged, target in _TRAINING:
        if any(name.startswith(prefix) for name in tensors):
            trained = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            means = {
                target + name.removeprefix(averaged): value
                for name, value in tensors.items()
                if name.startswith(averaged)
            }
            return {**trained, **means}
    return dict(tensors)


def _autoencoder(
    pretransform: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str, *, prefix: str = _AUTOENCODER
) -> WaveformAutoencoder:
    _, section = expect(pretransform, 'pretransform', ('autoencoder',))
    scale = float(pretransform.get('scale', 1.0))
    return load_autoencoder(autoencoder_arguments(section), tensors, prefix=prefix, latent_scale=scale, source=source)


def _condition_builder(
    model: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    text_encoder: str | Path | None,
    text_tokenizer: str | Path | None,
) -> ConditionBuilder:
    """The conditioners of the configuration with their tensors; texts only with a text encoder."""
    diffusion, conditioning = _section(model, 'diffusion'), _section(model, 'conditioning')
    expect_value(list(diffusion.get('input_concat_ids', ())), [], 'input_concat_ids')
    dim = int(conditioning['cond_dim'])
    built: dict[str, nn.Module] = {}
    for entry in conditioning['configs']:
        name, kind = entry['id'], entry['type']
        own = {key: value for key, value in tensors.items() if key.startswith(f'{_CONDITIONERS}{name}.')}
        if kind in _TEXT_TYPES:
            projected = any('.proj_out.' in key for key in own)
            if text_encoder is None and not own:
                continue
            if text_encoder is None:
                raise CheckpointError(f'{source} holds a projection for {name}: give its text encoder')
            conditioner = _text_conditioner(
                kind, entry.get('config', {}), text_encoder, text_tokenizer, dim=dim if projected else None
            )
        else:
            conditioner = _number_conditioner(name, kind, entry.get('config', {}), dim)
        prefix = f'{_CONDITIONERS}{name}.'
        fill(
            conditioner,
            own,
            file_name=lambda key, prefix=prefix: prefix + key,
            part=f'the conditioner {name}',
            source=source,
        )
        built[name] = conditioner.eval()
    configured = tuple(f'{_CONDITIONERS}{entry["id"]}.' for entry in conditioning['configs'])
    stray = [key for key in tensors if not key.startswith(configured)]
    if stray:
        raise CheckpointError(f'{source}: {stray[0]} belongs to no conditioner of the configuration')
    return ConditionBuilder(
        conditioners=built,
        cross_attention=diffusion.get('cross_attention_cond_ids', ()),
        summary=diffusion.get('global_cond_ids', ()),
        prepended=diffusion.get('prepend_cond_ids', ()),
    )


def _number_conditioner(name: str, kind: str, config: Mapping[str, Any], dim: int) -> nn.Module:
    if kind not in ('number', 'int'):
        raise CheckpointError(f'the conditioner {name} is of type {kind!r}; supported are number, int, t5, clap_text')
    read = options(config, {'min_val': 0, 'max_val': 1 if kind == 'number' else 512}, name)
    with torch.device('meta'):
        if kind == 'number':
            return NumberConditioner(dim=dim, minimum=read['min_val'], maximum=read['max_val'])
        return IntegerConditioner(dim=dim, minimum=read['min_val'], maximum=read['max_val'])


def _text_conditioner(
    kind: str,
    config: Mapping[str, Any],
    text_encoder: str | Path,
    text_tokenizer: str | Path | None,
    *,
    dim: int | None,
) -> TextConditioner:
    if kind == 't5':
        return load_text_conditioner(
            text_encoder, tokenizer=text_tokenizer, max_length=config.get('max_length', 128), dim=dim
        )
    expect_value(config.get('use_text_features'), True, 'use_text_features of the CLAP conditioner')
    expect_value(config.get('feature_layer_ix', -1), -2, 'feature_layer_ix of the CLAP conditioner')
    expect_value(dim, None, 'the projection of the CLAP conditioner')
    return load_clap_text_conditioner(text_encoder, tokenizer=text_tokenizer or 'roberta-base')


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise CheckpointError(f'the configuration has no section {name!r}')
    return section
