"""How a latent diffusion model is sampled; every model brings its own defaults."""

import math
from dataclasses import dataclass

SAMPLERS = ('ddim', 'dpmpp_2m', 'dpmpp_2m_sde', 'dpmpp_3m_sde', 'heun', 'ping_pong', 'rk4')
SPACINGS = ('exponential', 'log_snr', 'linear')


class GenerationError(ValueError):
    """The request does not fit the model or its inputs; the message is one sentence for the user."""


@dataclass(frozen=True)
class SamplerSettings:
    """How clips are sampled.

    Attributes:
        sampler: member of ``SAMPLERS``; 'ddim' is v-DDIM for the v objective and Euler's method for a rectified flow.
        steps: times at which the network is evaluated; 'heun' evaluates twice for each, 'rk4' four times.
        guidance: scale of classifier-free guidance; 1 is the network as it is, at half the cost.
        guidance_rescale: 0 to 1, how far guidance is kept from making latents louder.
        spacing: 'exponential' from ``sigma_max`` to ``sigma_min``, 'log_snr' as published rectified flows, or 'linear'
            in time.
        sigma_min: ratio of noise to signal at the last time, for 'exponential'.
        sigma_max: ratio of noise to signal at the first time, for 'exponential'.
        rho: above 1 'exponential' spends more evaluations at low noise.
        resamples: how often every stretch of the way is gone when a part of the clip is given: more often, and what
            is generated fits its surroundings better.
        full_window: sample the whole window that the network was trained on, also for shorter clips; else only the
            latents that the clip needs: faster, for networks that were trained on clips of all lengths.
    """

    sampler: str = 'dpmpp_2m'
    steps: int = 100
    guidance: float = 6.0
    guidance_rescale: float = 0.0
    spacing: str = 'exponential'
    sigma_min: float = 0.3
    sigma_max: float = 500.0
    rho: float = 1.0
    resamples: int = 3
    full_window: bool = True

    def __post_init__(self):
        for name, value, allowed in (('sampler', self.sampler, SAMPLERS), ('spacing', self.spacing, SPACINGS)):
            if value not in allowed:
                raise GenerationError(f'{name} "{value}" is unknown; choose from {", ".join(allowed)}')
        for name, value in (('steps', self.steps), ('resamples', self.resamples)):
            if not isinstance(value, int) or value < 1:
                raise GenerationError(f'{name} must be a whole number, at least 1; got {value}')
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise GenerationError(f'guidance must be 0 or more; got {self.guidance}')
        if not 0.0 <= self.guidance_rescale <= 1.0:
            raise GenerationError(f'guidance_rescale must lie in [0, 1]; got {self.guidance_rescale}')
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise GenerationError(f'0 < sigma_min < sigma_max is needed; got {self.sigma_min} and {self.sigma_max}')
        if not 0.0 < self.rho < math.inf:
            raise GenerationError(f'rho must be above 0; got {self.rho}')
