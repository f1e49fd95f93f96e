"""Samplers of diffusion models that take one step after the other: DDIM, Heun, Runge-Kutta and ping-pong.

A sampler evaluates ``denoise(x_t, t) -> clean estimate`` at every entry of ``times``, which are strictly descending in
(0, 1], and returns the last estimate. ``start`` is the state at ``times[0]``:
``process.marginal(times[0], clean).sample(noise)`` with ``clean`` zero, or the latents of a clip to vary. Objective,
guidance and condition are inside ``denoise``; :meth:`DiffusionProcess.denoiser` makes one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge_samplers import NoiseSource, OnStep, SamplerStep
from nemo_audio_restore.processes.diffusion import Denoise, DiffusionProcess

_LEAST_SIGNAL = 1e-6


@dataclass(frozen=True)
class Schedule:
    """The numbers of a run, as lists of Python floats; one more of them than evaluations, for t = 0."""

    times: list[float]
    alpha: list[float]
    sigma: list[float]
    log_snr: list[float]
    """ln(alpha / sigma); -inf for pure noise, inf at the end."""

    @property
    def evaluations(self) -> int:
        """Of a sampler that evaluates once at each time."""
        return len(self.times) - 1


def schedule_of(process: DiffusionProcess, times: Tensor) -> Schedule:
    """What the steps need, computed in float64.

    Args:
        process: the schedule.
        times: (K,) strictly descending in (0, 1].

    Returns:
        K + 1 values of each kind.

    Raises:
        ValueError: the times are not as described.
    """
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f'times must be a non-empty (K,) tensor; got shape {tuple(times.shape)}')
    exact = times.detach().to('cpu', torch.float64)
    if exact[0] > 1 or exact[-1] <= 0 or (exact.diff() >= 0).any():
        raise ValueError(f'times must be strictly descending in (0, 1]; got {exact.tolist()}')
    exact = torch.cat([exact, torch.zeros(1, dtype=torch.float64)])
    alpha, sigma = process.alpha(exact), process.sigma(exact)
    return Schedule(exact.tolist(), alpha.tolist(), sigma.tolist(), (alpha / sigma).log().tolist())


def evaluate(denoise: Denoise, x: Tensor, t: float) -> Tensor:
    """The clean estimate of a state in which all items have one time."""
    return denoise(x, torch.full((x.shape[0],), t, device=x.device, dtype=torch.float32)).to(x.dtype)


def tell(on_step: OnStep | None, index: int, total: int, t: float, state: Tensor, estimate: Tensor) -> None:
    """Calls ``on_step`` if there is one."""
    if on_step is not None:
        on_step(SamplerStep(index, total, t, state, estimate))


def sample_ddim(
    denoise: Denoise, start: Tensor, times: Tensor, *, process: DiffusionProcess, on_step: OnStep | None = None
) -> Tensor:
    """Keeps the noise that an estimate implies and lowers its share; deterministic, of first order.

    For the v objective this is v-DDIM, for a rectified flow the Euler method.

    Args:
        denoise: ``denoise(x_t (B, D, L), t (B,)) -> clean estimate``.
        start: state at ``times[0]``, (B, D, L).
        times: (K,) strictly descending in (0, 1].
        process: the schedule.
        on_step: told about every evaluation; may raise to stop.

    Returns:
        (B, D, L).

    Source: DDIM (arXiv 2010.02502), equation 12 with eta 0.
    """
    plan = schedule_of(process, times)
    x, clean = start, start
    for index in range(plan.evaluations):
        clean = evaluate(denoise, x, plan.times[index])
        tell(on_step, index, plan.evaluations, plan.times[index], x, clean)
        noise = (x - plan.alpha[index] * clean) / plan.sigma[index]
        x = plan.alpha[index + 1] * clean + plan.sigma[index + 1] * noise
    return clean


def sample_heun(
    denoise: Denoise, start: Tensor, times: Tensor, *, process: DiffusionProcess, on_step: OnStep | None = None
) -> Tensor:
    """Euler's step corrected by the slope at its end; deterministic, of second order, two evaluations a step.

    Args:
        denoise: ``denoise(x_t (B, D, L), t (B,)) -> clean estimate``.
        start: state at ``times[0]``, (B, D, L).
        times: (K,) strictly descending in (0, 1): it divides by the share of the signal, so it cannot begin at pure
            noise.
        process: the schedule.
        on_step: told about each of the 2 K - 1 evaluations; may raise to stop.

    Returns:
        (B, D, L).

    Raises:
        ValueError: the first time is pure noise.

    Source: EDM (arXiv 2206.00364), algorithm 1, for states divided by alpha.
    """
    plan = schedule_of(process, times)
    if plan.alpha[0] < _LEAST_SIGNAL:
        raise ValueError(f'the Heun sampler cannot begin at pure noise: times must be below 1, not {times[0]}')
    total = 2 * plan.evaluations - 1
    x, clean = start, start
    for index in range(plan.evaluations):
        clean = evaluate(denoise, x, plan.times[index])
        tell(on_step, 2 * index, total, plan.times[index], x, clean)
        if index + 1 == plan.evaluations:
            break
        t_next, alpha_next = plan.times[index + 1], plan.alpha[index + 1]
        ratio = plan.sigma[index] / plan.alpha[index]
        ratio_next = plan.sigma[index + 1] / alpha_next
        scaled = x / plan.alpha[index]
        slope = (scaled - clean) / ratio
        ahead = scaled + (ratio_next - ratio) * slope
        clean_ahead = evaluate(denoise, ahead * alpha_next, t_next)
        tell(on_step, 2 * index + 1, total, t_next, ahead * alpha_next, clean_ahead)
        slope_ahead = (ahead - clean_ahead) / ratio_next
        x = (scaled + (ratio_next - ratio) * 0.5 * (slope + slope_ahead)) * alpha_next
    return clean


def sample_rk4(
    predict: Denoise, start: Tensor, times: Tensor, *, process: DiffusionProcess, on_step: OnStep | None = None
) -> Tensor:
    """The classical Runge-Kutta method on the probability flow; of fourth order, four evaluations a step.

    Args:
        predict: ``predict(x_t (B, D, L), t (B,)) -> prediction`` of the network, **not** its clean estimate: the last
            step looks at t = 0, where a clean estimate no longer tells the slope.
        start: state at ``times[0]``, (B, D, L).
        times: (K,) strictly descending in (0, 1]; each step goes to the next one, the last to 0.
        process: turns predictions into slopes.
        on_step: told about the first evaluation of every step; may raise to stop.

    Returns:
        (B, D, L).
    """
    plan = schedule_of(process, times)

    def slope(x: Tensor, t: float) -> Tensor:
        return process.velocity(evaluate(predict, x, t))

    x = start
    for index in range(plan.evaluations):
        t, t_next = plan.times[index], plan.times[index + 1]
        step, middle = t_next - t, 0.5 * (t + t_next)
        prediction = evaluate(predict, x, t)
        clean = process.clean_estimate(x, prediction, torch.tensor(t, dtype=torch.float64))
        tell(on_step, index, plan.evaluations, t, x, clean)
        first = process.velocity(prediction)
        second = slope(x + 0.5 * step * first, middle)
        third = slope(x + 0.5 * step * second, middle)
        fourth = slope(x + step * third, t_next)
        x = x + step / 6 * (first + 2 * second + 2 * third + fourth)
    return x


def sample_ping_pong(
    denoise: Denoise,
    start: Tensor,
    times: Tensor,
    *,
    process: DiffusionProcess,
    noise: NoiseSource,
    on_step: OnStep | None = None,
) -> Tensor:
    """Adds fresh noise to every estimate: for distilled networks, whose estimates are samples already.

    Args:
        denoise: ``denoise(x_t (B, D, L), t (B,)) -> clean estimate``.
        start: state at ``times[0]``, (B, D, L).
        times: (K,) strictly descending in (0, 1].
        process: the schedule.
        noise: draw k is asked for after estimate k, but not after the last.
        on_step: told about every evaluation; may raise to stop.

    Returns:
        (B, D, L).

    Source: consistency models (arXiv 2303.01469), algorithm 1; ARC (arXiv 2505.08175), section 3.
    """
    plan = schedule_of(process, times)
    x, clean = start, start
    for index in range(plan.evaluations):
        clean = evaluate(denoise, x, plan.times[index])
        tell(on_step, index, plan.evaluations, plan.times[index], x, clean)
        if index + 1 < plan.evaluations:
            x = plan.alpha[index + 1] * clean + plan.sigma[index + 1] * noise(index, x)
    return clean
