"""What is learned from questions with answers: the answers."""

import torch
from torch import Tensor

IGNORED = -100
"""Label of a token that is not learned."""


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """How surprising answers are.

    Args:
        logits: (B, S, V) for what follows each token.
        labels: (B, S), ``IGNORED`` for tokens that are not learned.

    Returns:
        Mean over the labelled tokens; zero, with a gradient of zero, where none is labelled.
    """
    # Position t predicts token t + 1.
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction='sum'
    )
    return total / (labels[:, 1:] != IGNORED).sum().clamp_min(1)
