"""Gaussian noise that belongs to a place in the file: independent of block size, tile batch and resume point."""

import hashlib
from collections import OrderedDict

import torch
from torch import Tensor

_BLOCK_FRAMES = 64
_CACHED_BLOCKS = 8

FILL_DRAW = -1
"""Number of the draw that stands in the generated region of the degraded end; draws 0, 1, ... belong to the steps."""


class FrameNoise:
    """Standard normal noise for every (draw, frame) of a spectrogram without end.

    Each block of frames has its own CPU generator, seeded with a hash of (seed, draw, block); all devices see the same
    values.

    Args:
        seed: any integer.
        channels: spectrogram channels.
        bins: rows F.
        stream: streams of other numbers are independent.
    """

    def __init__(self, seed: int, *, channels: int, bins: int, stream: int = 0):
        self._prefix = f'{seed}/{stream}' if stream else f'{seed}'
        self._shape = (channels, bins, _BLOCK_FRAMES)
        self._cache: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def frames(self, draw: int, first: int, count: int) -> Tensor:
        """Noise of ``count`` frames from frame ``first``.

        Args:
            draw: ``FILL_DRAW`` or the index of a step.
            first: frame index, 0 or more.
            count: number of frames.

        Returns:
            (channels, F, count) float32 on the CPU.
        """
        blocks = range(first // _BLOCK_FRAMES, (first + count - 1) // _BLOCK_FRAMES + 1)
        noise = torch.cat([self._block(draw, block) for block in blocks], dim=-1)
        offset = first - blocks[0] * _BLOCK_FRAMES
        return noise[..., offset : offset + count]

    def _block(self, draw: int, block: int) -> Tensor:
        key = (draw, block)
        if key not in self._cache:
            digest = hashlib.blake2b(f'{self._prefix}/{draw}/{block}'.encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, 'little') >> 1)
            self._cache[key] = torch.randn(self._shape, generator=generator)
            if len(self._cache) > _CACHED_BLOCKS:
                self._cache.popitem(last=False)
        return self._cache[key]
