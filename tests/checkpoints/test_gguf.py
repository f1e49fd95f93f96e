"""Claims about reading files of llama.cpp."""

import struct

import numpy as np
import pytest

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.gguf import read_gguf


def text(value):
    return struct.pack('<Q', len(value)) + value.encode()


def gguf_file(path, *, kind=0, content=b'', shape=(32,)):
    """One list of words, one number, one tensor; the content begins at a multiple of 32."""
    head = b'GGUF' + struct.pack('<IQQ', 3, 1, 2)
    head += text('words') + struct.pack('<IIQ', 9, 8, 2) + text('a') + text('b')
    head += text('layers') + struct.pack('<II', 4, 7)
    head += text('weight') + struct.pack(f'<I{len(shape)}QIQ', len(shape), *shape, kind, 0)
    path.write_bytes(head + b'\0' * (-len(head) % 32) + content)
    return path


def test_facts_and_plain_tensors_are_read(tmp_path):
    values = np.arange(6, dtype='<f4')
    found = read_gguf(gguf_file(tmp_path / 'x', content=values.tobytes(), shape=(3, 2)))
    assert found.facts == {'words': ['a', 'b'], 'layers': 7}
    # The file names the fastest axis first.
    np.testing.assert_array_equal(found.tensors['weight'], values.reshape(2, 3))
    assert read_gguf(tmp_path / 'x', facts_only=True).tensors == {}


def test_four_bits_hold_the_lower_half_of_a_block_first(tmp_path):
    packed = bytes(index | (15 - index) << 4 for index in range(16))
    block = np.array([0.5, -2.0], '<f2').tobytes() + packed
    weight = read_gguf(gguf_file(tmp_path / 'x', kind=3, content=block)).tensors['weight']
    np.testing.assert_array_equal(weight, [*(0.5 * np.arange(16) - 2), *(0.5 * np.arange(15, -1, -1) - 2)])


def test_eight_bits_have_a_sign(tmp_path):
    numbers = np.arange(-16, 16, dtype=np.int8)
    block = np.array([0.25], '<f2').tobytes() + numbers.tobytes()
    weight = read_gguf(gguf_file(tmp_path / 'x', kind=8, content=block)).tensors['weight']
    np.testing.assert_array_equal(weight, 0.25 * numbers.astype(np.float32))


def test_other_damaged_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match='weight is of kind 14; F32, Q4_1 and Q8_0'):
        read_gguf(gguf_file(tmp_path / 'x', kind=14))
    with pytest.raises(CheckpointError, match='damaged or cut short'):
        read_gguf(gguf_file(tmp_path / 'x', content=b'1234'))
    (tmp_path / 'y').write_bytes(b'RIFF1234')
    with pytest.raises(CheckpointError, match='is no GGUF file'):
        read_gguf(tmp_path / 'y')
