"""Lhotse cuts with questions and answers -> batches for an audio-language model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from nemo_audio_restore.data.listening import Listening
from nemo_audio_restore.data.question_text import QuestionError, QuestionTokenizer
from nemo_audio_restore.signal.audio_windows import batch_windows


class QuestionDataset(torch.utils.data.Dataset):
    """Maps a Lhotse ``CutSet`` (one mini-batch) to tensors.

    A cut has one supervision: its ``text`` is the answer, the field ``question`` of its ``custom`` the question. Or it
    has a custom field ``conversation``, a turn of the user and one of the assistant in the form of `transformers`:
    ``[{'role': 'user', 'content': 'What is it?'}, {'role': 'assistant', 'content': 'A dog.'}]``; what is heard is the
    cut. Several questions about one recording are several cuts.

    Args:
        listening: how recordings are prepared.
        questions: how questions and answers are written.

    An item is ``windows`` (B, W, T), ``window_mask`` (B, W), ``input_ids``, ``attention_mask`` and ``labels`` (B, S).
    """

    def __init__(self, listening: Listening, questions: QuestionTokenizer):
        super().__init__()
        self.listening, self.questions = listening, questions

    def __getitem__(self, cuts: CutSet) -> dict[str, Tensor]:
        """Loads one mini-batch."""
        cuts = list(cuts)
        pairs = [question_and_answer(cut) for cut in cuts]
        text, labels = self.questions.pairs([question for question, _ in pairs], [answer for _, answer in pairs])
        audio = batch_windows(
            [self.listening.windows(cut.load_audio(), cut.sampling_rate, name=cut.id) for cut in cuts]
        )
        return {
            'windows': audio.windows,
            'window_mask': audio.mask,
            'input_ids': text.input_ids,
            'attention_mask': text.attention_mask,
            'labels': labels,
        }


def question_and_answer(cut: Cut) -> tuple[str, str]:
    """The question and the answer of a cut.

    Args:
        cut: with a conversation, or with one supervision.

    Returns:
        Both texts.

    Raises:
        QuestionError: there is none, or one of them is missing.
    """
    turns = (cut.custom or {}).get('conversation')
    if turns is not None:
        return _said_in(turns, cut.id)
    supervisions = cut.supervisions
    if len(supervisions) != 1:
        raise QuestionError(
            f'cut {cut.id} must have one supervision with question and answer; got {len(supervisions)}'
        )
    question, answer = (supervisions[0].custom or {}).get('question'), supervisions[0].text
    if not question or not answer:
        raise QuestionError(
            f'cut {cut.id} needs an answer (text of its supervision) and a question (custom field question); got '
            f'{answer!r} and {question!r}'
        )
    return question, answer


def _said_in(turns: Sequence[Mapping[str, Any]], name: str) -> tuple[str, str]:
    """Question and answer of a conversation."""
    roles = [turn.get('role') for turn in turns]
    if roles != ['user', 'assistant']:
        raise QuestionError(
            f'cut {name}: a conversation must be one turn of the user and one of the assistant; got {roles}'
        )
    said = []
    for turn in turns:
        content = turn.get('content') or ''
        parts = [{'type': 'text', 'text': content}] if isinstance(content, str) else content
        said.append(' '.join(part['text'].strip() for part in parts if part.get('type') == 'text'))
    if not all(said):
        raise QuestionError(f'cut {name}: question and answer of its conversation need words; got {said}')
    return said[0], said[1]
