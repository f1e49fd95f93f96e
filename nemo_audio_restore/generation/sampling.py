"""From the name of a sampler to samples: times, the samplers of ``processes`` under one interface, strength."""

import math

import torch
from torch import Tensor

from nemo_audio_restore.generation.settings import SAMPLERS, GenerationError, SamplerSettings
from nemo_audio_restore.processes.bridge_samplers import NoiseSource, OnStep
from nemo_audio_restore.processes.diffusion import Denoise, DiffusionProcess
from nemo_audio_restore.processes.diffusion_samplers import (
    sample_ddim,
    sample_heun,
    sample_ping_pong,
    sample_rk4,
)
from nemo_audio_restore.processes.diffusion_times import exponential_times, linear_times, log_snr_times
from nemo_audio_restore.processes.dpm_solvers import sample_dpmpp_2m, sample_dpmpp_2m_sde, sample_dpmpp_3m_sde

_DETERMINISTIC = {'ddim': sample_ddim, 'dpmpp_2m': sample_dpmpp_2m, 'heun': sample_heun}
_WITH_FRESH_NOISE = {
    'dpmpp_2m_sde': sample_dpmpp_2m_sde,
    'dpmpp_3m_sde': sample_dpmpp_3m_sde,
    'ping_pong': sample_ping_pong,
}


def sampler_times(settings: SamplerSettings, process: DiffusionProcess) -> Tensor:
    """The times of a run from pure noise.

    Args:
        settings: number and spacing.
        process: relates noise and time.

    Returns:
        (K,) float64, strictly descending in (0, 1].
    """
    if settings.spacing == 'exponential':
        return exponential_times(
            process, settings.steps, sigma_min=settings.sigma_min, sigma_max=settings.sigma_max, rho=settings.rho
        )
    times = log_snr_times(settings.steps) if settings.spacing == 'log_snr' else linear_times(settings.steps)
    if settings.sampler == 'heun':
        # Heun's method cannot begin at pure noise: half of the way to the second time is as good.
        times[0] = 0.5 * (times[0] + (times[1] if len(times) > 1 else 1 - 2e-3))
    return times


def strength_time(strength: float, process: DiffusionProcess) -> float:
    """The time at which a variation of a clip begins.

    Strength is an angle: the ratio of noise to signal is tan(pi / 2 strength), whatever the objective. 0.5 begins with
    as much noise as signal; equal strengths begin at equal signal-to-noise ratios.

    Args:
        strength: in (0, 1]; 1 is noise alone.
        process: the schedule.

    Returns:
        Time in (0, 1].

    Raises:
        GenerationError: it is out of range.
    """
    if not 0.0 < strength <= 1.0:
        raise GenerationError(f'strength must lie in (0, 1]; got {strength}')
    if strength == 1.0:
        return 1.0
    ratio = torch.tensor(math.tan(0.5 * math.pi * strength), dtype=torch.float64)
    return float(process.time_of_ratio(ratio))


def times_from(times: Tensor, first: float) -> Tensor:
    """The end of a run that begins with less noise.

    Args:
        times: (K,) of the whole run.
        first: the time at which it shall begin.

    Returns:
        ``first`` and those of ``times`` that are below it.
    """
    below = times[times < first * (1 - 1e-6)]
    return torch.cat([torch.tensor([first], dtype=times.dtype), below])


def count_reports(sampler: str, evaluations: int) -> int:
    """How often ``on_step`` is called in a run over that many times."""
    return 2 * evaluations - 1 if sampler == 'heun' else evaluations


def run_sampler(
    sampler: str,
    predict: Denoise,
    start: Tensor,
    times: Tensor,
    *,
    process: DiffusionProcess,
    noise: NoiseSource,
    on_step: OnStep | None = None,
) -> Tensor:
    """Runs the sampler of a name.

    Args:
        sampler: member of ``SAMPLERS``.
        predict: ``predict(x_t (B, D, L), t (B,)) -> prediction`` of the network, guidance included.
        start: state at ``times[0]``, (B, D, L).
        times: (K,) strictly descending in (0, 1].
        process: schedule and objective.
        noise: for the samplers that add noise on their way.
        on_step: told about the evaluations; may raise to stop.

    Returns:
        Clean latents (B, D, L).

    Raises:
        GenerationError: there is no such sampler.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return process.clean_estimate(x_t, predict(x_t, t), t)

    if sampler in _DETERMINISTIC:
        return _DETERMINISTIC[sampler](denoise, start, times, process=process, on_step=on_step)
    if sampler in _WITH_FRESH_NOISE:
        return _WITH_FRESH_NOISE[sampler](denoise, start, times, process=process, noise=noise, on_step=on_step)
    if sampler == 'rk4':
        return sample_rk4(predict, start, times, process=process, on_step=on_step)
    raise GenerationError(f'sampler "{sampler}" is unknown; choose from {", ".join(SAMPLERS)}')
