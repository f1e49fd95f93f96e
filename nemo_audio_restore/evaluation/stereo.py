"""How much two channels have in common."""

import numpy as np
import torch
from torch import Tensor

_N_FFT = 2048
_HOP = 512
_CELL_FRAMES = 86  # 1 s at 44.1 kHz
_CELL_BINS = 32  # 0.7 kHz


def band_coherence(
    audio: np.ndarray | Tensor, sample_rate: int, *, low_hz: float = 0.0, high_hz: float | None = None
) -> float:
    """Inter-channel coherence of a band: 1 for channels that differ in level alone, near 0 for unrelated ones.

    Each cell of about 1 s and 0.7 kHz has the coherence |<L, R>| / (|L| |R|) of its STFT bins; the cells are averaged
    with their energies as weights, so that silence has no say. Unrelated noise scores about 0.05, not 0, since a cell
    is finite.

    Args:
        audio: (2, T) samples.
        sample_rate: in Hz.
        low_hz: lower end of the band.
        high_hz: upper end of the band; half the sample rate by default.

    Returns:
        0 to 1; NaN where a channel is silent throughout the band.

    Raises:
        ValueError: not two channels, shorter than a cell, or a band without bins.
    """
    left, right = _band(audio, sample_rate, low_hz, high_hz)
    cross = _cells(left * right.conj()).abs()
    weight = (_cells(left.abs().square()) * _cells(right.abs().square())).sqrt()
    return float(cross.sum() / weight.sum()) if weight.sum() > 0 else float('nan')


def band_side_share(
    audio: np.ndarray | Tensor, sample_rate: int, *, low_hz: float = 0.0, high_hz: float | None = None
) -> float:
    """Share of a band's energy in the difference of the channels: 0 for mono, 0.5 for unrelated channels.

    Args:
        audio: (2, T) samples.
        sample_rate: in Hz.
        low_hz: lower end of the band.
        high_hz: upper end of the band; half the sample rate by default.

    Returns:
        0 to 1; NaN where the band is silent.

    Raises:
        ValueError: as for :func:`band_coherence`.
    """
    left, right = _band(audio, sample_rate, low_hz, high_hz)
    side, mid = (left - right).abs().square().sum(), (left + right).abs().square().sum()
    return float(side / (side + mid)) if side + mid > 0 else float('nan')


def _band(audio: np.ndarray | Tensor, sample_rate: int, low_hz: float, high_hz: float | None) -> tuple[Tensor, Tensor]:
    """Complex (bins, frames) of both channels."""
    samples = torch.as_tensor(audio).double()
    if samples.ndim != 2 or samples.shape[0] != 2:
        raise ValueError(f'audio must be (2, T); got shape {tuple(samples.shape)}')
    if samples.shape[1] < _N_FFT + (_CELL_FRAMES - 1) * _HOP:
        raise ValueError(f'audio must have at least {_N_FFT + (_CELL_FRAMES - 1) * _HOP} samples')
    window = torch.hann_window(_N_FFT, dtype=torch.float64)
    spectrum = torch.stft(samples, _N_FFT, _HOP, window=window, center=False, return_complex=True)
    hz = torch.arange(spectrum.shape[1]) * sample_rate / _N_FFT
    inside = (hz >= low_hz) & (hz < (sample_rate / 2 if high_hz is None else high_hz))
    if not inside.any():
        raise ValueError(f'no frequency lies between {low_hz} and {high_hz} Hz at {sample_rate} Hz')
    left, right = spectrum[:, inside]
    return left, right


def _cells(values: Tensor) -> Tensor:
    """Sums of (bins, frames) over cells; what is left over at the ends belongs to the last cells."""
    rows = max(values.shape[0] // _CELL_BINS, 1)
    columns = max(values.shape[1] // _CELL_FRAMES, 1)
    strips = [strip.sum(dim=0) for strip in values.tensor_split(rows, dim=0)]
    return torch.stack([part.sum(dim=1) for part in torch.stack(strips).tensor_split(columns, dim=1)])
