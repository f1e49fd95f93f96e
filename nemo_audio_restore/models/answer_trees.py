"""A question with several answers behind it, as one text: what the language model makes of it is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_audio_restore.data.question_text import IGNORED, QuestionTokenizer
from nemo_audio_restore.networks.split_decoder import SplitDecoder


@dataclass(frozen=True)
class AnswerTree:
    """A question with branches, its answers, none of which sees another.

    Attributes:
        hidden: (S, D) states in front of the first block that hears, in half precision.
        places: (S,) of the tokens in their text.
        allowed: (S, S) bool, what each token attends to.
        asked: tokens of the question; they come first.
        branches: tokens of each answer, with its end; its last one is no part of ``hidden``.
    """

    hidden: Tensor
    places: Tensor
    allowed: Tensor
    asked: int
    branches: tuple[tuple[int, ...], ...]

    def before(self, index: int) -> list[int]:
        """Where the tokens stand whose successors are the tokens of an answer.

        Args:
            index: of the answer.

        Returns:
            Places in ``hidden``, as many as the answer has tokens.
        """
        start = self.asked + sum(len(branch) - 1 for branch in self.branches[:index])
        return [self.asked - 1, *range(start, start + len(self.branches[index]) - 1)]

    def text(self, index: int) -> tuple[Tensor, Tensor]:
        """The question with one of its answers, as a text of its own.

        Args:
            index: of the answer.

        Returns:
            Hidden states (T, D) and (T,) the token that follows each, ``IGNORED`` within the question.
        """
        before = self.before(index)
        successors = [IGNORED] * (self.asked - 1) + list(self.branches[index])
        return self.hidden[[*range(self.asked - 1), *before]], torch.tensor(successors)


@torch.no_grad()
def answer_tree(
    questions: QuestionTokenizer, decoder: SplitDecoder, question: str, answers: Sequence[str]
) -> AnswerTree:
    """Lets a question and its answers pass what text alone determines.

    Args:
        questions: of the language model.
        decoder: the language model in two parts.
        question: complete, with options where there are any.
        answers: one at least.

    Returns:
        The tree.

    Raises:
        ValueError: no answer.
    """
    if not answers:
        raise ValueError('a tree of answers needs one answer at least')
    asked = questions.question(question)
    branches = tuple(tuple(questions.answer(answer)) for answer in answers)
    ids, places = list(asked), list(range(len(asked)))
    size = len(asked) + sum(len(branch) - 1 for branch in branches)
    allowed = torch.zeros(size, size, dtype=torch.bool)
    allowed[:, : len(asked)] = True
    for branch in branches:
        start, stop = len(ids), len(ids) + len(branch) - 1
        allowed[start:stop, start:stop] = True
        ids += branch[:-1]
        places += range(len(asked), len(asked) + len(branch) - 1)
    allowed = allowed.tril()
    order = torch.tensor(places)
    hidden = decoder.texts(torch.tensor([ids]), allowed[None, None], order[None])[0]
    return AnswerTree(hidden.half(), order, allowed, len(asked), branches)
