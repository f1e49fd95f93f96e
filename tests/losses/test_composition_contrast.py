"""Claims about the contrastive loss with paraphrases and altered captions."""

import math

import pytest
import torch
from torch.nn import functional

from nemo_audio_restore.losses.composition_contrast import (
    CaptionVariants,
    CompositionContrastLoss,
    composition_contrast_loss,
)


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


def unit(*shape, seed=0):
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def variants(*, paraphrases=((1, 1), (1, 0)), altered=((1, 1, 1), (0, 0, 0)), filler=0.0):
    masks = torch.tensor(paraphrases).bool(), torch.tensor(altered).bool()
    found = unit(2, 2, 5, seed=2), unit(2, 3, 5, seed=3)
    same, other = (torch.where(mask[..., None], x, filler) for x, mask in zip(found, masks, strict=True))
    return CaptionVariants(same, masks[0], other, masks[1])


def test_module_gives_the_equation_for_recordings_with_different_numbers_of_captions():
    audio, text, given = unit(2, 5), unit(2, 5, seed=1), variants()
    tau = 0.5
    captions = [[text[0], *given.paraphrases[0]], [text[1], given.paraphrases[1, 0]]]
    wrong = [list(given.altered[0]), []]
    expected = 0.0
    for i in range(2):
        sums = [sum(math.exp(float(t @ audio[i]) / tau) for t in row) for row in captions]
        negatives = sum(math.exp(float(t @ audio[i]) / tau) for t in wrong[i])
        expected -= math.log(sums[i] / (negatives + sum(sums))) / 2
    loss = CompositionContrastLoss(temperature=tau)
    assert float(loss(audio, text, variants=given)) == pytest.approx(expected, abs=1e-6)


def test_captions_that_are_not_there_have_neither_effect_nor_gradient():
    audio, text = unit(2, 5), unit(2, 5, seed=1).requires_grad_()
    loss = CompositionContrastLoss()
    found = loss(audio, text, variants=variants(filler=7.0))
    assert torch.equal(found, loss(audio, text, variants=variants()))
    found.backward()
    assert torch.isfinite(text.grad).all() and text.grad.abs().sum() > 0
    assert torch.isfinite(loss.log_scale.grad) and loss.log_scale.grad != 0


def test_without_variants_it_is_half_of_the_plain_loss():
    audio, text = unit(4, 5), unit(4, 5, seed=1)
    logits = audio @ text.T / 0.07
    expected = functional.cross_entropy(logits, torch.arange(4))
    torch.testing.assert_close(CompositionContrastLoss(temperature=0.07)(audio, text), expected)


def test_equal_captions_are_no_negatives():
    audio, text = unit(2, 5), unit(2, 5, seed=1)
    loss = CompositionContrastLoss()
    assert float(loss(audio, text, alike=torch.ones(2, 2, dtype=torch.bool))) == pytest.approx(0.0, abs=1e-6)


def test_one_pair_teaches_nothing_and_is_refused():
    with pytest.raises(ValueError, match='larger batch_size'):
        CompositionContrastLoss()(unit(1, 4), unit(1, 4))
