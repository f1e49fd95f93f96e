"""Distance of the spectrograms of stereo audio at many resolutions, of the sum and difference of its channels too.

Source: auraloss (DMRN+15, 2020) after Parallel WaveGAN (arXiv 1910.11480), equations 4 to 6; sum and difference:
automatic multitrack mixing (arXiv 2010.10291), section 2.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.losses.a_weighting import AWeighting

_POWER_FLOOR = 1e-8


class SpectralDistance(nn.Module):
    """Relative distance of magnitudes plus mean distance of their logarithms, averaged over resolutions.

    Args:
        sample_rate: in Hz.
        window_lengths: of the resolutions, in samples; the hop is a quarter.
        a_weighted: filter both signals by the A curve first.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 44100,
        window_lengths: Sequence[int] = (2048, 1024, 512, 256, 128, 64, 32),
        a_weighted: bool = True,
    ):
        super().__init__()
        self.window_lengths = tuple(window_lengths)
        self.weighting = AWeighting(sample_rate) if a_weighted else nn.Identity()

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Distance of two signals.

        Args:
            estimate: (B, T).
            reference: (B, T); the relative distance is measured against it.

        Returns:
            A scalar.
        """
        return self.by_resolution(estimate, reference).mean()

    def by_resolution(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """The distances at the single resolutions, (R,); arguments as in :meth:`forward`."""
        with torch.autocast(estimate.device.type, enabled=False):
            estimate, reference = self.weighting(estimate.float()), self.weighting(reference.float())
            return torch.stack([_distance(estimate, reference, window) for window in self.window_lengths])


class StereoSpectralLoss(nn.Module):
    """Distance of sum and difference of two channels, and half of that of each channel.

    Args:
        sample_rate: in Hz.
        window_lengths: of the resolutions, in samples; the hop is a quarter.
        a_weighted: filter both signals by the A curve first.
        channel_weight: of the left and of the right channel.

    Source: Stable Audio Open (arXiv 2407.14358), section 3.1.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 44100,
        window_lengths: Sequence[int] = (2048, 1024, 512, 256, 128, 64, 32),
        a_weighted: bool = True,
        channel_weight: float = 0.5,
    ):
        super().__init__()
        self.distance = SpectralDistance(sample_rate=sample_rate, window_lengths=window_lengths, a_weighted=a_weighted)
        self.channel_weight = channel_weight

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Distance of two stereo signals.

        The published program gives the recording as ``estimate`` and the decoded audio as ``reference``; its weights
        belong to that order.

        Args:
            estimate: (B, 2, T).
            reference: (B, 2, T).

        Returns:
            A scalar.

        Raises:
            ValueError: the signals are not stereo or not of one shape.
        """
        if estimate.ndim != 3 or estimate.shape[1] != 2 or estimate.shape != reference.shape:
            raise ValueError(
                f'two stereo signals (B, 2, T) are needed; got {tuple(estimate.shape)} and {tuple(reference.shape)}'
            )
        left, right = (self.distance(estimate[:, side], reference[:, side]) for side in (0, 1))
        return self.sum_and_difference(estimate, reference) + self.channel_weight * (left + right)

    def sum_and_difference(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Mean of the distances of L + R and of L - R; arguments as in :meth:`forward`."""
        total = self.distance(estimate.sum(dim=1), reference.sum(dim=1))
        difference = self.distance(estimate[:, 0] - estimate[:, 1], reference[:, 0] - reference[:, 1])
        return (total + difference) / 2


def _distance(estimate: Tensor, reference: Tensor, window: int) -> Tensor:
    """Spectral convergence plus log-magnitude distance at one resolution."""
    estimate, reference = _magnitude(estimate, window), _magnitude(reference, window)
    error = (reference - estimate).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
    return error.mean() + functional.l1_loss(estimate.log(), reference.log())


def _magnitude(audio: Tensor, window: int) -> Tensor:
    """(B, T) to (B, F, N)."""
    shape = torch.hann_window(window, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(audio, window, window // 4, window=shape, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp_min(_POWER_FLOOR).sqrt()
