"""The tasks of score distillation, each one call: follow a prompt, divide a mixture, draw a recording to a prompt."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from nemo_audio_restore.distillation.distances import MultiScaleSpectralDistance
from nemo_audio_restore.distillation.fit import FitHistory, OnIteration, fit
from nemo_audio_restore.distillation.objectives import latent_objective, prompt_objective
from nemo_audio_restore.distillation.prior import AudioPrior
from nemo_audio_restore.distillation.renderers import Renderer
from nemo_audio_restore.distillation.score_distillation import ScoreDistillation
from nemo_audio_restore.distillation.segments import Work, in_segments, segment_starts
from nemo_audio_restore.distillation.settings import ENHANCEMENT, SEPARATION, SYNTHESIS, DistillationSettings
from nemo_audio_restore.distillation.sources import LatentSources, share_mixture, turned_down
from nemo_audio_restore.signal.level import at_level

_SPREAD = 0.3
# Loudest tenth of a second, in dB of full scale: what stable_audio_44k_small was trained at.
_LEVEL_DB = -16.0
_OVERLAP_S = 0.5
_COMPRESSED = 0.6


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
    """Moves the parameters of a renderer until its sound is what a prompt says; its level stays where it is.

    A sound longer than the prior knows is judged on a random segment of that length at each iteration.

    Args:
        prior: frozen model.
        renderer: any, at the rate of the prior; moved in place.
        prompt: what is to be heard.
        seconds: length of the sound.
        negative: what is not wanted.
        settings: of the task; SYNTHESIS unless given.
        seed: of noise and times.
        on_iteration: is told the iteration (from 1) and the terms.
        checkpoint: file to go on from after an interruption.

    Returns:
        The terms of every iteration.

    Raises:
        ValueError: the prompt, the length or the renderer does not fit the prior.

    Source: Audio-SDS (arXiv 2505.04621), section 4.
    """
    settings = settings or SYNTHESIS
    heard = min(seconds, longest(prior))
    condition = prior.condition([prompt], negative=None if negative is None else [negative], seconds=heard)
    loss = _loss(prior, settings, segment_samples=round(heard * prior.sample_rate))
    return fit(
        renderer,
        prompt_objective(loss, condition, num_samples=round(seconds * prior.sample_rate)),
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        seed=seed,
        on_iteration=on_iteration,
        checkpoint=checkpoint,
        about={'prompt': prompt, 'negative': negative, 'seconds': seconds, **asdict(settings)},
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
    segment_s: float | None = None,
) -> Tensor:
    """Divides a mixture into sounds that prompts describe.

    Latents of every sound are found whose powers add up to the mixture's while each follows its prompt; the mixture is
    then shared out by the levels of what they decode to.

    Args:
        prior: frozen model.
        mixture: (C, T) at the rate of the prior, of any length.
        prompts: K descriptions, at least two.
        settings: of the task; SEPARATION unless given.
        seed: of noise and times.
        on_iteration: is told the iteration (from 1, over all segments) and the terms.
        checkpoint: file to go on from after an interruption.
        segment_s: longer mixtures are divided piece by piece, with crossfades; None takes what the prior knows.

    Returns:
        (K, C, T): shares of the mixture, which add up to it within 1e-5 of its peak.

    Raises:
        ValueError: there are fewer than two prompts, or one or the length does not fit the prior.

    Source: Audio-SDS (arXiv 2505.04621), equations 11-13; the shares are soft masks of the estimates.
    """
    if len(prompts) < 2:
        raise ValueError(f'separation needs a prompt for each of at least two sounds; got {len(prompts)}')

    def divide(segment: Tensor, index: int, file: Path | None) -> Tensor:
        heard = _heard(segment, prior)
        generator = torch.Generator().manual_seed(seed + index)
        renderer = LatentSources.from_mixture(prior, heard, len(prompts), spread=_SPREAD, generator=generator)
        found = _fit_latents(
            prior, renderer, heard, prompts, settings or SEPARATION, seed=seed + index, on_iteration=on_iteration,
            checkpoint=file, before=index,
        )  # fmt: skip
        return share_mixture(found, segment)

    return _in_segments(prior, mixture, divide, segment_s=segment_s, checkpoint=checkpoint)


def enhance(
    prior: AudioPrior,
    recording: Tensor,
    prompt: str,
    *,
    settings: DistillationSettings | None = None,
    seed: int = 0,
    on_iteration: OnIteration | None = None,
    checkpoint: str | Path | None = None,
    segment_s: float | None = None,
) -> Tensor:
    """Draws a recording towards a prompt such as 'clean speech'.

    Args:
        prior: frozen model.
        recording: (C, T) at the rate of the prior, of any length.
        prompt: what it shall sound like.
        settings: of the task; ENHANCEMENT unless given.
        seed: of noise and times.
        on_iteration: is told the iteration (from 1, over all segments) and the terms.
        checkpoint: file to go on from after an interruption.
        segment_s: longer recordings are drawn piece by piece, with crossfades; None takes what the prior knows.

    Returns:
        (C, T): the recording, turned down where the latents that were found are quieter than its own.

    Raises:
        ValueError: the prompt or the length does not fit the prior.
    """

    def draw(segment: Tensor, index: int, file: Path | None) -> Tensor:
        heard = _heard(segment, prior)
        with torch.no_grad():
            renderer = LatentSources(prior, prior.encode(heard[None]))
            coded = renderer.sources(segment.shape[-1])[0]
        found = _fit_latents(
            prior, renderer, heard, [prompt], settings or ENHANCEMENT, seed=seed + index, on_iteration=on_iteration,
            checkpoint=file, before=index,
        )  # fmt: skip
        return turned_down(segment, coded, found[0])

    return _in_segments(prior, recording, draw, segment_s=segment_s, checkpoint=checkpoint)


def count_segments(prior: AudioPrior, num_samples: int, *, segment_s: float | None = None) -> int:
    """Into how many pieces a recording is divided.

    Args:
        prior: that judges them.
        num_samples: of the recording.
        segment_s: as for :func:`separate`.

    Returns:
        The number of pieces, each of which takes all iterations.

    Raises:
        ValueError: a piece would be longer than the prior knows, or shorter than the crossfade.
    """
    length, overlap = _segment_samples(prior, num_samples, segment_s)
    return len(segment_starts(num_samples, segment_samples=length, overlap_samples=overlap))


def longest(prior: AudioPrior) -> float:
    """Seconds of the longest sound that a prior knows; infinite for one that has no window."""
    return getattr(prior, 'max_seconds', float('inf'))


def _fit_latents(
    prior: AudioPrior,
    renderer: LatentSources,
    recording: Tensor,
    prompts: Sequence[str],
    settings: DistillationSettings,
    *,
    seed: int,
    on_iteration: OnIteration | None,
    checkpoint: Path | None,
    before: int,
) -> Tensor:
    """Sounds (K, C, T) of the latents that were found; ``before`` is the number of segments that are done."""
    num_samples = recording.shape[-1]
    conditions = [prior.condition([prompt], seconds=num_samples / prior.sample_rate) for prompt in prompts]
    distance = MultiScaleSpectralDistance((512, 2048), exponent=_COMPRESSED)
    with torch.no_grad():
        # The prompts' term in units of the recording's latents, as the other one is in those of its levels.
        spread = prior.encode(recording[None]).var().clamp_min(1e-6)
    objective = latent_objective(
        _loss(prior, settings), conditions, recording, gamma=settings.gamma / float(spread), distance=distance
    )
    counted = None
    if on_iteration is not None:
        done = before * settings.iterations

        def counted(iteration: int, terms: dict[str, float]) -> None:
            on_iteration(done + iteration, terms)

    fit(
        renderer,
        objective,
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        seed=seed,
        on_iteration=counted,
        checkpoint=checkpoint,
        about={'prompts': list(prompts), 'samples': num_samples, **asdict(settings)},
    )
    with torch.no_grad():
        return renderer.sources(num_samples)


def _in_segments(
    prior: AudioPrior,
    recording: Tensor,
    work: Work,
    *,
    segment_s: float | None,
    checkpoint: str | Path | None,
) -> Tensor:
    length, overlap = _segment_samples(prior, recording.shape[-1], segment_s)
    return in_segments(recording, work, segment_samples=length, overlap_samples=overlap, checkpoint=checkpoint)


def _segment_samples(prior: AudioPrior, num_samples: int, segment_s: float | None) -> tuple[int, int]:
    """Length of a segment and of the crossfade."""
    known = longest(prior)
    if segment_s is not None and not _OVERLAP_S < segment_s <= known:
        raise ValueError(f'segments must be longer than {_OVERLAP_S:g} s and at most {known:g} s; got {segment_s:g}')
    seconds = known if segment_s is None else segment_s
    if num_samples <= seconds * prior.sample_rate:
        return num_samples, 0
    return int(seconds * prior.sample_rate), int(_OVERLAP_S * prior.sample_rate)


def _heard(recording: Tensor, prior: AudioPrior) -> Tensor:
    """The recording at the level that the prior knows."""
    return at_level(recording, prior.sample_rate, _LEVEL_DB, peak=1.0)


def _loss(
    prior: AudioPrior, settings: DistillationSettings, *, segment_samples: int | None = None
) -> ScoreDistillation:
    return ScoreDistillation(
        prior,
        mode='encoder',
        level_db=_LEVEL_DB,
        guidance=settings.guidance,
        draws=settings.draws,
        micro_batch=settings.draws,
        denoising_steps=settings.denoising_steps,
        t_range=settings.t_range,
        segment_samples=segment_samples,
    )
