"""How far up a recording really reaches: its long-term spectrum, and where that falls away."""

import torch
from torch import Tensor, nn

_N_FFT = 4096
_SMOOTHING_BINS = 9


def long_term_spectrum(audio: Tensor, *, n_fft: int = _N_FFT) -> Tensor:
    """Sums the power spectra of all half-overlapping Hann frames and channels; sums of several blocks may be added.

    Args:
        audio: (C, T) samples; a last partial frame is dropped.
        n_fft: frame length in samples.

    Returns:
        Power (n_fft // 2 + 1,), float64; all zero when the audio is shorter than one frame.

    Raises:
        ValueError: the audio is not (C, T).
    """
    if audio.ndim != 2:
        raise ValueError(f'audio must be (C, T); got shape {tuple(audio.shape)}')
    if audio.shape[1] < n_fft:
        return torch.zeros(n_fft // 2 + 1, dtype=torch.float64)
    frames = audio.float().unfold(1, n_fft, n_fft // 2) * torch.hann_window(n_fft)
    return torch.fft.rfft(frames).abs().square().sum(dim=(0, 1)).double()


def bandwidth_hz(power: Tensor, sample_rate: int, *, floor_db: float = 60.0) -> float:
    """Finds the highest frequency at which the smoothed spectrum is within ``floor_db`` of its peak.

    Args:
        power: (F,) power from 0 Hz to half the sample rate, as of :func:`long_term_spectrum`.
        sample_rate: of the audio, in Hz.
        floor_db: depth below the peak that still counts as signal, in dB, positive.

    Returns:
        Frequency in Hz, at most half the sample rate; 0 for digital silence.

    Raises:
        ValueError: ``floor_db`` is not positive.
    """
    if floor_db <= 0:
        raise ValueError(f'floor_db must be positive; got {floor_db}')
    half = _SMOOTHING_BINS // 2
    padded = nn.functional.pad(power.double()[None, None], (half, half), mode='replicate')
    smooth = nn.functional.avg_pool1d(padded, _SMOOTHING_BINS, stride=1)[0, 0]
    if not smooth.max() > 0:
        return 0.0
    above = torch.nonzero(smooth >= smooth.max() * 10 ** (-floor_db / 10))
    return float(above[-1]) * sample_rate / 2 / (len(power) - 1)
