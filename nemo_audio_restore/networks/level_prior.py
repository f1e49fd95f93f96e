"""What the known part of a spectrogram says about the level of the missing part, without any network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LevelPrior(nn.Module):
    """Expected magnitude of every bin: a learned average spectrum, scaled like the known bins around it.

    The known magnitudes are divided by the average spectrum, averaged with weights that fall off exponentially with
    the distance, first along time (which fills gaps), then along frequency (which fills bands), and multiplied back.
    Magnitudes are compressed by a power, so a factor is a difference in decibels.

    Args:
        num_bins: rows F.
        reach_frames: distance in frames over which the weights fall to 1 / e.
        reach_bins: distance in rows over which the weights fall to 1 / e.
    """

    def __init__(self, *, num_bins: int, reach_frames: float = 3.0, reach_bins: float = 24.0):
        super().__init__()
        if reach_frames <= 0 or reach_bins <= 0:
            raise ValueError(f'reach_frames and reach_bins must be positive; got {reach_frames} and {reach_bins}')
        self.reach_frames = reach_frames
        self.reach_bins = reach_bins
        self.log_profile = nn.Parameter(torch.zeros(num_bins))
        self.register_buffer('row_weights', _falloff(num_bins, reach_bins), persistent=False)

    def forward(self, magnitude: Tensor, mask: Tensor) -> Tensor:
        """Estimates the magnitudes.

        Args:
            magnitude: (B, 1, F, N), used where the mask is 0.
            mask: (B, 1, F, N), 1 = missing.

        Returns:
            (B, 1, F, N); the average spectrum alone if nothing is known.
        """
        # In half precision the weights of distant bins would vanish.
        with torch.autocast(magnitude.device.type, enabled=False):
            return self._estimate(magnitude.float(), mask.float()).to(magnitude.dtype)

    def _estimate(self, magnitude: Tensor, mask: Tensor) -> Tensor:
        profile = self.log_profile.float().exp()[:, None]
        known = 1 - mask
        relative = magnitude / profile
        frame_weights = _falloff(magnitude.shape[-1], self.reach_frames).to(magnitude)
        along_time, certain = _average(relative * known, known, lambda x: x @ frame_weights)
        relative = torch.where(known > 0, relative, along_time)
        along_frequency, _ = _average(relative * certain, certain, lambda x: self.row_weights.float() @ x)
        return profile * torch.where(certain > 0, relative, along_frequency)


def _falloff(size: int, reach: float) -> Tensor:
    """(size, size) weights exp(-|i - j| / reach)."""
    index = torch.arange(size, dtype=torch.float32)
    return torch.exp(-(index[:, None] - index[None, :]).abs() / reach)


def _average(weighted: Tensor, weight: Tensor, spread: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Weighted average, 1 where no weight reaches, and 0 or 1 for whether any does."""
    total = spread(weight)
    reached = total > torch.finfo(total.dtype).tiny
    average = spread(weighted) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(reached, average, torch.ones_like(average)), reached.to(weight.dtype)
