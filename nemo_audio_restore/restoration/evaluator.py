"""How the engine calls the network: in which precision, compiled or not, and on how many tiles at once.

This is the one place that enters autocast. Spectrograms, schedules and the sampler's steps stay in float32: what goes
in and what comes out is float32 whatever the network computes in.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from nemo_audio_restore.restoration.protocol import PRECISIONS, Network, RestorationError

MOST_TILES = 32
"""More tiles at once bring no device any speed."""

_MOST_TILES_CPU = 4  # more tiles bring no speed there (measured: 5 % from 1 to 4), but each takes its memory
_BLIND_GUESS = 4  # for devices that do not say how much memory they have
_SHARE_OF_FREE = 0.7

_OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'not enough memory', 'STATUS_ALLOC_FAILED')
"""What torch says on devices for which it has no error class of its own."""


class Evaluator:
    """Runs a network on any number of tiles, in batches that fit the memory.

    Args:
        network: predicts from (B, 3, F, W) states, (B,) times and a (B, 1, F, W) mask.
        device: where the network is.
        batch_size: most tiles in one call; 'auto' measures what the first tile needs and takes as many as fit. Either
            way it is halved whenever the device runs out of memory.
        precision: 'fp32', or 'bf16' or 'fp16' for autocast.
        compile: run the network through ``torch.compile``; where that does not work it runs as it is.
        on_warning: told what did not go as asked, in a sentence for the user.

    Attributes:
        batch_size: most tiles in one call, as things stand. Changes memory and speed, not the result.
    """

    def __init__(
        self,
        network: Network,
        *,
        device: torch.device,
        batch_size: int | Literal['auto'] = 1,
        precision: str = 'fp32',
        compile: bool = False,
        on_warning: Callable[[str], None] | None = None,
    ):
        self._plain = network
        self._network = torch.compile(network) if compile else network
        self._device = device
        self._precision = precision
        self._on_warning = on_warning
        self._probing = batch_size == 'auto'
        self._untried = compile
        self.batch_size = 1 if self._probing else batch_size

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Predicts for any number of tiles.

        Args:
            x_t: (B, 3, F, W) states.
            t: (B,) times.
            condition: (B, 1, F, W) mask, or None.

        Returns:
            (B, 3, F, W) float32.

        Raises:
            RestorationError: there is not enough memory for a single tile.
        """
        parts: list[Tensor] = []
        first = 0
        while first < len(x_t):
            rows = slice(first, first + self.batch_size)
            part = self._attempt(x_t[rows], t[rows], None if condition is None else condition[rows])
            if part is None:
                self._halve(tiles=len(x_t[rows]), frames=x_t.shape[-1])
                continue
            if self._probing:
                self._probing, self.batch_size = False, tiles_that_fit(self._device)
            parts.append(part)
            first += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attempt(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor | None:
        """One call of the network; None when the memory does not suffice."""
        try:
            return self._call(x_t, t, condition)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the except block: the traceback would keep the activations alive.
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()
        return None

    def _call(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        dtype = PRECISIONS[self._precision]
        half = dtype != torch.float32
        # In float32 an autocast of the caller is switched off: the precision is what was asked for.
        with torch.no_grad(), torch.autocast(self._device.type, dtype if half else None, enabled=half):
            if self._untried:
                return self._first_compiled_call(x_t, t, condition).float()
            return self._network(x_t, t, condition).float()

    def _first_compiled_call(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The call in which everything is compiled; every compiler has errors of its own, so all count."""
        try:
            prediction = self._network(x_t, t, condition)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ""}'
        else:
            self._untried = False
            return prediction
        # If the network itself is at fault, the plain call says so.
        prediction = self._plain(x_t, t, condition)
        self._network, self._untried = self._plain, False
        self._warn(
            'the network could not be compiled and runs as it is: torch.compile needs a C++ compiler on a CPU, Triton '
            f'on a GPU ({reason})'
        )
        return prediction

    def _halve(self, *, tiles: int, frames: int) -> None:
        if tiles == 1:
            raise RestorationError(
                f'there is not enough memory on {self._device} for a single tile of {frames} frames: close other '
                'programs, take shorter tiles, precision bf16, or another device'
            )
        self._probing, self.batch_size = False, tiles // 2
        self._warn(f'{self._device} ran out of memory with {tiles} tiles at once: going on with {self.batch_size}')

    def _warn(self, message: str) -> None:
        if self._on_warning is not None:
            self._on_warning(message)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def tiles_that_fit(device: torch.device) -> int:
    """How many tiles a device has memory for, after it has evaluated one.

    The most that was ever in use, less what is in use now, is at least what the tile took: no counter need be reset.

    Args:
        device: where the tile was evaluated.

    Returns:
        At least 1, at most what brings speed.
    """
    most = _MOST_TILES_CPU if device.type == 'cpu' else MOST_TILES
    if device.type == 'cuda':
        used = torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - used
        tile = torch.cuda.max_memory_allocated(device) - used
    elif device.type == 'cpu':
        measured = _memory_of_linux()
        if measured is None:
            return 1
        free, tile = measured
    else:
        return min(_BLIND_GUESS, most)
    return max(1, min(most, int(_SHARE_OF_FREE * free / max(tile, 1))))


def _memory_of_linux() -> tuple[int, int] | None:
    """Bytes that are free, and bytes by which this process was larger than it is; None on other systems."""
    if not sys.platform.startswith('linux'):
        return None
    with contextlib.suppress(OSError, KeyError, ValueError):
        system, process = _table('/proc/meminfo'), _table('/proc/self/status')
        return system['MemAvailable'], process['VmHWM'] - process['VmRSS']
    return None


def _table(path: str) -> dict[str, int]:
    """The lines ``name: number kB`` of a file, in bytes."""
    with open(path) as file:
        rows = [line.split() for line in file]
    return {row[0].rstrip(':'): 1024 * int(row[1]) for row in rows if len(row) == 3 and row[2] == 'kB'}
