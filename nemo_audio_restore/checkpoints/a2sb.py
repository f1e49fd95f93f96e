"""Reads the checkpoints that NVIDIA published for A2SB, and those that its training program writes.

Both kinds are ``torch.save`` archives with a ``state_dict``: the training program adds the state of the trainer, the
published files hold weights only. Nothing but tensors and plain containers is ever unpickled.
"""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.networks.spectrogram_unet import SpectrogramUNet
from nemo_audio_restore.networks.time_experts import TimeExperts, check_splits

_PREFIX = 'vf_model.'
_TIME_FREQUENCIES = 't_to_emb.multipliers'
_USUAL_BAND_EMBEDDING_DIM = 16  # for files that leave out the time frequencies
_SHOWN = 5  # tensors named in an error
# SHA-256 of the files of huggingface.co/nvidia/audio_to_audio_schrodinger_bridge.
_RELEASES = {
    'fc3dac27c63ce736f5f9e72e12420afb65d63e7899947e6280d132a8f833b8ad': 'A2SB one-split (0 to 1)',
    '07ec74c7c2455383b39cdc3a214faf0857261b8d70cf58b1d351b1363a82b74b': 'A2SB two-split, low (0 to 0.5)',
    '92950134c19ea9b74c637aa414d9e192de2913adbf39fefe35a661dbb2357907': 'A2SB two-split, high (0.5 to 1)',
}


@dataclass(frozen=True)
class A2SBWeights:
    """What a checkpoint file holds."""

    path: Path
    tensors: dict[str, Tensor]
    """The network's, with the names of :class:`SpectrogramUNet`; memory-mapped where the file format allows."""
    time_embedding_dim: int | None
    """Read from the time frequencies; None if the file leaves them out."""


@dataclass(frozen=True)
class A2SBSource:
    """Where the weights of one expert came from."""

    path: Path
    split: tuple[float, float]
    """Range of bridge times that the expert serves."""
    sha256: str
    release: str | None
    """Name of the published file with this hash, if it is one."""


@dataclass(frozen=True)
class A2SBDescription:
    """What was loaded: the configuration read from the tensors, and the files."""

    network: dict[str, object]
    """Arguments of :class:`SpectrogramUNet`."""
    sources: tuple[A2SBSource, ...]
    """One for each expert, sorted by time."""

    @property
    def splits(self) -> tuple[tuple[float, float], ...]:
        """Ranges of the experts, sorted."""
        return tuple(source.split for source in self.sources)


def load_a2sb_experts(
    checkpoints: Mapping[tuple[float, float], str | Path],
    *,
    num_heads: int = 8,
    one_resident: bool = False,
) -> tuple[TimeExperts, A2SBDescription]:
    """Builds the experts of an A2SB model from its checkpoint files.

    Every size is read from the tensors. Tensors stay memory-mapped, so an expert occupies memory once it is used.

    Args:
        checkpoints: for each range (from, to) of bridge times its file; in any order, together covering 0 to 1.
        num_heads: attention heads; the one size that leaves no trace in the tensors.
        one_resident: see :class:`TimeExperts`.

    Returns:
        The network in evaluation mode, and a description of what was loaded.

    Raises:
        CheckpointError: a file is unsafe, damaged or no A2SB checkpoint; or a tensor is missing, unknown or of the
            wrong shape.
        FileNotFoundError: a file does not exist.
        ValueError: the ranges do not cover 0 to 1 exactly once.
    """
    splits = check_splits(sorted(checkpoints))
    networks, sources, configs = [], [], []
    for split, key in zip(splits, sorted(checkpoints), strict=True):
        path = Path(checkpoints[key])
        weights = read_a2sb_weights(path)
        config = infer_network_config(weights, num_heads=num_heads)
        if configs and config != configs[0]:
            raise CheckpointError(
                f'{path} and {sources[0].path} belong to networks of different size: {config} and {configs[0]}'
            )
        networks.append(_build(config, weights))
        digest = _sha256(path)
        sources.append(A2SBSource(path, split, digest, _RELEASES.get(digest)))
        configs.append(config)
    experts = TimeExperts(networks, splits, one_resident=one_resident).eval()
    return experts, A2SBDescription(configs[0], tuple(sources))


def read_a2sb_weights(path: str | Path) -> A2SBWeights:
    """Reads the network's tensors from a checkpoint without running any code of it.

    Args:
        path: a file by ``torch.save``; entries besides the network are ignored.

    Returns:
        The tensors under the names of :class:`SpectrogramUNet`.

    Raises:
        CheckpointError: the file needs code to be run, is damaged, or holds no A2SB network.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # torch has another type for every kind of damage
        # A file that is not even a pickle is told apart from one that asks for foreign code.
        if 'Unsupported' in str(error) and 'Unsupported operand' not in str(error):
            raise CheckpointError(
                f'{path} is refused: it holds more than tensors and plain containers, so loading it could run foreign '
                'code; save its state_dict alone'
            ) from error
        raise CheckpointError(f'{path} is not a checkpoint, or a damaged one: {type(error).__name__}') from error
    state = content.get('state_dict') if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise CheckpointError(f'{path} has no state_dict: it is not an A2SB checkpoint')
    tensors = {
        name.removeprefix(_PREFIX): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(_PREFIX) and isinstance(value, Tensor)
    }
    if not tensors:
        shown = ', '.join(map(str, list(state)[:3])) or 'nothing'
        raise CheckpointError(f'{path} holds no {_PREFIX}* tensors (it begins with {shown}): it is no A2SB checkpoint')
    return A2SBWeights(path, tensors, _time_embedding_dim(state.get(_TIME_FREQUENCIES), path))


def infer_network_config(weights: A2SBWeights, *, num_heads: int) -> dict[str, object]:
    """Reads the sizes of a network from its tensors.

    Args:
        weights: of one checkpoint.
        num_heads: passed through; no tensor depends on it.

    Returns:
        Arguments of :class:`SpectrogramUNet`.

    Raises:
        CheckpointError: a tensor that decides a size is missing.
    """
    names = list(weights.tensors)

    def shape(name: str) -> tuple[int, ...]:
        tensor = weights.tensors.get(name)
        if tensor is None or tensor.ndim != 4:
            found = 'none' if tensor is None else f'one of shape {tuple(tensor.shape)}'
            raise CheckpointError(f'{weights.path}: expected a tensor {_PREFIX}{name} with 4 axes; found {found}')
        return tuple(tensor.shape)

    def numbers(pattern: str) -> list[int]:
        return [int(match[1]) for match in map(re.compile(pattern).fullmatch, names) if match]

    levels = 1 + max(numbers(r'ds_layers\.(\d+)\.op\.weight'), default=0)
    embedding = shape('enc_blocks.0.0.emb_layers.1.weight')[1]
    time = weights.time_embedding_dim
    if time is None:
        time = embedding - _USUAL_BAND_EMBEDDING_DIM
    return {
        'in_channels': shape('input_projection.weight')[1],
        'out_channels': shape('output_projection.2.weight')[0],
        'hidden_channels': [
            shape('input_projection.weight')[0],
            *(shape(f'ds_layers.{level}.op.weight')[0] for level in range(levels)),
        ],
        'time_embedding_dim': time,
        'band_embedding_dim': embedding - time,
        'num_heads': num_heads,
        'attention_levels': sorted(set(numbers(r'enc_blocks\.(\d+)\.\d+\.q_proj\.weight'))),
        'num_res_blocks': len(numbers(r'enc_blocks\.0\.(\d+)\.out_norm\.weight')),
    }


def _build(config: dict[str, object], weights: A2SBWeights) -> SpectrogramUNet:
    """The network around the file's tensors, without a copy when they are float32."""
    try:
        with torch.device('meta'):
            network = SpectrogramUNet(**config)
    except ValueError as error:
        raise CheckpointError(f'{weights.path}: {error}') from error
    _check_tensors({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, weights)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.tensors.items()}, assign=True)
    return network


def _check_tensors(expected: dict[str, tuple[int, ...]], weights: A2SBWeights) -> None:
    """Names every tensor that is missing, unknown or of another shape."""
    problems = []
    for name, shape in expected.items():
        if name not in weights.tensors:
            problems.append(f'{_PREFIX}{name} is missing, expected shape {shape}')
        elif tuple(weights.tensors[name].shape) != shape:
            problems.append(f'{_PREFIX}{name} has shape {tuple(weights.tensors[name].shape)}, expected {shape}')
    for name, tensor in weights.tensors.items():
        if name not in expected:
            problems.append(f'{_PREFIX}{name} of shape {tuple(tensor.shape)} is not part of the network')
        elif not tensor.is_floating_point():
            problems.append(f'{_PREFIX}{name} is {tensor.dtype}, expected floating point')
    if problems:
        more = f'; and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''
        raise CheckpointError(f'{weights.path}: ' + '; '.join(problems[:_SHOWN]) + more)


def _time_embedding_dim(frequencies: object, path: Path) -> int | None:
    """Size of the time embedding, after a check that its frequencies are the ones :class:`SpectrogramUNet` uses."""
    if frequencies is None:
        return None
    if isinstance(frequencies, Tensor) and frequencies.is_floating_point() and frequencies.numel():
        usual = torch.linspace(0.5, 16.0, frequencies.numel())
        if torch.allclose(frequencies.float().flatten(), usual, atol=1e-4):
            return 2 * frequencies.numel()
    raise CheckpointError(f'{path}: {_TIME_FREQUENCIES} should be evenly spaced from 0.5 to 16; found other values')


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
