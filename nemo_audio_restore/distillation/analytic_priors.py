"""Priors whose clean estimate is a closed form: they show what distillation does, and test it, without any weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_audio_restore.distillation.prior import IdentityCodec, expand


class CosineSchedule:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): the schedule of Stable Audio Open."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of signal and noise at times (B,)."""
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)


class ModesPrior(CosineSchedule, IdentityCodec):
    """A mixture of Gaussians around known sounds; each prompt names one of the sounds.

    Without guidance the estimate is the mixture's; with guidance w it is
    mixture + w * (named mode - mixture), as for any model with classifier-free guidance.

    Args:
        modes: name -> sound (C, T).
        std: of every mode; 0 makes each mode one sound, so that distillation becomes sound matching.
        sample_rate: in Hz.
    """

    def __init__(self, modes: dict[str, Tensor], *, std: float, sample_rate: int):
        if not modes:
            raise ValueError('ModesPrior needs at least one mode; got none')
        self.names = list(modes)
        self.means = torch.stack(list(modes.values()))
        self.std = std
        self.sample_rate = sample_rate
        self.channels = self.means.shape[1]

    def condition(
        self, prompts: Sequence[str], *, negative: Sequence[str] | None = None, seconds: float | None = None
    ) -> Tensor:
        """Finds the modes that prompts name.

        Args:
            prompts: B names.
            negative: must be None.
            seconds: has no effect: the modes have their length.

        Returns:
            (B,) indices.

        Raises:
            ValueError: a prompt names no mode, or a negative prompt is given.
        """
        if negative is not None:
            raise ValueError('a prior of known sounds has no negative prompts; leave `negative` out')
        unknown = [prompt for prompt in prompts if prompt not in self.names]
        if unknown:
            raise ValueError(f'this prior knows the sounds {self.names}; got {unknown}')
        return torch.tensor([self.names.index(prompt) for prompt in prompts])

    def denoise(self, noised: Tensor, t: Tensor, condition: Tensor, *, guidance: float) -> Tensor:
        """Posterior mean of the clean sound, (B, C, T)."""
        alpha, sigma = (value.to(noised) for value in self.alpha_sigma(t))
        means = self.means.to(noised)
        # Each mode's posterior mean: the precision-weighted mean of the mode and of the observation z_t / alpha.
        variance = (alpha * self.std).square() + sigma.square()
        distance = noised[:, None] - expand(alpha, noised)[:, None] * means
        shrink = expand(alpha * self.std**2 / variance, noised)[:, None]
        estimates = means + shrink * distance
        log_weight = -0.5 * distance.flatten(2).square().sum(2) / variance[:, None]
        weight = torch.softmax(log_weight, dim=1)
        mixture = torch.einsum('bm,bmct->bct', weight, estimates)
        named = estimates[torch.arange(len(noised)), condition.to(noised.device).expand(len(noised))]
        return mixture + guidance * (named - mixture)
