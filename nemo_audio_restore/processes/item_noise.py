"""Noise with a generator for every item of a batch: an item is the same in whatever company it is made."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge_samplers import NoiseSource


def item_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each seed; the same noise on whatever device the model is."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def noise_from_each(generators: Sequence[torch.Generator]) -> NoiseSource:
    """Draws standard normal noise, each item of a batch from its own generator.

    Args:
        generators: B of them; their states advance.

    Returns:
        ``noise(draw, like)``: a tensor with the shape, dtype and device of ``like`` (B, ...).
    """

    def noise(draw: int, like: Tensor) -> Tensor:
        del draw
        if like.shape[0] != len(generators):
            raise ValueError(f'a batch of {like.shape[0]} needs as many generators; got {len(generators)}')
        items = [
            torch.randn(like.shape[1:], generator=generator, device=generator.device, dtype=torch.float32)
            for generator in generators
        ]
        return torch.stack([item.to(like.device) for item in items]).to(like.dtype)

    return noise
