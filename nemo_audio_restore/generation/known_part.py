"""In-painting without retraining: known latents are put in place at every step, and stretches are gone repeatedly."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_audio_restore.generation.sampling import count_reports, run_sampler
from nemo_audio_restore.processes.bridge_samplers import NoiseSource, OnStep, SamplerStep
from nemo_audio_restore.processes.diffusion import Denoise, DiffusionProcess

_STRETCHES = 8
_FEWEST_STEPS = 3


@dataclass(frozen=True)
class KnownPart:
    """What the latents are known to be, and where."""

    latents: Tensor
    """(1, D, L); any values where they are not known."""
    mask: Tensor
    """(L,) bool, True where they are known."""


def sample_around(
    sampler: str,
    predict: Denoise,
    start: Tensor,
    times: Tensor,
    known: KnownPart,
    *,
    process: DiffusionProcess,
    noise: NoiseSource,
    resamples: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Samples the unknown latents between the known ones, with any sampler.

    The clean estimate of known latents is what they are, so that their noisy states follow by themselves. Each
    stretch of the way is gone ``resamples`` times, with fresh noise to get back to its beginning: the unknown part
    has as many chances to fit the known one.

    Args:
        sampler: member of ``SAMPLERS``.
        predict: ``predict(x_t (B, D, L), t (B,)) -> prediction``.
        start: state at ``times[0]``, (B, D, L); the known part is put in place here.
        times: (K,) strictly descending in (0, 1].
        known: the known part, one for the whole batch.
        process: schedule and objective.
        noise: for the ways back, and for samplers that add noise.
        resamples: 1 goes the way once.
        on_step: told about the evaluations; may raise to stop.

    Returns:
        Clean latents (B, D, L).

    Source: RePaint (arXiv 2201.09865), algorithm 1 and section 4.2, carried to any schedule and sampler.
    """
    total = count_around(sampler, len(times), resamples)
    done = 0
    x = torch.where(known.mask, process.alpha(times[0]).item() * known.latents + start, start)
    clean = x
    for first, last, goes_back in _stretches(len(times), resamples):
        stretch = times[first : last + 1]
        reached = x

        def report(step: SamplerStep) -> None:
            nonlocal done, reached
            reached = step.state
            done += 1
            if on_step is not None:
                on_step(SamplerStep(done - 1, total, step.time, step.state, step.clean_estimate))

        held = _hold(predict, process, known, x, float(stretch[0]))
        clean = run_sampler(sampler, held, x, stretch, process=process, noise=noise, on_step=report)
        if last + 1 == len(times):
            reached, t_reached = clean, torch.zeros((), dtype=times.dtype)
        else:
            t_reached = stretch[-1]
        x = _back(process, reached, t_reached, stretch[0], noise) if goes_back else reached
    return clean


def count_around(sampler: str, evaluations: int, resamples: int) -> int:
    """How often :func:`sample_around` calls ``on_step``."""
    return sum(count_reports(sampler, last + 1 - first) for first, last, _ in _stretches(evaluations, resamples))


def _stretches(evaluations: int, resamples: int) -> Iterator[tuple[int, int, bool]]:
    """First and last index of the times of every stretch, and whether its beginning is where the next one begins."""
    if resamples == 1:
        yield 0, evaluations - 1, False
        return
    length = max(_FEWEST_STEPS, -(-evaluations // _STRETCHES))
    first = 0
    while first < evaluations:
        last = first + length
        if last + 2 >= evaluations:  # a last stretch of one or two steps is not worth its own start
            last = evaluations - 1
        for left in reversed(range(resamples)):
            yield first, last, left > 0
        first = last if last + 1 < evaluations else evaluations


def _hold(predict: Denoise, process: DiffusionProcess, known: KnownPart, start: Tensor, first: float) -> Denoise:
    """The network, but for known latents the prediction whose clean estimate is what they are."""
    t_first = torch.tensor(first, dtype=torch.float64)
    noise = (start - process.alpha(t_first).item() * known.latents) / process.sigma(t_first).item()

    def prediction(x_t: Tensor, t: Tensor) -> Tensor:
        own = predict(x_t, t)
        if not t.any():  # without noise every prediction gives the clean state; the right slope is that of the start
            told = process.target(known.latents.expand_as(x_t), noise, t)
        else:
            # A clean estimate is a + b prediction; both by evaluation, so that no objective is named here.
            zero, one = torch.zeros_like(x_t), torch.ones_like(x_t)
            told = (known.latents - process.clean_estimate(x_t, zero, t)) / process.clean_estimate(zero, one, t)
        return torch.where(known.mask, told, own)

    return prediction


def _back(process: DiffusionProcess, x: Tensor, t: Tensor, t_noisier: Tensor, noise: NoiseSource) -> Tensor:
    """From a state at t to one at a noisier time, with fresh noise."""
    share = process.alpha(t_noisier).item() / process.alpha(t).item()
    variance = process.sigma(t_noisier).item() ** 2 - (share * process.sigma(t).item()) ** 2
    return share * x + max(variance, 0.0) ** 0.5 * noise(0, x)
