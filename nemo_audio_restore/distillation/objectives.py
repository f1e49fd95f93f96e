"""What :func:`fit` minimises: named terms of a renderer, ready made for the tasks of the paper."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore.distillation.distances import Distance, MultiScaleSpectralDistance, half_squared_error
from nemo_audio_restore.distillation.renderers import Renderer
from nemo_audio_restore.distillation.score_distillation import ScoreDistillation
from nemo_audio_restore.distillation.sources import LatentSources

Objective = Callable[[Renderer, torch.Generator], dict[str, Tensor]]


def _check_rate(renderer: Renderer, distillation: ScoreDistillation) -> None:
    if renderer.sample_rate != distillation.prior.sample_rate:
        raise ValueError(
            f'the renderer makes sound at {renderer.sample_rate} Hz, the prior knows {distillation.prior.sample_rate} '
            'Hz; make the renderer with the rate of the prior'
        )


def prompt_objective(distillation: ScoreDistillation, condition: Any, *, num_samples: int) -> Objective:
    """The sound follows one prompt.

    Args:
        distillation: the loss.
        condition: of the prompt.
        num_samples: length of the sound.

    Returns:
        An objective with the term 'prompt'.

    Raises:
        ValueError: when it meets a renderer of another sample rate than the prior's.
    """

    def objective(renderer: Renderer, generator: torch.Generator) -> dict[str, Tensor]:
        _check_rate(renderer, distillation)
        return {'prompt': distillation(renderer(num_samples), condition, generator=generator)}

    return objective


def separation_objective(
    distillation: ScoreDistillation,
    conditions: Sequence[Any],
    mixture: Tensor,
    *,
    gamma: float,
    distance: Distance,
) -> Objective:
    """Each source follows its prompt, and the sources add up to the mixture.

    Both terms are means over bins, so ``gamma`` does not depend on the length or on the windows.

    Args:
        distillation: the loss.
        conditions: one for each source.
        mixture: (C, T).
        gamma: weight of the prompts beside the reconstruction.
        distance: in which the sum of the sources is compared with the mixture.

    Returns:
        An objective for :class:`LatentSources` with the terms 'reconstruction' and 'prompts'.

    Raises:
        ValueError: when it meets a renderer with another number of sources than there are conditions.

    Source: Audio-SDS (arXiv 2505.04621), equations 11-13.
    """
    targets = distance.features(mixture[None])

    def objective(renderer: LatentSources, generator: torch.Generator) -> dict[str, Tensor]:
        _check_count(renderer, conditions)
        sources = renderer.sources(mixture.shape[-1])
        prompts = sum(
            distillation(source, condition, generator=generator)
            for source, condition in zip(sources, conditions, strict=True)
        )
        reconstruction = half_squared_error(distance.features(sources.sum(0)[None]), targets)
        return {'reconstruction': reconstruction, 'prompts': gamma * prompts}

    return objective


def latent_objective(
    distillation: ScoreDistillation,
    conditions: Sequence[Any],
    recording: Tensor,
    *,
    gamma: float,
    distance: MultiScaleSpectralDistance,
) -> Objective:
    """Each source's latents follow their prompt, and the powers of the sources add up to those of the recording.

    For autoencoders that keep levels and make phases up, so that waveforms cannot be compared with the recording; and
    cheaper than :func:`separation_objective`, since nothing is encoded and only the sources are decoded. Levels are
    compared in units of the recording's: silence has an error of one half.

    Args:
        distillation: the loss; its ``latent_loss`` is used, so mode, distance, segments and level have no part.
        conditions: one for each source; one alone draws a whole recording towards a prompt.
        recording: (C, T).
        gamma: weight of the prompts beside the recording; with 0 the prior is never asked.
        distance: in which the sum of the sources is compared with the recording.

    Returns:
        An objective for :class:`LatentSources` with the terms 'reconstruction' and 'prompts'.

    Raises:
        ValueError: when it meets a renderer with another number of sources than there are conditions.

    Source: Audio-SDS (arXiv 2505.04621), equations 11-13, with the classic update (2) in place of (4).
    """
    targets = distance.features(recording[None])
    # Half the squared error of silence at each scale, but for digital silence itself.
    levels = [target.square().mean().sqrt().clamp_min(1e-6) for target in targets]
    scaled = [target / level for target, level in zip(targets, levels, strict=True)]

    def objective(renderer: LatentSources, generator: torch.Generator) -> dict[str, Tensor]:
        _check_count(renderer, conditions)
        features = distance.features_of_sum(renderer.sources(recording.shape[-1]))
        features = [feature / level for feature, level in zip(features, levels, strict=True)]
        terms = {'reconstruction': half_squared_error(features, scaled) / len(features)}
        if gamma:
            terms['prompts'] = gamma * sum(
                distillation.latent_loss(latents[None], condition, generator=generator)
                for latents, condition in zip(renderer.latents, conditions, strict=True)
            )
        return terms

    return objective


def _check_count(renderer: LatentSources, conditions: Sequence[Any]) -> None:
    if len(renderer.latents) != len(conditions):
        raise ValueError(
            f'every source needs a prompt of its own; got {len(renderer.latents)} sources, {len(conditions)} prompts'
        )
