"""The contrastive loss of two encoders that share a space."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class LearnedTemperature(nn.Module):
    """The temperature of a contrastive loss, learned on a logarithmic scale.

    Args:
        temperature: at the start, positive.
        max_scale: largest factor on the similarities that learning may reach, at least ``1 / temperature``.

    Raises:
        ValueError: the temperature is not positive, or its inverse is above ``max_scale``.

    Source: CLIP (arXiv 2103.00020), section 2.3.
    """

    def __init__(self, *, temperature: float = 0.07, max_scale: float = 100.0):
        super().__init__()
        if temperature <= 0 or 1 / temperature > max_scale:
            raise ValueError(
                f'temperature must be positive and at least 1 / max_scale; got {temperature} with {max_scale}'
            )
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    @property
    def scale(self) -> Tensor:
        """The factor on similarities, the inverse of the temperature."""
        return self.log_scale.exp().clamp(max=self.max_scale)


class ContrastiveLoss(LearnedTemperature):
    """Symmetric InfoNCE with a learned temperature: each recording is to find its text among a batch, and vice versa.

    Args:
        temperature: at the start, positive.
        max_scale: largest factor on the similarities that learning may reach, at least ``1 / temperature``.

    Raises:
        ValueError: the temperature is not positive, or its inverse is above ``max_scale``.

    Source: CLAP (arXiv 2211.06687), equation 1; CLIP (arXiv 2103.00020), section 2.3 (temperature and its limit).
    """

    def forward(self, audio: Tensor, text: Tensor, *, alike: Tensor | None = None) -> Tensor:
        """The loss of B pairs; always computed in float32.

        Args:
            audio: (B, E) embeddings of unit length.
            text: (B, E) embeddings of unit length, in the same order.
            alike: (B, B) bool, true where recording i and text j belong together although they are no pair, such as
                equal captions: they are left out of the negatives. The diagonal has no effect.

        Returns:
            Scalar, at least 0; about log B for embeddings without relation.

        Raises:
            ValueError: fewer than two pairs, or shapes that do not agree.
        """
        checked_pairs(audio, text)
        pairs = torch.arange(len(audio), device=audio.device)
        with torch.autocast(audio.device.type, enabled=False):
            logits = self.scale.float() * (audio.float() @ text.float().T)
            if alike is not None:
                negatives_only = alike & ~torch.eye(len(audio), dtype=torch.bool, device=audio.device)
                logits = logits.masked_fill(negatives_only, -torch.inf)
            return (functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)) / 2


def checked_pairs(audio: Tensor, text: Tensor) -> None:
    """Refuses what no contrast can be made of.

    Args:
        audio: (B, E) embeddings.
        text: (B, E) embeddings.

    Raises:
        ValueError: fewer than two pairs, or shapes that do not agree.
    """
    if audio.ndim != 2 or audio.shape != text.shape or len(audio) < 2:
        raise ValueError(
            f'a contrastive loss needs two or more pairs (B, E) and (B, E); got {tuple(audio.shape)} and '
            f'{tuple(text.shape)}: use a larger batch_size'
        )
