"""Reads Stable Audio Open from a folder in the layout of the diffusers library, without needing that library.

Its tensors get the names of the original release first; everything else is as with that.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.stable_audio_config import expect_value, read_config
from nemo_audio_restore.checkpoints.tensor_files import read_tensors

_FILE = 'diffusion_pytorch_model.safetensors'
_TRANSFORMER = (
    (r'^time_proj\.weight$', 'timestep_features.weight'),
    (r'^timestep_proj\.', 'to_timestep_embed.'),
    (r'^global_proj\.', 'to_global_embed.'),
    (r'^cross_attention_proj\.', 'to_cond_embed.'),
    (r'^proj_(in|out)\.', r'transformer.project_\1.'),
    (r'^transformer_blocks\.', 'transformer.layers.'),
    (r'\.norm1\.', '.pre_norm.'),
    (r'\.norm2\.', '.cross_attend_norm.'),
    (r'\.norm3\.', '.ff_norm.'),
    (r'_norm\.weight$', '_norm.gamma'),
    (r'_norm\.bias$', '_norm.beta'),
    (r'\.attn1\.', '.self_attn.'),
    (r'\.attn2\.', '.cross_attn.'),
    (r'\.to_out\.0\.', '.to_out.'),
    (r'\.ff\.net\.', '.ff.ff.'),
)
_SECONDS = {'start_number_conditioner': 'seconds_start', 'end_number_conditioner': 'seconds_total'}


def read_diffusers_folder(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a folder, in the terms of the original release.

    Args:
        folder: with ``transformer``, ``vae`` and ``projection_model``.

    Returns:
        The content of a ``model_config.json``, and the tensors under the names of its release.

    Raises:
        CheckpointError: a part is of another kind, or asks for something that is not supported.
        FileNotFoundError: a part is missing; names it.
    """
    folder = Path(folder)
    parts = {name: folder / name for name in ('transformer', 'vae', 'projection_model')}
    for name, part in parts.items():
        if not (part / 'config.json').is_file() or not (part / _FILE).is_file():
            raise FileNotFoundError(f'{folder} lacks {name}: {part}/config.json and {part}/{_FILE} are needed')
    transformer, vae, projection = (read_config(part / 'config.json') for part in parts.values())
    for config, wanted in (
        (transformer, 'StableAudioDiTModel'),
        (vae, 'AutoencoderOobleck'),
        (projection, 'StableAudioProjectionModel'),
    ):
        expect_value(config.get('_class_name'), wanted, '_class_name')
    expect_value(transformer['in_channels'], transformer['out_channels'], 'out_channels of the transformer')
    ratio = math.prod(vae['downsampling_ratios'])
    config = {
        'model_type': 'diffusion_cond',
        'sample_rate': vae['sampling_rate'],
        'sample_size': transformer['sample_size'] * ratio,
        'audio_channels': vae['audio_channels'],
        'model': {
            'pretransform': {'type': 'autoencoder', 'config': autoencoder_config(vae)},
            'conditioning': _conditioning_config(projection),
            'diffusion': diffusion_config(transformer),
        },
    }
    projected = read_tensors(parts['projection_model'] / _FILE)
    tensors = {
        **transformer_tensors(read_tensors(parts['transformer'] / _FILE)),
        **autoencoder_tensors(read_tensors(parts['vae'] / _FILE), blocks=len(vae['downsampling_ratios'])),
        **{_condition_name(name): value for name, value in projected.items()},
    }
    # This layout leaves out the constants of the rotation.
    tensors['model.model.transformer.rotary_pos_emb.inv_freq'] = rotary_frequencies(transformer['attention_head_dim'])
    return config, tensors


def read_diffusers_autoencoder(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of an ``AutoencoderOobleck`` alone, in the terms of the original release.

    Args:
        folder: with ``config.json``, or with a folder ``vae`` that has it.

    Returns:
        The content of the ``model_config.json`` of an autoencoder, and the tensors under the names of its release.

    Raises:
        CheckpointError: it is another kind of model.
        FileNotFoundError: a file is missing; names it.
    """
    folder = Path(folder)
    part = folder / 'vae' if (folder / 'vae').is_dir() else folder
    for name in ('config.json', _FILE):
        if not (part / name).is_file():
            raise FileNotFoundError(
                f'{folder} holds no autoencoder in the layout of diffusers: {part / name} is missing'
            )
    vae = read_config(part / 'config.json')
    expect_value(vae.get('_class_name'), 'AutoencoderOobleck', '_class_name')
    config = {
        'model_type': 'autoencoder',
        'sample_rate': vae['sampling_rate'],
        'audio_channels': vae['audio_channels'],
        'model': autoencoder_config(vae),
    }
    tensors = autoencoder_tensors(read_tensors(part / _FILE), blocks=len(vae['downsampling_ratios']))
    return config, {name.removeprefix('pretransform.model.'): value for name, value in tensors.items()}


def diffusion_config(transformer: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``model.diffusion`` of a release.

    Args:
        transformer: configuration of a ``StableAudioDiTModel``.

    Returns:
        Plain nested data.

    Raises:
        CheckpointError: an option that the release cannot have.
    """
    heads, head_dim = transformer['num_attention_heads'], transformer['attention_head_dim']
    expect_value(
        transformer['num_key_value_attention_heads'] * head_dim,
        transformer['cross_attention_dim'],
        'cross_attention_dim: the heads of keys and values together',
    )
    tokens = transformer['cross_attention_dim']
    projected = tokens == heads * head_dim
    if not projected:
        expect_value(transformer['cross_attention_input_dim'], tokens, 'cross_attention_input_dim')
    return {
        'type': 'dit',
        'diffusion_objective': 'v',
        'cross_attention_cond_ids': ['prompt', 'seconds_start', 'seconds_total'],
        'global_cond_ids': ['seconds_start', 'seconds_total'],
        'config': {
            'io_channels': transformer['in_channels'],
            'embed_dim': heads * head_dim,
            'depth': transformer['num_layers'],
            'num_heads': heads,
            'cond_token_dim': transformer['cross_attention_input_dim'],
            'project_cond_tokens': projected,
            'global_cond_dim': transformer['global_states_input_dim'],
            'transformer_type': 'continuous_transformer',
        },
    }


def autoencoder_config(vae: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``model`` of an autoencoder's release.

    Args:
        vae: configuration of an ``AutoencoderOobleck``.

    Returns:
        Plain nested data.

    Raises:
        CheckpointError: an option that the release cannot have.
    """
    latents = vae['decoder_input_channels']
    # The encoder gives mean and spread in as many channels as it has at its first level.
    expect_value(vae['encoder_hidden_size'], 2 * latents, 'encoder_hidden_size')
    shared = {
        'c_mults': vae['channel_multiples'],
        'strides': vae['downsampling_ratios'],
        'use_snake': True,
    }
    encoder = {'in_channels': vae['audio_channels'], 'channels': vae['encoder_hidden_size'], 'latent_dim': 2 * latents}
    decoder = {'out_channels': vae['audio_channels'], 'channels': vae['decoder_channels'], 'latent_dim': latents}
    return {
        'encoder': {'type': 'oobleck', 'config': {**encoder, **shared}},
        'decoder': {'type': 'oobleck', 'config': {**decoder, **shared, 'final_tanh': False}},
        'bottleneck': {'type': 'vae'},
        'latent_dim': latents,
    }


def _conditioning_config(projection: Mapping[str, Any]) -> dict[str, Any]:
    seconds = {'min_val': projection['min_value'], 'max_val': projection['max_value']}
    numbers = [{'id': name, 'type': 'number', 'config': seconds} for name in _SECONDS.values()]
    return {
        'configs': [{'id': 'prompt', 'type': 't5', 'config': {'max_length': 128}}, *numbers],
        'cond_dim': projection['conditioning_dim'],
    }


def transformer_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a ``StableAudioDiTModel`` under the names of a release, queries, keys and values put together again.

    Args:
        tensors: of the transformer.

    Returns:
        Without the constants of the rotation, which this layout leaves out.
    """
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in _TRANSFORMER:
            name = re.sub(pattern, replacement, name)
        renamed[f'model.model.{name}'] = value[:, None] if name == 'timestep_features.weight' else value
    for name in [name for name in renamed if name.endswith('.to_k.weight')]:
        stem = name.removesuffix('to_k.weight')
        parts = [renamed.pop(name), renamed.pop(f'{stem}to_v.weight')]
        joined = 'to_kv'
        if '.self_attn.' in stem:
            parts.insert(0, renamed.pop(f'{stem}to_q.weight'))
            joined = 'to_qkv'
        renamed[f'{stem}{joined}.weight'] = torch.cat(parts)
    return renamed


def autoencoder_tensors(tensors: Mapping[str, Tensor], *, blocks: int) -> dict[str, Tensor]:
    """Tensors of an ``AutoencoderOobleck`` under the names of a release: layers by number, activations flat.

    Args:
        tensors: of the autoencoder.
        blocks: of its encoder and of its decoder.

    Returns:
        With the prefix that they have in a whole model.

    Raises:
        CheckpointError: a tensor belongs to no known layer.
    """
    # Inside a block and inside a residual unit.
    in_encoder = {'res_unit1': 0, 'res_unit2': 1, 'res_unit3': 2, 'snake1': 3, 'conv1': 4}
    in_decoder = {'snake1': 0, 'conv_t1': 1, 'res_unit1': 2, 'res_unit2': 3, 'res_unit3': 4}
    in_unit = {'snake1': 0, 'conv1': 1, 'snake2': 2, 'conv2': 3}
    at_top = {'conv1': 0, 'snake1': blocks + 1, 'conv2': blocks + 2}

    def layers(name: str) -> str:
        side, *path = name.split('.')
        if path[0] != 'block':
            return f'{side}.layers.{at_top[path[0]]}.{".".join(path[1:])}'
        number = (in_encoder if side == 'encoder' else in_decoder)[path[2]]
        rest = path[3:]
        if path[2].startswith('res_unit'):
            rest = ['layers', str(in_unit[rest[0]]), *rest[1:]]
        return f'{side}.layers.{int(path[1]) + 1}.layers.{number}.{".".join(rest)}'

    try:
        return {
            f'pretransform.model.{layers(name)}': value.flatten() if name.endswith(('.alpha', '.beta')) else value
            for name, value in tensors.items()
        }
    except (KeyError, IndexError) as error:
        raise CheckpointError(f'vae: a tensor belongs to no known layer: {error}') from error


def _condition_name(name: str) -> str:
    first, _, rest = name.partition('.')
    if first == 'text_projection':
        return f'conditioner.conditioners.prompt.proj_out.{rest}'
    rest = rest.replace('time_positional_embedding', 'embedder.embedding')
    return f'conditioner.conditioners.{_SECONDS.get(first, first)}.{rest}'


def rotary_frequencies(head_dim: int) -> Tensor:
    """Frequencies of the rotation, in radians for each position.

    Args:
        head_dim: size of a head.

    Returns:
        One for every two rotated dimensions.
    """
    rotated = max(head_dim // 2, 32)
    return 10000.0 ** (-torch.arange(0, rotated, 2, dtype=torch.float32) / rotated)
