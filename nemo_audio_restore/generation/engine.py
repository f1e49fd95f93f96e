"""Prompts to clips: batches, seeds, exact lengths."""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from nemo_audio_restore.generation.given import Given
from nemo_audio_restore.generation.known_part import sample_around
from nemo_audio_restore.generation.level import at_loudness, check_loudness
from nemo_audio_restore.generation.plan import Plan, make_plan
from nemo_audio_restore.generation.prompts import check_negatives, check_prompts
from nemo_audio_restore.generation.protocol import GeneratedClip, GenerationStep, LatentGenerator, OnStep
from nemo_audio_restore.generation.sampling import run_sampler
from nemo_audio_restore.generation.settings import GenerationError, SamplerSettings
from nemo_audio_restore.processes.bridge_samplers import OnStep as OnSamplerStep
from nemo_audio_restore.processes.bridge_samplers import SamplerStep
from nemo_audio_restore.processes.item_noise import item_generators, noise_from_each


def generate_clips(
    model: LatentGenerator,
    prompts: str | Sequence[str],
    *,
    seconds: float | None = None,
    negative: str | Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    settings: SamplerSettings | None = None,
    given: Given | None = None,
    loudness_lufs: float | None = None,
    batch_size: int = 4,
    on_step: OnStep | None = None,
) -> Iterator[GeneratedClip]:
    """Makes a clip for every prompt and seed.

    Args:
        model: in evaluation mode.
        prompts: one text or several.
        seconds: length of the clips; for a continuation, of what is added. None takes that of the audio that is
            given, or the model's window. In-painting keeps the length of its audio.
        negative: what to lead away from: one text for all prompts, or one for each.
        seeds: every prompt is made with each of them; the same prompt, seed and settings give the same clip, whatever
            else is made.
        settings: of the sampler; None takes the model's.
        given: audio to vary, to repair or to continue.
        loudness_lufs: integrated loudness of every clip, or None to leave the level as the model made it. Where the
            true peak would exceed ``PEAK_LIMIT_DB``, the clip stays quieter.
        batch_size: clips that are made at once: more memory, faster on a GPU.
        on_step: told about every evaluation of the network.

    Returns:
        An iterator over the clips: all seeds of the first prompt, then of the next. Each batch is computed when its
        first clip is asked for; the request itself is checked at once.

    Raises:
        AudioFileError: audio that is given cannot be read.
        GenerationError: the request does not fit the model.
        ImportError: an optional package is needed for it.
    """
    texts = check_prompts(prompts)
    negatives = check_negatives(negative, len(texts))
    if not seeds:
        raise GenerationError('at least one seed is needed; got none')
    if batch_size < 1:
        raise GenerationError(f'batch_size must be at least 1; got {batch_size}')
    check_loudness(loudness_lufs, given)
    plan = make_plan(model, seconds, settings or model.sampler, given)
    items = [
        (text, None if negatives is None else negatives[index], int(seed))
        for index, text in enumerate(texts)
        for seed in seeds
    ]
    return _clips(model, plan, items, batch_size=batch_size, loudness_lufs=loudness_lufs, on_step=on_step)


def _clips(
    model: LatentGenerator,
    plan: Plan,
    items: Sequence[tuple[str, str | None, int]],
    *,
    batch_size: int,
    loudness_lufs: float | None,
    on_step: OnStep | None,
) -> Iterator[GeneratedClip]:
    batches = [range(first, min(first + batch_size, len(items))) for first in range(0, len(items), batch_size)]
    for number, batch in enumerate(batches):
        started = time.monotonic()

        def report(step: SamplerStep, number: int = number, batch: range = batch) -> None:
            if on_step is not None:
                done, total = number * plan.steps + step.index + 1, len(batches) * plan.steps
                on_step(GenerationStep(done, total, tuple(batch), step.time, step.clean_estimate))

        audio = _batch(model, plan, [items[index] for index in batch], report)
        seconds = (time.monotonic() - started) / len(batch)
        for index, samples in zip(batch, audio, strict=True):
            prompt, negative, seed = items[index]
            clip = GeneratedClip(
                samples, model.sample_rate, prompt, negative, seed, plan.settings, plan.task, plan.strength,
                plan.spans_s, plan.steps, seconds,
            )  # fmt: skip
            yield clip if loudness_lufs is None else at_loudness(clip, loudness_lufs)


@torch.no_grad()
def _batch(
    model: LatentGenerator, plan: Plan, items: Sequence[tuple[str, str | None, int]], report: OnSamplerStep
) -> list[np.ndarray]:
    """Samples (C, T) of every item."""
    if plan.audio is not None:
        return [plan.audio.copy() for _ in items]
    prompts, negatives, seeds = zip(*items, strict=True)
    condition = model.condition(
        prompts, seconds=plan.conditioned_s, negative=None if negatives[0] is None else negatives
    )
    predict = model.predictor(
        condition, guidance=plan.settings.guidance, guidance_rescale=plan.settings.guidance_rescale
    )
    noise = noise_from_each(item_generators(seeds))
    clean = torch.zeros(len(items), model.latent_channels, plan.num_latents, device=model.device)
    if plan.initial is not None:
        clean = plan.initial.expand_as(clean)
    # The first draw is the state; samplers with fresh noise go on with the same generators.
    start = model.process.marginal(plan.times[0], clean).sample(noise(0, clean))
    run = {'process': model.process, 'noise': noise, 'on_step': report}
    sampler = plan.settings.sampler
    if plan.known is None:
        latents = run_sampler(sampler, predict, start, plan.times, **run)
    else:
        resamples = plan.settings.resamples
        latents = sample_around(sampler, predict, start, plan.times, plan.known, resamples=resamples, **run)
    if plan.placement is None:
        return list(model.decode(latents, length=plan.num_samples).float().cpu().numpy())
    decoded = model.decode(latents, length=plan.placement.needed_samples).float().cpu().numpy()
    return [plan.placement.joined(samples) for samples in decoded]
