"""Reads the released checkpoints of Audio Flamingo 2, one tensor at a time, to our networks.

The files hold every tensor of the training program in single precision: the audio tower under one of two prefixes,
language model and cross-attention twice under different names, and constants. What is needed is taken once, after the
copies have been compared; nothing is ever in memory but the networks and one tensor with its copy.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nemo_audio_restore.checkpoints.audio_flamingo2_names import (
    LANGUAGE,
    TOWERS,
    TRANSFORM,
    FlamingoParts,
    Source,
    is_dropped,
)
from nemo_audio_restore.checkpoints.errors import CheckpointError

METADATA = 'metadata.json'
_SUBFOLDER = 'safe_ckpt'
_ROTARY_SHARE = 4  # the head's width, in frequencies of the rotary embedding
_HEAD_DIM = 64  # of cross-attention; leaves no trace in the files
_EXACT = ('inverse_frequencies',)  # angles of thousands of positions do not survive rounding
_SHOWN = 5


class ReleasedTensors:
    """The files of a release, opened but not read.

    Args:
        folder: with ``metadata.json`` and ``model_chunk_N.safetensors``, or one level above such a folder.

    Raises:
        CheckpointError: the folder does not hold what its ``metadata.json`` promises.
        FileNotFoundError: there is no such folder or file.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder).expanduser()
        folder = folder / _SUBFOLDER if (folder / _SUBFOLDER / METADATA).is_file() else folder
        if not (folder / METADATA).is_file():
            raise FileNotFoundError(
                f'{folder} holds no {METADATA}: give the folder of a released checkpoint, with {METADATA} and '
                'model_chunk_N.safetensors'
            )
        self.folder = folder
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        for chunk, names in _read_metadata(self.folder / METADATA).items():
            path = self.folder / f'{chunk}.safetensors'
            if not path.is_file():
                raise FileNotFoundError(f'{self.folder} lacks {path.name}, which its {METADATA} names')
            try:
                file = self._opened(path)
            except SafetensorError as error:
                raise CheckpointError(f'{path} is not a safetensors file, or a damaged one: {error}') from error
            there = set(file.keys())
            for name in names:
                if name not in there:
                    raise CheckpointError(f'{path} lacks {name}, which {METADATA} promises')
                self._files[name] = file
                self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def _opened(self, path: Path) -> Any:
        """A file, mapped read-only: torch's own way counts as memory, and a file larger than that is refused."""
        file = self._stack.enter_context(safe_open(str(path), framework='numpy'))
        if any(file.get_slice(name).get_dtype() == 'BF16' for name in file.keys()):  # unknown to numpy
            file = self._stack.enter_context(safe_open(str(path), framework='pt'))
        return file

    def read(self, name: str) -> Tensor:
        """One tensor."""
        tensor = self._files[name].get_tensor(name)
        return tensor if isinstance(tensor, Tensor) else torch.from_numpy(tensor)

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def __enter__(self) -> 'ReleasedTensors':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def tower_prefix(self) -> str:
        """What is in front of the names of the audio tower; it depends on the program that wrote the files."""
        prefixes = [prefix for prefix in TOWERS if f'{prefix}norm.weight' in self.shapes]
        if len(prefixes) != 1:
            raise CheckpointError(f'{self.folder} holds no audio tower: there is no {" nor ".join(TOWERS)}norm.weight')
        return prefixes[0]

    def sizes(self) -> 'FlamingoSizes':
        """Sizes of the networks, read off the shapes.

        Returns:
            Arguments of the networks.

        Raises:
            CheckpointError: a part is missing.
        """
        tower = self.tower_prefix
        stages = self._count(re.escape(tower) + r'layers\.(\d+)\.')
        depths = [self._count(re.escape(tower) + rf'layers\.{stage}\.blocks\.(\d+)\.') for stage in range(stages)]
        bias = '{}layers.{}.blocks.0.attn.relative_position_bias_table'
        dim = self._shape(f'{TRANSFORM}layer_norm.weight')[0]
        blocks = sorted(
            {
                int(match[1])
                for match in map(
                    re.compile(re.escape(LANGUAGE) + r'model\.layers\.(\d+)\.gated_cross_attn_layer_sound\.').match,
                    self.shapes,
                )
                if match
            }
        )
        if not blocks:
            raise CheckpointError(
                f'{self.folder} holds no cross-attention: no {LANGUAGE}…gated_cross_attn_layer_sound'
            )
        first = f'{LANGUAGE}model.layers.{blocks[0]}.gated_cross_attn_layer_sound.'
        width = self._shape(f'{first}attn.norm.weight')[0]
        return FlamingoSizes(
            audio_tower={
                'embed_dim': self._shape(f'{tower}patch_embed.norm.weight')[0],
                'depths': depths,
                'num_heads': [self._shape(bias.format(tower, stage))[1] for stage in range(stages)],
                'fusion': f'{tower}patch_embed.mel_conv2d.weight' in self.shapes,
            },
            audio_transform={
                'num_layers': self._count(re.escape(TRANSFORM) + r'layer_stack\.(\d+)\.'),
                'num_heads': dim // (_ROTARY_SHARE * self._shape(f'{TRANSFORM}position_enc.inv_freq')[0]),
                'inner_dim': self._shape(f'{TRANSFORM}layer_stack.0.pos_ffn.w_1.weight')[0],
            },
            cross_attention={
                'layers': blocks,
                'num_heads': self._shape(f'{first}attn.to_q.weight')[0] // _HEAD_DIM,
                'head_dim': _HEAD_DIM,
                'ff_mult': self._shape(f'{first}ff.1.weight')[0] // width,
            },
            vocabulary=self._shape(f'{LANGUAGE}model.embed_tokens.weight')[0],
            width=width,
            layers=self._count(re.escape(LANGUAGE) + r'model\.layers\.(\d+)\.'),
        )

    def _count(self, pattern: str) -> int:
        numbers = {int(match[1]) for match in map(re.compile(pattern).match, self.shapes) if match}
        return len(numbers)

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.shapes:
            raise CheckpointError(f'{self.folder}: {name} is missing')
        return self.shapes[name]


@dataclass(frozen=True)
class FlamingoSizes:
    """Arguments of the networks of a release, and the language model that it needs."""

    audio_tower: dict[str, Any]
    audio_transform: dict[str, Any]
    cross_attention: dict[str, Any]
    vocabulary: int
    """Tokens, the special ones included."""
    width: int
    """Of the language model's hidden states."""
    layers: int
    """Of the language model."""


def fill_parts(released: ReleasedTensors, parts: FlamingoParts, *, dtype: torch.dtype = torch.float32) -> None:
    """Fills networks with the tensors of a release, one at a time; nothing may be missing, left over or unequal.

    Args:
        released: the files.
        parts: networks on the meta device or elsewhere; they get new tensors on the CPU.
        dtype: of the networks' floating-point tensors.

    Raises:
        CheckpointError: names tensors that are missing, unknown or of another shape, or two copies that differ.
    """
    sources = list(parts.sources(released.tower_prefix))
    problems = list(unplaced(released, sources))
    if problems:
        more = f'; and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''
        raise CheckpointError(f'{released.folder} does not fit: ' + '; '.join(problems[:_SHOWN]) + more)
    for network, name, source in sources:
        tensor = _read_once(released, source)
        tensor = tensor if source.third is None else tensor.chunk(3)[source.third]
        rounded = tensor.is_floating_point() and name not in _EXACT
        _assign(network, name, tensor.to(dtype if rounded else tensor.dtype, copy=True))
    complete(parts.language_model)


def unplaced(released: ReleasedTensors, sources: list[tuple[nn.Module, str, Source]]) -> Iterator[str]:
    """What does not fit between files and networks, by names and shapes alone.

    Args:
        released: the files.
        sources: every tensor of the networks, and where it should be.

    Yields:
        A phrase for every tensor that is missing, left over or of another shape.
    """
    states = {id(network): network for network, _, _ in sources}
    shapes = {key: network.state_dict() for key, network in states.items()}
    for network, name, source in sources:
        expected = tuple(shapes[id(network)][name].shape)
        if source.third is not None:
            expected = (3 * expected[0], *expected[1:])
        if source.names[0] not in released.shapes:
            yield f'{source.names[0]} is missing, expected shape {expected}'
        for there in source.names:
            if released.shapes.get(there, expected) != expected:
                yield f'{there} has shape {released.shapes[there]}, expected {expected}'
    used = {name for _, _, source in sources for name in source.names}
    for name, shape in released.shapes.items():
        if name not in used and not is_dropped(name, released.tower_prefix):
            yield f'{name} of shape {shape} belongs to no network'


def _read_once(released: ReleasedTensors, source: Source) -> Tensor:
    """A tensor, after its copies have been compared with it."""
    tensor = released.read(source.names[0])
    for copy in source.names[1:]:
        if copy in released.shapes and not torch.equal(tensor, released.read(copy)):
            raise CheckpointError(
                f'{released.folder} is inconsistent: {source.names[0]} and its copy {copy} hold different values'
            )
    return tensor


def _assign(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a tensor into a network in place of the one there."""
    owner, _, leaf = name.rpartition('.')
    module = network.get_submodule(owner)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=module._parameters[leaf].requires_grad)
    else:
        module._buffers[leaf] = tensor


def complete(language_model: nn.Module) -> None:
    """Ties the embeddings again, and computes constants that are in no file.

    Args:
        language_model: of `transformers`, that was laid out on the meta device.
    """
    if language_model.config.tie_word_embeddings:
        language_model.get_output_embeddings().weight = language_model.get_input_embeddings().weight
    decoder = language_model.get_decoder()
    if any(buffer.is_meta for buffer in decoder.rotary_emb.buffers()):
        decoder.rotary_emb = type(decoder.rotary_emb)(config=language_model.config)


def _read_metadata(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise CheckpointError(f'{path} is no JSON file: {error}') from error
    lists = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise CheckpointError(f'{path} must hold lists of names for every chunk of the model')
    if any(Path(chunk).name != chunk for chunk in content):
        raise CheckpointError(f'{path} names files outside its folder')
    return content
