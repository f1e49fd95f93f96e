"""Reads AF-CLAP, the contrastive model beside Audio Flamingo 2's checkpoints."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from nemo_audio_restore.checkpoints.audio_flamingo2_names import is_dropped, tower_source
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.tensor_files import fill, read_tensors
from nemo_audio_restore.networks.af_clap import AudioFlamingoClap
from nemo_audio_restore.networks.window_towers import HtsatTower

if TYPE_CHECKING:
    from transformers import T5EncoderModel

_MODULE, _AUDIO = 'module.', 'module.audio_branch.'
# What is learned beside the embeddings, and not used for likeness.
_TRAINING = re.compile(r'module\.((audio|text)_transform\..*|logit_scale_[at])')


def load_af_clap(path: str | Path, text_encoder: 'T5EncoderModel') -> AudioFlamingoClap:
    """Loads AF-CLAP.

    Args:
        path: ``epoch_N.pt`` of a release, or the same tensors as safetensors.
        text_encoder: a T5 encoder of the same size (flan-t5-large for the released files), whose weights are
            replaced.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: the file is refused, or tensors are missing, left over or of another shape.
        FileNotFoundError: there is no such file.
    """
    return af_clap_of(read_tensors(path), text_encoder, source=str(path))


def af_clap_of(tensors: Mapping[str, Tensor], text_encoder: 'T5EncoderModel', *, source: str) -> AudioFlamingoClap:
    """AF-CLAP of tensors with the published names.

    Args:
        tensors: of the file.
        text_encoder: as for :func:`load_af_clap`.
        source: of the tensors, for errors.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: as for :func:`load_af_clap`.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if is_dropped(name, _AUDIO) or _TRAINING.fullmatch(name) or not tensor.is_floating_point():
            continue
        if '.attn.qkv.' in name:
            kept.update({f'{name}#{third}': rows for third, rows in enumerate(tensor.chunk(3))})
        else:
            kept[name] = tensor
    projection = kept.get(f'{_MODULE}audio_projection.0.weight')
    if projection is None:
        raise CheckpointError(f'{source} holds no AF-CLAP: {_MODULE}audio_projection.0.weight is missing')
    model = AudioFlamingoClap(
        audio_branch=_tower(kept, source), text_branch=text_encoder, embedding_dim=projection.shape[0]
    )
    state = model.state_dict()
    counters = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    fill(model, kept, file_name=_file_name, part='AF-CLAP', source=source, constants=counters)
    return model.eval()


def _tower(tensors: Mapping[str, Tensor], source: str) -> HtsatTower:
    blocks: dict[int, set[int]] = {}
    for match in map(re.compile(re.escape(_AUDIO) + r'layers\.(\d+)\.blocks\.(\d+)\.').match, tensors):
        if match:
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    norm = tensors.get(f'{_AUDIO}patch_embed.norm.weight')
    bias = [
        tensors.get(f'{_AUDIO}layers.{stage}.blocks.0.attn.relative_position_bias_table') for stage in sorted(blocks)
    ]
    if norm is None or not bias or any(table is None for table in bias):
        raise CheckpointError(f'{source} holds no audio tower: {_AUDIO}* is missing or incomplete')
    return HtsatTower(
        embed_dim=norm.shape[0],
        depths=[len(blocks[stage]) for stage in sorted(blocks)],
        num_heads=[table.shape[1] for table in bias],
        fusion=f'{_AUDIO}patch_embed.mel_conv2d.weight' in tensors,
    )


def _file_name(name: str) -> str:
    if not name.startswith('audio_branch.'):
        return _MODULE + name
    source = tower_source(name.removeprefix('audio_branch.'), _AUDIO)
    return source.names[0] if source.third is None else f'{source.names[0]}#{source.third}'
