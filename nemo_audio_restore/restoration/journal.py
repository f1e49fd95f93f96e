"""Finished work beside the target, so that a killed restoration goes on where it stopped.

What the model makes of each finished chunk is appended to one file. Now and then everything unfinished (the states of
the chunks in flight) goes into a second one, which is replaced as a whole and says how much of the first counts. A
restart reads the finished part, loads the states and goes on, bit for bit as if nothing had happened: no evaluation is
repeated but those since the last checkpoint. (Noise depends on the place alone, so a restart could instead recompute
the tiles that reach into the first unfinished chunk. That needs no second file, but throws away what is in flight and
costs steps ** 2 / 2 evaluations more: hours for a large model on a CPU, which is where restarts matter.)

Nothing behind the model is kept: it is cheap, and is computed again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore import __version__
from nemo_audio_restore.files.audio import AudioFileError
from nemo_audio_restore.files.locks import FileLock
from nemo_audio_restore.restoration.protocol import Restorer
from nemo_audio_restore.restoration.request import Request

CHECKPOINT_S = 10.0
"""Least time between two checkpoints; nor do they take more than a twentieth of the time."""

_SUFFIX = '.unfinished'
_SAMPLED = 64  # values of each tensor that go into the key as they are


def job_key(restorer: Restorer, source: Path, request: Request, details: dict[str, Any]) -> str:
    """A hash of everything that the samples of the result depend on.

    Args:
        restorer: the model; its settings and weights count.
        source: the file's content counts, not its name.
        request: all but the tile batch, which may change between runs.
        details: what else was decided, as plain values.

    Returns:
        32 hexadecimal digits.

    Raises:
        AudioFileError: the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    asked = asdict(request)
    asked['settings'].pop('batch_size')
    digest.update(json.dumps([__version__, torch.__version__, asked, details], sort_keys=True, default=str).encode())
    try:
        with source.open('rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise AudioFileError(f'{source} cannot be read: {error.strerror or error}') from error
    for module in (restorer.representation, restorer.process, restorer.network):
        _add_model(digest, module)
    return digest.hexdigest()


def _add_model(digest: 'hashlib._Hash', model: object) -> None:
    """Classes, plain settings and weights of a module; of a model that is none its class."""
    digest.update(f'{type(model).__module__}.{type(model).__qualname__}'.encode())
    if not isinstance(model, torch.nn.Module):
        return
    for name, module in model.named_modules():
        plain = {
            key: value
            for key, value in sorted(vars(module).items())
            if isinstance(value, int | float | str | tuple) and not key.startswith('_') and key != 'training'
        }
        digest.update(f'{name} {type(module).__qualname__} {plain}'.encode())
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().reshape(-1)
        flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
        integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
        bits = flat.view(integers)
        # The sum of integers is exact: it does not depend on threads or device.
        digest.update(f'{name} {tuple(tensor.shape)} {tensor.dtype} {int(bits.sum(dtype=torch.int64))}'.encode())
        digest.update(bits[:: max(1, len(bits) // _SAMPLED)].cpu().numpy().tobytes())


class Journal:
    """The unfinished work on one target; use it as a context manager.

    After an error the finished part stays, if there is any; after success call :meth:`discard`.

    Args:
        target: file that is going to be written.
        key: of :func:`job_key`.

    Attributes:
        folder: where everything lies: a hidden folder beside the target.
        state: of the last checkpoint of an earlier run, or None.

    Raises:
        AudioFileError: another process works on the same job, or the disk is full or cannot be written.
    """

    def __init__(self, target: Path, key: str):
        self.folder = target.with_name(f'.{target.name}.{key[:12]}{_SUFFIX}')
        self.state: dict[str, Any] | None = None
        self._target = target
        self._key = key
        self._lock: FileLock | None = None
        self._finished: BinaryIO | None = None
        self._size = 0  # bytes of finished work that the state counts on
        self._has_state = False
        self._next_s = time.monotonic() + CHECKPOINT_S

    def __enter__(self) -> 'Journal':
        with self._errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / 'lock')
            if not self._lock.acquire():
                self._lock = None
                raise AudioFileError(f'{self._target} is being written by another process; wait for it, or stop it')
            self.state = self._load()
            self._has_state = self.state is not None
            path = self.folder / 'finished'
            self._finished = path.open('r+b' if self._has_state else 'w+b')
        return self

    def __exit__(self, *error: object) -> None:
        self._finished.close()
        self._lock.release()
        if not self._has_state:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self) -> dict[str, Any] | None:
        """The last checkpoint; None if there is none that can be used."""
        try:
            state = torch.load(self.folder / 'state', map_location='cpu', weights_only=True)
            usable = state['key'] == self._key and (self.folder / 'finished').stat().st_size >= state['size']
        except Exception:
            return None  # whatever is wrong with it: starting again is the answer
        self._size = state['size']
        return state['work'] if usable else None

    def read(self, count: int) -> Tensor:
        """The next ``count`` finished values, in the order in which they were appended."""
        with self._errors():
            content = self._finished.read(8 * count)
        if len(content) < 8 * count:
            raise AudioFileError(f'{self.folder} is damaged; remove it and start again')
        return torch.from_numpy(np.frombuffer(content, np.complex64).copy())

    def append(self, values: Tensor) -> None:
        """Adds complex64 values (n,); all that was kept has to be read before."""
        with self._errors():
            self._finished.write(values.numpy().tobytes())

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keeps the state, if enough time has passed.

        Args:
            state: makes it: tensors, numbers, strings, lists and dicts.
        """
        started = time.monotonic()
        if started < self._next_s:
            return
        with self._errors():
            # Only in this order does the state never count on work that is not there, even after a power cut.
            self._finished.truncate()  # whatever an earlier run wrote behind its last checkpoint
            self._finished.flush()
            os.fsync(self._finished.fileno())
            self._size = self._finished.tell()
            new = self.folder / 'state.new'
            with new.open('wb') as file:
                torch.save({'key': self._key, 'size': self._size, 'work': state()}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.folder / 'state')
        self._has_state = True
        now = time.monotonic()
        self._next_s = now + max(CHECKPOINT_S, 20 * (now - started))

    @property
    def keeps_something(self) -> bool:
        """Whether the same job would go on from here."""
        return self._has_state

    def discard(self) -> None:
        """Forgets all unfinished work on the target: this one's, and what other requests have left behind."""
        self._has_state = False
        for folder in self.folder.parent.glob(f'.{_escaped(self._target.name)}.*{_SUFFIX}'):
            if folder != self.folder and FileLock(folder / 'lock').acquire_and_release():
                shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AudioFileError(
                f'{self._target}: the unfinished work in {self.folder} cannot be kept: {error.strerror or error}'
            ) from error


def _escaped(name: str) -> str:
    """A name without the wildcards of ``glob``."""
    return ''.join(f'[{letter}]' if letter in '*?[' else letter for letter in name)
