"""The times at which a diffusion sampler evaluates the network: descending, without the final 0."""

import math

import torch
from torch import Tensor

from nemo_audio_restore.processes.diffusion import DiffusionProcess


def linear_times(evaluations: int, *, t_max: float = 1.0) -> Tensor:
    """Evenly spaced times.

    Args:
        evaluations: K, at least 1.
        t_max: the first time, in (0, 1].

    Returns:
        (K,) float64 from ``t_max`` down to ``t_max / K``.
    """
    _check(evaluations, t_max)
    return torch.linspace(t_max, 0.0, evaluations + 1, dtype=torch.float64)[:-1]


def exponential_times(
    process: DiffusionProcess, evaluations: int, *, sigma_min: float, sigma_max: float, rho: float = 1.0
) -> Tensor:
    """Times whose ratios of noise to signal fall exponentially.

    Args:
        process: relates ratio and time.
        evaluations: K, at least 1.
        sigma_min: ratio at the last time; Stable Audio Open's card says 0.3.
        sigma_max: ratio at the first; Stable Audio Open's card says 500.
        rho: above 1 it spends more evaluations at low noise.

    Returns:
        (K,) float64.

    Source: the polyexponential schedule of k-diffusion; exponential for rho = 1.
    """
    _check(evaluations, 1.0)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f'0 < sigma_min < sigma_max is needed; got {sigma_min} and {sigma_max}')
    if rho <= 0:
        raise ValueError(f'rho must be positive; got {rho}')
    ramp = torch.linspace(1.0, 0.0, evaluations, dtype=torch.float64) ** rho
    ratios = torch.exp(ramp * (math.log(sigma_max) - math.log(sigma_min)) + math.log(sigma_min))
    return process.time_of_ratio(ratios)


def log_snr_times(
    evaluations: int, *, t_max: float = 1.0, log_snr_min: float = -6.0, log_snr_max: float = 2.0
) -> Tensor:
    """Times of a rectified flow that are evenly spaced in ln((1 - t) / t), but for the first, which is ``t_max``.

    Args:
        evaluations: K, at least 1.
        t_max: the first time, in (0, 1]; below 1 the spacing begins there.
        log_snr_min: where the spacing begins for ``t_max`` of 1.
        log_snr_max: where it ends, one step after the last time.

    Returns:
        (K,) float64.
    """
    _check(evaluations, t_max)
    start = log_snr_min if t_max >= 1 else math.log((1 - t_max) / t_max + 1e-6)
    if start >= log_snr_max:
        raise ValueError(f't_max of {t_max} lies beyond log_snr_max of {log_snr_max}')
    times = torch.sigmoid(-torch.linspace(start, log_snr_max, evaluations + 1, dtype=torch.float64))
    times[0] = t_max
    return times[:-1]


def shift_times(
    times: Tensor,
    length: int,
    *,
    min_length: int = 256,
    max_length: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> Tensor:
    """Moves times towards the noise, the more the longer the clip: long clips show their content at more noise.

    Args:
        times: in [0, 1].
        length: L, number of latents.
        min_length: length of the smallest shift.
        max_length: length of the largest shift.
        base_shift: the smallest shift.
        max_shift: the largest shift.

    Returns:
        The shape of ``times``; 0 and 1 stay.

    Source: Stable Diffusion 3 (arXiv 2403.03206), section 5.3.2, as open-small's configuration writes it.
    """
    share = (length - min_length) / (max_length - min_length)
    # That configuration's sign: exp(mu) multiplies 1 - t, so a negative mu leaves more time to the noise.
    mu = math.exp(-(base_shift + (max_shift - base_shift) * share))
    return 1 - mu / (mu + (1 / (1 - times) - 1))


def _check(evaluations: int, t_max: float) -> None:
    if evaluations < 1:
        raise ValueError(f'at least one network evaluation is needed; got {evaluations}')
    if not 0.0 < t_max <= 1.0:
        raise ValueError(f't_max must lie in (0, 1]; got {t_max}')
