"""Questions and answers as tokens: the form that Audio Flamingo 2 was trained on, and the labels of training."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nemo_audio_restore.data.listening import InputWarning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that is not learned."""


class QuestionError(ValueError):
    """A question cannot be asked like this; the message is one sentence for the user."""


@dataclass(frozen=True)
class TextBatch:
    """Tokens of several texts."""

    input_ids: Tensor
    """(B, S) numbers."""
    attention_mask: Tensor
    """(B, S), 1 for tokens and 0 for padding."""


@dataclass(frozen=True)
class QuestionFormat:
    """How a question and its answer are written: audio token, question, separator, answer, end, end of text.

    Attributes:
        audio_token: stands for the recording.
        separator_token: between question and answer.
        end_token: behind the answer.
        padding_token: fills up the texts of a batch.
        lower_case: write everything in lower case, as the published models were trained.
        lettered_answers: among options, the answer begins with its letter, as the published models were trained;
            without, it is the option alone, which asks less of a small language model.
        max_tokens: of question and answer together; longer texts are cut, with a warning.
        unlisted_weight: of the likelihood of an option as an answer to the question alone, beside its likelihood when
            all options are listed, in [0, 1]; 0 for the published models, which were trained with lists.
    """

    audio_token: str = '<audio>'
    separator_token: str = '<SEP>'
    end_token: str = '<|endofchunk|>'
    padding_token: str = '<|PAD_TOKEN|>'
    lower_case: bool = True
    lettered_answers: bool = True
    max_tokens: int = 512
    unlisted_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.unlisted_weight <= 1:
            raise ValueError(f'unlisted_weight must be in [0, 1]; got {self.unlisted_weight}')

    def option_answer(self, option: str, index: int) -> str:
        """The answer that chooses an option by its place in the list."""
        return lettered(option, index) if self.lettered_answers else option

    def tokens(self) -> tuple[str, str, str, str]:
        """The special tokens, in the order in which the published models added them to Qwen2.5's tokenizer."""
        return self.audio_token, self.end_token, self.padding_token, self.separator_token


class QuestionTokenizer:
    """Questions to numbers, and numbers to answers.

    Args:
        tokenizer: of `transformers`, with the special tokens of the format.
        question_format: how texts are written.

    Raises:
        QuestionError: the tokenizer lacks a special token, or has no end of text.
    """

    def __init__(self, tokenizer: 'PreTrainedTokenizerBase', question_format: QuestionFormat | None = None):
        self.tokenizer = tokenizer
        self.format = question_format or QuestionFormat()
        known = tokenizer.get_vocab()
        missing = [token for token in self.format.tokens() if token not in known]
        if missing:
            raise QuestionError(
                f'the tokenizer lacks the special tokens {", ".join(missing)}: give the one that belongs to the '
                'model, or add them with tokenizer.add_special_tokens and train their embeddings'
            )
        if tokenizer.eos_token_id is None:
            raise QuestionError('the tokenizer has no end-of-text token (eos_token)')
        self.audio_id, self.end_id, self.padding_id, self.separator_id = (
            known[token] for token in self.format.tokens()
        )
        self.eos_id: int = tokenizer.eos_token_id

    def question(self, text: str) -> list[int]:
        """Numbers of a question, up to the place where the answer begins.

        Args:
            text: the question; a tag ``<audio>`` for the recording may be in front of it.

        Returns:
            Numbers of its tokens.

        Raises:
            QuestionError: it is empty, or asks for more than one recording.
        """
        tag = self.format.audio_token
        count = text.count(tag)
        if count > 1:
            raise QuestionError(f'the question holds {count} {tag} tags, but one recording belongs to a question')
        plain = self._plain(text.replace(tag, ''))
        if not plain:
            raise QuestionError('the question is empty')
        room = self.format.max_tokens - 2
        words = self._words(plain)
        if len(words) > room:
            warnings.warn(
                f'the question has {len(words)} tokens; the model reads the first {room}', InputWarning, stacklevel=2
            )
        return [self.audio_id, *words[:room], self.separator_id]

    def answer(self, text: str) -> list[int]:
        """Numbers of an answer with its end.

        Args:
            text: the answer.

        Returns:
            Numbers of its tokens, of the end token and of the end of the text.
        """
        return [*self._words(self._plain(text)), self.end_id, self.eos_id]

    def questions(self, texts: Sequence[str]) -> TextBatch:
        """Questions of a batch, all ending at the right: ready for answers.

        Args:
            texts: B questions.

        Returns:
            The batch, padded on the left.

        Raises:
            QuestionError: see :meth:`question`.
        """
        return self.padded([self.question(text) for text in texts], left=True)

    def pairs(self, questions: Sequence[str], answers: Sequence[str]) -> tuple[TextBatch, Tensor]:
        """Questions with answers, for training and for scoring; an answer that is cut has no label.

        Args:
            questions: B texts.
            answers: B texts.

        Returns:
            The batch, padded on the right, and labels (B, S) as of :meth:`labels`.
        """
        rows = []
        for question, answer in zip(questions, answers, strict=True):
            row = [*self.question(question), *self.answer(answer)]
            if len(row) > self.format.max_tokens:
                warnings.warn(
                    f'question and answer have {len(row)} tokens, more than {self.format.max_tokens}: nothing is '
                    f'learned from {answer[:40]!r}',
                    InputWarning,
                    stacklevel=2,
                )
            rows.append(row[: self.format.max_tokens])
        batch = self.padded(rows, left=False)
        return batch, self.labels(batch.input_ids)

    def labels(self, input_ids: Tensor) -> Tensor:
        """What is learned of texts: answers and their ends, and nothing of answers that were cut.

        Args:
            input_ids: (B, S) numbers.

        Returns:
            (B, S): numbers behind the separator up to the end of the text, and ``IGNORED`` elsewhere.
        """
        begun = (input_ids == self.separator_id).cumsum(dim=1) > 0
        ended = (input_ids == self.end_id).cumsum(dim=1) > 0
        # The end token and the one behind it, the end of the text, are learned; what follows is not.
        behind = torch.nn.functional.pad(ended, (2, 0))[:, : ended.shape[1]]
        learned = begun & ~behind & (input_ids != self.separator_id) & ended.any(dim=1, keepdim=True)
        return torch.where(learned & (input_ids != self.padding_id), input_ids, IGNORED)

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> TextBatch:
        """Texts of different lengths as one batch.

        Args:
            rows: numbers of each text.
            left: pad on the left, so that all texts end at the same place.

        Returns:
            The batch.
        """
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.padding_id)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            place = slice(longest - len(row), None) if left else slice(0, len(row))
            ids[index, place] = torch.tensor(row)
            mask[index, place] = 1
        return TextBatch(ids, mask)

    def text(self, ids: Sequence[int]) -> str:
        """The answer that numbers say.

        Args:
            ids: of an answer, or of question and answer.

        Returns:
            Its words, without special tokens.
        """
        ids = list(ids)
        for position in range(len(ids) - 1, -1, -1):
            if ids[position] == self.separator_id:
                ids = ids[position + 1 :]
                break
        special = {self.audio_id, self.end_id, self.padding_id, self.separator_id, self.eos_id}
        return self.tokenizer.decode([number for number in ids if number not in special]).strip()

    def _plain(self, text: str) -> str:
        text = text.lower() if self.format.lower_case else text
        return text.strip()

    def _words(self, text: str) -> list[int]:
        # Special tokens inside a text of the user are words, or they could end the question.
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)['input_ids'])


def with_options(question: str, options: Sequence[str]) -> str:
    """Writes options into a question, as the published models know them.

    Args:
        question: without options.
        options: 2 to 26 answers.

    Returns:
        ``question (A) first. (B) second.``

    Raises:
        QuestionError: fewer than two options or too many, an empty one, or two that are the same.
    """
    cleaned = [option.strip() for option in options]
    if not 2 <= len(cleaned) <= 26 or not all(cleaned) or len({option.lower() for option in cleaned}) < len(cleaned):
        raise QuestionError(f'2 to 26 different options are needed, none of them empty; got {list(options)}')
    listed = ' '.join(f'{lettered(option, index)}.' for index, option in enumerate(cleaned))
    return f'{question.strip()} {listed}' if question.strip() else ''


def lettered(option: str, index: int) -> str:
    """An option with its letter: ``(A) option``."""
    return f'({chr(ord("A") + index)}) {option}'
