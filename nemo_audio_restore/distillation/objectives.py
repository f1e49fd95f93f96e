"""What :func:`fit` minimises: named terms of a renderer, ready made for the tasks of the paper."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore.distillation.distances import Distance, half_squared_error
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
        if len(renderer.latents) != len(conditions):
            raise ValueError(
                'every source needs a prompt of its own; '
                f'got {len(renderer.latents)} sources, {len(conditions)} prompts'
            )
        sources = renderer.sources(mixture.shape[-1])
        prompts = sum(
            distillation(source, condition, generator=generator)
            for source, condition in zip(sources, conditions, strict=True)
        )
        reconstruction = half_squared_error(distance.features(sources.sum(0)[None]), targets)
        return {'reconstruction': reconstruction, 'prompts': gamma * prompts}

    return objective


def enhancement_objective(
    distillation: ScoreDistillation, condition: Any, recording: Tensor, *, gamma: float, distance: Distance
) -> Objective:
    """The sound follows a prompt such as 'clean speech' and stays near the recording.

    Args:
        distillation: the loss.
        condition: of the prompt.
        recording: (C, T).
        gamma: weight of the prompt beside the recording.
        distance: in which the sound is compared with the recording.

    Returns:
        An objective with the terms 'reconstruction' and 'prompt'.
    """
    targets = distance.features(recording[None])

    def objective(renderer: Renderer, generator: torch.Generator) -> dict[str, Tensor]:
        _check_rate(renderer, distillation)
        audio = renderer(recording.shape[-1])
        prompt = distillation(audio, condition, generator=generator)
        reconstruction = half_squared_error(distance.features(audio[None]), targets)
        return {'reconstruction': reconstruction, 'prompt': gamma * prompt}

    return objective
