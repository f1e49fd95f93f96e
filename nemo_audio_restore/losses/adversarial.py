"""Losses of a waveform generator and its discriminators, averaged over the discriminators."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def discriminator_hinge(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """What discriminators minimise: scores above 1 for recordings and below -1 for generated audio.

    Args:
        real: scores of recordings, one tensor of any shape for each discriminator.
        fake: scores of generated audio.

    Returns:
        A scalar.

    Source: geometric GAN (arXiv 1705.02894), equation 14.
    """
    parts = [
        functional.relu(1 - of_real).mean() + functional.relu(1 + of_fake).mean()
        for of_real, of_fake in zip(real, fake, strict=True)
    ]
    return torch.stack(parts).mean()


def generator_hinge(fake: Sequence[Tensor]) -> Tensor:
    """What a generator minimises: minus the scores of its audio, a scalar.

    Source: geometric GAN (arXiv 1705.02894), equation 15.
    """
    return torch.stack([-of_fake.mean() for of_fake in fake]).mean()


def feature_matching(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean distance of the discriminators' inner features.

    Args:
        real: features of recordings: for each discriminator one tensor for each layer; no gradient flows into them.
        fake: features of generated audio.

    Returns:
        A scalar: averaged over the layers of each discriminator, then over discriminators.

    Source: MelGAN (arXiv 1910.06711), equation 5.
    """
    parts = [
        torch.stack([functional.l1_loss(b, a.detach()) for a, b in zip(of_real, of_fake, strict=True)]).mean()
        for of_real, of_fake in zip(real, fake, strict=True)
    ]
    return torch.stack(parts).mean()
