"""Runs of frames of the difference spectrum, as they pass from the model to the output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Generated:
    """What a difference was made from; without the DC row.

    Attributes:
        known: complex (C, F, n), spectrum of the input.
        magnitude: (C, F, n), what the model predicts.
        mask: (F, n), 1 where the prediction is used.
    """

    known: Tensor
    magnitude: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Frames:
    """A run of frames of the difference spectrum.

    Attributes:
        count: number of frames.
        spectrum: complex (C, F + 1, count), or None for zeros.
        generated: what the spectrum was made from; None for zeros.
    """

    count: int
    spectrum: Tensor | None
    generated: Generated | None = None

    @classmethod
    def join(cls, runs: Sequence['Frames']) -> 'Frames':
        """One run of several that are not zeros."""
        return cls(
            sum(run.count for run in runs),
            torch.cat([run.spectrum for run in runs], dim=-1),
            Generated(
                torch.cat([run.generated.known for run in runs], dim=-1),
                torch.cat([run.generated.magnitude for run in runs], dim=-1),
                torch.cat([run.generated.mask for run in runs], dim=-1),
            ),
        )

    def split(self, count: int) -> tuple['Frames', 'Frames']:
        """The first ``count`` frames, and the rest, of a run that is not zeros."""
        return self._part(slice(0, count)), self._part(slice(count, self.count))

    def with_phases_of(self, analysed: Tensor) -> 'Frames':
        """The same magnitudes with the phases that the input has together with a difference spectrum.

        Args:
            analysed: complex (C, F + 1, count), spectrum of a difference signal.

        Returns:
            A run with the same input, magnitudes, mask and DC row.
        """
        source = self.generated
        together = source.known + analysed[:, 1:]
        tiny = torch.finfo(source.magnitude.dtype).tiny
        estimate = source.magnitude * (together / together.abs().clamp_min(tiny))
        difference = (estimate - source.known) * source.mask
        return Frames(self.count, torch.cat([self.spectrum[:, :1], difference], dim=1), source)

    def _part(self, frames: slice) -> 'Frames':
        source = self.generated
        part = Generated(source.known[..., frames], source.magnitude[..., frames], source.mask[..., frames])
        return Frames(part.mask.shape[-1], self.spectrum[..., frames], part)


def overlapped(frames: Tensor, hop: int) -> Tensor:
    """Sum of (C, n_fft, n) frames, each a hop after the one before: (C, n_fft + (n - 1) * hop)."""
    _, n_fft, count = frames.shape
    length = n_fft + (count - 1) * hop
    return torch.nn.functional.fold(frames, (1, length), (1, n_fft), stride=(1, hop))[:, 0, 0]
