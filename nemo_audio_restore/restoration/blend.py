"""From spectrogram differences back to samples: overlap-add, the high-pass of the crossover, the gate of the gaps."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.restoration.spectrum_runs import Frames, overlapped
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

STOPBAND_DB = 110.0
"""What the crossover leaves of the generated part below the cutoff less the transition."""

TRANSITION_BINS = 8
"""Width of the crossover in STFT bins: the Hann window's main lobe and first side lobes fit in."""


def overlap_add(
    runs: Iterable[Frames], representation: MagnitudePhaseSpectrogram, *, channels: int, num_samples: int
) -> Iterator[Tensor]:
    """Inverse STFT of a stream: equal to ``representation.istft(..., length=num_samples)`` of all frames at once.

    Args:
        runs: frames 0 .. N - 1 in order, without holes.
        representation: gives window, hop and transform length.
        channels: C.
        num_samples: T.

    Yields:
        (C, n) blocks with T samples together.
    """
    n_fft, hop = representation.n_fft, representation.hop_length
    window = representation.window.detach().cpu()
    signal, envelope = torch.zeros(channels, n_fft), torch.zeros(n_fft)
    skip, left = n_fft // 2, num_samples  # frame 0 is centred on sample 0
    for run in runs:
        length = (run.count - 1) * hop + n_fft
        signal = torch.nn.functional.pad(signal, (0, length - n_fft + hop))
        envelope = torch.nn.functional.pad(envelope, (0, length - n_fft + hop))
        envelope[:length] += overlapped(window.square()[None, :, None].expand(1, n_fft, run.count), hop)[0]
        if run.spectrum is not None:
            frames = torch.fft.irfft(run.spectrum, n=n_fft, dim=1) * window[:, None]
            signal[:, :length] += overlapped(frames, hop)
        ready = run.count * hop
        block = signal[:, skip:ready] / envelope[skip:ready].clamp_min(1e-8)
        skip = max(skip - ready, 0)
        signal, envelope = signal[:, ready:].clone(), envelope[ready:].clone()
        block = block[:, :left]
        left -= block.shape[1]
        if block.shape[1]:
            yield block
    if left > 0:
        yield (signal[:, skip:] / envelope[skip:].clamp_min(1e-8))[:, :left]


def high_pass_taps(cutoff_hz: float, transition_hz: float, sample_rate: int) -> Tensor:
    """Linear-phase high-pass: -110 dB below ``cutoff_hz - transition_hz``, 0 dB above ``cutoff_hz``.

    Args:
        cutoff_hz: lower end of the pass band.
        transition_hz: width of the slope below it.
        sample_rate: in Hz.

    Returns:
        An odd number of taps, float32, symmetric.

    Source: Kaiser's window design, Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.6.
    """
    beta = 0.1102 * (STOPBAND_DB - 8.7)
    half = int(np.ceil((STOPBAND_DB - 7.95) / (2.285 * 2 * np.pi * transition_hz / sample_rate) / 2))
    n = np.arange(-half, half + 1)
    centre = 2 * (cutoff_hz - transition_hz / 2) / sample_rate
    low_pass = centre * np.sinc(centre * n) * np.kaiser(2 * half + 1, beta)
    return torch.from_numpy(((n == 0) - low_pass).astype(np.float32))


def filtered(blocks: Iterable[Tensor], taps: Tensor) -> Iterator[Tensor]:
    """Filters a stream with symmetric taps and takes their delay out; blocks come out as long as they went in, later.

    Args:
        blocks: (C, n) float32.
        taps: an odd number.

    Yields:
        (C, m) blocks with as many samples together.
    """
    half = len(taps) // 2
    held: Tensor | None = None
    for block in blocks:
        held = torch.nn.functional.pad(block, (half, 0)) if held is None else torch.cat([held, block], dim=1)
        if held.shape[1] > 2 * half:
            yield _convolved(held, taps)
            held = held[:, -2 * half :] if half else held[:, :0]
    if held is not None:
        yield _convolved(torch.nn.functional.pad(held, (0, half)), taps)


def _convolved(audio: Tensor, taps: Tensor) -> Tensor:
    """The samples of the convolution for which all taps have input: (C, n - len(taps) + 1)."""
    size = 1 << (audio.shape[1] - 1).bit_length()
    product = torch.fft.rfft(audio, n=size) * torch.fft.rfft(taps, n=size)
    return torch.fft.irfft(product, n=size)[:, len(taps) - 1 : audio.shape[1]]


class GapGate:
    """1 inside the gaps, 0 elsewhere, with raised-cosine slopes outside the gaps.

    Args:
        spans: gaps as sample ranges [start, stop).
        fade_samples: length of each slope.
    """

    def __init__(self, spans: Sequence[tuple[int, int]], *, fade_samples: int):
        self._spans = tuple(spans)
        self._fade = fade_samples

    def __call__(self, first: int, count: int) -> np.ndarray | None:
        """Values (count,) float32 from sample ``first``, or None where all are zero."""
        gate = None
        for start, stop in self._spans:
            if start - self._fade >= first + count or stop + self._fade <= first:
                continue
            if gate is None:
                gate = np.zeros(count, np.float32)
            index = np.arange(first, first + count)
            distance = np.maximum(np.maximum(start - index, index - (stop - 1)), 0) / (self._fade + 1)
            slope = np.where(distance < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance, 1)), 0)
            gate = np.maximum(gate, slope.astype(np.float32))
        return gate
