"""What a language model hears of a recording: 16 kHz, mono, peak-normalised, in windows."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from nemo_audio_restore.files.audio import probe, read_blocks
from nemo_audio_restore.signal.audio_windows import peak_normalised, split_windows, truncated_to_16_bit

_SHORTEST_S = 0.025  # a frame of the spectrograms that are heard


class InputWarning(UserWarning):
    """The model gets less than it was given: audio or text is cut, or there is nothing to hear."""


class NothingToHearError(ValueError):
    """There is no audio where some is needed, or it is no audio; the message is one sentence for the user."""


@dataclass(frozen=True)
class Listening:
    """How recordings are prepared.

    Attributes:
        sample_rate: of the windows, in Hz.
        window_s: length of a window in seconds.
        overlap_s: seconds that a window shares with the one before.
        max_windows: more audio than these hold is cut off, with a warning.
        published_numerics: prepare exactly as the published Audio Flamingo 2 does: the left channel alone instead of
            the mean of all, fractions of 16-bit steps cut off, recordings without negative samples shifted. Its
            weights were trained so; for other models it only loses something.
    """

    sample_rate: int = 16000
    window_s: float = 10.0
    overlap_s: float = 0.0
    max_windows: int = 12
    published_numerics: bool = False

    def __post_init__(self):
        if not (self.sample_rate > 0 and self.window_s > 0 and 0 <= self.overlap_s < self.window_s):
            raise ValueError(
                'sample_rate and window_s must be positive, and overlap_s less than a window; got '
                f'{self.sample_rate}, {self.window_s}, {self.overlap_s}'
            )
        if self.max_windows < 1:
            raise ValueError(f'max_windows must be at least 1; got {self.max_windows}')

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return int(self.window_s * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Samples from the start of one window to the next."""
        return int((self.window_s - self.overlap_s) * self.sample_rate)

    @property
    def max_seconds(self) -> float:
        """Seconds that are heard of a long recording."""
        return self.window_s + (self.max_windows - 1) * (self.window_s - self.overlap_s)

    def windows(self, audio: np.ndarray | Tensor, sample_rate: int, *, name: str = 'the audio') -> Tensor:
        """Windows of a recording.

        Args:
            audio: (T,) or (C, T) samples, 1.0 = full scale.
            sample_rate: of the audio, in Hz.
            name: of the recording, for warnings and errors.

        Returns:
            (W, ``window_samples``) float32, W at most ``max_windows``; every sample in [-1, 1].

        Raises:
            NothingToHearError: no samples, another shape, or samples that are not finite numbers.
        """
        samples = np.atleast_2d(np.asarray(audio.detach().cpu() if isinstance(audio, Tensor) else audio))
        if samples.ndim != 2 or samples.size == 0:
            raise NothingToHearError(f'{name} must be (T,) or (C, T) samples; got the shape {tuple(np.shape(audio))}')
        if not np.isfinite(samples).all():
            raise NothingToHearError(f'{name} holds samples that are not finite numbers')
        kept = round(self.max_seconds * sample_rate)
        if samples.shape[1] > kept:
            self._warn_of_cut(name, samples.shape[1] / sample_rate)
        mono = self._resampled(self._mono(samples[:, :kept]), sample_rate)
        if not np.any(mono):
            _warn(f'{name} is silent')
        elif samples.shape[1] < _SHORTEST_S * sample_rate:
            _warn(f'{name} lasts {1000 * samples.shape[1] / sample_rate:.2g} ms: there is next to nothing to hear')
        mono = peak_normalised(torch.from_numpy(mono), stretch_one_sided=self.published_numerics)
        mono = truncated_to_16_bit(mono) if self.published_numerics else mono
        windows = split_windows(mono, window_samples=self.window_samples, hop_samples=self.hop_samples)
        # Rounding of the resampler may leave a sample behind the last window.
        return windows[: self.max_windows].float()

    def read(self, path: str | Path) -> Tensor:
        """Windows of an audio file; what lies beyond the last window is not read.

        Args:
            path: of the file, of any rate and number of channels.

        Returns:
            As :meth:`windows`.

        Raises:
            AudioFileError: the file cannot be read.
            NothingToHearError: it holds no sample.
        """
        info = probe(path)
        kept = round(self.max_seconds * info.sample_rate)
        blocks, there = [], 0
        for block in read_blocks(path):
            # One sample more than is used, to know of a cut.
            blocks.append(block[:, : kept + 1 - there])
            there += blocks[-1].shape[1]
            if there > kept:
                break
        if there > kept:
            self._warn_of_cut(str(path), info.duration_s)
        audio = np.concatenate(blocks, axis=1)[:, :kept]
        return self.windows(audio, info.sample_rate, name=str(path))

    def _warn_of_cut(self, name: str, duration_s: float) -> None:
        _warn(f'{name} lasts {duration_s:.1f} s; the model hears the first {self.max_seconds:g} s')

    def _mono(self, samples: np.ndarray) -> np.ndarray:
        # Published: the left channel; whatever is only heard on the right is then lost.
        mono = samples[0] if self.published_numerics else samples.mean(axis=0)
        # Double precision: with single, cutting fractions off lands a step lower where a sample falls on a step.
        return np.ascontiguousarray(mono, dtype=np.float64)

    def _resampled(self, mono: np.ndarray, sample_rate: int) -> np.ndarray:
        if sample_rate == self.sample_rate:
            return mono
        length = math.ceil(len(mono) * self.sample_rate / sample_rate)
        resampled = soxr.resample(mono, sample_rate, self.sample_rate, quality='HQ')[:length]
        return np.pad(resampled, (0, length - len(resampled)))


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=4)
