"""The binary files of CTranslate2, written here byte by byte."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_audio_restore.checkpoints.ctranslate2 import parse_ctranslate2
from nemo_audio_restore.checkpoints.errors import CheckpointError

TYPES = {'float32': 0, 'int8': 1, 'int16': 2, 'int32': 3, 'float16': 4}


def text(name: str) -> bytes:
    return struct.pack('<H', len(name) + 1) + name.encode() + b'\0'


def written(variables: dict, *, aliases: dict | None = None, spec: str = 'WhisperSpec', version: int = 6) -> bytes:
    """The file that CTranslate2 would write."""
    parts = [struct.pack('<I', version), text(spec), struct.pack('<II', 3, len(variables))]
    for name, value in variables.items():
        value = np.asarray(value)
        parts += [text(name), struct.pack(f'<B{value.ndim}I', value.ndim, *value.shape)]
        parts += [struct.pack('<BI', TYPES[value.dtype.name], value.nbytes), value.tobytes()]
    parts.append(struct.pack('<I', len(aliases or {})))
    parts += [text(alias) + text(name) for alias, name in (aliases or {}).items()]
    return b''.join(parts)


FILE = written(
    {
        'encoder/weight': np.arange(6, dtype=np.float16).reshape(2, 3),
        'encoder/bias': np.array([-1.5, 2.5], np.float32),
        'encoder/num_heads': np.int16(8),
    },
    aliases={'decoder/weight': 'encoder/weight'},
)


def test_arrays_keep_their_names_types_and_values():
    file = parse_ctranslate2(FILE)
    assert file.spec == 'WhisperSpec' and file.revision == 3
    assert set(file.variables) == {'encoder/weight', 'encoder/bias', 'encoder/num_heads', 'decoder/weight'}
    np.testing.assert_array_equal(file.variables['encoder/weight'], [[0, 1, 2], [3, 4, 5]])
    assert file.variables['encoder/weight'].dtype == np.float16
    assert file.variables['encoder/num_heads'] == 8 and file.variables['encoder/num_heads'].shape == ()
    assert file.variables['decoder/weight'] is file.variables['encoder/weight']


@settings(deadline=None)
@given(st.integers(0, len(FILE) - 1))
def test_a_file_cut_off_anywhere_is_refused(end):
    with pytest.raises(CheckpointError):
        parse_ctranslate2(FILE[:end])


@settings(deadline=None)
@given(st.integers(0, len(FILE) - 1), st.integers(0, 255))
def test_a_changed_byte_never_crashes(place, value):
    damaged = bytearray(FILE)
    damaged[place] = value
    try:
        parse_ctranslate2(bytes(damaged))
    except CheckpointError:
        pass


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (written({}, version=5), 'version 6'),
        (FILE + b'\0', '1 bytes follow'),
        (written({}, aliases={'a': 'b'}), 'a stands for b'),
        (FILE.replace(struct.pack('<BI', 4, 12), struct.pack('<BI', 9, 12)), 'unknown type 9'),
        (FILE.replace(struct.pack('<BI', 4, 12), struct.pack('<BI', 4, 11)), 'needs 12'),
    ],
)
def test_each_kind_of_damage_is_named(content, message):
    with pytest.raises(CheckpointError, match=message):
        parse_ctranslate2(content)
