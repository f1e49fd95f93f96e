"""Questions to an audio-language model and its answers: written, or chosen among options."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_audio_restore.data.question_text import (
    QuestionError,
    QuestionTokenizer,
    with_options,
)
from nemo_audio_restore.models.conversations import (
    Conversation,
    HeardRecording,
    Recording,
    hear,
    pair_up,
    read_conversation,
)
from nemo_audio_restore.models.text_decoding import (
    TextSettings,
    answer_log_likelihoods,
    reads_one_for_many,
    write_text,
)
from nemo_audio_restore.signal.audio_windows import WindowBatch, batch_windows

CAPTION_PROMPT = 'Describe the sound in detail.'
_PAIRS_AT_ONCE = 32


class CutAnswerWarning(UserWarning):
    """Answers are not complete: they were cut at their limit of tokens.

    Args:
        message: one sentence for the user.
        items: numbers of these answers in their batch.
    """

    def __init__(self, message: str, items: Sequence[int] = ()):
        super().__init__(message)
        self.items = tuple(items)


OnText = Callable[[int, str], None]
"""Called with the number of the item and the next piece of its text."""


@dataclass(frozen=True)
class Answer:
    """What a model says to a question."""

    text: str
    """The answer; of options, the likeliest."""
    probabilities: dict[str, float] | None = None
    """Of each option, adding up to 1; None for an answer in the model's own words."""


class AnsweringMixin:
    """``listen``, ``generate``, ``ask`` and ``caption`` of an audio-language model."""

    def listen(self, recording: Recording, *, sample_rate: int | None = None) -> HeardRecording:
        """Prepares a recording, which may then be asked about like a file.

        Args:
            recording: a file, or (T,) or (C, T) samples.
            sample_rate: of an array, in Hz; that of the model unless given.

        Returns:
            What the model hears of it.

        Raises:
            NothingToHearError: it holds no audio.
            AudioFileError: the file cannot be read.
        """
        return HeardRecording(hear(self.listening, recording, sample_rate))

    @torch.no_grad()
    def generate(
        self,
        conversations: Sequence[Conversation] | None = None,
        *,
        prompts: Sequence[str] | None = None,
        audios: Tensor | Sequence[Recording] | None = None,
        audio_lens: Tensor | None = None,
        sample_rate: int | None = None,
        settings: TextSettings | None = None,
        on_text: OnText | None = None,
    ) -> list[str]:
        """Answers questions about recordings, all in one batch; each as if it were asked alone.

        Args:
            conversations: B conversations of one turn, in the form of `transformers`, each with one recording.
            prompts: instead of conversations, B questions.
            audios: with prompts: B files or arrays, or a tensor (B, T).
            audio_lens: (B,) valid samples of a tensor.
            sample_rate: of arrays, in Hz; that of the model unless given.
            settings: how text is written; the likeliest token each time unless given.
            on_text: called with pieces of text as they are written.

        Returns:
            B answers; a :class:`CutAnswerWarning` says which of them are not complete.

        Raises:
            NothingToHearError: a recording is missing, empty, or too many are given.
            QuestionError: a question is empty or has more audio tags than there are recordings.
            AudioFileError: a file cannot be read.
            ValueError: neither or both of conversations and prompts, or conversations beside audios.
        """
        if (conversations is None) == (prompts is None):
            raise ValueError('give either conversations, or prompts with audios')
        if conversations is not None and (audios is not None or audio_lens is not None):
            raise ValueError('conversations hold their recordings themselves; audios belong to prompts')
        if conversations is not None:
            pairs = [read_conversation(conversation) for conversation in conversations]
        else:
            pairs = pair_up(prompts, audios, audio_lens)
        if not pairs:
            return []
        text = self.questions.questions([question for question, _ in pairs])
        heard = self._listen([recording for _, recording in pairs], sample_rate)
        settings = settings or TextSettings()
        stream = None if on_text is None else _Pieces(self.questions, len(pairs), on_text)
        with self._evaluating():
            with self.hearing(self.encode_audio(heard.windows, heard.mask), heard.mask):
                ids, mask = text.input_ids.to(self._here), text.attention_mask.to(self._here)
                # One question about everything: it is read once, up to the first layer that hears.
                same = bool((ids == ids[0]).all()) and reads_one_for_many(self.language_model)
                copies = len(ids) if same else 1
                written = write_text(
                    self.language_model,
                    ids[: len(ids) // copies],
                    mask[: len(ids) // copies],
                    stop_id=self.questions.eos_id,
                    padding_id=self.questions.padding_id,
                    settings=settings,
                    copies=copies,
                    on_token=stream,
                    on_drop=self.cross_attention.keep,
                )
        _warn_of_cut(written, self.questions.eos_id, settings)
        return [self.questions.text(ids) for ids in written]

    def ask(
        self,
        audio: Recording,
        question: str,
        options: Sequence[str] | None = None,
        *,
        sample_rate: int | None = None,
        settings: TextSettings | None = None,
    ) -> Answer:
        """Asks one question about one recording.

        With options, the answer is not written: each option is scored by its likelihood in every place of the list,
        since models prefer some letters to others, and the probabilities are averaged; where the format of the
        questions says so, also as an answer to the question without a list. The order in which the options are given
        has no effect.

        Args:
            audio: a file, or (T,) or (C, T) samples.
            question: in words.
            options: 2 to 26 answers to choose from.
            sample_rate: of an array, in Hz; that of the model unless given.
            settings: how an answer in the model's own words is written.

        Returns:
            The answer.

        Raises:
            NothingToHearError: see :meth:`generate`.
            QuestionError: the question is empty, or the options are unusable.
            AudioFileError: the file cannot be read.
        """
        if options is None:
            texts = self.generate(prompts=[question], audios=[audio], sample_rate=sample_rate, settings=settings)
            return Answer(texts[0])
        if settings is not None:
            raise ValueError('settings are for answers in own words; options are scored, nothing is drawn')
        options = [option.strip() for option in options]
        # Neighbours matter to a model as well: whatever the order was, the lists that it reads are the same.
        found = self._option_probabilities(audio, question, sorted(options), sample_rate)
        scores = {option: found[option] for option in options}
        return Answer(max(scores, key=scores.get), scores)

    def caption(
        self,
        audio: Recording,
        *,
        prompt: str = CAPTION_PROMPT,
        sample_rate: int | None = None,
        settings: TextSettings | None = None,
    ) -> str:
        """Describes a recording.

        Args:
            audio: a file, or (T,) or (C, T) samples.
            prompt: what the model is asked to do.
            sample_rate: of an array, in Hz; that of the model unless given.
            settings: how the text is written.

        Returns:
            The description.
        """
        return self.ask(audio, prompt, sample_rate=sample_rate, settings=settings).text

    @torch.no_grad()
    def _option_probabilities(
        self, audio: Recording, question: str, options: Sequence[str], sample_rate: int | None
    ) -> dict[str, float]:
        if not question.strip():
            raise QuestionError('the question is empty')
        count = len(options)
        with_options(question, options)  # before any work: the options may be unusable
        # Every rotation of the list puts each option once in each place.
        orders = [[(start + place) % count for place in range(count)] for start in range(count)]
        chosen, unlisted = self.question_format.option_answer, self.question_format.unlisted_weight
        weights = [(1 - unlisted) / count] * count
        asked = [
            self.questions.question(with_options(question, [options[index] for index in order])) for order in orders
        ]
        answers = [
            [self.questions.answer(chosen(options[index], place)) for place, index in enumerate(order)]
            for order in orders
        ]
        if unlisted:
            orders.append(list(range(count)))
            weights.append(unlisted)
            asked.append(self.questions.question(question))
            answers.append([self.questions.answer(option) for option in options])
        longest = max(len(row) + max(map(len, some)) for row, some in zip(asked, answers, strict=True))
        if longest > self.question_format.max_tokens:
            raise QuestionError(
                f'question and options have {longest} tokens, more than the {self.question_format.max_tokens} that '
                'the model reads: ask shorter, or with fewer options'
            )
        heard = self._listen([audio], sample_rate)
        likelihoods = []
        at_once = max(1, _PAIRS_AT_ONCE // count)
        with self._evaluating():
            with self.hearing(self.encode_audio(heard.windows, heard.mask), heard.mask):
                for start in range(0, len(orders), at_once):
                    before = self.questions.padded(asked[start : start + at_once], left=True)
                    behind = self.questions.padded(sum(answers[start : start + at_once], []), left=False)
                    texts = (before.input_ids, before.attention_mask, behind.input_ids, behind.attention_mask)
                    likelihoods.append(
                        answer_log_likelihoods(self.language_model, *(part.to(self._here) for part in texts))
                    )
        by_order = torch.cat(likelihoods).double().view(len(orders), count).softmax(dim=1).tolist()
        totals = [0.0] * count
        for order, weight, probabilities in zip(orders, weights, by_order, strict=True):
            for index, probability in zip(order, probabilities, strict=True):
                totals[index] += weight * probability
        return dict(zip(options, totals, strict=True))

    @property
    def _here(self) -> torch.device:
        return self.audio_transform.norm.weight.device

    def _listen(self, recordings: Sequence[Recording], sample_rate: int | None) -> WindowBatch:
        batch = batch_windows([hear(self.listening, recording, sample_rate) for recording in recordings])
        return WindowBatch(batch.windows.to(self._here), batch.mask.to(self._here))


def _warn_of_cut(written: Sequence[Sequence[int]], stop_id: int, settings: TextSettings) -> None:
    cut = [item for item, ids in enumerate(written) if ids[-1] != stop_id]
    if not cut:
        return
    which = 'the answer is' if len(written) == 1 else f'{len(cut)} of {len(written)} answers (items {cut}) are'
    message = f'{which} cut at {settings.max_new_tokens} tokens; max_new_tokens of TextSettings allows more'
    warnings.warn(CutAnswerWarning(message, cut), stacklevel=4)  # generate has a decorator


class _Pieces:
    """Tokens to pieces of text, held back while a character is incomplete."""

    def __init__(self, questions: QuestionTokenizer, items: int, on_text: OnText):
        self._questions, self._on_text = questions, on_text
        self._tokens: list[list[int]] = [[] for _ in range(items)]
        self._said = [''] * items

    def __call__(self, item: int, token: int) -> None:
        self._tokens[item].append(token)
        text = self._questions.text(self._tokens[item])
        if len(text) > len(self._said[item]) and not text.endswith('\ufffd'):
            self._on_text(item, text[len(self._said[item]) :])
            self._said[item] = text
