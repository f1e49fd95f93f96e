"""Files of llama.cpp (GGUF): the facts and tensors of a language model, with quantised weights made plain.

The readers at hand take a minute for a file of 98 MB, most of it for its list of words; this one takes seconds.

Source: the description of the format in ggml's repository (docs/gguf.md); blocks of 32 weights as in its ``Q4_1``
(a scale, a least value and 4 bits each) and ``Q8_0`` (a scale and 8 bits each).
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_audio_restore.checkpoints.errors import CheckpointError

_MAGIC = b'GGUF'
_VERSIONS = (2, 3)
_SCALARS = {0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}
_TEXT, _LIST = 8, 9
_BLOCK = 32
_BLOCK_BYTES = {3: 20, 8: 34}
_F32, _Q4_1, _Q8_0 = 0, 3, 8
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class GgufFile:
    """What a file holds."""

    facts: dict[str, Any]
    """Numbers, texts and lists by their dotted names."""
    tensors: dict[str, np.ndarray]
    """Float32 tensors by name, in the order of axes of torch."""


def read_gguf(path: Path, *, facts_only: bool = False) -> GgufFile:
    """Reads a file whole.

    Args:
        path: of the file.
        facts_only: leave the tensors out.

    Returns:
        Its facts and tensors.

    Raises:
        CheckpointError: it is no GGUF file, is cut short, or holds a kind of tensor that is not known here.
    """
    reader = _Reader(path.read_bytes(), str(path))
    try:
        return reader.read(facts_only=facts_only)
    except (struct.error, UnicodeDecodeError, ValueError, KeyError) as error:
        raise CheckpointError(f'{path} is damaged or cut short: {error}') from error


class _Reader:
    def __init__(self, content: bytes, name: str):
        self.content, self.name, self.position = content, name, 4

    def read(self, *, facts_only: bool) -> GgufFile:
        if self.content[:4] != _MAGIC:
            raise CheckpointError(f'{self.name} is no GGUF file')
        version = self.scalar('I')
        if version not in _VERSIONS:
            raise CheckpointError(f'{self.name} has version {version} of GGUF; {_VERSIONS} are known here')
        num_tensors, num_facts = self.scalar('Q'), self.scalar('Q')
        facts = {}
        for _ in range(num_facts):
            name = self.text()
            facts[name] = self.value(self.scalar('I'))
        if facts_only:
            return GgufFile(facts, {})
        places = [self.place() for _ in range(num_tensors)]
        alignment = int(facts.get('general.alignment', 32))
        start = -(-self.position // alignment) * alignment
        return GgufFile(facts, {name: self.tensor(name, shape, kind, start + at) for name, shape, kind, at in places})

    def scalar(self, kind: str) -> Any:
        value = struct.unpack_from(f'<{kind}', self.content, self.position)[0]
        self.position += struct.calcsize(f'<{kind}')
        return value

    def text(self) -> str:
        length = self.scalar('Q')
        content = self.content[self.position : self.position + length]
        if len(content) < length:
            raise ValueError('a text reaches beyond the end')
        self.position += length
        return content.decode()

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            inner, length = self.scalar('I'), self.scalar('Q')
            return [self.value(inner) for _ in range(length)]
        return self.scalar(_SCALARS[kind])

    def place(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.text(), self.scalar('I')
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f'{name} has {dimensions} dimensions')
        # The fastest axis comes first in the file, and last in torch.
        shape = tuple(self.scalar('Q') for _ in range(dimensions))[::-1]
        return name, shape, self.scalar('I'), self.scalar('Q')

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> np.ndarray:
        count = int(np.prod(shape))
        if kind == _F32:
            return np.frombuffer(self.content, '<f4', count, start).reshape(shape).copy()
        if kind not in _BLOCK_BYTES:
            raise CheckpointError(f'{self.name}: {name} is of kind {kind}; F32, Q4_1 and Q8_0 are known here')
        size = _BLOCK_BYTES[kind]
        blocks = np.frombuffer(self.content, np.uint8, count // _BLOCK * size, start).reshape(-1, size)
        return (_q4_1 if kind == _Q4_1 else _q8_0)(blocks).reshape(shape)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    """Scale and least value in half precision, then 4 bits each: the lower ones are the first half of the block."""
    scale, least = (blocks[:, at : at + 2].copy().view('<f2').astype(np.float32) for at in (0, 2))
    packed = blocks[:, 4:]
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) * scale + least


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    """A scale in half precision, then 8 bits each with a sign."""
    return blocks[:, 2:].copy().view(np.int8).astype(np.float32) * blocks[:, :2].copy().view('<f2').astype(np.float32)
