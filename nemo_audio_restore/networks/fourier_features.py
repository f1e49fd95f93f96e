"""Numbers as sines and cosines of learned or random frequencies."""

import math

import torch
from torch import Tensor, nn


class NumberFeatures(nn.Module):
    """A number, then the sines, then the cosines of its products with learned frequencies.

    Args:
        dim: number of sines and cosines together, even; the output has one value more.

    Source: Stable Audio (arXiv 2402.04825), section 3.2; the order is that of the published tensors.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(dim // 2))

    def forward(self, numbers: Tensor) -> Tensor:
        """(B,) to (B, dim + 1) float32."""
        with torch.autocast(numbers.device.type, enabled=False):
            numbers = numbers.float()[:, None]
            angle = 2 * math.pi * numbers * self.weights.float()
            return torch.cat([numbers, angle.sin(), angle.cos()], dim=-1)


class TimeFeatures(nn.Module):
    """Cosines, then sines of the products of a time with random frequencies.

    Args:
        dim: size of the output, even.

    Source: Fourier features (arXiv 2006.10739), section 4; the order is that of the published tensors.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim // 2, 1))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) to (B, dim) float32."""
        with torch.autocast(t.device.type, enabled=False):
            # Elementwise: a matrix product would be rounded to TF32 where that is switched on.
            angle = 2 * math.pi * t.float()[:, None] * self.weight.float()[:, 0]
            return torch.cat([angle.cos(), angle.sin()], dim=-1)
