"""One call from noise to latents, with the settings that the published program chooses where none are given."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nemo_audio_restore.generation.sampling import run_sampler, sampler_times
from nemo_audio_restore.generation.settings import SAMPLERS, GenerationError, SamplerSettings
from nemo_audio_restore.processes.bridge_samplers import NoiseSource, OnStep
from nemo_audio_restore.processes.diffusion import DiffusionProcess, Predict, RectifiedFlow
from nemo_audio_restore.processes.diffusion_times import linear_times, log_snr_times
from nemo_audio_restore.processes.guidance import guided

StepNoise = NoiseSource | Sequence[Tensor] | Tensor
_PUBLISHED_NAMES = {'euler': 'ddim', 'dpmpp': 'dpmpp_2m', 'pingpong': 'ping_pong'}


def sampler_name(name: str) -> str:
    """Our name of a sampler.

    Args:
        name: ours, or the published program's, like ``v-ddim``, ``dpmpp-3m-sde``, ``k-heun``, ``euler``, ``pingpong``.

    Returns:
        One of ``SAMPLERS``.

    Raises:
        GenerationError: there is no such sampler.
    """
    ours = str(name).lower().replace('-', '_').removeprefix('k_').removeprefix('v_')
    ours = _PUBLISHED_NAMES.get(ours, ours)
    if ours not in SAMPLERS:
        raise GenerationError(f'sampler "{name}" is unknown; choose from {", ".join(SAMPLERS)}')
    return ours


def published_spacing(sampler: str, process: DiffusionProcess) -> str:
    """How the published program spaces the times of a sampler.

    Args:
        sampler: our name.
        process: objective.

    Returns:
        A value of :attr:`SamplerSettings.spacing`.
    """
    if isinstance(process, RectifiedFlow):
        return 'linear' if sampler == 'rk4' else 'log_snr'
    return 'linear' if sampler in ('ddim', 'rk4', 'ping_pong') else 'exponential'


def with_choices(
    settings: SamplerSettings,
    process: DiffusionProcess,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    rescale: float | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float | None = None,
) -> tuple[SamplerSettings, Tensor]:
    """The settings of one run and its times.

    Args:
        settings: of the model.
        process: objective.
        sampler: see :func:`sampler_name`; another one than the model's has the published program's spacing.
        steps: number of times.
        guidance: scale of the guidance; 1 for none.
        rescale: 0..1, see :func:`guided`.
        sigma_min: ratio of noise to signal at the last time, where the spacing is exponential.
        sigma_max: ratio at the first time, where the spacing is exponential; elsewhere the first time itself, at most
            1, as in the published program.
        rho: above 1 exponential spacing spends more evaluations at low noise.

    Returns:
        Complete settings, and the times (K,), float64.

    Raises:
        GenerationError: a value is out of range.
    """
    name = settings.sampler if sampler is None else sampler_name(sampler)
    spacing = settings.spacing if name == settings.sampler else published_spacing(name, process)
    first = sigma_max if spacing != 'exponential' and sigma_max is not None else None
    given = {
        'steps': steps,
        'guidance': guidance,
        'guidance_rescale': rescale,
        'sigma_min': sigma_min if spacing == 'exponential' else None,
        'sigma_max': sigma_max if spacing == 'exponential' else None,
        'rho': rho,
    }
    chosen = replace(
        settings, sampler=name, spacing=spacing, **{key: value for key, value in given.items() if value is not None}
    )
    if first is None:
        return chosen, sampler_times(chosen, process)
    if first <= 0:
        raise GenerationError(f'sigma_max must be positive; got {first}')
    return chosen, (log_snr_times if spacing == 'log_snr' else linear_times)(chosen.steps, t_max=min(first, 1.0))


def sample_latents(
    predict: Predict,
    process: DiffusionProcess,
    *,
    noise: Tensor,
    condition: object,
    null: object,
    settings: SamplerSettings,
    times: Tensor,
    step_noise: StepNoise | None = None,
    initial: Tensor | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    on_step: OnStep | None = None,
) -> Tensor:
    """Generates latents.

    Args:
        predict: the network, ``predict(x_t, t, condition)``.
        process: that it was trained on.
        noise: (B, D, L) standard normal.
        condition: of the prompt.
        null: what guidance leads away from.
        settings: sampler and guidance.
        times: (K,) descending in (0, 1].
        step_noise: for samplers that draw noise in every step: that of every step (K, B, D, L), or a function.
        initial: (B, D, L) or (1, D, L) latents of a clip to vary, mixed with the noise at the first time.
        interval: noise levels sigma, 0..1, between which guidance acts.
        on_step: told about every evaluation; may raise to stop.

    Returns:
        (B, D, L).

    Raises:
        GenerationError: ``step_noise`` is missing, or shapes differ.
    """
    if initial is not None and (initial.ndim != noise.ndim or initial.shape[1:] != noise.shape[1:]):
        raise GenerationError(
            f'initial must be shaped like the noise {tuple(noise.shape)}; got {tuple(initial.shape)}'
        )
    clean = torch.zeros_like(noise) if initial is None else initial.to(noise).expand_as(noise)
    led = guided(
        predict, null, process=process, scale=settings.guidance, rescale=settings.guidance_rescale, interval=interval
    )
    return run_sampler(
        settings.sampler,
        lambda x_t, t: led(x_t, t, condition),
        process.marginal(times[0], clean).sample(noise),
        times,
        process=process,
        noise=_noise_source(step_noise, settings.sampler),
        on_step=on_step,
    )


def _noise_source(step_noise: StepNoise | None, sampler: str) -> NoiseSource:
    if callable(step_noise):
        return step_noise

    def given(draw: int, like: Tensor) -> Tensor:
        if step_noise is None or draw >= len(step_noise):
            raise GenerationError(
                f'{sampler} draws noise in every step: give step_noise for all of them, or generators'
            )
        return step_noise[draw].to(like)

    return given
