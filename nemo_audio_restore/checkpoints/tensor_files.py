"""Files of tensors: reads them without running code, and puts them into a network, strictly."""

import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nemo_audio_restore.checkpoints.errors import CheckpointError

_SHOWN = 5  # tensors named in an error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a file, on the CPU, memory-mapped where the format allows.

    Args:
        path: ``.safetensors``, or a file by ``torch.save`` that holds tensors by name, directly or under
            ``state_dict``.

    Returns:
        The tensors under the names of the file.

    Raises:
        CheckpointError: the file needs code to be run, is damaged, or holds no tensors.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    if path.suffix == '.safetensors':
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f'{path} is not a safetensors file, or a damaged one: {error}') from error
    content = _unpickled(path)
    state = content.get('state_dict', content) if isinstance(content, Mapping) else None
    tensors = (
        {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if isinstance(state, Mapping)
        else {}
    )
    if not tensors:
        raise CheckpointError(f'{path} holds no tensors by name, neither directly nor under state_dict')
    return tensors


def _unpickled(path: Path) -> object:
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # torch has another type for every kind of damage
        if 'Unsupported' in str(error) and 'Unsupported operand' not in str(error):
            raise CheckpointError(
                f'{path} is refused: it holds more than tensors and plain containers, so loading it could run foreign '
                'code; save its state_dict alone, or use the .safetensors file'
            ) from error
        raise CheckpointError(f'{path} is not a checkpoint, or a damaged one: {type(error).__name__}') from error


def fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    file_name: Callable[[str], str],
    part: str,
    source: str,
    constants: Collection[str] = (),
) -> None:
    """Loads tensors into a network that is on the meta device or elsewhere; nothing may be missing or left over.

    Args:
        network: filled in place; it takes over the tensors, in float32.
        tensors: of the file; those of other parts must be left out.
        file_name: name in the file of each name in the network.
        part: what the network is to the user: 'the autoencoder'.
        source: of the tensors, for errors.
        constants: names in the network of what no file holds; they stay as they are.

    Raises:
        CheckpointError: names every tensor that is missing, unknown, of another shape or not floating point.
    """
    state = network.state_dict()
    wanted = {file_name(name): name for name in state if name not in constants}
    if wanted and not any(name in tensors for name in wanted):
        raise CheckpointError(
            f'{source} does not hold {part}: there is no {next(iter(wanted))} nor any other of its tensors'
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = []
    for name, ours in wanted.items():
        if name not in tensors:
            problems.append(f'{name} is missing, expected shape {shapes[ours]}')
        elif tuple(tensors[name].shape) != shapes[ours]:
            problems.append(f'{name} has shape {tuple(tensors[name].shape)}, expected {shapes[ours]}')
        elif not tensors[name].is_floating_point():
            problems.append(f'{name} is {tensors[name].dtype}, expected floating point')
    problems += [
        f'{name} of shape {tuple(tensor.shape)} is not part of it'
        for name, tensor in tensors.items()
        if name not in wanted
    ]
    if problems:
        more = f'; and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''
        raise CheckpointError(f'{source} does not fit {part}: ' + '; '.join(problems[:_SHOWN]) + more)
    loaded = {ours: tensors[name].float() for name, ours in wanted.items()}
    network.load_state_dict({**{name: state[name] for name in constants}, **loaded}, assign=True)
