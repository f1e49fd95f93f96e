"""The contrastive loss of AF-CLAP: paraphrases are right, captions with an altered composition are wrong."""

import torch
from torch import Tensor


def composition_contrast_loss(similarity: Tensor, altered: Tensor, temperature: Tensor | float) -> Tensor:
    """How badly recordings are told from captions of others, and from altered ones of their own.

    Args:
        similarity: (B, B, M) cosines of recording i with paraphrase m of caption j.
        altered: (B, K) cosines of recording i with captions of its own in which order or properties were changed.
        temperature: what cosines are divided by, positive.

    Returns:
        Mean over the recordings, at least 0.

    Source: Audio Flamingo 2 (arXiv 2503.03983), section 3.1, equation 1.
    """
    right = torch.logsumexp(similarity.diagonal().T / temperature, dim=1)
    everything = torch.cat([similarity.flatten(1), altered], dim=1) / temperature
    return (torch.logsumexp(everything, dim=1) - right).mean()
