"""Parameters in physical units that stay inside their range while an optimiser moves them freely."""

import math

import torch
from torch import Tensor, nn


class LogBounded(nn.Module):
    """Positive values between two limits, moved on a logarithmic scale: frequencies, times.

    Args:
        values: where they start, any shape, inside the limits.
        low: lower limit, positive.
        high: upper limit.
        name: for messages.

    Raises:
        ValueError: the limits are in the wrong order, or a value lies outside them.
    """

    def __init__(self, values: Tensor, *, low: float, high: float, name: str):
        super().__init__()
        if not 0 < low < high:
            raise ValueError(f'{name} needs limits 0 < low < high; got {low}, {high}')
        share = torch.log(values.double() / low) / math.log(high / low)
        # A value that sits on a limit may come back from a patch a rounding error outside it.
        if not bool(((share >= -1e-5) & (share <= 1 + 1e-5)).all()):
            raise ValueError(f'{name} must lie in {low:g}..{high:g}; got {values.tolist()}')
        self.low, self.high = low, high
        self.raw = nn.Parameter(torch.logit(share, eps=1e-6).float())

    def forward(self) -> Tensor:
        """The values, in their unit."""
        return self.low * torch.exp(math.log(self.high / self.low) * torch.sigmoid(self.raw))
