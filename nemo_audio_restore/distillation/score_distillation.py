"""The distillation loss: how far a sound is from what a frozen prior makes of it under a prompt.

Everything is a surrogate loss to descend: its gradient is minus the paper's update, and other losses simply add to it.

Source: Audio-SDS (arXiv 2505.04621), equations 2-7; DreamFusion (arXiv 2209.14988), equation 3.
"""

from collections.abc import Callable
from typing import Generic, Literal

import torch
from torch import Tensor, nn

from nemo_audio_restore.distillation.distances import Distance, MultiScaleSpectralDistance, half_squared_error
from nemo_audio_restore.distillation.prior import AudioPrior, Condition, add_noise, denoise_in_steps
from nemo_audio_restore.signal.level import WINDOW_S

Weight = Callable[[Tensor, Tensor], Tensor]


def noise_over_signal(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The weight sigma / alpha, with which encoder mode equals decoder mode where the codec is the identity."""
    return sigma / alpha


class ScoreDistillation(nn.Module, Generic[Condition]):
    """Loss that pulls a sound towards a prompt.

    In decoder mode the sound is encoded, noised, denoised and decoded without gradient, and compared with itself by
    ``distance``: only the renderer is differentiated. In encoder mode (classic SDS) the comparison is made among
    latents, and the gradient runs through the prior's encoder; ``distance`` has no part in it.

    Args:
        prior: frozen model.
        mode: 'decoder' or 'encoder'.
        distance: features compared in decoder mode; multi-scale spectral by default.
        weight: w(alpha, sigma) of classic SDS, used in encoder mode; sigma / alpha by default.
        guidance: scale of classifier-free guidance (the paper's tau + 1).
        guidance_rescale: 0..1, how far the guided estimate is brought back to the spread that the estimate has at
            guidance 1, which is then computed too; keeps high guidance within the range of latents.
        t_range: times are drawn uniformly from it; 0 < low < high < 1.
        denoising_steps: evaluations of one estimate, 1 or more.
        draws: independent noises (and times) an evaluation of the loss averages over.
        micro_batch: draws that are held in memory at once; the loss does not depend on it.
        segment_samples: longer sounds are judged on a random segment of this length; None takes all.
        level_db: the loudest tenth of a second of the sound is brought to this level, in dB of full scale, before it
            is judged, and so is what the prior makes of it: the renderer's own level then has no gradient. None
            judges levels, too, which lets a weak prior pull a sound to silence or far beyond full scale.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        prior: AudioPrior[Condition],
        *,
        mode: Literal['decoder', 'encoder'] = 'decoder',
        distance: Distance | None = None,
        weight: Weight = noise_over_signal,
        guidance: float = 30.0,
        guidance_rescale: float = 0.0,
        t_range: tuple[float, float] = (0.025, 0.875),
        denoising_steps: int = 2,
        draws: int = 10,
        micro_batch: int = 10,
        segment_samples: int | None = None,
        level_db: float | None = None,
    ):
        super().__init__()
        if mode not in ('decoder', 'encoder'):
            raise ValueError(f"mode must be 'decoder' or 'encoder'; got {mode!r}")
        if not 0 < t_range[0] < t_range[1] < 1:
            raise ValueError(f't_range must lie inside (0, 1), low before high; got {t_range}')
        if not 0 <= guidance_rescale <= 1:
            raise ValueError(f'guidance_rescale must be 0..1; got {guidance_rescale}')
        if min(denoising_steps, draws, micro_batch) < 1:
            raise ValueError(
                'denoising_steps, draws and micro_batch must be 1 or more; '
                f'got {denoising_steps}, {draws}, {micro_batch}'
            )
        if level_db is not None and not -120 < level_db <= 0:
            raise ValueError(f'level_db must lie between -120 and 0; got {level_db}')
        self.prior = prior
        self.mode = mode
        self.distance = distance if distance is not None else MultiScaleSpectralDistance()
        self.weight = weight
        self.guidance = guidance
        self.guidance_rescale = guidance_rescale
        self.t_range = t_range
        self.denoising_steps = denoising_steps
        self.draws = draws
        self.micro_batch = micro_batch
        self.segment_samples = segment_samples
        self.level_db = level_db

    def forward(self, audio: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        """Loss of one sound.

        Args:
            audio: (C, T) at the prior's rate; one channel serves a prior of several.
            condition: of one prompt, as the prior's ``condition`` makes it.
            generator: of times, noise and segment.

        Returns:
            A scalar; its gradient is minus the update of the paper.

        Raises:
            ValueError: the audio has a shape that the prior does not take, or is not finite.
        """
        audio = self._at_level(self._segment(self._matched(audio), generator)[None])
        if self.mode == 'encoder':
            return self.latent_loss(self.prior.encode(audio), condition, generator=generator)
        targets = self.target_features(audio, condition, generator=generator)
        return half_squared_error(self.distance.features(audio), targets)

    @torch.no_grad()
    def target_features(self, audio: Tensor, condition: Condition, *, generator: torch.Generator) -> list[Tensor]:
        """Mean over draws of the features of the denoised sound: the mean of magnitudes, not the magnitude of a mean.

        Args:
            audio: (1, C, T).
            condition: of one prompt.
            generator: of times and noise.

        Returns:
            One tensor a scale, without gradient.
        """
        latents = self.prior.encode(audio)
        total: list[Tensor] | None = None
        for t, noise in self._draws(latents, generator):
            clean = self._denoised(latents, t, noise, condition)
            estimate = self._at_level(self.prior.decode(clean, num_samples=audio.shape[-1]))
            features = [
                feature.reshape(len(t), -1, *feature.shape[1:]).sum(0) for feature in self.distance.features(estimate)
            ]
            total = features if total is None else [a + b for a, b in zip(total, features, strict=True)]
        return [feature.reshape(-1, *feature.shape[1:]) / self.draws for feature in total]

    def latent_loss(self, latents: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        """Loss of latents themselves: classic SDS, without encoder and decoder.

        Args:
            latents: (1, ...), of the prior.
            condition: of one prompt.
            generator: of times and noise.

        Returns:
            A scalar; its gradient is w(t) (eps_hat - eps), over the number of latents.

        Source: DreamFusion (arXiv 2209.14988), equation 3.
        """
        with torch.no_grad():
            update = torch.zeros_like(latents)
            for t, noise in self._draws(latents, generator):
                clean = self._denoised(latents, t, noise, condition)
                alpha, sigma = self.prior.alpha_sigma(t)
                # eps_hat - eps = alpha / sigma * (z - z_hat)
                scale = (self.weight(alpha, sigma) * alpha / sigma).reshape(-1, *([1] * (latents.ndim - 1)))
                update += (scale * (clean - latents)).sum(0, keepdim=True) / self.draws
            target = latents + update
        return half_squared_error([latents], [target])

    def _denoised(self, latents: Tensor, t: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        noised = add_noise(self.prior, latents, t, noise)
        settings = {'steps': self.denoising_steps}
        guided = denoise_in_steps(self.prior, noised, t, condition, guidance=self.guidance, **settings)
        if not self.guidance_rescale:
            return guided
        plain = denoise_in_steps(self.prior, noised, t, condition, guidance=1.0, **settings)
        axes = tuple(range(1, guided.ndim))
        spread = plain.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp_min(1e-8)
        return guided * (1 + self.guidance_rescale * (spread - 1))

    def _draws(self, latents: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """Micro-batches of times (b,) and noises (b, ...), the same for any size of micro-batch."""
        low, high = self.t_range
        shape = (self.draws, *latents.shape[1:])
        t = low + (high - low) * torch.rand(self.draws, generator=generator, device=generator.device)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        t, noise = t.to(latents), noise.to(latents)
        return list(zip(t.split(self.micro_batch), noise.split(self.micro_batch), strict=True))

    def _at_level(self, audio: Tensor) -> Tensor:
        """(B, C, T), each item at the wanted level; unlike :func:`at_level` with the gain's gradient."""
        if self.level_db is None:
            return audio
        size = min(audio.shape[-1], round(WINDOW_S * self.prior.sample_rate))
        power = nn.functional.avg_pool1d(audio.square().mean(1), size, stride=max(1, size // 4)).amax(1)
        # Silence stays silent instead of becoming amplified rounding errors.
        return audio * (10 ** (self.level_db / 20) / power.clamp_min(1e-12).sqrt())[:, None, None]

    def _matched(self, audio: Tensor) -> Tensor:
        channels = self.prior.channels
        if audio.ndim != 2 or audio.shape[0] not in (1, channels):
            raise ValueError(
                f'a renderer must return (channels, samples) with 1 or {channels} channels; got {tuple(audio.shape)}'
            )
        if not torch.isfinite(audio.detach()).all():
            raise ValueError('the rendered sound holds NaN or infinite samples; lower the learning rate, or bound it')
        return audio.expand(channels, -1)

    def _segment(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        length = self.segment_samples
        if length is None or audio.shape[-1] <= length:
            return audio
        last = audio.shape[-1] - length
        start = int(torch.randint(last + 1, (1,), generator=generator, device=generator.device))
        return audio[:, start : start + length]
