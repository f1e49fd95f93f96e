"""Samplers of the Schroedinger bridge: from a degraded spectrogram (t = 1) to an estimate of the clean one (t = 0).

A sampler evaluates ``denoise(x_t, t) -> clean estimate`` once at every entry of ``times`` and returns the last
estimate. ``denoise`` already holds the network, the condition and the tiling; :func:`clean_estimator` makes one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.bridge_step import bridge_step, second_order_estimate, step_noise_std

Denoise = Callable[[Tensor, Tensor], Tensor]
NoiseSource = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class SamplerStep:
    """What ``on_step`` is told after every network evaluation."""

    index: int
    """Evaluations before this one."""
    total: int
    """Evaluations of the whole run."""
    time: float
    """Bridge time of the evaluation."""
    state: Tensor
    """x_t, (B, C, F, N): what the network saw."""
    clean_estimate: Tensor
    """x_0 as estimated now, with the known region put back."""


OnStep = Callable[[SamplerStep], None]


def noise_from(generator: torch.Generator) -> NoiseSource:
    """Draws standard normal noise from a generator, one tensor after the other.

    Drawing happens on the generator's device: a CPU generator gives the same samples whatever device the model is on.

    Args:
        generator: its state advances.

    Returns:
        ``noise(draw, like)``: a tensor with the shape, dtype and device of ``like``. The number of the draw is not
        used here; a source that must give the same noise to every block of a long file uses it.
    """

    def noise(draw: int, like: Tensor) -> Tensor:
        del draw
        return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)

    return noise


def clean_estimator(
    predict: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    process: SchrodingerBridge,
    condition: Tensor | None = None,
) -> Denoise:
    """Turns a network (or ``tiled(network, ...)``) into a function of state and time that estimates x_0.

    Args:
        predict: ``predict(x_t, t, condition)``, trained on :meth:`SchrodingerBridge.target`.
        process: the bridge it was trained on.
        condition: what the network is told besides the state, (B, 1, F, N).

    Returns:
        ``denoise(x_t, t)``, for the samplers below.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return process.clean_estimate(x_t, predict(x_t, t, condition), t)

    return denoise


def sampling_times(evaluations: int, *, t_min: float, power: float = 1.0) -> Tensor:
    """Times of the network evaluations, from 1 down to ``t_min``; just 1 for a single one.

    Args:
        evaluations: K, at least 1.
        t_min: the last time, in (0, 1).
        power: the times to the power 1 / ``power`` are evenly spaced: 1 is the published grid, more makes the late
            steps (near ``t_min``) shorter, less the early ones. Above 0.

    Returns:
        (K,) float32, strictly descending.

    Raises:
        ValueError: a number outside its range.
    """
    if evaluations < 1:
        raise ValueError(f'at least one network evaluation is needed; got {evaluations}')
    if not 0.0 < t_min < 1.0:
        raise ValueError(f't_min must lie in (0, 1); got {t_min}')
    if power <= 0:
        raise ValueError(f'power must be above 0; got {power}')
    if power == 1:
        return torch.linspace(1.0, t_min, evaluations)
    return torch.linspace(1.0, t_min ** (1 / power), evaluations, dtype=torch.float64).pow(power).float()


def sample_markov(
    denoise: Denoise,
    start: Tensor,
    times: Tensor,
    *,
    process: SchrodingerBridge,
    degraded: Tensor,
    mask: Tensor,
    noise: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The published sampler: after every estimate a draw from the posterior, and a fresh one for the known region.

    Args:
        denoise: ``denoise(x_t (B, C, F, N), t (B,)) -> clean estimate``.
        start: state at ``times[0]``; at time 1 that is ``degraded``. (B, C, F, N).
        times: (K,) strictly descending in (0, 1]; the network is evaluated once at each.
        process: the bridge.
        degraded: x_1, (B, C, F, N); it is the truth where the mask is 0.
        mask: (B, 1, F, N), 1 = to generate.
        noise: called twice after every estimate but the last: draws 2 k (posterior) and 2 k + 1 (known region).
            None leaves both out, which the literature calls OT-ODE: deterministic, and not what A2SB was trained for.
        on_step: told about every evaluation; may raise to stop.

    Returns:
        The last clean estimate, equal to ``degraded`` where the mask is 0.

    Source: I2SB (arXiv 2302.05872), algorithm 2; A2SB (arXiv 2501.11311), section 3.
    """
    schedule = _checked(times, start, degraded, mask)
    x, estimate = start, start
    for index, t in enumerate(schedule):
        estimate = _estimate(denoise, x, t, degraded, mask)
        if on_step is not None:
            on_step(SamplerStep(index, len(schedule), float(t), x, estimate))
        if index + 1 == len(schedule):
            break
        t_next = schedule[index + 1]
        posterior = process.posterior(x, estimate, t, t_next)
        known = process.marginal(t_next, degraded, degraded)
        if noise is None:
            x = torch.lerp(known.mean, posterior.mean, mask)
        else:
            generated = posterior.sample(noise(2 * index, x))
            x = torch.lerp(known.sample(noise(2 * index + 1, x)), generated, mask)
    return estimate


def sample_bridge(
    denoise: Denoise,
    start: Tensor,
    times: Tensor,
    *,
    process: SchrodingerBridge,
    degraded: Tensor,
    mask: Tensor,
    noise: NoiseSource,
    eta: float = 0.0,
    order: int = 1,
    on_step: OnStep | None = None,
) -> Tensor:
    """Non-Markov sampler with the training marginals: good with few evaluations, no retraining.

    Every move is a :func:`bridge_step`: ``eta=1`` is the Markov step, ``eta=0`` is deterministic after the first draw,
    which is needed because the bridge has no spread at t = 1. The known region needs no rule of its own: its estimate
    is x_1, so it stays x_1 plus the noise that was drawn first, scaled to the time.

    Args:
        denoise: ``denoise(x_t (B, C, F, N), t (B,)) -> clean estimate``.
        start: state at ``times[0]``; at time 1 that is ``degraded``. (B, C, F, N).
        times: (K,) strictly descending in (0, 1]; the network is evaluated once at each.
        process: the bridge.
        degraded: x_1, (B, C, F, N); it is the truth where the mask is 0.
        mask: (B, 1, F, N), 1 = to generate.
        noise: draw k is asked for after estimate k (never after the last): draw 0 when ``times[0]`` is 1, the others
            when ``eta`` is above 0.
        eta: share of fresh noise in every step, 0..1.
        order: 1 takes every estimate as it is, 2 continues the change since the one before
            (:func:`second_order_estimate`); as many evaluations either way.
        on_step: told about every evaluation; may raise to stop.

    Returns:
        The last clean estimate, equal to ``degraded`` where the mask is 0.

    Source: DBIM (arXiv 2405.15885), algorithm 1; I3SB (arXiv 2403.06069).
    """
    if order not in (1, 2):
        raise ValueError(f'order must be 1 or 2; got {order}')
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f'eta must lie in [0, 1] (0 deterministic, 1 the Markov step); got {eta}')
    schedule = _checked(times, start, degraded, mask)
    x, estimate, previous = start, start, None
    for index, t in enumerate(schedule):
        estimate = _estimate(denoise, x, t, degraded, mask)
        if on_step is not None:
            on_step(SamplerStep(index, len(schedule), float(t), x, estimate))
        if index + 1 == len(schedule):
            break
        t_next = schedule[index + 1]
        needs_noise = step_noise_std(process, t, t_next, eta=eta) > 0
        fresh = noise(index, x) if needs_noise else None
        target = estimate
        if order == 2 and previous is not None:
            target = second_order_estimate(process, estimate, previous, schedule[index - 1], t, t_next)
        x = bridge_step(process, x, target, degraded, t, t_next, eta=eta, noise=fresh)
        previous = estimate
    return estimate


def _estimate(denoise: Denoise, x: Tensor, t: Tensor, degraded: Tensor, mask: Tensor) -> Tensor:
    """The clean estimate at time t, with the known region put back."""
    batch = t.to(device=x.device, dtype=torch.float32).expand(x.shape[0])
    return torch.lerp(degraded, denoise(x, batch).to(x.dtype), mask)


def _checked(times: Tensor, start: Tensor, degraded: Tensor, mask: Tensor) -> Tensor:
    """The times in float64 (s2(t) - s2(u) cancels near t = 1), after a look at all shapes."""
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f'times must be a non-empty (K,) tensor; got shape {tuple(times.shape)}')
    schedule = times.detach().to('cpu', torch.float64)
    if schedule[0] > 1 or schedule[-1] <= 0 or (schedule.diff() >= 0).any():
        raise ValueError(f'times must be strictly descending in (0, 1]; got {schedule.tolist()}')
    if start.ndim != 4 or start.shape != degraded.shape:
        raise ValueError(
            'start and degraded must have one shape (B, C, F, N); '
            f'got {tuple(start.shape)} and {tuple(degraded.shape)}'
        )
    batch, _, bins, frames = degraded.shape
    if mask.shape != (batch, 1, bins, frames):
        raise ValueError(f'mask must be {(batch, 1, bins, frames)}; got {tuple(mask.shape)}')
    return schedule
