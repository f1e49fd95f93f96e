"""The contrastive loss of AF-CLAP: paraphrases are right, captions with an altered composition are wrong."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_audio_restore.losses.contrastive import LearnedTemperature, checked_pairs


@dataclass(frozen=True)
class CaptionVariants:
    """Embeddings of unit length of other captions; recordings may have different numbers of them."""

    paraphrases: Tensor
    """(B, M, E) of captions that say the same as the first one."""
    paraphrase_mask: Tensor
    """(B, M) bool, False where there is none."""
    altered: Tensor
    """(B, K, E) of captions in which order or properties were changed."""
    altered_mask: Tensor
    """(B, K) bool, False where there is none."""


class CompositionContrastLoss(LearnedTemperature):
    """Each recording is to find its caption and paraphrases of it, among those of others and altered ones of its own.

    Args:
        temperature: at the start, positive.
        max_scale: largest factor on the similarities that learning may reach, at least ``1 / temperature``.

    Raises:
        ValueError: the temperature is not positive, or its inverse is above ``max_scale``.

    Source: Audio Flamingo 2 (arXiv 2503.03983), section 3.1, equation 1.
    """

    def forward(
        self, audio: Tensor, text: Tensor, *, alike: Tensor | None = None, variants: CaptionVariants | None = None
    ) -> Tensor:
        """The loss of B pairs; always computed in float32.

        Args:
            audio: (B, E) embeddings of unit length.
            text: (B, E) embeddings of unit length of the captions, in the same order.
            alike: (B, B) bool, true where recording i and caption j belong together although they are no pair: they
                are left out of the negatives, with the paraphrases of j. The diagonal has no effect.
            variants: further captions; without them each recording has its caption alone.

        Returns:
            Scalar, at least 0.

        Raises:
            ValueError: fewer than two pairs, or shapes that do not agree.
        """
        checked_pairs(audio, text)
        with torch.autocast(audio.device.type, enabled=False):
            audio, right = audio.float(), text.float()[:, None]
            altered = audio.new_zeros(len(audio), 0)
            there = torch.ones(right.shape[:2], dtype=torch.bool, device=audio.device)
            if variants is not None:
                right = torch.cat([right, variants.paraphrases.float()], dim=1)
                there = torch.cat([there, variants.paraphrase_mask], dim=1)
                altered = torch.einsum('ie,ike->ik', audio, variants.altered.float())
                altered = altered.masked_fill(~variants.altered_mask, -torch.inf)
            cosines = torch.einsum('ie,jme->ijm', audio, right).masked_fill(~there, -torch.inf)
            if alike is not None:
                pairs = torch.eye(len(audio), dtype=torch.bool, device=audio.device)
                cosines = cosines.masked_fill((alike & ~pairs)[..., None], -torch.inf)
            return composition_contrast_loss(cosines, altered, 1 / self.scale.float())


def composition_contrast_loss(similarity: Tensor, altered: Tensor, temperature: Tensor | float) -> Tensor:
    """How badly recordings are told from captions of others, and from altered ones of their own.

    Args:
        similarity: (B, B, M) cosines of recording i with paraphrase m of caption j; minus infinity for what is not
            there.
        altered: (B, K) cosines of recording i with captions of its own in which order or properties were changed;
            minus infinity for what is not there.
        temperature: what cosines are divided by, positive.

    Returns:
        Mean over the recordings, at least 0.

    Source: Audio Flamingo 2 (arXiv 2503.03983), section 3.1, equation 1.
    """
    everything = torch.cat([similarity.flatten(1), altered], dim=1)
    missing = everything.isneginf()
    # Infinity over a temperature that learns would have no gradient but NaN.
    everything = (everything.masked_fill(missing, 0.0) / temperature).masked_fill(missing, -torch.inf)
    scaled = everything[:, : similarity[0].numel()].unflatten(1, similarity.shape[1:])
    right = torch.logsumexp(scaled.diagonal().T, dim=1)
    return (torch.logsumexp(everything, dim=1) - right).mean()
