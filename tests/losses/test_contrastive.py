"""Claims about the contrastive loss."""

import math

import pytest
import torch
from torch.nn import functional

from nemo_audio_restore.losses.contrastive import ContrastiveLoss


def unit(*shape, seed=0):
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_orthogonal_pairs_have_the_closed_form():
    loss = ContrastiveLoss(temperature=0.5)(torch.eye(4), torch.eye(4))
    assert float(loss) == pytest.approx(math.log(1 + 3 * math.exp(-2)), abs=1e-6)


def test_equal_embeddings_cost_the_logarithm_of_the_batch():
    same = torch.ones(8, 3) / math.sqrt(3)
    assert float(ContrastiveLoss()(same, same)) == pytest.approx(math.log(8), abs=1e-5)


def test_what_is_alike_is_no_negative():
    audio, text = unit(4, 6), unit(4, 6, seed=1)
    loss = ContrastiveLoss()
    alike = torch.zeros(4, 4, dtype=torch.bool)
    alike[0, 1] = alike[1, 0] = True
    plain, masked = loss(audio, text), loss(audio, text, alike=alike)
    assert masked < plain
    alike.fill_diagonal_(True)
    torch.testing.assert_close(loss(audio, text, alike=alike), masked)
    everything = loss(audio, text, alike=torch.ones(4, 4, dtype=torch.bool))
    assert float(everything) == 0.0


def test_is_symmetric_in_its_two_sides():
    audio, text = unit(5, 7), unit(5, 7, seed=1)
    loss = ContrastiveLoss()
    torch.testing.assert_close(loss(audio, text), loss(text, audio))


def test_temperature_is_learned_and_limited():
    loss = ContrastiveLoss(temperature=0.1, max_scale=12.0)
    assert float(loss.scale.detach()) == pytest.approx(10.0)
    loss(unit(4, 8), unit(4, 8, seed=1)).backward()
    assert loss.log_scale.grad != 0
    with torch.no_grad():
        loss.log_scale.fill_(5.0)
    assert float(loss.scale.detach()) == 12.0


@pytest.mark.parametrize('options', [{'temperature': 0.0}, {'temperature': 0.005, 'max_scale': 100.0}])
def test_impossible_temperatures_are_refused(options):
    with pytest.raises(ValueError, match='temperature'):
        ContrastiveLoss(**options)


def test_one_pair_teaches_nothing_and_is_refused():
    with pytest.raises(ValueError, match='larger batch_size'):
        ContrastiveLoss()(unit(1, 4), unit(1, 4))
