"""Phases that agree between overlapping frames, in constant memory.

Magnitudes and phases that a network predicts bin by bin need not belong to any signal: overlapping frames then cancel
each other, and the generated part comes out too weak. Every round here turns the difference into samples and back,
keeps the phases of the result and puts the predicted magnitudes back. Only generated bins change.

Source: D. W. Griffin, J. S. Lim, Signal estimation from modified short-time Fourier transform, IEEE TASSP 32 (1984).
"""

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from nemo_audio_restore.restoration.spectrum_runs import Frames, overlapped
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram


def consistent(runs: Iterable[Frames], representation: MagnitudePhaseSpectrogram, *, rounds: int) -> Iterator[Frames]:
    """Makes the phases of generated bins consistent.

    Args:
        runs: frames of the difference spectrum in order; a run without a spectrum separates what is independent.
        representation: gives window, hop and transform length.
        rounds: Griffin-Lim rounds; 0 changes nothing.

    Yields:
        Frames as in ``runs``, in the same order and number; the runs are cut elsewhere.
    """
    stages = [_Round(representation) for _ in range(rounds)]
    for run in runs:
        if run.spectrum is None:
            yield from _flush(stages)
            yield run
        else:
            yield from _push(stages, run)
    yield from _flush(stages)


def _push(stages: list['_Round'], run: Frames | None) -> Iterator[Frames]:
    for stage in stages:
        run = None if run is None else stage.push(run)
    if run is not None:
        yield run


def _flush(stages: list['_Round']) -> Iterator[Frames]:
    for index, stage in enumerate(stages):
        yield from _push(stages[index + 1 :], stage.flush())


class _Round:
    """One Griffin-Lim round on a stream; lags as many frames as overlap."""

    def __init__(self, representation: MagnitudePhaseSpectrogram):
        self._n_fft, self._hop = representation.n_fft, representation.hop_length
        self._window = representation.window.detach().cpu()
        # Frames are windowed twice, and so many of them overlap.
        self._scale = self._hop / float(self._window.square().sum())
        self._lag = -(-self._n_fft // self._hop) - 1
        self._waiting: deque[Frames] = deque()
        self._count = 0
        self._signal: Tensor | None = None  # from the first sample of the first waiting frame

    def push(self, run: Frames) -> Frames | None:
        """Takes frames in and gives those out whose neighbours are all there."""
        frames = torch.fft.irfft(run.spectrum, n=self._n_fft, dim=1) * (self._window[:, None] * self._scale)
        added = overlapped(frames, self._hop)
        start = self._count * self._hop
        held = self._signal if self._signal is not None else added.new_zeros(added.shape[0], 0)
        self._signal = functional.pad(held, (0, start + added.shape[1] - held.shape[1]))
        self._signal[:, start:] += added
        self._waiting.append(run)
        self._count += run.count
        return self._emit(self._count - self._lag)

    def flush(self) -> Frames | None:
        """Gives out the rest; what follows is independent of it."""
        rest = self._emit(self._count)
        self._signal = None
        return rest

    def _emit(self, count: int) -> Frames | None:
        if count <= 0:
            return None
        waiting = Frames.join(self._waiting)
        ready, rest = waiting.split(count)
        self._waiting = deque([rest] if rest.count else [])
        self._count -= count
        segments = self._signal[:, : (count - 1) * self._hop + self._n_fft].unfold(1, self._n_fft, self._hop)
        analysed = torch.fft.rfft(segments * self._window, dim=2).transpose(1, 2)
        self._signal = self._signal[:, count * self._hop :]
        return ready.with_phases_of(analysed)
