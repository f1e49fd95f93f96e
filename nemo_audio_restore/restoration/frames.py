"""STFT frames of a stream, with reflected edges, in constant memory."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram


class BlockBuffer:
    """Hands out a stream of blocks in pieces of any size.

    Args:
        blocks: (C, n) float32 blocks.
        channels: C.
    """

    def __init__(self, blocks: Iterator[np.ndarray], *, channels: int):
        self._blocks = blocks
        self._rest = np.zeros((channels, 0), np.float32)

    def take(self, count: int) -> np.ndarray:
        """The next (C, count) samples, or fewer at the end of the stream."""
        parts, have = [self._rest], self._rest.shape[1]
        while have < count:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            have += block.shape[1]
        joined = np.concatenate(parts, axis=1)
        self._rest = joined[:, count:]
        return joined[:, :count]


class FrameReader:
    """Complex STFT frames, read in order from a stream; outside the file the audio is continued by reflection.

    Args:
        blocks: (C, n) float32 blocks with ``num_samples`` samples together.
        num_samples: T, at least 2.
        channels: C.
        representation: gives window, hop and transform length.
        last_frame: frames from this one on will never be asked for.
    """

    def __init__(
        self,
        blocks: Iterator[np.ndarray],
        *,
        num_samples: int,
        channels: int,
        representation: MagnitudePhaseSpectrogram,
        last_frame: int,
    ):
        self._source = BlockBuffer(blocks, channels=channels)
        self._num_samples = num_samples
        self._window = representation.window.detach().cpu()
        self._n_fft, self._hop = representation.n_fft, representation.hop_length
        # The mirror image of the last frame reaches back this far.
        self._mirrored_from = max(2 * (num_samples - 1) - last_frame * self._hop - self._n_fft // 2, 0)
        self._held = np.zeros((channels, 0), np.float32)
        self._held_from = 0

    def read(self, first: int, count: int) -> Tensor:
        """Reads frames ``first .. first + count - 1``.

        Args:
            first: never below ``first`` of an earlier call.
            count: at least 1.

        Returns:
            Complex (C, F + 1, count).
        """
        low = first * self._hop - self._n_fft // 2
        high = (first + count - 1) * self._hop + self._n_fft // 2
        audio = torch.from_numpy(self._samples(low, high))
        return torch.stft(audio, self._n_fft, self._hop, window=self._window, center=False, return_complex=True)

    def _samples(self, low: int, high: int) -> np.ndarray:
        """Samples [low, high) of the reflected stream."""
        self._drop_before(min(max(low, 0), self._mirrored_from))
        self._hold_until(min(max(high, 1 - low), self._num_samples))
        if 0 <= low and high <= self._num_samples:
            return self._held[:, low - self._held_from : high - self._held_from]
        period = 2 * (self._num_samples - 1)
        index = np.arange(low, high) % period
        index = np.where(index < self._num_samples, index, period - index)
        return np.ascontiguousarray(self._held[:, index - self._held_from])

    def _hold_until(self, stop: int) -> None:
        missing = stop - (self._held_from + self._held.shape[1])
        if missing > 0:
            self._held = np.concatenate([self._held, self._source.take(missing)], axis=1)

    def _drop_before(self, start: int) -> None:
        while start > self._held_from:
            if self._held.shape[1] == 0:  # a part of the stream that nobody looks at
                skipped = self._source.take(min(start - self._held_from, 1 << 16)).shape[1]
                if skipped == 0:
                    return
                self._held_from += skipped
            else:
                drop = min(start - self._held_from, self._held.shape[1])
                self._held = self._held[:, drop:]
                self._held_from += drop
