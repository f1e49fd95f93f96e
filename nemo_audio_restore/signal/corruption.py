"""Damage to spectrograms: missing bandwidth and missing time, as masks plus noise in their place."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

FILL_STD = 0.5


@dataclass(frozen=True)
class Corruption:
    """One damaged batch.

    Attributes:
        mask: (B, 1, F, N), 1 where the spectrogram is damaged and has to be generated.
        loss_mask: (B, 1, F, N), the part of ``mask`` whose true content is known.
        degraded: (B, 3, F, N), clean outside the mask, noise inside.
    """

    mask: Tensor
    loss_mask: Tensor
    degraded: Tensor


def fill_with_noise(clean: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
    """Replaces the masked part by Gaussian noise of standard deviation 0.5 in all channels.

    Args:
        clean: (B, C, F, N).
        mask: (B, 1, F, N) of zeros and ones.
        noise: (B, C, F, N), standard normal.

    Returns:
        The bridge's degraded end x_1, (B, C, F, N).

    Source: A2SB (arXiv 2501.11311), section 3.
    """
    return clean * (1 - mask) + FILL_STD * noise * mask


def first_missing_row(cutoff_hz: float, representation: MagnitudePhaseSpectrogram) -> int:
    """Row from which a low-pass at ``cutoff_hz`` leaves nothing; row i is STFT bin i + 1, since DC is dropped."""
    return int(representation.n_fft * cutoff_hz / representation.sample_rate)


def bandwidth_mask(cutoff_hz: float, representation: MagnitudePhaseSpectrogram) -> Tensor:
    """(F, 1) mask of the rows above ``cutoff_hz``."""
    rows = torch.arange(representation.num_bins)
    return (rows >= first_missing_row(cutoff_hz, representation)).float()[:, None]


class RandomCorruption(nn.Module):
    """Draws the damage of each item: the band above a random cutoff, all bins of a random stretch of time, or both.

    Args:
        bandwidth_probability: share of items that only lose bandwidth; the rest gets a gap.
        both_probability: share of items with a gap that lose bandwidth too.
        cutoff_range_hz: the cutoff is drawn uniformly between these, in whole rows.
        gap_range_s: the gap's length is drawn uniformly between these, in seconds.

    Source: A2SB (arXiv 2501.11311), section 4; the defaults are the paper's.
    """

    def __init__(
        self,
        *,
        bandwidth_probability: float = 0.5,
        both_probability: float = 0.0,
        cutoff_range_hz: tuple[float, float] = (2000.0, 16000.0),
        gap_range_s: tuple[float, float] = (0.1004, 1.606),
    ):
        super().__init__()
        for name, share in {
            'bandwidth_probability': bandwidth_probability,
            'both_probability': both_probability,
        }.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f'{name} must lie in [0, 1]; got {share}')
        for name, (low, high) in {'cutoff_range_hz': cutoff_range_hz, 'gap_range_s': gap_range_s}.items():
            if not 0.0 < low <= high:
                raise ValueError(f'{name} must be (low, high) with 0 < low <= high; got {(low, high)}')
        self.bandwidth_probability = bandwidth_probability
        self.both_probability = both_probability
        self.cutoff_range_hz = tuple(cutoff_range_hz)
        self.gap_range_s = tuple(gap_range_s)

    def forward(
        self,
        representation: MagnitudePhaseSpectrogram,
        clean: Tensor,
        bandwidth_hz: Tensor,
        generator: torch.Generator | None = None,
    ) -> Corruption:
        """Damages a batch.

        Args:
            representation: gives rows and frames their units.
            clean: (B, 3, F, N).
            bandwidth_hz: (B,) true bandwidth of each item; rows above it are damaged but not part of ``loss_mask``.
            generator: source of all random numbers, on the CPU.

        Returns:
            Masks and the noisy end of the bridge, on ``clean``'s device.
        """
        batch, _, bins, frames = clean.shape
        mask = torch.zeros(batch, 1, bins, frames)
        for item in range(batch):
            gap = torch.rand((), generator=generator) >= self.bandwidth_probability
            if gap:
                start, stop = self._draw_gap(representation, frames, generator)
                mask[item, :, :, start:stop] = 1
            if not gap or torch.rand((), generator=generator) < self.both_probability:
                mask[item, :, self._draw_row(representation, generator) :] = 1
        limits = torch.tensor([first_missing_row(float(hz), representation) for hz in bandwidth_hz])
        trusted = (torch.arange(bins)[None, :] < limits[:, None]).float()[:, None, :, None]
        noise = torch.randn(clean.shape, generator=generator)
        mask, loss_mask, noise = (x.to(clean.device) for x in (mask, mask * trusted, noise))
        return Corruption(mask, loss_mask, fill_with_noise(clean, mask, noise))

    def _draw_row(self, representation: MagnitudePhaseSpectrogram, generator: torch.Generator | None) -> int:
        low, high = (first_missing_row(hz, representation) for hz in self.cutoff_range_hz)
        return int(torch.randint(low, max(high, low + 1), (), generator=generator))

    def _draw_gap(
        self, representation: MagnitudePhaseSpectrogram, frames: int, generator: torch.Generator | None
    ) -> tuple[int, int]:
        low, high = (seconds * representation.frame_rate for seconds in self.gap_range_s)
        length = int(low + (high - low) * float(torch.rand((), generator=generator)))
        length = min(max(length, 1), frames)
        start = int(torch.randint(0, frames - length + 1, (), generator=generator))
        return start, start + length
