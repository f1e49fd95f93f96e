"""Recordings as windows of one length: what an audio tower hears, one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowBatch:
    """Recordings of different lengths in one batch."""

    windows: Tensor
    """(B, W, T) samples; what is not there is zero."""
    mask: Tensor
    """(B, W) bool, False for windows that only fill up the batch."""


def num_windows(num_samples: int, *, window_samples: int, hop_samples: int) -> int:
    """Windows that cover a recording; the last may reach beyond its end.

    Args:
        num_samples: of the recording.
        window_samples: length of a window.
        hop_samples: from the start of one window to the next.

    Returns:
        At least 1.
    """
    return 1 + max(0, -(-(num_samples - window_samples) // hop_samples))


def split_windows(audio: Tensor, *, window_samples: int, hop_samples: int) -> Tensor:
    """Cuts a recording into windows; the last is filled up with zeros.

    Args:
        audio: (T,) samples.
        window_samples: length of a window.
        hop_samples: from the start of one window to the next; smaller than a window, they overlap.

    Returns:
        (W, window_samples).
    """
    count = num_windows(len(audio), window_samples=window_samples, hop_samples=hop_samples)
    total = window_samples + (count - 1) * hop_samples
    padded = torch.nn.functional.pad(audio, (0, total - len(audio)))
    return padded.unfold(0, window_samples, hop_samples).contiguous()


def batch_windows(recordings: Sequence[Tensor]) -> WindowBatch:
    """Puts recordings of different lengths into one batch.

    Args:
        recordings: (W, T) windows of each, of one length T.

    Returns:
        The batch, as wide as its longest recording.

    Raises:
        ValueError: there is no recording, or windows have different lengths.
    """
    if not recordings or len({item.shape[1] for item in recordings}) != 1:
        raise ValueError(
            f'windows of one length are needed; got {sorted({item.shape[1] for item in recordings}) or "no recording"}'
        )
    counts = torch.tensor([len(item) for item in recordings], device=recordings[0].device)
    windows = torch.nn.utils.rnn.pad_sequence(list(recordings), batch_first=True)
    return WindowBatch(windows, torch.arange(windows.shape[1], device=counts.device) < counts[:, None])


def peak_normalised(audio: Tensor, *, stretch_one_sided: bool = False) -> Tensor:
    """Scales a recording so that its loudest sample is 1 or -1; digital silence stays silent.

    Args:
        audio: (T,) samples.
        stretch_one_sided: a recording without negative samples is stretched to reach from its least to 1 around
            -1, as the published preparation of Audio Flamingo 2 does.

    Returns:
        (T,).
    """
    peak = audio.abs().max()
    if peak == 0:
        return audio.clone()
    scaled = audio / peak
    return 2 * scaled - 1 if stretch_one_sided and bool(audio.min() >= 0) else scaled


def truncated_to_16_bit(audio: Tensor) -> Tensor:
    """Samples as a 16-bit file holds them when conversion cuts their fractions off.

    Args:
        audio: samples; beyond [-1, 1] they are clipped.

    Returns:
        The same shape, multiples of 1 / 32767.
    """
    return torch.trunc(audio.clamp(-1, 1) * 32767) / 32767
