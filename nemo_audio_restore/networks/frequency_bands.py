"""Bands of about equal width to the ear: averages over their bins, and the way back by interpolation."""

import torch
from torch import Tensor

# 700 Hz, where the mel scale turns from linear to logarithmic, over 22.05 kHz.
_CORNER = 700 / 22050


def band_averages(num_bins: int, num_bands: int) -> Tensor:
    """Averages over the bins of a band.

    Args:
        num_bins: F, from zero to 22.05 kHz.
        num_bands: bands of equal width in mel; those without a bin of their own are left out.

    Returns:
        (F, K), K at most ``num_bands``; columns sum to 1.
    """
    # On the CPU also where a network is laid out on the meta device: which bands are empty needs values.
    mel = torch.log1p(torch.linspace(0, 1, num_bins, device='cpu') / _CORNER)
    index = (mel / mel[-1] * num_bands).long().clamp(max=num_bands - 1)
    members = torch.zeros(num_bins, num_bands, device='cpu')
    members[torch.arange(num_bins, device='cpu'), index] = 1.0
    members = members[:, members.sum(dim=0) > 0]
    return members / members.sum(dim=0)


def band_interpolation(num_bins: int, num_bands: int) -> Tensor:
    """Straight lines between the middles of the bands of :func:`band_averages`, constant beyond the outer ones.

    Args:
        num_bins: F.
        num_bands: as given to :func:`band_averages`.

    Returns:
        (K, F); columns sum to 1.
    """
    averages = band_averages(num_bins, num_bands)
    bins = torch.arange(num_bins, dtype=torch.float32, device='cpu')
    middles = bins @ averages
    upper = torch.searchsorted(middles, bins).clamp(1, len(middles) - 1)
    low, high = middles[upper - 1], middles[upper]
    share = ((bins - low) / (high - low)).clamp(0, 1)
    weights = torch.zeros(len(middles), num_bins, device='cpu')
    weights[upper - 1, bins.long()] = 1 - share
    weights[upper, bins.long()] += share
    return weights
