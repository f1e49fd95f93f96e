"""Reads TensorFlow's checkpoints of version 2: named arrays in plain binary files, no code and no TensorFlow in it."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nemo_audio_restore.checkpoints.errors import CheckpointError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_DTYPES = {1: np.dtype('<f4'), 2: np.dtype('<f8'), 3: np.dtype('<i4'), 9: np.dtype('<i8')}
# Field numbers of BundleEntryProto.
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE = 1, 2, 3, 4, 5


def parse_tensorflow_bundle(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint.

    Args:
        index: the ``.index`` file.
        data: the ``.data-00000-of-00001`` file.

    Returns:
        Arrays by name, as views of the data (read-only); those of other types than numbers are left out.

    Raises:
        CheckpointError: no such files, compressed, in several parts, cut off, or damaged.

    Source: https://github.com/google/leveldb/blob/main/doc/table_format.md and tensorflow/core/protobuf/
    tensor_bundle.proto, which describe the format.
    """
    if len(index) < _FOOTER or struct.unpack('<Q', index[-8:])[0] != _MAGIC:
        raise CheckpointError('this is no index of a TensorFlow checkpoint of version 2, or it is cut off')
    try:
        arrays = {}
        footer = _Reader(index[-_FOOTER:])
        footer.varint(), footer.varint()  # where the index of blocks of metadata is: there are none
        for _, handle in _entries(index, footer.varint(), footer.varint()):
            place = _Reader(handle)
            for key, value in _entries(index, place.varint(), place.varint()):
                array = _array(_fields(value), data) if key else None
                if array is not None:
                    arrays[key.decode('utf-8')] = array
        return arrays
    except (IndexError, UnicodeDecodeError, struct.error, KeyError) as error:
        raise CheckpointError(f'the TensorFlow checkpoint is damaged: {error}') from error


@dataclass
class _Reader:
    content: bytes
    position: int = 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.content[self.position]
            self.position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def take(self, count: int) -> bytes:
        if self.position + count > len(self.content):
            raise IndexError('it ends too early')
        self.position += count
        return self.content[self.position - count : self.position]


def _entries(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key begins with a part of the one before."""
    if offset + size + 5 > len(index):
        raise IndexError('a block lies outside the file')
    if index[offset + size] != 0:
        raise CheckpointError('the index of the TensorFlow checkpoint is compressed; only plain ones are read')
    block = index[offset : offset + size]
    restarts = struct.unpack('<I', block[-4:])[0]
    reader, key = _Reader(block[: len(block) - 4 * (restarts + 1)]), b''
    while reader.position < len(reader.content):
        shared, fresh, length = reader.varint(), reader.varint(), reader.varint()
        key = key[:shared] + reader.take(fresh)
        yield key, reader.take(length)


def _fields(message: bytes) -> dict[int, list[int | bytes]]:
    """A message of protocol buffers: values by number of the field."""
    reader, fields = _Reader(message), {}
    while reader.position < len(message):
        tag = reader.varint()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value = reader.varint()
        elif kind == 2:
            value = reader.take(reader.varint())
        elif kind in (1, 5):
            value = reader.take(8 if kind == 1 else 4)
        else:
            raise IndexError(f'field {number} has the unknown kind {kind}')
        fields.setdefault(number, []).append(value)
    return fields


def _array(entry: dict[int, list[int | bytes]], data: bytes) -> np.ndarray | None:
    dtype = _DTYPES.get(entry.get(_DTYPE, [0])[0])
    if dtype is None:
        return None
    if entry.get(_SHARD, [0])[0] != 0:
        raise CheckpointError('the TensorFlow checkpoint has several data files; only one is read')
    axes = _fields(entry[_SHAPE][0]).get(2, []) if _SHAPE in entry else []
    shape = tuple(_fields(axis).get(1, [0])[0] for axis in axes)
    offset, size = entry.get(_OFFSET, [0])[0], entry[_SIZE][0]
    if offset + size > len(data) or size != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise IndexError('an array does not fit into the data file')
    return np.frombuffer(data, dtype, count=size // dtype.itemsize, offset=offset).reshape(shape)
