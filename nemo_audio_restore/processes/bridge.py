"""The Schroedinger bridge between clean (t = 0) and degraded (t = 1) spectrograms.

The bridge has no drift: only noise of the symmetric rate beta(t) connects the two ends. With
s2(t) = int_0^t beta and r2(t) = int_t^1 beta, every quantity below is a closed form of (s2, r2).

Source: I2SB (arXiv 2302.05872), equations 6, 7, 11, 12; A2SB (arXiv 2501.11311), section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian with independent components: ``mean`` of any shape, ``std`` that broadcasts against it."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Draws the point mean + std * noise."""
        return self.mean + self.std * noise


def _expand(value: Tensor, like: Tensor) -> Tensor:
    """A (B,) or scalar tensor with trailing axes, so that it broadcasts against ``like`` (B, ...)."""
    if value.ndim == 0:
        return value
    return value.reshape(value.shape[0], *([1] * (like.ndim - 1)))


class SchrodingerBridge(nn.Module):
    """Bridge with noise rate beta(t) = beta_max * min(t, 1 - t)**2.

    Times are tensors of shape (B,) or (), in [0, 1]; states are (B, ...).

    Args:
        beta_max: scale of the noise rate; the total variance is beta_max / 12.
    """

    def __init__(self, *, beta_max: float = 1.0):
        super().__init__()
        if beta_max <= 0:
            raise ValueError(f'beta_max must be positive; got {beta_max}')
        self.beta_max = beta_max

    @property
    def total_variance(self) -> float:
        """int_0^1 beta."""
        return self.beta_max / 12.0

    def variance(self, t: Tensor) -> Tensor:
        """s2(t): the variance that the noise has added since t = 0."""
        early = self.beta_max * t.pow(3) / 3
        late = self.total_variance - self.beta_max * (1 - t).pow(3) / 3
        return torch.where(t <= 0.5, early, late)

    def remaining_variance(self, t: Tensor) -> Tensor:
        """r2(t): the variance that the noise will still add until t = 1."""
        return self.variance(1 - t)

    def std(self, t: Tensor) -> Tensor:
        """sqrt(s2(t)): the scale of the regression target."""
        return self.variance(t).sqrt()

    def marginal(self, t: Tensor, clean: Tensor, degraded: Tensor) -> Gaussian:
        """q(x_t | x_0, x_1), I2SB equation 7."""
        s2, r2 = _expand(self.variance(t), clean), _expand(self.remaining_variance(t), clean)
        total = s2 + r2
        return Gaussian((r2 * clean + s2 * degraded) / total, (s2 * r2 / total).sqrt())

    def target(self, x_t: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """What the network learns to predict: (x_t - x_0) / sqrt(s2), I2SB equation 12. Undefined at t = 0."""
        return (x_t - clean) / _expand(self.std(t), x_t)

    def clean_estimate(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The x_0 that a network prediction stands for; inverse of :meth:`target`."""
        return x_t - _expand(self.std(t), x_t) * prediction

    def posterior(self, x_t: Tensor, clean: Tensor, t: Tensor, t_next: Tensor) -> Gaussian:
        """p(x_{t_next} | x_t, x_0) for t_next < t, I2SB equation 11: one step of the reference sampler."""
        s2, s2_next = _expand(self.variance(t), x_t), _expand(self.variance(t_next), x_t)
        step = s2 - s2_next
        return Gaussian((step * clean + s2_next * x_t) / s2, (s2_next * step / s2).sqrt())

    def loss(
        self, prediction: Tensor, target: Tensor, mask: Tensor, *, channel_weights: Tensor | None = None
    ) -> Tensor:
        """Squared error over the region to generate; the rest of the output is never trained.

        Args:
            prediction: (B, C, F, N).
            target: (B, C, F, N).
            mask: (B, 1, F, N), 1 where the spectrogram is to be generated.
            channel_weights: (C,) factors with mean 1, or None for equal weights.

        Returns:
            A scalar: sum(mask * error**2) / sum(mask over all channels); 0 for an empty mask.
        """
        weight = mask.expand_as(prediction).float()
        error = (prediction.float() - target.float()).square()
        if channel_weights is not None:
            error = error * channel_weights.view(1, -1, 1, 1)
        return (weight * error).sum() / weight.sum().clamp_min(1.0)
