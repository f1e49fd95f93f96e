"""The tasks of score distillation, each one call: follow a prompt, divide a mixture, draw a recording to a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_audio_restore.distillation.distances import MultiScaleSpectralDistance
from nemo_audio_restore.distillation.fit import FitHistory, OnIteration, fit
from nemo_audio_restore.distillation.objectives import (
    enhancement_objective,
    prompt_objective,
    separation_objective,
)
from nemo_audio_restore.distillation.prior import AudioPrior
from nemo_audio_restore.distillation.renderers import Renderer
from nemo_audio_restore.distillation.score_distillation import ScoreDistillation
from nemo_audio_restore.distillation.sources import LatentSources, share_mixture

_SPREAD = 0.3


@dataclass(frozen=True)
class DistillationSettings:
    """How a task is carried out.

    Attributes:
        iterations: steps of Adam.
        learning_rate: of the first one.
        guidance: scale of classifier-free guidance (the paper's tau + 1).
        draws: independent noises that each iteration averages over.
        denoising_steps: evaluations of one estimate.
        gamma: weight of the prompts beside the reconstruction, where there is one.
    """

    iterations: int = 300
    learning_rate: float = 0.05
    guidance: float = 15.0
    draws: int = 4
    denoising_steps: int = 2
    gamma: float = 0.5

    def __post_init__(self):
        for name in ('iterations', 'draws', 'denoising_steps'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1; got {getattr(self, name)}')
        for name in ('learning_rate', 'guidance', 'gamma'):
            if not 0 < getattr(self, name) < float('inf'):
                raise ValueError(f'{name} must be above 0; got {getattr(self, name)}')


def follow_prompt(
    prior: AudioPrior,
    renderer: Renderer,
    prompt: str,
    *,
    seconds: float,
    negative: str | None = None,
    settings: DistillationSettings | None = None,
    seed: int = 0,
    on_iteration: OnIteration | None = None,
    checkpoint: str | Path | None = None,
) -> FitHistory:
    """Moves the parameters of a renderer until its sound is what a prompt says.

    Args:
        prior: frozen model.
        renderer: any, at the rate of the prior; moved in place.
        prompt: what is to be heard.
        seconds: length of the sound.
        negative: what is not wanted.
        settings: of the task.
        seed: of noise and times.
        on_iteration: is told the iteration (from 1) and the terms.
        checkpoint: file to go on from after an interruption.

    Returns:
        The terms of every iteration.

    Raises:
        ValueError: the prompt, the length or the renderer does not fit the prior.

    Source: Audio-SDS (arXiv 2505.04621), section 4.
    """
    settings = settings or DistillationSettings()
    condition = prior.condition([prompt], negative=None if negative is None else [negative], seconds=seconds)
    num_samples = round(seconds * prior.sample_rate)
    return fit(
        renderer,
        prompt_objective(_loss(prior, settings), condition, num_samples=num_samples),
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        seed=seed,
        on_iteration=on_iteration,
        checkpoint=checkpoint,
    )


def separate(
    prior: AudioPrior,
    mixture: Tensor,
    prompts: Sequence[str],
    *,
    settings: DistillationSettings | None = None,
    seed: int = 0,
    on_iteration: OnIteration | None = None,
    checkpoint: str | Path | None = None,
) -> Tensor:
    """Divides a mixture into sounds that prompts describe.

    Args:
        prior: frozen model.
        mixture: (C, T) at the rate of the prior, no longer than what it knows.
        prompts: K descriptions, at least two.
        settings: of the task.
        seed: of noise and times.
        on_iteration: is told the iteration (from 1) and the terms.
        checkpoint: file to go on from after an interruption.

    Returns:
        (K, C, T): shares of the mixture, which add up to it within 1e-5 of its peak.

    Raises:
        ValueError: there are fewer than two prompts, or one or the length does not fit the prior.

    Source: Audio-SDS (arXiv 2505.04621), equations 11-13; the shares are soft masks of the estimates.
    """
    if len(prompts) < 2:
        raise ValueError(f'separation needs a prompt for each of at least two sounds; got {len(prompts)}')
    settings = settings or DistillationSettings()
    num_samples = mixture.shape[-1]
    seconds = num_samples / prior.sample_rate
    conditions = [prior.condition([prompt], seconds=seconds) for prompt in prompts]
    renderer = LatentSources.from_mixture(
        prior, mixture, len(prompts), spread=_SPREAD, generator=torch.Generator().manual_seed(seed)
    )
    distance = MultiScaleSpectralDistance()
    fit(
        renderer,
        separation_objective(_loss(prior, settings), conditions, mixture, gamma=settings.gamma, distance=distance),
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        seed=seed,
        on_iteration=on_iteration,
        checkpoint=checkpoint,
    )
    with torch.no_grad():
        return share_mixture(renderer.sources(num_samples), mixture)


def enhance(
    prior: AudioPrior,
    recording: Tensor,
    prompt: str,
    *,
    settings: DistillationSettings | None = None,
    seed: int = 0,
    on_iteration: OnIteration | None = None,
    checkpoint: str | Path | None = None,
) -> Tensor:
    """Draws a recording towards a prompt such as 'clean speech'.

    Args:
        prior: frozen model.
        recording: (C, T) at the rate of the prior, no longer than what it knows.
        prompt: what it shall sound like.
        settings: of the task.
        seed: of noise and times.
        on_iteration: is told the iteration (from 1) and the terms.
        checkpoint: file to go on from after an interruption.

    Returns:
        (C, T), rendered by the decoder of the prior.

    Raises:
        ValueError: the prompt or the length does not fit the prior.
    """
    settings = settings or DistillationSettings()
    num_samples = recording.shape[-1]
    condition = prior.condition([prompt], seconds=num_samples / prior.sample_rate)
    with torch.no_grad():
        renderer = LatentSources(prior, prior.encode(recording[None]))
    objective = enhancement_objective(
        _loss(prior, settings), condition, recording, gamma=settings.gamma, distance=MultiScaleSpectralDistance()
    )
    fit(
        renderer,
        objective,
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        seed=seed,
        on_iteration=on_iteration,
        checkpoint=checkpoint,
    )
    with torch.no_grad():
        return renderer(num_samples)


def _loss(prior: AudioPrior, settings: DistillationSettings) -> ScoreDistillation:
    return ScoreDistillation(
        prior,
        guidance=settings.guidance,
        draws=settings.draws,
        micro_batch=settings.draws,
        denoising_steps=settings.denoising_steps,
    )
