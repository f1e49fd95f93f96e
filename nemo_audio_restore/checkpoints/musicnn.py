"""MusiCNN's weights from the package ``musicnn`` on PyPI, read without TensorFlow.

The package pins an old numpy and TensorFlow, so it can be in no extra: ``pip install --no-deps musicnn==0.1.0`` brings
its files alone, and nothing of its code is imported. Files are checked against a SHA-256 before they are read.
"""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import torch

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.tensor_files import fill
from nemo_audio_restore.checkpoints.tensorflow_bundle import parse_tensorflow_bundle
from nemo_audio_restore.networks.musicnn import MusicNN

_FOLDER = 'MTT_musicnn'
_INDEX = ('.index', 'da2d7bb670b2b31e9bc441bb1bd75eca31b5b061f963cc1f9630c1aff3238f57')
_DATA = ('.data-00000-of-00001', '041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab')
# The layers in the order in which TensorFlow numbered them.
_CONVOLUTIONS = ('timbre.0', 'timbre.1', 'tempo.0', 'tempo.1', 'tempo.2', 'mid.0', 'mid.1', 'mid.2')
_NORMS = ('input_norm', *(f'{name}.norm' for name in _CONVOLUTIONS), 'pool_norm', 'hidden_norm')
_NORM_PARTS = {
    'weight': 'gamma',
    'bias': 'beta',
    'running_mean': 'moving_mean',
    'running_var': 'moving_variance',
}

# The tags of MagnaTagATune in the order of the outputs.
MUSICNN_TAGS = tuple(
    (
        'guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat, violin, '
        'vocal, synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord, loud, quiet, flute, '
        'woman, male vocal, no vocal, pop, soft, sitar, solo, man, classic, choir, voice, new age, dance, male '
        'voice, female vocal, beats, harp, cello, no voice, weird, country, metal, female voice, choral'
    ).split(', ')
)


class MusicnnNotInstalledError(ImportError):
    """The package with the weights is missing; the message says how to install it."""


def load_musicnn() -> MusicNN:
    """MusiCNN trained on MagnaTagATune: 50 tags, embeddings of 200, 0.8 M parameters, ISC licence.

    Returns:
        The network in evaluation mode, on the CPU, whose parameters need no gradient.

    Raises:
        MusicnnNotInstalledError: the package is missing.
        CheckpointError: a file is not the one that was tested.
    """
    arrays = parse_tensorflow_bundle(_read(*_INDEX), _read(*_DATA))
    tensors = {
        name: torch.from_numpy(array.astype(np.float32).transpose(*_axes(name, array)).copy())
        for name, array in arrays.items()
        if 'Adam' not in name and not name.startswith(('beta1_power', 'beta2_power', 'global_step'))
    }
    for index in (5, 6, 7):
        # (out, 1, 7, in) of a picture to (out, in, 7) along time.
        name = f'conv2d_{index}/kernel'
        tensors[name] = tensors[name].squeeze(1).transpose(1, 2).contiguous()
    network = MusicNN()
    counts = [name for name in network.state_dict() if name.endswith('num_batches_tracked')]
    fill(network, tensors, file_name=_file_name, part='MusiCNN', source='the package musicnn', constants=counts)
    return network.eval().requires_grad_(False)


def _axes(name: str, array: np.ndarray) -> tuple[int, ...]:
    """TensorFlow's kernels are (height, width, in, out) and (in, out)."""
    if not name.endswith('/kernel'):
        return tuple(range(array.ndim))
    return (3, 2, 0, 1) if array.ndim == 4 else (1, 0)


def _file_name(name: str) -> str:
    """TensorFlow's name of a tensor of ours."""
    layer, part = name.rsplit('.', 1)
    if layer in _NORMS:
        return f'{_numbered("batch_normalization", _NORMS.index(layer))}/{_NORM_PARTS[part]}'
    kind = {'weight': 'kernel', 'bias': 'bias'}[part]
    if layer in ('hidden', 'tags'):
        return f'{_numbered("dense", int(layer == "tags"))}/{kind}'
    return f'{_numbered("conv2d", _CONVOLUTIONS.index(layer.removesuffix(".conv")))}/{kind}'


def _numbered(name: str, index: int) -> str:
    return f'{name}_{index}' if index else name


def _read(name: str, sha256: str) -> bytes:
    found = importlib.util.find_spec('musicnn')
    if found is None or not found.submodule_search_locations:
        raise MusicnnNotInstalledError(
            'this needs the weights of MusiCNN, which are not installed: pip install --no-deps musicnn==0.1.0 (29 MB; '
            'with --no-deps, for the package asks for TensorFlow and an old numpy and needs neither here)'
        )
    path = Path(found.submodule_search_locations[0]) / _FOLDER / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}; install musicnn 0.1.0 again') from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(
            f'{path} is not the file that was tested (its SHA-256 differs); install musicnn 0.1.0 again'
        )
    return content
