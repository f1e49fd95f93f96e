"""Recordings with facts, and the questions about them, as Lhotse cuts."""

import gzip
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from nemo_audio_restore.data.corpus import SPLITS
from nemo_audio_restore.data.question_words import FORMS, Asked, ask_about
from nemo_audio_restore.files.audio import probe
from nemo_audio_restore.files.writer import write_audio

SAMPLE_RATE = 16000
# Words need no luck; claims and options are guessed in half and a quarter of the cases.
_FORM_SHARES = (0.5, 0.2, 0.3)


@dataclass(frozen=True)
class Fact:
    """What is true of a recording.

    Attributes:
        task: of ``TASKS``.
        label: of the task.
        present: other labels of the task that the recording holds.
    """

    task: str
    label: str
    present: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """A recording of which something is known.

    Attributes:
        name: unique, the name of its file.
        split: train, validation or test.
        facts: what can be asked.
        caption: what it is, in a few words.
        source: package, kit, soundfont or game.
        licence: short name.
        near: of test recordings: the training had other recordings of the same source.
        single: one single sound, of which countings and sequences can be made.
    """

    name: str
    split: str
    facts: tuple[Fact, ...]
    caption: str
    source: str
    licence: str
    near: bool = False
    single: bool = False


def save_recording(name: str, audio: np.ndarray, sample_rate: int, folder: Path) -> None:
    """Writes ``folder/<name>.flac``: mono, 16 kHz, 16 bits, a peak of at most 0.95.

    At 16 kHz nothing tells packages apart by their bandwidth.

    Args:
        name: of the recording.
        audio: (T,) samples.
        sample_rate: in Hz.
        folder: for the file.
    """
    if sample_rate != SAMPLE_RATE:
        audio = soxr.resample(audio, sample_rate, SAMPLE_RATE, quality='HQ')
    peak = float(np.abs(audio).max(initial=0.0))
    audio = np.asarray(audio, np.float32) * np.float32(min(1.0, 0.95 / max(peak, 1e-6)))
    write_audio(folder / f'{name}.flac', audio[None], SAMPLE_RATE, bits='16', overwrite=True)


def questions_about(known: Known, *, number: int, seed: int = 0) -> list[tuple[Fact | None, Asked]]:
    """Questions about one recording: about each fact, and what it is.

    Args:
        known: the recording.
        number: questions about each fact of a training recording. Others get one in every form, in the held-out
            words.
        seed: of the choices.

    Returns:
        Facts with questions; the description has no fact.
    """
    generator = random.Random(f'questions/{seed}/{known.name}')
    held_out = known.split == 'test'
    asked: list[tuple[Fact | None, Asked]] = []
    for fact in known.facts:
        forms = FORMS if known.split != 'train' else generator.choices(FORMS, _FORM_SHARES, k=number)
        for form in dict.fromkeys(forms) if known.split != 'train' else forms:
            if form == 'options' and fact.task == 'order' and not fact.present:
                continue
            question = ask_about(
                fact.task, fact.label, form=form, generator=generator, held_out=held_out, present=fact.present
            )
            if question not in [other for _, other in asked]:
                asked.append((fact, question))
    # Two sounds in order have more descriptions than there are recordings.
    described = [fact for fact in known.facts if fact.task != 'order']
    if known.split == 'train' and described and generator.random() < 0.25:
        text = generator.choice(('Describe the sound in detail.', 'Describe the recording.'))
        asked.append((None, Asked(text, known.caption, 'words')))
    return asked


def write_question_manifests(
    recordings: Iterable[Known], audio_folder: Path, folder: Path, *, number: int = 2, seed: int = 0
) -> dict[str, Path]:
    """Writes ``<split>.jsonl.gz``: a cut for every question, see :class:`QuestionDataset`.

    Args:
        recordings: those whose file exists.
        audio_folder: of the files.
        folder: for the manifests; paths in them are relative to it.
        number: questions about each fact of a training recording.
        seed: of the choices.

    Returns:
        Split name to manifest, for the splits that have recordings.

    Raises:
        ValueError: no recording, or a name appears twice.
    """
    recordings = sorted(recordings, key=lambda known: known.name)
    if not recordings or len({known.name for known in recordings}) < len(recordings):
        raise ValueError(f'{len(recordings)} recordings, but each needs a name of its own, and one is needed')
    folder.mkdir(parents=True, exist_ok=True)
    relative = audio_folder.resolve().relative_to(folder.resolve())
    manifests = {}
    for split in SPLITS:
        rows = [
            row
            for known in recordings
            if known.split == split
            for row in _cuts(known, relative, audio_folder, number, seed)
        ]
        if rows:
            manifests[split] = folder / f'{split}.jsonl.gz'
            with gzip.open(manifests[split], 'wt', encoding='utf-8') as file:
                file.writelines(json.dumps(row) + '\n' for row in rows)
    return manifests


def _cuts(known: Known, relative: Path, audio_folder: Path, number: int, seed: int) -> list[dict]:
    info = probe(audio_folder / f'{known.name}.flac')
    recording = {
        'id': known.name,
        'sources': [{'type': 'file', 'channels': [0], 'source': (relative / f'{known.name}.flac').as_posix()}],
        'sampling_rate': SAMPLE_RATE,
        'num_samples': info.num_samples,
        'duration': info.duration_s,
        'channel_ids': [0],
    }
    rows = []
    for index, (fact, asked) in enumerate(questions_about(known, number=number, seed=seed)):
        custom = {
            'task': fact.task if fact else 'caption',
            'label': fact.label if fact else known.caption,
            'present': list(fact.present) if fact else [],
            'form': asked.form,
            'options': list(asked.options),
            'facts': {one.task: one.label for one in known.facts},
            'second': next((one.present[0] for one in known.facts if one.task == 'order' and one.present), None),
            'source': known.source,
            'licence': known.licence,
            'near': known.near,
            'single': known.single,
        }
        name = f'{known.name}-q{index}'
        supervision = {
            'id': name,
            'recording_id': known.name,
            'start': 0.0,
            'duration': recording['duration'],
            'channel': 0,
            'text': asked.answer,
            'language': 'en',
            'custom': {'question': asked.question},
        }
        rows.append(
            {
                'id': name,
                'start': 0.0,
                'duration': recording['duration'],
                'channel': 0,
                'supervisions': [supervision],
                'recording': recording,
                'custom': custom,
                'type': 'MonoCut',
            }
        )
    return rows
