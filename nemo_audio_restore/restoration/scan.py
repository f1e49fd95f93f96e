"""The cheap first pass over the audio: true length, level, silence, and every decoding error before work starts."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SILENCE = 1e-6
"""Largest magnitude of digital silence: -120 dB re full scale, far below the last bit of a 16 bit file."""

_LOUD_RANGE = 1e-4  # cells within 40 dB of the loudest count for the level


@dataclass(frozen=True)
class Scan:
    """What the first pass has seen.

    Attributes:
        num_samples: T.
        cell_samples: length of a cell.
        peaks: (cells,) largest magnitude of each cell over all channels.
        powers: (cells,) mean square of each cell over all channels.
        channel_powers: (C,) sum of squares of each channel.
    """

    num_samples: int
    cell_samples: int
    peaks: np.ndarray
    powers: np.ndarray
    channel_powers: np.ndarray

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing but digital silence."""
        return not (self.peaks > SILENCE).any()

    @property
    def level_db(self) -> float:
        """Level of the loud part in dB re full scale: mean square of the cells within 40 dB of the loudest."""
        if not self.powers.any():
            return -np.inf
        return 10 * float(np.log10(self.powers[self.powers >= self.powers.max() * _LOUD_RANGE].mean()))

    def silent_frames(
        self, sample_rate: int, *, num_frames: int, n_fft: int, hop_length: int, rate: int
    ) -> np.ndarray:
        """Which frames of a centred STFT at another rate see digital silence only.

        Args:
            sample_rate: of the scanned audio, in Hz.
            num_frames: N.
            n_fft: window in samples at ``rate``.
            hop_length: hop in samples at ``rate``.
            rate: sample rate of the STFT in Hz.

        Returns:
            (N,) bool.
        """
        centres = np.arange(num_frames, dtype=np.int64) * hop_length
        # One cell more on each side holds what the resampler spreads.
        first = (centres - n_fft // 2) * sample_rate // (rate * self.cell_samples) - 1
        last = -(-(centres + n_fft // 2) * sample_rate // (rate * self.cell_samples)) + 1
        loud = np.concatenate([[0], np.cumsum(self.peaks > SILENCE)])
        cells = len(self.peaks)
        return loud[np.clip(last, 0, cells)] == loud[np.clip(first, 0, cells)]


def scan(blocks: Iterable[np.ndarray], *, cell_samples: int) -> Scan:
    """Reads a stream once.

    Args:
        blocks: (C, n) blocks.
        cell_samples: samples in a cell; peaks and powers are kept for each.

    Returns:
        Length, peaks and powers. Memory: 16 bytes a cell.
    """
    peaks: list[np.ndarray] = []
    powers: list[np.ndarray] = []
    rest: np.ndarray | None = None
    num_samples, channel_powers = 0, np.zeros(1)
    for block in blocks:
        channel_powers = channel_powers + np.square(block, dtype=np.float64).sum(axis=1)
        num_samples += block.shape[1]
        if rest is not None and rest.shape[1]:
            block = np.concatenate([rest, block], axis=1)
        whole = block.shape[1] // cell_samples * cell_samples
        rest = block[:, whole:]
        _measure(block[:, :whole].reshape(len(block), -1, cell_samples), peaks, powers)
    if rest is not None and rest.shape[1]:
        _measure(rest[:, None, :], peaks, powers)
    if not peaks:
        return Scan(num_samples, cell_samples, np.zeros(0), np.zeros(0), channel_powers)
    return Scan(num_samples, cell_samples, np.concatenate(peaks), np.concatenate(powers), channel_powers)


def _measure(cells: np.ndarray, peaks: list[np.ndarray], powers: list[np.ndarray]) -> None:
    """Appends the measures of (C, cells, samples)."""
    if cells.shape[1] == 0:
        return
    peaks.append(np.abs(cells).max(axis=(0, 2)).astype(np.float64))
    powers.append(np.square(cells, dtype=np.float64).mean(axis=(0, 2)))
