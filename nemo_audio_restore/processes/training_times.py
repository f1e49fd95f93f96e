"""At which times a diffusion network is trained."""

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine


class SobolTimes:
    """Times that fill [0, 1) evenly from batch to batch, where independent ones would leave holes and heaps.

    Args:
        seed: of the scrambling; two ranks need two seeds.

    Source: Sobol's sequence with Owen's scrambling, as the published training program draws its times.
    """

    def __init__(self, seed: int):
        self._engine = SobolEngine(1, scramble=True, seed=seed)

    def draw(self, batch: int) -> Tensor:
        """The next times, (batch,) float32."""
        return self._engine.draw(batch)[:, 0]


def logit_normal_times(batch: int, *, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Times whose logit is normal: most of them in the middle, where a rectified flow is hardest to predict.

    Args:
        batch: B.
        generator: its state advances.
        mean: of the logit; above 0 for more noise.
        std: of the logit, positive.

    Returns:
        (B,) in (0, 1).

    Source: Stable Diffusion 3 (arXiv 2403.03206), section 3.1.
    """
    if std <= 0:
        raise ValueError(f'std must be positive; got {std}')
    return torch.sigmoid(mean + std * torch.randn(batch, generator=generator, device=generator.device))
