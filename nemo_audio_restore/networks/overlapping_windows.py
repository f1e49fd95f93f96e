"""Windows four hops long, each centred on its hop: their spectra, and their sum."""

import torch
from torch import Tensor
from torch.nn import functional


def spectra(audio: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Spectra of windows, each centred on its hop; silence lies beyond both ends.

    Args:
        audio: (B, T), T a multiple of the hop.
        window: (W,), at least as long as the hop.
        hop_length: in samples.

    Returns:
        (B, T / hop, W / 2 + 1) complex, in at least single precision.
    """
    margin = (len(window) - hop_length) // 2
    padded = functional.pad(at_least_single(audio), (margin, margin))
    return torch.fft.rfft(padded.unfold(1, len(window), hop_length) * window)


def overlap_add(windows: Tensor) -> Tensor:
    """Adds windows a quarter of their length apart, each centred on its hop.

    Args:
        windows: (B, M, 4 hop).

    Returns:
        (B, M hop).
    """
    batch, length, size = windows.shape
    hop_length = size // 4
    margin = 3 * hop_length // 2
    quarters = windows.reshape(batch, length, 4, hop_length)
    total = sum(functional.pad(quarters[:, :, q], (0, 0, q, 3 - q)) for q in range(4)).reshape(batch, -1)
    return total[:, margin : margin + length * hop_length]


def at_least_single(x: Tensor) -> Tensor:
    """Half precision widened to single: what Fourier transforms need."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
