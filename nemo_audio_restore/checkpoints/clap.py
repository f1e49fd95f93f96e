"""LAION's CLAP files: converted once to safetensors without running code from them, and read into transformers."""

import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.tensor_files import fill, read_tensors
from nemo_audio_restore.checkpoints.text_encoders import load_clap_text

if TYPE_CHECKING:
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection, ClapTextModelWithProjection

_PREFIX = 'module.'
_AUDIO = 'module.audio_branch.'
_PROJECTION = 'module.audio_projection.'
# Of the front end, of the classifier that CLAP does not use, and what follows from the sizes.
_NOT_READ = re.compile(
    r'.*(spectrogram_extractor|logmel_extractor|tscam_conv|\.head\.|attn_mask|relative_position_index)'
)
_AUDIO_SIZES = (
    'patch_embeds_hidden_size',
    'hidden_size',
    'depths',
    'num_attention_heads',
    'num_hidden_layers',
    'num_mel_bins',
    'projection_dim',
    'enable_fusion',
    'fusion_type',
    'window_size',
    'spec_size',
)
_TEXT_SIZES = (
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'intermediate_size',
    'max_position_embeddings',
    'type_vocab_size',
    'projection_dim',
    'layer_norm_eps',
)
_RENAMED = (
    ('batch_norm.', 'bn0.'),
    ('attention.output.dense', 'attn.proj'),
    ('attention.self.', 'attn.'),
    ('layernorm_before', 'norm1'),
    ('layernorm_after', 'norm2'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
)


def convert_clap(source: str | Path, target: str | Path) -> int:
    """Rewrites a CLAP file of LAION as safetensors; what is no model, such as the optimizer, is left behind.

    Args:
        source: ``.pt`` file of LAION. Of everything that a pickle can do, tensors, plain containers and numpy's
            numbers are accepted, which those files hold.
        target: ``.safetensors`` file to write.

    Returns:
        The number of tensors written.

    Raises:
        CheckpointError: the file needs more than that, or is no CLAP file.
        FileNotFoundError: the file does not exist.
    """
    source = Path(source)
    if Path(target).suffix != '.safetensors':
        raise ValueError(f'the converted file must end in .safetensors; got {target}')
    with torch.serialization.safe_globals(_numpy_scalars()):
        tensors = read_tensors(source)
    tensors = {name if name.startswith(_PREFIX) else _PREFIX + name: value for name, value in tensors.items()}
    kept = {name: value.contiguous().clone() for name, value in tensors.items() if not _NOT_READ.match(name)}
    if not any(name.startswith((_AUDIO, 'module.text_branch.')) for name in kept):
        raise CheckpointError(f'{source} is no CLAP file: there are no {_AUDIO}* and no module.text_branch.* tensors')
    save_file(kept, str(target))
    return len(kept)


@dataclass(frozen=True)
class Clap:
    """What a CLAP file holds.

    Attributes:
        audio: transformers' HTSAT with projection, in evaluation mode.
        text: transformers' RoBERTa with projection, in evaluation mode.
        audio_config: keys of ``ClapAudioConfig`` that the file determines.
        text_config: keys of ``ClapTextConfig`` that the file determines.
        scale: the factor on similarities that the audio side learned, the inverse of the temperature.
    """

    audio: 'ClapAudioModelWithProjection'
    text: 'ClapTextModelWithProjection'
    audio_config: dict[str, Any]
    text_config: dict[str, Any]
    scale: float


def load_clap(path: str | Path, *, num_heads: int | None = None) -> Clap:
    """Both sides of a CLAP file.

    Args:
        path: file in LAION's layout: theirs, or what :func:`convert_clap` made of it.
        num_heads: attention heads of the text side, which leave no trace in the file; None for heads of 64.

    Returns:
        The towers with their sizes, and the temperature.

    Raises:
        CheckpointError: the file is refused, is no CLAP file, has other encoders, or lacks tensors.
    """
    with tempfile.TemporaryDirectory() as folder:
        if Path(path).suffix != '.safetensors':
            converted = Path(folder) / 'clap.safetensors'
            convert_clap(path, converted)
            path = converted
        audio, text = load_clap_audio(path), load_clap_text(path, num_heads=num_heads)
        scale = read_tensors(path).get('module.logit_scale_a')
        if scale is None:
            raise CheckpointError(f'{path} holds no temperature (module.logit_scale_a)')
        return Clap(
            audio,
            text,
            {key: getattr(audio.config, key) for key in _AUDIO_SIZES},
            {key: getattr(text.config, key) for key in _TEXT_SIZES},
            float(scale.exp()),
        )


def load_clap_audio(path: str | Path) -> 'ClapAudioModelWithProjection':
    """The audio side of a CLAP file, with its projection to the space shared with text.

    Args:
        path: file in LAION's layout, with HTSAT (any size) as its audio encoder; better one that
            :func:`convert_clap` wrote. Its text side is not read.

    Returns:
        A transformers model in evaluation mode; ``config.enable_fusion`` says of which kind it is.

    Raises:
        CheckpointError: the file is refused, is no CLAP file, has another encoder, or lacks tensors.
    """
    from transformers import ClapAudioModelWithProjection

    tensors = {
        name: tensor
        for name, tensor in read_tensors(path).items()
        if name.startswith((_AUDIO, _PROJECTION)) and not _NOT_READ.match(name)
    }
    if f'{_AUDIO}patch_embed.proj.weight' not in tensors:
        raise CheckpointError(
            f'{path} holds no HTSAT: there is no {_AUDIO}patch_embed.proj.weight (CLAP files with PANN are not read)'
        )
    model = ClapAudioModelWithProjection(_config_of(tensors, str(path)))
    tensors = _split_attention(tensors)
    counts = {name for name in tensors if name.endswith('num_batches_tracked')}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in counts}
    state = model.state_dict()
    constants = [name for name in state if name.endswith(('relative_position_index', 'num_batches_tracked'))]
    fill(model, tensors, file_name=_file_name, part='the audio side of CLAP', source=str(path), constants=constants)
    return model.eval()


def _config_of(tensors: dict[str, Tensor], path: str) -> 'ClapAudioConfig':
    from transformers import ClapAudioConfig

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise CheckpointError(f'{path}: {name} is missing')
        return tensors[name].shape

    depths: dict[int, int] = {}
    for name in tensors:
        if found := re.match(r'.*audio_branch\.layers\.(\d+)\.blocks\.(\d+)\.', name):
            stage, block = int(found[1]), int(found[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
    width = shape(f'{_AUDIO}patch_embed.proj.weight')[0]
    has_fusion = f'{_AUDIO}patch_embed.mel_conv2d.weight' in tensors
    table = f'{_AUDIO}layers.{{}}.blocks.0.attn.relative_position_bias_table'
    return ClapAudioConfig(
        patch_embeds_hidden_size=width,
        hidden_size=shape(f'{_AUDIO}norm.weight')[0],
        depths=[depths[stage] for stage in sorted(depths)],
        num_attention_heads=[shape(table.format(stage))[1] for stage in sorted(depths)],
        num_hidden_layers=len(depths),
        num_mel_bins=shape(f'{_AUDIO}bn0.weight')[0],
        projection_dim=shape(f'{_PROJECTION}2.weight')[0],
        # A table of (2 w - 1)^2 differences of position for windows of w by w.
        window_size=(math.isqrt(shape(table.format(0))[0]) + 1) // 2,
        enable_fusion=has_fusion,
        fusion_type='aff_2d' if has_fusion else None,
    )


def _split_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values that the file stacks, apart."""
    split = {}
    for name, tensor in tensors.items():
        if '.attn.qkv.' in name:
            for part, piece in zip(('query', 'key', 'value'), tensor.chunk(3), strict=True):
                split[name.replace('.qkv.', f'.{part}.')] = piece.clone()
        else:
            split[name] = tensor
    return split


def _file_name(name: str) -> str:
    """LAION's name of a tensor of transformers' model."""
    if name.startswith('audio_projection.'):
        layer, rest = name.removeprefix('audio_projection.').split('.', 1)
        number = {'linear1': 0, 'linear2': 2}[layer]
        return f'{_PROJECTION}{number}.{rest}'
    name = name.removeprefix('audio_model.audio_encoder.')
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    return _AUDIO + name


def _numpy_scalars() -> list:
    """What numpy's numbers need to be read, under the names of numpy 1 and 2: they hold bytes and no code."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    return [(scalar, 'numpy.core.multiarray.scalar'), scalar, np.dtype, *kinds]
