"""Claims about the files of TensorFlow, and about MusiCNN's weights where they are installed."""

import importlib.util
import struct

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints import musicnn
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.musicnn import MUSICNN_TAGS, MusicnnNotInstalledError, load_musicnn
from nemo_audio_restore.checkpoints.tensorflow_bundle import parse_tensorflow_bundle

installed = pytest.mark.skipif(
    importlib.util.find_spec('musicnn') is None, reason='needs pip install --no-deps musicnn==0.1.0'
)


def varint(number):
    out = b''
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def block(entries):
    """A block in which no key is shortened, with one restart."""
    body = b''.join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
    return body + struct.pack('<II', 0, 1) + b'\0' + b'\0\0\0\0'


def bundle(arrays):
    """A checkpoint as TensorFlow writes it: index and data."""
    data, entries = b'', [(b'', b'')]
    for name, array in sorted(arrays.items()):
        axes = b''.join(b'\x12' + varint(len(axis)) + axis for axis in (b'\x08' + varint(n) for n in array.shape))
        entry = b'\x08\x01\x12' + varint(len(axes)) + axes
        entry += b'\x20' + varint(len(data)) + b'\x28' + varint(array.nbytes)
        entries.append((name.encode(), entry))
        data += array.astype('<f4').tobytes()
    first = block(entries)
    second = block([(b'zzz', varint(0) + varint(len(first) - 5))])
    footer = varint(0) + varint(0) + varint(len(first)) + varint(len(second) - 5)
    return first + second + footer.ljust(40, b'\0') + struct.pack('<Q', 0xDB4775248B80FB57), data


def test_arrays_are_read_as_they_were_written():
    arrays = {'a/kernel': np.arange(300, dtype=np.float32).reshape(20, 15), 'b': np.ones(3, np.float32)}
    found = parse_tensorflow_bundle(*bundle(arrays))
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_damaged_files_are_refused():
    index, data = bundle({'a': np.ones((4, 4), np.float32)})
    with pytest.raises(CheckpointError, match='no index'):
        parse_tensorflow_bundle(index[:-1], data)
    with pytest.raises(CheckpointError, match='does not fit|damaged'):
        parse_tensorflow_bundle(index, data[:-1])
    with pytest.raises(CheckpointError, match='damaged'):
        parse_tensorflow_bundle(b'\xff' * 20 + index[20:], data)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(musicnn.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(MusicnnNotInstalledError, match='--no-deps musicnn==0.1.0'):
        load_musicnn()


@installed
def test_hears_what_kind_of_sound_it_is():
    network = load_musicnn()
    assert sum(weight.numel() for weight in network.parameters()) == 787_159
    assert len(MUSICNN_TAGS) == network.tags.out_features == 50
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(network.window_samples) / 16000
    clicks = torch.randn(len(times), generator=generator) * torch.exp(-30 * (times % 0.25))
    notes = sum(torch.sin(2 * torch.pi * 220 * k * times) / k**2 for k in range(1, 6)) * torch.exp(-2 * (times % 1))
    tags, _ = network(network.features(torch.stack([clicks, notes]) * 0.5))
    drums, beat, guitar, piano = (MUSICNN_TAGS.index(name) for name in ('drums', 'beat', 'guitar', 'piano'))
    difference = tags[0] - tags[1]
    assert difference[drums] > 1
    assert difference[beat] > 1
    assert max(difference[guitar], difference[piano]) < 0
