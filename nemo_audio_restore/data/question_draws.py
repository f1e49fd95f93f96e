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
    """What a question of a manifest is about: the name of a recording, and a fact."""

    recording: str
    task: str
    label: str


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
            name = cut['recording']['id']
            questions.append(Question(name, cut['custom']['task'], cut['custom']['label']))
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
    """Draws by task, then by label, then by source, then among its members: no frequent label drowns a rare one.

    Of a source with four times as many members twice as many are drawn: one package must not be all that a label is.

    Args:
        items: task, label, source and member.
        shares: how often a task is drawn, in proportion.
        other_share: of tasks that are not named.
    """

    def __init__(self, items: Iterable[tuple[str, str, str, Any]], shares: Mapping[str, float], *, other_share: float):
        found: dict[str, dict[str, dict[str, list[Any]]]] = {}
        for task, label, source, member in items:
            found.setdefault(task, {}).setdefault(label, {}).setdefault(source, []).append(member)
        self._sources = {task: [list(own.values()) for own in labels.values()] for task, labels in found.items()}
        self._tasks = list(found)
        self._chances = _proportions([shares.get(task, other_share) for task in self._tasks])
        self._source_chances = {
            task: [_proportions([len(own) ** 0.5 for own in sources]) for sources in labels]
            for task, labels in self._sources.items()
        }

    def draw(self, rng: np.random.Generator) -> tuple[str, Any]:
        """A task and a member."""
        task = self._tasks[rng.choice(len(self._tasks), p=self._chances)]
        label = rng.integers(len(self._sources[task]))
        sources = self._sources[task][label]
        members = sources[rng.choice(len(sources), p=self._source_chances[task][label])]
        return task, members[rng.integers(len(members))]


def _proportions(values: Sequence[float]) -> np.ndarray:
    return np.array(values) / sum(values)
