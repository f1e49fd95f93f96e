"""The DPM-Solver++ family: samplers that learn from their previous estimates, deterministic or with fresh noise.

All are written for states alpha x_0 + sigma noise, so they serve every objective; dividing by alpha gives the forms of
programs that keep the clean share at 1. With l = ln(alpha / sigma), h is the step in l.

The arguments are those of :mod:`diffusion_samplers`.
"""

import math

from torch import Tensor

from nemo_audio_restore.processes.bridge_samplers import NoiseSource, OnStep
from nemo_audio_restore.processes.diffusion import Denoise, DiffusionProcess
from nemo_audio_restore.processes.diffusion_samplers import evaluate, schedule_of, tell


def sample_dpmpp_2m(
    denoise: Denoise, start: Tensor, times: Tensor, *, process: DiffusionProcess, on_step: OnStep | None = None
) -> Tensor:
    """DPM-Solver++(2M): deterministic, of second order, one evaluation a step.

    Args:
        denoise: ``denoise(x_t (B, D, L), t (B,)) -> clean estimate``.
        start: state at ``times[0]``, (B, D, L).
        times: (K,) strictly descending in (0, 1].
        process: the schedule.
        on_step: told about every evaluation; may raise to stop.

    Returns:
        (B, D, L).

    Source: DPM-Solver++ (arXiv 2211.01095), algorithm 2.
    """
    plan = schedule_of(process, times)
    x, clean, before, h_before = start, start, None, 0.0
    for index in range(plan.evaluations):
        clean = evaluate(denoise, x, plan.times[index])
        tell(on_step, index, plan.evaluations, plan.times[index], x, clean)
        if index + 1 == plan.evaluations:
            break
        h = plan.log_snr[index + 1] - plan.log_snr[index]
        guess = clean
        if before is not None:
            guess = clean + (h / (2 * h_before)) * (clean - before)
        # Equation 8 with the extrapolated estimate.
        x = (plan.sigma[index + 1] / plan.sigma[index]) * x - plan.alpha[index + 1] * math.expm1(-h) * guess
        before, h_before = clean, h
    return clean


def sample_dpmpp_2m_sde(
    denoise: Denoise,
    start: Tensor,
    times: Tensor,
    *,
    process: DiffusionProcess,
    noise: NoiseSource,
    on_step: OnStep | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M): as 2M, with fresh noise in every step, which corrects earlier errors.

    Args:
        denoise: ``denoise(x_t (B, D, L), t (B,)) -> clean estimate``.
        start: state at ``times[0]``, (B, D, L).
        times: (K,) strictly descending in (0, 1].
        process: the schedule.
        noise: draw k is asked for after estimate k, but not after the last.
        on_step: told about every evaluation; may raise to stop.

    Returns:
        (B, D, L).

    Source: DPM-Solver++ (arXiv 2211.01095), section 5 and appendix B.2, the midpoint form.
    """
    plan = schedule_of(process, times)
    x, clean, before, h_before = start, start, None, 0.0
    for index in range(plan.evaluations):
        clean = evaluate(denoise, x, plan.times[index])
        tell(on_step, index, plan.evaluations, plan.times[index], x, clean)
        if index + 1 == plan.evaluations:
            break
        h = plan.log_snr[index + 1] - plan.log_snr[index]
        guess = clean
        if before is not None:
            guess = clean + (h / (2 * h_before)) * (clean - before)
        x = _noisy_step(plan.alpha[index + 1], plan.sigma[index], plan.sigma[index + 1], h, x, guess)
        x = x + _fresh_share(plan.sigma[index + 1], h) * noise(index, x)
        before, h_before = clean, h
    return clean


def sample_dpmpp_3m_sde(
    denoise: Denoise,
    start: Tensor,
    times: Tensor,
    *,
    process: DiffusionProcess,
    noise: NoiseSource,
    on_step: OnStep | None = None,
) -> Tensor:
    """Three estimates and fresh noise: the default of Stable Audio Open's model card.

    Args:
        denoise: ``denoise(x_t (B, D, L), t (B,)) -> clean estimate``.
        start: state at ``times[0]``, (B, D, L).
        times: (K,) strictly descending in (0, 1].
        process: the schedule.
        noise: draw k is asked for after estimate k, but not after the last.
        on_step: told about every evaluation; may raise to stop.

    Returns:
        (B, D, L).

    Source: DPM-Solver++ (arXiv 2211.01095), appendix B, carried to three estimates as in k-diffusion.
    """
    plan = schedule_of(process, times)
    x, clean = start, start
    earlier: list[Tensor] = []  # the last estimates, newest first
    steps: list[float] = []  # the last steps in l, newest first
    for index in range(plan.evaluations):
        clean = evaluate(denoise, x, plan.times[index])
        tell(on_step, index, plan.evaluations, plan.times[index], x, clean)
        if index + 1 == plan.evaluations:
            break
        h = plan.log_snr[index + 1] - plan.log_snr[index]
        alpha_next = plan.alpha[index + 1]
        moved = _noisy_step(alpha_next, plan.sigma[index], plan.sigma[index + 1], h, x, clean)
        second = math.expm1(-2 * h) / (2 * h) + 1
        third = second / (2 * h) - 0.5
        if len(earlier) == 2:
            ratio, ratio_before = steps[0] / h, steps[1] / h
            slope = (clean - earlier[0]) / ratio
            slope_before = (earlier[0] - earlier[1]) / ratio_before
            bend = (slope - slope_before) / (ratio + ratio_before)
            moved = moved + alpha_next * (second * (slope + bend * ratio) - third * bend)
        elif earlier:
            moved = moved + alpha_next * second * (clean - earlier[0]) / (steps[0] / h)
        x = moved + _fresh_share(plan.sigma[index + 1], h) * noise(index, x)
        earlier, steps = [clean, *earlier[:1]], [h, *steps[:1]]
    return clean


def _noisy_step(alpha_next: float, sigma: float, sigma_next: float, h: float, x: Tensor, guess: Tensor) -> Tensor:
    """The mean of a step that is to receive fresh noise."""
    return (sigma_next / sigma) * math.exp(-h) * x - alpha_next * math.expm1(-2 * h) * guess


def _fresh_share(sigma_next: float, h: float) -> float:
    """Standard deviation of the fresh noise of a step."""
    return sigma_next * math.sqrt(-math.expm1(-2 * h))
