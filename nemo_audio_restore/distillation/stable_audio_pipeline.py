"""diffusers' Stable Audio pipeline as a prior for score distillation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nemo_audio_restore.distillation.analytic_priors import CosineSchedule
from nemo_audio_restore.distillation.prior import expand

if TYPE_CHECKING:
    from diffusers import StableAudioPipeline


@dataclass(frozen=True)
class PipelineCondition:
    """What the transformer is conditioned on.

    Attributes:
        tokens: (B, S, D), text and durations.
        null_tokens: (B, S, D), the same without the prompt, or with the negative one.
        durations: (B, 1, E), start and length.
    """

    tokens: Tensor
    null_tokens: Tensor
    durations: Tensor


class StableAudioPipelinePrior(CosineSchedule):
    """A frozen `StableAudioPipeline`, for example of `stabilityai/stable-audio-open-1.0`.

    Only its parts are used, not its scheduler: the schedule is alpha = cos(pi t / 2), sigma = sin(pi t / 2), and the
    transformer predicts v = alpha noise - sigma z.

    Args:
        pipeline: whose weights are frozen, in place.

    Source: Stable Audio Open (arXiv 2407.14358); v-prediction: arXiv 2202.00512, appendix D.
    """

    def __init__(self, pipeline: 'StableAudioPipeline'):
        self.pipeline = pipeline
        for module in (pipeline.vae, pipeline.transformer, pipeline.text_encoder, pipeline.projection_model):
            module.eval().requires_grad_(False)
        self.sample_rate: int = pipeline.vae.config.sampling_rate
        self.channels: int = pipeline.vae.config.audio_channels

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.pipeline.transformer.parameters()).device

    @property
    def max_seconds(self) -> float:
        """Longest sound that the transformer was made for."""
        return self.pipeline.transformer.config.sample_size * self.pipeline.vae.hop_length / self.sample_rate

    @torch.no_grad()
    def condition(
        self, prompts: Sequence[str], *, negative: Sequence[str] | None = None, seconds: float | None = None
    ) -> PipelineCondition:
        """Encodes prompts and their duration.

        Args:
            prompts: B texts.
            negative: B texts to move away from, or None.
            seconds: length the sound is said to have; None is the longest.

        Returns:
            The condition of B rows.

        Raises:
            ValueError: a prompt is empty, the negative prompts are of another number, or the duration is impossible.
        """
        seconds = self.max_seconds if seconds is None else seconds
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise ValueError(f'every prompt needs some text; got {list(prompts)}')
        if not 0 < seconds <= self.max_seconds:
            raise ValueError(f'seconds must be above 0 and at most {self.max_seconds:g}; got {seconds}')
        if negative is not None and len(negative) != len(prompts):
            raise ValueError(f'got {len(negative)} negative prompts for {len(prompts)} prompts')
        text = self.pipeline.encode_prompt(list(prompts), self.device, False)
        start, end = self.pipeline.encode_duration(0.0, seconds, self.device, False, len(prompts))
        tokens = torch.cat([text, start, end], dim=1)
        if negative is None:
            null_tokens = torch.zeros_like(tokens)
        else:
            null = self.pipeline.encode_prompt(list(negative), self.device, False)
            null_tokens = torch.cat([null, start, end], dim=1)
        return PipelineCondition(tokens, null_tokens, torch.cat([start, end], dim=2))

    def encode(self, audio: Tensor) -> Tensor:
        """(B, C, T) -> latents (B, L, T / hop, rounded up): the mean of the autoencoder's posterior."""
        hop = self.pipeline.vae.hop_length
        padded = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % hop))
        return self.pipeline.vae.encode(padded).latent_dist.mode()

    def decode(self, latents: Tensor, *, num_samples: int) -> Tensor:
        """Latents (B, L, N) -> (B, C, num_samples)."""
        return self.pipeline.vae.decode(latents).sample[..., :num_samples]

    def denoise(self, noised: Tensor, t: Tensor, condition: PipelineCondition, *, guidance: float) -> Tensor:
        """Clean estimate of latents (B, L, N) at times (B,), with classifier-free guidance on v."""
        alpha, sigma = (expand(value, noised) for value in self.alpha_sigma(t))
        if guidance == 1:
            v = self._predict(noised, t, condition.tokens, condition.durations)
        else:
            null = self._predict(noised, t, condition.null_tokens, condition.durations)
            named = self._predict(noised, t, condition.tokens, condition.durations)
            v = null + guidance * (named - null)
        return alpha * noised - sigma * v

    def _predict(self, noised: Tensor, t: Tensor, tokens: Tensor, durations: Tensor) -> Tensor:
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        # The durations are prepended to the latents as one more position.
        rotary = get_1d_rotary_pos_embed(
            self.pipeline.transformer.config.attention_head_dim // 2,
            noised.shape[-1] + durations.shape[1],
            use_real=True,
            repeat_interleave_real=False,
        )
        return self.pipeline.transformer(
            noised,
            t,
            encoder_hidden_states=tokens.expand(len(noised), -1, -1),
            global_hidden_states=durations.expand(len(noised), -1, -1),
            rotary_embedding=tuple(part.to(noised.device) for part in rotary),
        ).sample
