"""What a latent diffusion network is told besides the noisy latents and the time."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentCondition:
    """Named tensors of one batch; what a network does not use or is not given is None.

    A network says with ``null_condition`` what stands for 'nothing was asked for'.
    """

    tokens: Tensor | None = None
    """(B, S, E) text and timing, read by cross-attention. None for a network without them: cross-attention adds
    nothing then, and is not computed."""
    tokens_mask: Tensor | None = None
    """(B, S), 1 for tokens that count and 0 for padding; None if all count."""
    summary: Tensor | None = None
    """(B, G) one vector for the whole clip."""
    prepended: Tensor | None = None
    """(B, P, E') tokens that go before the latents into self-attention."""
    concatenated: Tensor | None = None
    """(B, C', L') channels beside the latents; stretched to their length."""


def mix_conditions(first: LatentCondition, second: LatentCondition, choose_first: Tensor) -> LatentCondition:
    """For every item of the batch one of two conditions, as dropping a condition in training needs it.

    Args:
        first: taken where ``choose_first`` is True.
        second: taken elsewhere; a tensor that is None here counts as zeros.
        choose_first: (B,) bool.

    Returns:
        The mixture; a tensor is None where ``first`` has none.
    """
    mixed = {}
    for field in fields(LatentCondition):
        ours, other = getattr(first, field.name), getattr(second, field.name)
        if ours is None or ours is other:
            mixed[field.name] = ours
            continue
        rows = choose_first.view(-1, *([1] * (ours.ndim - 1)))
        mixed[field.name] = torch.where(rows, ours, torch.zeros_like(ours) if other is None else other)
    return LatentCondition(**mixed)
