"""Manifests of questions for trainers that compute everything frozen once: recordings, facts, and balanced draws."""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_audio_restore.data.question_words import labels_of


@dataclass(frozen=True)
class Question:
    """A question of a manifest, and the name of the recording that it is about."""

    recording: str
    task: str
    label: str
    form: str
    text: str
    answer: str


def read_questions(path: Path) -> tuple[list[Question], dict[str, dict[str, Any]]]:
    """Reads what :func:`write_question_manifests` has written.

    Args:
        path: of a manifest.

    Returns:
        The questions, and one cut as plain data for each recording.
    """
    questions, cuts = [], {}
    with gzip.open(path, 'rt', encoding='utf-8') as lines:
        for line in lines:
            cut = json.loads(line)
            custom, supervision = cut['custom'], cut['supervisions'][0]
            name, text = cut['recording']['id'], supervision['custom']['question']
            questions.append(
                Question(name, custom['task'], custom['label'], custom['form'], text, supervision['text'])
            )
            cuts[name] = cut
    return questions, cuts


def facts_of(cut: Mapping[str, Any]) -> dict[str, str]:
    """What is true of the recording of a cut, by task; of two sounds also the ``second``."""
    custom = cut['custom']
    return {**custom['facts'], **({'second': custom['second']} if custom['second'] else {})}


def fact_labels(fact: str) -> tuple[str, ...]:
    """What a fact can be."""
    return labels_of('order' if fact == 'second' else fact)


class Draws:
    """Draws by task, then by label, then among its members: no frequent label drowns a rare one.

    Args:
        items: task, label and member.
        shares: how often a task is drawn, in proportion.
        other_share: of tasks that are not named.
    """

    def __init__(self, items: Iterable[tuple[str, str, Any]], shares: Mapping[str, float], *, other_share: float):
        found: dict[str, dict[str, list[Any]]] = {}
        for task, label, member in items:
            found.setdefault(task, {}).setdefault(label, []).append(member)
        self._members: dict[str, Sequence[Sequence[Any]]] = {task: list(own.values()) for task, own in found.items()}
        self._tasks = list(found)
        chances = np.array([shares.get(task, other_share) for task in self._tasks])
        self._chances = chances / chances.sum()

    def draw(self, rng: np.random.Generator) -> tuple[str, Any]:
        """A task and a member."""
        task = self._tasks[rng.choice(len(self._tasks), p=self._chances)]
        labels = self._members[task]
        some = labels[rng.integers(len(labels))]
        return task, some[rng.integers(len(some))]
