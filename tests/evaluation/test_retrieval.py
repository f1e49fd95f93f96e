"""Claims about retrieval scores."""

import pytest
import torch

from nemo_audio_restore.evaluation.retrieval import retrieval_scores, text_audio_scores, zero_shot_accuracy


def test_ranks_count_as_in_the_textbook():
    # Query 0 finds its two items at ranks 1 and 3, query 1 its only one at rank 2.
    similarity = torch.tensor([[0.9, 0.5, 0.7], [0.9, 0.5, 0.1]])
    relevant = torch.tensor([[True, True, False], [False, True, False]])
    scores = retrieval_scores(similarity, relevant, ranks=(1, 2))
    assert scores['r@1'] == 0.5
    assert scores['r@2'] == 1.0
    assert scores['map@10'] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def test_precision_counts_ten_ranks_only():
    similarity = -torch.arange(12.0)[None]
    relevant = torch.zeros(1, 12, dtype=torch.bool)
    relevant[0, 10] = True
    assert retrieval_scores(similarity, relevant)['map@10'] == 0.0


def test_equal_captions_answer_each_other():
    audio = torch.eye(3)
    text = torch.eye(3)[[1, 0, 2]]
    different = text_audio_scores(audio, text, ['a', 'b', 'c'])
    assert different['text_to_audio_r@1'] == pytest.approx(1 / 3)
    same = text_audio_scores(audio, torch.eye(3)[[1, 1, 2]], ['a', 'a', 'c'])
    assert same['text_to_audio_r@1'] == 1.0


def test_both_directions_differ():
    audio = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    text = torch.tensor([[0.8, 0.6], [1.0, 0.0]])
    scores = text_audio_scores(audio, text, ['a', 'b'])
    assert set(scores) == {
        f'{way}_{name}' for way in ('text_to_audio', 'audio_to_text') for name in ('r@1', 'r@5', 'r@10', 'map@10')
    }
    assert scores['text_to_audio_r@1'] == scores['audio_to_text_r@1'] == 0.0


def test_accuracy_is_the_share_of_right_labels():
    similarity = torch.tensor([[0.9, 0.1], [0.2, 0.1], [0.0, 0.3]])
    assert zero_shot_accuracy(similarity, ['drum', 'flute'], ['drum', 'flute', 'flute']) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: retrieval_scores(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)), 'needs a relevant item'),
        (lambda: retrieval_scores(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool)), 'must both be'),
        (lambda: zero_shot_accuracy(torch.zeros(1, 2), ['a', 'b'], ['c']), 'none of the labels: c'),
        (lambda: zero_shot_accuracy(torch.zeros(2, 2), ['a', 'b'], ['a']), 'must be'),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
