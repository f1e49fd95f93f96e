"""A-weighting as a short filter: how loud a listener finds each frequency, for losses on waveforms."""

import math

import numpy as np
import torch
from scipy import signal
from torch import Tensor, nn
from torch.nn import functional

_POLES_HZ = (20.598997, 107.65265, 737.86223, 12194.217)
_GAIN_AT_1_KHZ_DB = 1.9997
_DESIGN_POINTS = 512


def a_weighting_taps(sample_rate: int, taps: int = 101) -> Tensor:
    """Taps of a symmetric filter with the magnitude of the A curve.

    Args:
        sample_rate: in Hz.
        taps: odd number of them.

    Returns:
        (taps,) float32.

    Raises:
        ValueError: ``taps`` is even.

    Source: IEC 61672-1, annex E, through the bilinear transform, then a least-squares fit of the magnitude.
    """
    if taps % 2 == 0 or taps < 3:
        raise ValueError(f'taps must be odd and at least 3; got {taps}')
    poles = [2 * math.pi * frequency for frequency in _POLES_HZ]
    # Two poles at the outer corners, one at each inner one; four zeros at 0 Hz.
    denominator = np.poly([-poles[0], -poles[0], -poles[1], -poles[2], -poles[3], -poles[3]])
    numerator = [poles[3] ** 2 * 10 ** (_GAIN_AT_1_KHZ_DB / 20), 0, 0, 0, 0]
    digital = signal.bilinear(numerator, denominator, fs=sample_rate)
    frequencies, response = signal.freqz(*digital, worN=_DESIGN_POINTS, fs=sample_rate)
    return torch.from_numpy(signal.firls(taps, frequencies, np.abs(response), fs=sample_rate)).float()


class AWeighting(nn.Module):
    """Filters audio by the A curve, without delay.

    Args:
        sample_rate: in Hz.
        taps: odd number of them.
    """

    def __init__(self, sample_rate: int, *, taps: int = 101):
        super().__init__()
        self.register_buffer('taps', a_weighting_taps(sample_rate, taps), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, T) to the same shape; silence is assumed around it."""
        kernel = self.taps.to(audio.dtype)[None, None]
        return functional.conv1d(audio[:, None], kernel, padding=self.taps.numel() // 2)[:, 0]
