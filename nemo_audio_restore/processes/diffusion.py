"""Diffusion between clean latents (t = 0) and standard normal noise (t = 1): x_t = alpha(t) x_0 + sigma(t) noise.

The objectives of the Stable Audio family share every formula but three: the schedule, what the network is trained to
predict, and how a clean estimate is read off that prediction.

Source: DDPM distillation (arXiv 2202.00512), section 4, for v; rectified flow (arXiv 2209.03003), equation 1.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge import Gaussian

Predict = Callable[[Tensor, Tensor, object], Tensor]
Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Noised:
    """A training example."""

    state: Tensor
    """x_t, (B, D, L)."""
    target: Tensor
    """What the network is to predict from it, (B, D, L)."""


class DiffusionProcess(abc.ABC):
    """Schedule and objective of a diffusion model.

    Times are tensors of shape (B,) or (), in [0, 1]; states are (B, ...).
    """

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of the clean latents at t."""

    @abc.abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Share of the noise at t."""

    @abc.abstractmethod
    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        """The time at which sigma / alpha has a value: what other programs call sigma."""

    @abc.abstractmethod
    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network learns to predict."""

    @abc.abstractmethod
    def clean_estimate(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The x_0 that a prediction stands for."""

    @abc.abstractmethod
    def velocity(self, prediction: Tensor) -> Tensor:
        """The dx / dt of the probability flow that a prediction stands for."""

    def marginal(self, t: Tensor, clean: Tensor) -> Gaussian:
        """q(x_t | x_0)."""
        return Gaussian(_expand(self.alpha(t), clean) * clean, _expand(self.sigma(t), clean))

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Noised:
        """A training example from clean latents, noise of their shape and times (B,)."""
        return Noised(self.marginal(t, clean).sample(noise), self.target(clean, noise, t))

    def denoiser(self, predict: Predict, condition: object = None) -> Denoise:
        """Turns a network into a function of state and time that estimates x_0, for the samplers.

        Args:
            predict: ``predict(x_t, t, condition)``, trained on :meth:`target`; guidance wraps it before.
            condition: what the network is told.

        Returns:
            ``denoise(x_t, t)``.
        """

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self.clean_estimate(x_t, predict(x_t, t, condition), t)

        return denoise


class VDiffusion(DiffusionProcess):
    """Cosine schedule and the v objective: alpha = cos(pi t / 2), sigma = sin(pi t / 2), v = alpha noise - sigma x_0.

    Source: DDPM distillation (arXiv 2202.00512), section 4 and appendix D.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """cos(pi t / 2)."""
        return torch.cos(0.5 * math.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(0.5 * math.pi * t)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        """(2 / pi) atan(sigma / alpha)."""
        return torch.atan(ratio) * (2 / math.pi)

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The v of the literature: alpha noise - sigma x_0."""
        return _expand(self.alpha(t), clean) * noise - _expand(self.sigma(t), clean) * clean

    def clean_estimate(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """x_0 = alpha x_t - sigma v."""
        return _expand(self.alpha(t), x_t) * x_t - _expand(self.sigma(t), x_t) * prediction

    def velocity(self, prediction: Tensor) -> Tensor:
        """The derivative of x_t by t: (pi / 2) v."""
        return 0.5 * math.pi * prediction


class RectifiedFlow(DiffusionProcess):
    """Straight lines: x_t = (1 - t) x_0 + t noise, and the network predicts noise - x_0.

    Source: rectified flow (arXiv 2209.03003), equation 1.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The time itself."""
        return t

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        """With s = sigma / alpha: s / (1 + s)."""
        return ratio / (1 + ratio)

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """At every t: noise - x_0."""
        return noise - clean

    def clean_estimate(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """x_0 = x_t - t (noise - x_0)."""
        return x_t - _expand(t, x_t) * prediction

    def velocity(self, prediction: Tensor) -> Tensor:
        """The prediction itself."""
        return prediction


def _expand(value: Tensor, like: Tensor) -> Tensor:
    """A (B,) or scalar tensor with trailing axes and the dtype of ``like`` (B, ...)."""
    value = value.to(device=like.device, dtype=like.dtype)
    return value if value.ndim == 0 else value.reshape(value.shape[0], *([1] * (like.ndim - 1)))
