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
        exponent: of the magnitudes, above 0; below 1 what is quiet counts more, as it does for the ear.

    Raises:
        ValueError: a window is too short, or an argument is not positive.

    Source: Audio-SDS (arXiv 2505.04621), equation 7, which has an exponent of 1.
    """

    def __init__(
        self, window_lengths: Sequence[int] = (1024, 2048, 4096), *, floor: float = 1e-8, exponent: float = 1.0
    ):
        super().__init__()
        if not window_lengths or min(window_lengths) < 16:
            raise ValueError(f'window_lengths must name windows of 16 samples or more; got {tuple(window_lengths)}')
        if not floor > 0 or not exponent > 0:
            raise ValueError(f'floor and exponent must be above 0; got {floor}, {exponent}')
        self.window_lengths = tuple(window_lengths)
        self.floor = floor
        self.exponent = exponent

    def features(self, audio: Tensor) -> list[Tensor]:
        """One magnitude spectrogram (B * C, F, N) for each window length, of audio (B, C, T)."""
        signal = audio.flatten(0, 1).float()
        return [self._compressed(self._power(signal, length)) for length in self.window_lengths]

    def features_of_sum(self, sources: Tensor) -> list[Tensor]:
        """Features that the sum of sources has on average over their phases: the root of the sum of their powers.

        Args:
            sources: (K, C, T); their phases do not count.

        Returns:
            One tensor (C, F, N) for each window length.
        """
        signal = sources.flatten(0, 1).float()
        powers = (self._power(signal, length) for length in self.window_lengths)
        return [self._compressed(power.unflatten(0, sources.shape[:2]).sum(0)) for power in powers]

    def _compressed(self, power: Tensor) -> Tensor:
        return (power + self.floor).pow(self.exponent / 2)

    def _power(self, signal: Tensor, length: int) -> Tensor:
        window = torch.hann_window(length, device=signal.device)
        window = window / window.square().sum().sqrt()
        spectrum = torch.stft(
            signal, length, length // 4, window=window, center=True, pad_mode='constant', return_complex=True
        )
        return spectrum.real.square() + spectrum.imag.square()


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
