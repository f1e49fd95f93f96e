"""One training step of latent diffusion: times, noise, dropped conditions, loss. Plain functions on modules."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nemo_audio_restore.networks.latent_condition import LatentCondition, mix_conditions
from nemo_audio_restore.processes.diffusion import DiffusionProcess
from nemo_audio_restore.processes.training_times import SobolTimes, logit_normal_times

_TIMES = ('sobol', 'logit_normal')
_SMALLEST_TIME = 1e-4


@dataclass(frozen=True)
class LatentLossSettings:
    """The ``loss`` block of a latent diffusion model's config.

    Attributes:
        times: how times are drawn: 'sobol' evenly (Stable Audio), 'logit_normal' around the middle.
        time_mean: of the logit, for 'logit_normal'; above 0 for more noise (1.2 with a deviation of 2 is the published
            program's log-snr sampler).
        time_std: of the logit.
        condition_dropout: share of the items whose condition is dropped, so that guidance has something to lead away
            from; prepended tokens are dropped independently.
        ignore_padding: leave the latents behind the end of a clip out of the loss. Otherwise they teach the network
            that a clip is silent after ``seconds_total``, which is how its length is controlled.
        seed: of times, noise and dropout.
    """

    times: str = 'sobol'
    time_mean: float = 0.0
    time_std: float = 1.0
    condition_dropout: float = 0.1
    ignore_padding: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.times not in _TIMES:
            raise ValueError(f'times must be one of {", ".join(_TIMES)}; got {self.times!r}')
        if not 0.0 <= self.condition_dropout < 1.0:
            raise ValueError(f'condition_dropout must lie in [0, 1); got {self.condition_dropout}')
        if self.time_std <= 0:
            raise ValueError(f'time_std must be positive; got {self.time_std}')


class TrainingTimes:
    """Draws times as :class:`LatentLossSettings` says.

    Args:
        settings: of the loss.
        seed: of Sobol's scrambling; two processes and two runs need two seeds.
    """

    def __init__(self, settings: LatentLossSettings, *, seed: int):
        self._settings = settings
        self._sobol = SobolTimes(seed) if settings.times == 'sobol' else None

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Times (batch,) in (0, 1)."""
        if self._sobol is not None:
            times = self._sobol.draw(batch)
        else:
            settings = self._settings
            times = logit_normal_times(batch, generator=generator, mean=settings.time_mean, std=settings.time_std)
        return times.clamp(_SMALLEST_TIME, 1 - _SMALLEST_TIME)


def drop_conditions(
    network: nn.Module, condition: LatentCondition, probability: float, generator: torch.Generator
) -> LatentCondition:
    """Replaces the condition of some items by the network's null condition.

    Args:
        network: says with ``null_condition`` what stands for nothing: learned tokens in the U-Net, zeros in the
            transformer; the summary stays.
        condition: of a batch.
        probability: of an item to lose its tokens, and independently its prepended tokens.
        generator: on the CPU; its state advances.

    Returns:
        The condition to train with.
    """
    given = next(part for part in (condition.tokens, condition.prepended, condition.summary) if part is not None)
    keep = torch.rand(2, len(given), generator=generator).to(given.device) >= probability
    null = network.null_condition(condition)
    mixed = mix_conditions(condition, null, keep[0])
    return replace(mixed, prepended=mix_conditions(condition, null, keep[1]).prepended)


def latent_diffusion_loss(
    network: nn.Module,
    process: DiffusionProcess,
    latents: Tensor,
    condition: LatentCondition,
    *,
    t: Tensor,
    noise: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the network's prediction.

    Args:
        network: ``network(x_t, t, condition)``; may run under autocast.
        process: objective.
        latents: (B, D, L) clean.
        condition: of the batch, dropped where it is to be.
        t: (B,) in [0, 1].
        noise: (B, D, L) standard normal.
        weight: (B, L), 0 for latents that do not count.

    Returns:
        (B,) means over the latents of each item, float32.

    Source: Stable Audio (arXiv 2402.04825), section 3.3; for flows, rectified flow (arXiv 2209.03003), equation 1.
    """
    with torch.autocast(latents.device.type, enabled=False):
        noised = process.noised(latents.float(), noise.float(), t)
    prediction = network(noised.state, t, condition)
    with torch.autocast(latents.device.type, enabled=False):
        error = (prediction.float() - noised.target).square().mean(dim=1)
        if weight is None:
            return error.mean(dim=1)
        return (error * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
