"""The diffusion networks of the Stable Audio family: from their configuration and tensors to our networks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.stable_audio_config import expect, expect_value, options
from nemo_audio_restore.checkpoints.tensor_files import fill
from nemo_audio_restore.networks.latent_transformer import LatentTransformer
from nemo_audio_restore.networks.latent_unet import LatentUNet
from nemo_audio_restore.processes.diffusion import DiffusionProcess, RectifiedFlow, VDiffusion

_UNET, _TRANSFORMER = 'adp_cfg_1d', 'dit'
_OBJECTIVES: dict[str, type[DiffusionProcess]] = {
    'v': VDiffusion,
    'rectified_flow': RectifiedFlow,
    'rf_denoiser': RectifiedFlow,
}


def network_class(section: Mapping[str, Any]) -> type[LatentUNet] | type[LatentTransformer]:
    """The class of the network.

    Args:
        section: ``model.diffusion`` of a configuration.

    Returns:
        One of our networks.

    Raises:
        CheckpointError: a network of another type.
    """
    kind, _ = expect(section, 'diffusion', (_UNET, _TRANSFORMER))
    return LatentUNet if kind == _UNET else LatentTransformer


def process_of(section: Mapping[str, Any]) -> DiffusionProcess:
    """The objective that the network was trained for.

    Args:
        section: ``model.diffusion`` of a configuration.

    Returns:
        The process.

    Raises:
        CheckpointError: an objective of another kind.
    """
    objective = section.get('diffusion_objective', 'v')
    if objective not in _OBJECTIVES:
        raise CheckpointError(
            f'diffusion_objective must be one of {", ".join(_OBJECTIVES)}; the configuration says {objective!r}'
        )
    return _OBJECTIVES[objective]()


def network_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of our network.

    Args:
        section: ``model.diffusion`` of a configuration.

    Returns:
        Arguments of the constructor of :func:`network_class`.

    Raises:
        CheckpointError: an option that changes the network and is not supported.
    """
    kind, config = expect(section, 'diffusion', (_UNET, _TRANSFORMER))
    return _unet_arguments(config) if kind == _UNET else _transformer_arguments(config)


def _unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    needed = {
        'in_channels': 'latent_channels',
        'channels': 'channels',
        'multipliers': 'multipliers',
        'factors': 'factors',
        'num_blocks': 'blocks',
        'attentions': 'attentions',
        'attention_heads': 'num_heads',
        'attention_multiplier': 'attention_multiplier',
        'resnet_groups': 'groups',
        'kernel_multiplier_downsample': 'kernel_multiplier',
        'context_embedding_features': 'token_dim',
        'context_embedding_max_length': 'max_tokens',
    }
    fixed = {'use_nearest_upsample': False, 'use_skip_scale': True, 'use_context_time': True}
    read = options(config, {**dict.fromkeys(needed), **fixed}, 'diffusion')
    for name, value in fixed.items():
        expect_value(read[name], value, f'{name} of the diffusion network')
    missing = [name for name in needed if read[name] is None]
    if missing:
        raise CheckpointError(f'diffusion: the configuration lacks {", ".join(missing)}')
    return {ours: read[name] for name, ours in needed.items()}


def _transformer_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    fixed = {
        'transformer_type': 'continuous_transformer',
        'timestep_cond_type': 'global',
        'project_global_cond': True,
        'patch_size': 1,
    }
    read = options(
        config,
        {
            'io_channels': 32,
            'embed_dim': 768,
            'depth': 12,
            'num_heads': 8,
            'cond_token_dim': 0,
            'project_cond_tokens': True,
            'global_cond_dim': 0,
            'global_cond_type': 'prepend',
            'prepend_cond_dim': 0,
            'input_concat_dim': 0,
            'num_memory_tokens': 0,
            'attn_kwargs': {},
            **fixed,
        },
        'diffusion',
    )
    for name, value in fixed.items():
        expect_value(read[name], value, f'{name} of the diffusion network')
    uses = {'prepend': 'prepend', 'adaLN': 'modulate'}
    if read['global_cond_type'] not in uses:
        raise CheckpointError(
            f'global_cond_type must be prepend or adaLN; the configuration says {read["global_cond_type"]!r}'
        )
    attention = options(read['attn_kwargs'] or {}, {'qk_norm': 'none'}, 'attn_kwargs')
    if attention['qk_norm'] not in ('none', 'ln'):
        raise CheckpointError(f'qk_norm must be none or ln; the configuration says {attention["qk_norm"]!r}')
    return {
        'latent_channels': read['io_channels'],
        'dim': read['embed_dim'],
        'depth': read['depth'],
        'num_heads': read['num_heads'],
        'token_dim': read['cond_token_dim'] or None,
        'project_tokens': read['project_cond_tokens'],
        'summary_dim': read['global_cond_dim'] or None,
        'summary_use': uses[read['global_cond_type']],
        'prepended_dim': read['prepend_cond_dim'] or None,
        'concatenated_channels': read['input_concat_dim'],
        'normed_heads': attention['qk_norm'] == 'ln',
        'memory_tokens': read['num_memory_tokens'],
    }


def load_network(
    section: Mapping[str, Any], tensors: Mapping[str, Tensor], *, prefix: str, source: str
) -> LatentUNet | LatentTransformer:
    """The network with the tensors of a file.

    Args:
        section: ``model.diffusion`` of a configuration.
        tensors: of the network alone, with ``prefix``.
        prefix: in front of every name.
        source: of the tensors, for errors.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    with torch.device('meta'):
        network = network_class(section)(**network_arguments(section))
    fill(network, tensors, file_name=lambda name: prefix + name, part='the diffusion network', source=source)
    return network.eval()
