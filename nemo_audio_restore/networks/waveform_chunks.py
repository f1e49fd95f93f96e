"""Long audio through a convolutional encoder or decoder piece by piece, with the result of one pass over everything.

A latent depends on a bounded stretch of audio, and a sample on a bounded stretch of latents. A piece that is computed
with that much more on both sides is therefore equal to the same piece of the whole; how much that is follows from the
kernels, so it holds for any network built of these layers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Piece:
    """A stretch of latents to compute and the wider stretch to compute it from."""

    start: int
    """First latent of the result."""
    end: int
    """One past its last."""
    from_start: int
    """First latent of what is fed in."""
    from_end: int
    """One past its last."""


def pieces(wanted: int, *, available: int, size: int, context: int) -> Iterator[Piece]:
    """Divides a number of latents into pieces with context on both sides.

    Args:
        wanted: latents to divide, from the first one.
        available: latents that there are, at least ``wanted``: what the context may be taken from.
        size: of a piece, at least 1; the last one may be shorter.
        context: further latents on each side, where there are any.

    Yields:
        The pieces in order.
    """
    if size < 1:
        raise ValueError(f'a piece must hold at least one latent; got {size}')
    for start in range(0, wanted, size):
        end = min(start + size, wanted)
        yield Piece(start, end, max(0, start - context), min(available, end + context))


def decode_in_chunks(
    decode: Callable[[Tensor], Tensor], latents: Tensor, *, size: int, context: int, ratio: int, length: int
) -> Tensor:
    """Decodes only what is needed for ``length`` samples, in pieces.

    Args:
        decode: (B, D, L) to (B, C, L * ratio).
        latents: (B, D, L).
        size: latents of a piece; bounds the memory.
        context: latents on which a sample depends on each side.
        ratio: samples of a latent.
        length: samples wanted, at most L * ratio.

    Returns:
        (B, C, length), the beginning of ``decode(latents)``.
    """
    parts = []
    for piece in pieces(-(-length // ratio), available=latents.shape[-1], size=size, context=context):
        audio = decode(latents[..., piece.from_start : piece.from_end])
        parts.append(audio[..., (piece.start - piece.from_start) * ratio : (piece.end - piece.from_start) * ratio])
    return torch.cat(parts, dim=-1)[..., :length]


def encode_in_chunks(
    encode: Callable[[Tensor], Tensor], audio: Tensor, *, size: int, context: int, ratio: int
) -> Tensor:
    """Encodes in pieces.

    Args:
        encode: (B, C, L * ratio) to (B, D, L).
        audio: (B, C, L * ratio).
        size: latents of a piece; bounds the memory.
        context: latents' worth of audio on which a latent depends on each side.
        ratio: samples of a latent.

    Returns:
        (B, D, L), equal to ``encode(audio)``.
    """
    parts = []
    total = audio.shape[-1] // ratio
    for piece in pieces(total, available=total, size=size, context=context):
        encoded = encode(audio[..., piece.from_start * ratio : piece.from_end * ratio])
        parts.append(encoded[..., piece.start - piece.from_start : piece.end - piece.from_start])
    return torch.cat(parts, dim=-1)


def encoder_context(encoder: nn.Module, ratio: int) -> int:
    """Latents' worth of audio, on each side, that a latent depends on.

    Args:
        encoder: its convolutions are applied in the order of ``modules()``; shortcuts around them do not matter.
        ratio: samples of a latent.

    Returns:
        8 for the published autoencoders.
    """
    low, high = _input_range(encoder, 0, 0)
    return -(-max(-low, high - (ratio - 1)) // ratio)


def decoder_context(decoder: nn.Module, ratio: int) -> int:
    """Latents, on each side, that the samples of one latent depend on.

    Args:
        decoder: its convolutions are applied in the order of ``modules()``; shortcuts around them do not matter.
        ratio: samples of a latent.

    Returns:
        10 for the published autoencoders.
    """
    low, high = _input_range(decoder, 0, ratio - 1)
    return max(-low, high)


def _input_range(network: nn.Module, low: int, high: int) -> tuple[int, int]:
    """First and last input position on which the outputs low..high depend."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]
    for layer in reversed(convolutions):
        (kernel,), (stride,), (padding,) = layer.kernel_size, layer.stride, layer.padding
        reach = layer.dilation[0] * (kernel - 1)
        if isinstance(layer, nn.ConvTranspose1d):
            low, high = -((reach - padding - low) // stride), (high + padding) // stride
        else:
            low, high = low * stride - padding, high * stride - padding + reach
    return low, high
