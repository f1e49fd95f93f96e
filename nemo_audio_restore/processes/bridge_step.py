"""One step of the non-Markov sampler family of the Schroedinger bridge."""

import torch
from torch import Tensor

from .bridge import SchrodingerBridge


def _coefficients(process: SchrodingerBridge, t: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of the degraded end (a) and standard deviation (c) of q(x_t | x_0, x_1); the clean end weighs 1 - a."""
    total = process.total_variance
    variance, remaining = process.variance(t), process.remaining_variance(t)
    return variance / total, (variance * remaining / total).clamp_min(0).sqrt()


def step_noise_std(process: SchrodingerBridge, t: Tensor, t_next: Tensor, *, eta: float) -> Tensor:
    """Standard deviation of the fresh noise that :func:`bridge_step` adds between ``t`` and ``t_next``.

    It is eta times that of the Markov posterior (I2SB, arXiv 2302.05872, equation 11). At t = 1, where nothing but
    fresh noise exists, it is the whole marginal standard deviation for every eta.
    """
    variance, variance_next = process.variance(t), process.variance(t_next)
    markov = (variance_next * (variance - variance_next) / variance).clamp_min(0).sqrt()
    _, std_now = _coefficients(process, t)
    _, std_next = _coefficients(process, t_next)
    return torch.where(std_now > 0, eta * markov, std_next)


def bridge_step(
    process: SchrodingerBridge,
    x_t: Tensor,
    clean: Tensor,
    degraded: Tensor,
    t: Tensor,
    t_next: Tensor,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Moves a state from ``t`` to ``t_next < t`` so that it keeps the marginals q(x_t | x_0, x_1) of the bridge.

    With q(x_t | x_0, x_1) = N(b x_0 + a x_1, c**2):

        x_u = b_u x_0 + a_u x_1 + sqrt(c_u**2 - rho**2) (x_t - b_t x_0 - a_t x_1) / c_t + rho noise

    eta = 1 is the Markov posterior of the bridge, eta = 0 adds no noise after the first step. Where ``clean`` equals
    ``degraded`` (the known region) the state stays ``degraded + c_u * noise`` with one and the same noise for eta = 0.

    Args:
        process: the bridge.
        x_t: (B, ...) state at ``t``.
        clean: (B, ...) estimate of x_0, with the known region already put in.
        degraded: (B, ...) the degraded end x_1.
        t: () or (B,) time of the state, in (0, 1].
        t_next: () or (B,) time to go to, in [0, t).
        eta: 0 to 1, share of the Markov step's fresh noise.
        noise: (B, ...) standard normal, or broadcastable; may be None where none is used (eta = 0 and t < 1).

    Returns:
        (B, ...) state at ``t_next``.

    Raises:
        ValueError: eta outside [0, 1], or fresh noise is needed and none was given.

    Source: the family of DBIM (arXiv 2405.15885), equation 10, in closed form for the bridge without drift.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f'eta must lie in [0, 1]; got {eta}')
    degraded_weight, std_now = _coefficients(process, t)
    degraded_weight_next, std_next = _coefficients(process, t_next)
    fresh = step_noise_std(process, t, t_next, eta=eta)
    kept = (std_next.square() - fresh.square()).clamp_min(0).sqrt()
    # At t = 1 the bridge has no spread: kept is zero there, and so is the residual it multiplies.
    kept = torch.where(std_now > 0, kept / std_now.clamp_min(torch.finfo(std_now.dtype).tiny), torch.zeros_like(kept))

    def expand(value: Tensor) -> Tensor:
        return value if value.ndim == 0 else value.reshape(-1, *([1] * (x_t.ndim - 1)))

    mean_now = torch.lerp(clean, degraded, expand(degraded_weight).to(clean))
    mean_next = torch.lerp(clean, degraded, expand(degraded_weight_next).to(clean))
    result = mean_next + expand(kept).to(clean) * (x_t - mean_now)
    if noise is None:
        if bool((fresh > 0).any()):
            raise ValueError('this step adds fresh noise (eta > 0 or t = 1): pass noise of the shape of x_t')
        return result
    return result + expand(fresh).to(clean) * noise


def second_order_estimate(
    process: SchrodingerBridge,
    clean: Tensor,
    previous: Tensor,
    t_previous: Tensor,
    t: Tensor,
    t_next: Tensor,
) -> Tensor:
    """The clean end that makes a step without fresh noise exact when the estimate is linear in the log-ratio.

    With lambda = log(b / c), the deterministic flow between two times is an integral of exp(lambda) x_0(lambda). The
    estimate is continued along lambda by a line through its last two values; nothing more has to be evaluated.

    Args:
        process: the bridge.
        clean: (B, ...) estimate of x_0 at ``t``.
        previous: (B, ...) estimate of x_0 at ``t_previous``.
        t_previous: () time of the evaluation before, above ``t``.
        t: () time of the present evaluation.
        t_next: () time to go to, in (0, t).

    Returns:
        (B, ...) to be passed to :func:`bridge_step` as ``clean``. It is ``clean`` itself when ``t_previous`` is 1,
        from where no distance can be measured: the bridge has no spread there.

    Source: DBIM (arXiv 2405.15885), section 4.3, second order; of the multistep form of DPM-Solver++ (2211.01095).
    """
    before, now, then = (_log_ratio(process, time) for time in (t_previous, t, t_next))
    step, last_step = then - now, now - before
    # int exp(lambda) (lambda - now) over int exp(lambda), over the distance of the two estimates.
    weight = ((step - 1) + torch.exp(-step)) / (-torch.expm1(-step)) / last_step
    return clean + weight.to(clean) * (clean - previous)


def _log_ratio(process: SchrodingerBridge, t: Tensor) -> Tensor:
    """log(b / c) of q(x_t | x_0, x_1): how far the clean end stands out of the noise; -inf at t = 1."""
    return 0.5 * (process.remaining_variance(t) / (process.total_variance * process.variance(t))).log()
