"""How a render is compared with what the prior made of it: features, whose squared differences are the loss."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class WaveformDistance(nn.Module):
    """Compares samples."""

    def features(self, audio: Tensor) -> list[Tensor]:
        """The audio (B, C, T) itself."""
        return [audio]


class MultiScaleSpectralDistance(nn.Module):
    """Compares STFT magnitudes at several window lengths; phases need not match.

    Magnitudes are those of a Hann window divided by its sum's root of squares, so that white noise has the same
    level at every scale and none rules the sum.

    Args:
        window_lengths: in samples.
        floor: power added under the root: the gradient at silence stays finite.

    Source: Audio-SDS (arXiv 2505.04621), equation 7.
    """

    def __init__(self, window_lengths: Sequence[int] = (1024, 2048, 4096), *, floor: float = 1e-8):
        super().__init__()
        if not window_lengths or min(window_lengths) < 16:
            raise ValueError(f'window_lengths must name windows of 16 samples or more; got {tuple(window_lengths)}')
        self.window_lengths = tuple(window_lengths)
        self.floor = floor

    def features(self, audio: Tensor) -> list[Tensor]:
        """One magnitude spectrogram (B * C, F, N) for each window length, of audio (B, C, T)."""
        signal = audio.flatten(0, 1).float()
        return [self._magnitude(signal, length) for length in self.window_lengths]

    def _magnitude(self, signal: Tensor, length: int) -> Tensor:
        window = torch.hann_window(length, device=signal.device)
        window = window / window.square().sum().sqrt()
        spectrum = torch.stft(
            signal, length, length // 4, window=window, center=True, pad_mode='constant', return_complex=True
        )
        return (spectrum.real.square() + spectrum.imag.square() + self.floor).sqrt()


Distance = WaveformDistance | MultiScaleSpectralDistance


def half_squared_error(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """0.5 * sum over scales of the mean squared difference; the mean makes weights independent of the length.

    Args:
        features: of the render, one tensor a scale.
        targets: of the same shapes, without gradient.

    Returns:
        A scalar.
    """
    return sum(0.5 * (mine - target).square().mean() for mine, target in zip(features, targets, strict=True))
