"""What score distillation asks of a generative model, and the parts that any such model can share."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Condition = TypeVar('Condition')


class AudioPrior(Protocol[Condition]):
    """A frozen model that knows how sounds of a description look under noise.

    Latents z have any shape (B, ...); the noised latent is z_t = alpha(t) z + sigma(t) noise, with t in [0, 1].
    """

    sample_rate: int
    channels: int

    def condition(
        self, prompts: Sequence[str], *, negative: Sequence[str] | None = None, seconds: float | None = None
    ) -> Condition:
        """What the model makes of the prompts, one row a prompt; handed back to :meth:`denoise` as it is.

        The condition of a single prompt serves a batch of any size.
        """

    def encode(self, audio: Tensor) -> Tensor:
        """(B, C, T) at ``sample_rate`` -> latents (B, ...); differentiable."""

    def decode(self, latents: Tensor, *, num_samples: int) -> Tensor:
        """Latents (B, ...) -> (B, C, num_samples); differentiable."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of signal and noise at times (B,): two tensors (B,)."""

    def denoise(self, noised: Tensor, t: Tensor, condition: Condition, *, guidance: float) -> Tensor:
        """Clean estimate (B, ...) of latents (B, ...) at times (B,).

        ``guidance`` is the scale of classifier-free guidance: 1 is the conditional model, 0 the unconditional. The
        paper's tau is this scale minus 1.
        """


class IdentityCodec:
    """Encoder and decoder of a prior that works on the waveform itself."""

    def encode(self, audio: Tensor) -> Tensor:
        """The audio (B, C, T) itself."""
        return audio

    def decode(self, latents: Tensor, *, num_samples: int) -> Tensor:
        """The latents (B, C, T), cut or filled with silence to ``num_samples``."""
        return torch.nn.functional.pad(latents, (0, num_samples - latents.shape[-1]))


def expand(value: Tensor, like: Tensor) -> Tensor:
    """(B,) with trailing axes, so that it broadcasts against ``like`` (B, ...)."""
    return value.reshape(-1, *([1] * (like.ndim - 1)))


def add_noise(prior: AudioPrior, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """z_t = alpha z + sigma noise, for latents and noise (B, ...) at times (B,)."""
    alpha, sigma = prior.alpha_sigma(t)
    return expand(alpha, latents) * latents + expand(sigma, latents) * noise


def implied_noise(prior: AudioPrior, noised: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """The noise that separates ``noised`` from ``clean``: (z_t - alpha z) / sigma."""
    alpha, sigma = prior.alpha_sigma(t)
    return (noised - expand(alpha, noised) * clean) / expand(sigma, noised)


def denoise_in_steps(
    prior: AudioPrior[Condition], noised: Tensor, t: Tensor, condition: Condition, *, guidance: float, steps: int
) -> Tensor:
    """Clean estimate by a partial DDIM chain from t to 0.

    Args:
        prior: that denoises.
        noised: (B, ...), at times ``t``.
        t: (B,).
        condition: of the prior.
        guidance: scale of classifier-free guidance.
        steps: evaluations; 1 is the one-step estimate.

    Returns:
        (B, ...): the last clean estimate.

    Source: DDIM (arXiv 2010.02502), equation 12 with eta = 0; Audio-SDS (arXiv 2505.04621), section 3.3.
    """
    clean = prior.denoise(noised, t, condition, guidance=guidance)
    for step in range(1, steps):
        noise = implied_noise(prior, noised, clean, t * (steps - step + 1) / steps)
        t_next = t * (steps - step) / steps
        noised = add_noise(prior, clean, t_next, noise)
        clean = prior.denoise(noised, t_next, condition, guidance=guidance)
    return clean
