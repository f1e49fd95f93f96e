"""Reads the ``model.bin`` of CTranslate2: named arrays in a plain binary file, no code in it."""

import struct
from dataclasses import dataclass

import numpy as np

from nemo_audio_restore.checkpoints.errors import CheckpointError

VERSION = 6
# bfloat16 (5) is left out: numpy has no such type, and no file met so far uses it.
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_MOST_AXES = 8


@dataclass(frozen=True)
class CTranslate2File:
    """What a file holds.

    Attributes:
        spec: name of the kind of model, for example ``WhisperSpec``.
        revision: of that kind.
        variables: arrays by name; names that the file declares equal share one array.
    """

    spec: str
    revision: int
    variables: dict[str, np.ndarray]


def parse_ctranslate2(content: bytes) -> CTranslate2File:
    """Reads the binary format, version 6.

    Args:
        content: the whole file.

    Returns:
        Its arrays, as views of the content (read-only).

    Raises:
        CheckpointError: another version, cut off, or damaged.

    Source: https://github.com/OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py, which writes it.
    """
    reader = _Reader(content)
    version = reader.number('<I', 'version')
    if version != VERSION:
        raise CheckpointError(
            f'this is not a CTranslate2 model of binary version {VERSION}: it starts with {version}; '
            'convert the model again with CTranslate2 3 or 4'
        )
    spec, revision = reader.text(), reader.number('<I', 'revision')
    variables: dict[str, np.ndarray] = {}
    for _ in range(reader.number('<I', 'number of variables')):
        name = reader.text()
        variables[name] = reader.array(name)
    for _ in range(reader.number('<I', 'number of aliases')):
        alias, name = reader.text(), reader.text()
        if name not in variables:
            raise CheckpointError(f'the CTranslate2 model is damaged: {alias} stands for {name}, which is not there')
        variables[alias] = variables[name]
    if reader.left:
        raise CheckpointError(f'the CTranslate2 model is damaged: {reader.left} bytes follow its end')
    return CTranslate2File(spec, revision, variables)


class _Reader:
    def __init__(self, content: bytes):
        self._content = memoryview(content)
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._content) - self._position

    def take(self, size: int, what: str) -> memoryview:
        if size > self.left:
            raise CheckpointError(
                f'the CTranslate2 model is cut off or damaged: {what} needs {size} bytes at byte {self._position}, '
                f'{self.left} are left'
            )
        self._position += size
        return self._content[self._position - size : self._position]

    def number(self, form: str, what: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def text(self) -> str:
        raw = bytes(self.take(self.number('<H', 'length of a name'), 'a name'))
        if not raw.endswith(b'\0') or not raw.isascii():
            raise CheckpointError(f'the CTranslate2 model is damaged: no name stands before byte {self._position}')
        return raw[:-1].decode('ascii')

    def array(self, name: str) -> np.ndarray:
        axes = self.number('<B', f'shape of {name}')
        if axes > _MOST_AXES:
            raise CheckpointError(f'the CTranslate2 model is damaged: {name} has {axes} axes')
        shape = tuple(self.number('<I', f'shape of {name}') for _ in range(axes))
        kind = self.number('<B', f'type of {name}')
        size = self.number('<I', f'size of {name}')
        dtype = np.dtype(_DTYPES[kind]) if kind in _DTYPES else None
        if dtype is None:
            raise CheckpointError(f'{name} has the unknown type {kind}; use a model in float32, float16 or int8 to 32')
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size != expected:
            raise CheckpointError(
                f'the CTranslate2 model is damaged: {name} has {size} bytes, its shape {shape} needs {expected}'
            )
        return np.frombuffer(self.take(size, name), dtype).reshape(shape)
