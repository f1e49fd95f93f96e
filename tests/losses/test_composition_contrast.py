"""Claims about the contrastive loss with paraphrases and altered captions."""

import math

import pytest
import torch

from nemo_audio_restore.losses.composition_contrast import composition_contrast_loss


def test_loss_is_that_of_its_equation():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(2, 2, 3, generator=generator, dtype=torch.float64)
    altered = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    expected = 0.0
    for i in range(2):
        right = sum(math.exp(float(s) / 0.1) for s in similarity[i, i])
        others = sum(math.exp(float(s) / 0.1) for s in similarity[i].flatten())
        others += sum(math.exp(float(s) / 0.1) for s in altered[i])
        expected -= math.log(right / others) / 2
    assert float(composition_contrast_loss(similarity, altered, 0.1)) == pytest.approx(expected)


def test_without_others_and_alterations_nothing_is_lost():
    assert float(composition_contrast_loss(torch.rand(1, 1, 3), torch.zeros(1, 0), 0.07)) == pytest.approx(0, abs=1e-6)


def test_an_altered_caption_that_fits_better_costs_more():
    similarity = torch.eye(2)[..., None]
    low = composition_contrast_loss(similarity, torch.full((2, 1), -1.0), 0.1)
    assert composition_contrast_loss(similarity, torch.full((2, 1), 0.9), 0.1) > low
