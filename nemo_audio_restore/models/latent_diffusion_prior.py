"""A latent diffusion model as a prior for score distillation."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nemo_audio_restore.models.latent_generation import AsGenerator, PromptedCondition
from nemo_audio_restore.networks.latent_condition import LatentCondition

if TYPE_CHECKING:
    from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel


class LatentDiffusionPrior:
    """A frozen latent diffusion model for :class:`ScoreDistillation`: :class:`distillation.prior.AudioPrior`.

    Args:
        model: whose weights are frozen, in place.
        denoiser_dtype: torch.bfloat16 lets the network compute in it where that is safe (autocast); latents, codec and
            renderer stay as they are. None computes in the dtype of the weights.
    """

    def __init__(self, model: 'LatentDiffusionModel', *, denoiser_dtype: torch.dtype | None = None):
        self.denoiser_dtype = denoiser_dtype
        self.model = model.eval().requires_grad_(False)
        self._generator = AsGenerator(model)
        self.sample_rate: int = model.sample_rate
        self.channels: int = model.autoencoder.audio_channels

    @property
    def max_seconds(self) -> float:
        """Longest sound that the network was trained on."""
        return self.model.window_s

    @torch.no_grad()
    def condition(
        self, prompts: Sequence[str], *, negative: Sequence[str] | None = None, seconds: float | None = None
    ) -> PromptedCondition:
        """Encodes prompts and their duration.

        Args:
            prompts: B texts.
            negative: B texts to move away from, or None.
            seconds: length the sound is said to have; None is the longest.

        Returns:
            The condition of B rows; that of one prompt serves a batch of any size.

        Raises:
            ValueError: a prompt is empty, the negative prompts are of another number, or the duration is impossible.
        """
        seconds = self.max_seconds if seconds is None else seconds
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise ValueError(f'every prompt needs some text; got {list(prompts)}')
        if not 0 < seconds <= self.max_seconds + 1e-6:
            raise ValueError(f'seconds must be above 0 and at most {self.max_seconds:g}; got {seconds}')
        if negative is not None and len(negative) != len(prompts):
            raise ValueError(f'got {len(negative)} negative prompts for {len(prompts)} prompts')
        return self._generator.condition(list(prompts), seconds=seconds, negative=negative)

    def encode(self, audio: Tensor) -> Tensor:
        """(B, C, T) -> latents (B, D, L): the mean of the autoencoder's posterior; as many as the network takes."""
        whole = self._generator.ratio * self._generator.latents_multiple
        padded = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % whole))
        return self.model.autoencoder.network.encode(padded)

    def decode(self, latents: Tensor, *, num_samples: int) -> Tensor:
        """Latents (B, D, L) -> (B, C, num_samples)."""
        return self.model.autoencoder.network.decode(latents, length=num_samples)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of signal and noise at times (B,)."""
        return self.model.process.alpha(t), self.model.process.sigma(t)

    def denoise(self, noised: Tensor, t: Tensor, condition: PromptedCondition, *, guidance: float) -> Tensor:
        """Clean estimate of latents (B, D, L) at times (B,), with classifier-free guidance."""
        told = PromptedCondition(_rows(condition.asked, len(noised)), _rows(condition.null, len(noised)))
        predict = self._generator.predictor(told, guidance=guidance, guidance_rescale=0.0)
        dtype, device = self.denoiser_dtype, noised.device.type
        with nullcontext() if dtype is None else torch.autocast(device, dtype):
            predicted = predict(noised, t)
        return self.model.process.clean_estimate(noised, predicted.to(noised.dtype), t)


def _rows(condition: LatentCondition, count: int) -> LatentCondition:
    """The condition of one item for as many."""
    values = {field.name: getattr(condition, field.name) for field in fields(LatentCondition)}
    return LatentCondition(
        **{
            name: value.expand(count, *value.shape[1:]) if value is not None and len(value) == 1 else value
            for name, value in values.items()
        }
    )
