"""How the tasks of score distillation are carried out; read by the command line, so it imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DistillationSettings:
    """How a task is carried out.

    Attributes:
        iterations: steps of Adam.
        learning_rate: of the first one.
        guidance: scale of classifier-free guidance (the paper's tau + 1).
        draws: independent noises that each iteration averages over.
        denoising_steps: evaluations of one estimate.
        t_range: noise levels that are drawn, inside (0, 1).
        gamma: weight of the prompts beside the reconstruction, where there is one.
    """

    iterations: int = 40
    learning_rate: float = 0.1
    guidance: float = 4.0
    draws: int = 1
    denoising_steps: int = 4
    t_range: tuple[float, float] = (0.75, 0.98)
    gamma: float = 0.5

    def __post_init__(self):
        for name in ('iterations', 'draws', 'denoising_steps'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1; got {getattr(self, name)}')
        for name in ('learning_rate', 'guidance'):
            if not 0 < getattr(self, name) < float('inf'):
                raise ValueError(f'{name} must be above 0; got {getattr(self, name)}')
        if not 0 <= self.gamma < float('inf'):
            raise ValueError(f'gamma must be 0 (no prompts) or more; got {self.gamma}')
        if not 0 < self.t_range[0] < self.t_range[1] < 1:
            raise ValueError(f't_range must lie inside (0, 1), low before high; got {self.t_range}')


# Tuned for stable_audio_44k_small with benchmarks/distill_quality.py: mixtures of the validation set, other seeds.
SYNTHESIS = DistillationSettings()
FM_SYNTHESIS = DistillationSettings(iterations=160)  # its settings say less of its sound: with 40 it was no drum yet
SEPARATION = DistillationSettings(draws=4, denoising_steps=1, t_range=(0.3, 0.95), gamma=3.0)
ENHANCEMENT = DistillationSettings(learning_rate=0.05, draws=4, denoising_steps=1, t_range=(0.3, 0.95), gamma=3.0)
