"""All questions of the closed vocabulary with all their answers: few texts, which a language model reads once."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_audio_restore.data.question_text import with_options
from nemo_audio_restore.data.question_words import FORMS, NUM_OPTIONS, TASKS, labels_of

DESCRIPTIONS = ('Describe the sound in detail.', 'Describe the recording.')
"""Questions that are answered by a description of the recording; their task is ``caption``."""


@dataclass(frozen=True)
class Prompt:
    """A question with everything that could be answered.

    Attributes:
        task: of ``TASKS``, or ``caption``.
        form: of ``FORMS``.
        text: the question, with its options.
        answers: what can be said.
    """

    task: str
    form: str
    text: str
    answers: tuple[str, ...]


def held_out_prompt(task: str) -> Prompt:
    """The question of a task in the words that are never trained.

    Args:
        task: of ``TASKS``.

    Returns:
        It, with all labels as answers.
    """
    return Prompt(task, 'words', TASKS[task].questions[-1], labels_of(task))


class Prompts:
    """Every question that is trained, and draws of one that fits a fact.

    Args:
        captions: descriptions of recordings.
        tasks: that are asked about.
        lists: of options, for each label of a task; two sounds in order have every pair, both ways round.
        seed: of the lists and of their words.

    Attributes:
        all: the prompts.
    """

    def __init__(
        self, captions: Sequence[str] = (), *, tasks: Collection[str] = tuple(TASKS), lists: int = 60, seed: int = 0
    ):
        self.all: list[Prompt] = []
        self._places: dict[tuple[str, ...], list[int]] = {}
        generator = random.Random(f'prompts/{seed}')
        for task, what in ((task, what) for task, what in TASKS.items() if task in tasks):
            labels = labels_of(task)
            for text in what.questions[:-1]:
                self._add(Prompt(task, 'words', text, labels), [(task, 'words')])
            for claim in what.claims[:-1]:
                for label in labels:
                    prompt = Prompt(task, 'yes or no', claim.format(label), ('yes', 'no'))
                    self._add(prompt, [(task, 'yes or no', label)])
            for options in _lists(task, lists, generator):
                text = with_options(generator.choice(what.questions[:-1]), options)
                keys = [(task, 'options', label) for label in options]
                if task == 'order':
                    keys = [(task, 'options', *options), (task, 'options', *options[::-1])]
                self._add(Prompt(task, 'options', text, tuple(options)), keys)
        for text in DESCRIPTIONS if captions else ():
            self._add(Prompt('caption', 'words', text, tuple(captions)), [('caption', 'words')])

    def draw(
        self, task: str, label: str, form: str, rng: np.random.Generator, *, second: str | None = None
    ) -> tuple[int, int]:
        """A prompt about a fact.

        Args:
            task: of ``TASKS``, or ``caption``.
            label: what is true.
            form: of ``FORMS``.
            rng: of the choice.
            second: of two sounds.

        Returns:
            Number of the prompt, and of its right answer. Half of the claims are true.

        Raises:
            ValueError: no prompt fits.
        """
        key, answer = (task, form), label
        if form == 'options':
            key = (task, form, label, *([second] if second else []))
        elif form == 'yes or no':
            true = rng.random() < 0.5
            others = [second] if second and rng.random() < 0.5 else [x for x in labels_of(task) if x != label]
            key, answer = (task, form, label if true else others[rng.integers(len(others))]), 'yes' if true else 'no'
        places = self._places.get(key)
        if not places:
            raise ValueError(f'no prompt of the forms {", ".join(FORMS)} is about {key}')
        place = places[rng.integers(len(places))]
        return place, self.all[place].answers.index(answer)

    def _add(self, prompt: Prompt, keys: Sequence[tuple[str, ...]]) -> None:
        for key in keys:
            self._places.setdefault(key, []).append(len(self.all))
        self.all.append(prompt)


def _lists(task: str, number: int, generator: random.Random) -> list[list[str]]:
    """Lists of options: every label as often as any other, or every pair of two sounds."""
    labels = list(labels_of(task))
    if task == 'order':
        return [[first, second] for first in labels for second in labels if first != second]
    size, found = min(NUM_OPTIONS, len(labels)), []
    waiting: list[str] = []
    while len(found) * size < number * len(labels):
        # What is left of one round begins the next.
        again = [label for label in labels if label not in waiting]
        waiting += generator.sample(again, len(again)) if len(waiting) < size else []
        found.append(generator.sample(waiting[:size], size))
        waiting = waiting[size:]
    return found


def fact_items(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Facts that can be asked about: all but the second of two sounds.

    Args:
        facts: task to label.

    Returns:
        Tasks with labels.
    """
    return [(task, label) for task, label in facts.items() if task != 'second']
