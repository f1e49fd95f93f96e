"""Which clips, voices and renders become recordings to ask about, and what of them is never trained on."""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import CutSet

from nemo_audio_restore.data.clips import stable_hash
from nemo_audio_restore.data.effects import TESTED_EFFECT_PACKAGES
from nemo_audio_restore.data.instruments import Phrase, compose, instruments
from nemo_audio_restore.data.question_corpus import SAMPLE_RATE, Fact, Known, save_recording
from nemo_audio_restore.data.question_renders import render_together
from nemo_audio_restore.data.question_scenes import (
    PROGRAMS,
    TEMPI,
    compose_chords,
    in_order,
    struck,
)
from nemo_audio_restore.data.question_words import TASKS
from nemo_audio_restore.data.rendered import SOUNDFONTS, Soundfont
from nemo_audio_restore.files.audio import read_audio

TRAINED_FONT, TESTED_FONT = SOUNDFONTS
SOUNDS = {
    'explosion and thunder': 'explosion',
    'rustling leaves': 'leaves',
    'stone hit': 'stone',
    'sword and metal hit': 'metal',
    'village ambience': 'village',
    'wood chopping': 'wood',
    'wood hit': 'wood',
    **{label: label for label in TASKS['sound'].labels if label not in ('explosion', 'leaves', 'stone', 'metal')},
}
"""Classes of captioned clips to labels of the task ``sound``."""
LANGUAGES = {
    'bg': 'bulgarian',
    'cs': 'czech',
    'en': 'english',
    'es': 'spanish',
    'fr': 'french',
    'ro': 'romanian',
    'ru': 'russian',
}
# Whole packages and kits that are only ever tested on, and kits left out for being relatives of a tested one.
_TESTED = {'wesnoth-1.16-data', 'sonic-pi-samples', 'Gimme A Hand 1.0', 'Millo_MultiLayered3', *TESTED_EFFECT_PACKAGES}
_LEFT_OUT = {'Millo_MultiLayered2', 'Millo-Drums_v.1'}
# Clips whose class, wide enough for a caption, is not what they sound like: weapons that are no bow, and blows that
# miss, which are also among the members of Wesnoth's series.
_MISNAMED = {
    'bow and arrow': re.compile('dart|jav|net|pike|sling|spear|throw'),
    'rustling leaves': re.compile('hoe'),
    'sword and metal hit': re.compile('miss|swish|series-wesnoth'),
    'village ambience': re.compile('morning|night'),
    'wood hit': re.compile('hatchet|miss|series-wesnoth'),
}
_OTHER_VOICES = ('ktuberling', 'klettres')
_TEST_SHARE = 7
_SPEECH_S = 5.0
_MOST_TAKES = 110
_SILENT = 0.01


@dataclass(frozen=True)
class Part:
    """A single sound that counting and order are made of."""

    label: str
    task: str
    split: str
    path: Path
    source: str
    licence: str
    near: bool


def read_mono(path: Path) -> tuple[np.ndarray, int]:
    """(T,) samples, the mean of all channels, and their rate in Hz."""
    audio, rate = read_audio(path)
    return audio.mean(axis=0), rate


def effect_recordings(manifests: Mapping[str, Path], folder: Path) -> Iterator[Known]:
    """Drums and sounds of captioned clips, see ``prepare_captions.py``.

    Args:
        manifests: split to manifest of captioned clips.
        folder: for the recordings.

    Yields:
        Recordings.
    """
    for split, cut in _cuts(manifests):
        kind, kit = cut.custom['class'], cut.custom['group'].split('/')[-1]
        drum = kind in TASKS['drum'].labels
        if cut.custom['task'] != 'effect' or kit in _LEFT_OUT or not (drum or kind in SOUNDS):
            continue
        if kind in _MISNAMED and _MISNAMED[kind].search(cut.id):
            continue
        # Sampled drums and game sounds of one package are told apart: the former are tested on other kits alone.
        tested = kit in _TESTED and (drum or kit != 'sonic-pi-samples')
        if drum and split == 'test' and not tested:
            continue
        label = kind if drum else SOUNDS[kind]
        facts = [Fact('drum' if drum else 'sound', label)]
        facts += [] if drum else [Fact('kind', 'sound effect')]
        known = Known(
            name=f'{facts[0].task}-{cut.id}',
            split='test' if tested else split,
            facts=tuple(facts),
            caption=f'the sound of {label}',
            source=cut.custom['group'],
            licence=cut.custom['licence'],
            near=split == 'test' and not tested,
            single=(cut.custom.get('tags') or {}).get('Count') == 'one',
        )
        _copy(cut, known.name, folder)
        yield known


def music_recordings(manifests: Mapping[str, Path], folder: Path) -> Iterator[Known]:
    """Accompaniments and music of captioned clips: music as against speech and effects.

    Args:
        manifests: split to manifest of captioned clips.
        folder: for the recordings.

    Yields:
        Recordings: accompaniments with the trained soundfont for training and the other for tests.
    """
    for split, cut in _cuts(manifests):
        task, group = cut.custom['task'], cut.custom['group']
        if task not in ('groove', 'music') or stable_hash('music', cut.id) % 2:
            continue
        if task == 'groove' and (group == TESTED_FONT.name) != (split == 'test'):
            continue
        known = Known(
            name=f'music-{cut.id}',
            split=split,
            facts=(Fact('kind', 'music'),),
            caption=f'{cut.custom["class"]}' + ('' if task == 'music' else ' music'),
            source=group,
            licence=cut.custom['licence'],
        )
        _copy(cut, known.name, folder)
        yield known


def speech_recordings(manifest: Path, sentences: Path | None, folder: Path) -> Iterator[Known]:
    """Five seconds of speech of packages that were unpacked by ``prepare_speech.py``.

    Args:
        manifest: takes for training.
        sentences: manifest of English prompts.
        folder: for the recordings.

    Yields:
        Recordings: most takes of one voice or few in each language for training, a seventh of them for the test, and
        for the test also voices of other packages.
    """
    counts: dict[str, int] = {}
    for _, cut in _cuts({'train': manifest}):
        source, language = cut.custom['group'].split('/')[0], cut.supervisions[0].language
        other = source in _OTHER_VOICES
        expected = 'fillets' if language == 'cs' else 'tuxpaint'
        if language not in LANGUAGES or not (other or source == expected):
            continue
        counts[language, other] = counts.get((language, other), 0) + 1
        if counts[language, other] > _MOST_TAKES:
            continue
        # Levels and takes are never torn apart.
        whole = cut.custom['group'] if source == 'fillets' else cut.id
        near = not other and stable_hash('speech', whole) % _TEST_SHARE == 0
        audio, rate = read_mono(_path(cut))
        size = round(_SPEECH_S * rate)
        for index in range(min(2, len(audio) // size)):
            name = f'speech-{cut.id}-{index}'
            save_recording(name, audio[index * size : (index + 1) * size], rate, folder)
            yield _speech(name, language, source, cut.custom['licence'], test=other or near, near=near)
    if sentences is not None:
        yield from _prompts(sentences, folder)


def instrument_recordings(
    font: Soundfont, soundfont: Path, folder: Path, *, per_family: int, seed: int
) -> Iterator[Known]:
    """Solo phrases of every program, see :func:`compose`.

    Args:
        font: which soundfont it is; the trained one trains, the other tests.
        soundfont: its file.
        folder: for the recordings.
        per_family: about as many phrases of each family.
        seed: of the phrases.

    Yields:
        Recordings.
    """
    rows = [row for row in instruments() if row.family]
    for row in rows:
        programs = sum(other.family == row.family for other in rows)
        phrases = [compose(row, seed * 10_000 + index) for index in range(max(1, round(per_family / programs)))]
        names = [
            f'instrument-{font.name}-{int(row.drums)}{row.program:03d}-{seed}-{index}' for index in range(len(phrases))
        ]
        _render(phrases, names, soundfont, folder, program=row.program, drums=row.drums)
        for name in filter(lambda name: _sounds(folder / f'{name}.flac'), names):
            split = 'test' if font == TESTED_FONT else 'validation' if stable_hash(name) % 20 == 0 else 'train'
            facts = (Fact('instrument', row.family),)
            licence = f'{font.licence} ({font.name})'
            yield Known(name, split, facts, f'a solo of {row.family}', font.name, licence, single=True)


def chord_recordings(font: Soundfont, soundfont: Path, folder: Path, *, number: int, seed: int) -> Iterator[Known]:
    """Chords of known tempo and mode.

    Args:
        font: which soundfont it is; the trained one trains, the other tests.
        soundfont: its file.
        folder: for the recordings.
        number: of recordings for each instrument.
        seed: of the phrases.

    Yields:
        Recordings.
    """
    for program in PROGRAMS:
        kinds = [(tempo, mode) for tempo in TEMPI for mode in TASKS['key'].labels]
        chosen = [kinds[index % len(kinds)] for index in range(number)]
        phrases = [compose_chords(*kind, seed * 1000 + program * 100_000 + i) for i, kind in enumerate(chosen)]
        names = [f'chords-{font.name}-{program:03d}-{seed}-{index}' for index in range(number)]
        _render(phrases, names, soundfont, folder, program=program)
        for name, (tempo, mode) in zip(names, chosen, strict=True):
            split = 'test' if font == TESTED_FONT else 'validation' if stable_hash(name) % 20 == 0 else 'train'
            facts = (Fact('tempo', tempo), Fact('key', mode), Fact('kind', 'music'))
            caption = f'{tempo} chords in a {mode} key'
            yield Known(name, split, facts, caption, font.name, f'{font.licence} ({font.name})')


def parts_of(recordings: Iterable[Known], folder: Path) -> list[Part]:
    """Single sounds among recordings.

    Args:
        recordings: instruments, drums and sounds; those that are one single sound are taken.
        folder: of their files.

    Returns:
        What counting and order are made of.
    """
    found = []
    for known in recordings:
        if not known.single:
            continue
        fact = known.facts[0]
        path = folder / f'{known.name}.flac'
        found.append(Part(fact.label, fact.task, known.split, path, known.source, known.licence, known.near))
    return found


def counted_recordings(parts: Sequence[Part], folder: Path, *, numbers: Mapping[str, int]) -> Iterator[Known]:
    """A drum struck one to five times.

    Args:
        parts: single sounds; the drums among them are used.
        folder: for the recordings.
        numbers: recordings for each split.

    Yields:
        Recordings, the numbers in turn.
    """
    words = TASKS['count'].labels
    for split, number in numbers.items():
        drums = [part for part in parts if part.split == split and part.task == 'drum' and part.label != 'cymbal']
        labels = sorted({part.label for part in drums})
        for index in range(number if drums else 0):
            generator = random.Random(f'count/{split}/{index}')
            label = generator.choice(labels)
            part = generator.choice([part for part in drums if part.label == label])
            times = index % len(words)
            audio, rate = read_mono(part.path)
            name = f'count-{split}-{index:04d}'
            save_recording(name, struck(audio, rate, times + 1, generator), rate, folder)
            caption = f'{words[times]} hits of a {label}' if times else f'one hit of a {label}'
            yield Known(name, split, (Fact('count', words[times]),), caption, part.source, part.licence)


def ordered_recordings(parts: Sequence[Part], folder: Path, *, numbers: Mapping[str, int]) -> Iterator[Known]:
    """Two sounds of different names, one after the other.

    Args:
        parts: single sounds.
        folder: for the recordings.
        numbers: recordings for each split.

    Yields:
        Recordings.
    """
    for split, number in numbers.items():
        there = [part for part in parts if part.split == split]
        tasks = sorted({part.task for part in there})
        labels = {task: sorted({part.label for part in there if part.task == task}) for task in tasks}
        for index in range(number if there else 0):
            generator = random.Random(f'order/{split}/{index}')
            pair: list[Part] = []
            while len(pair) < 2:
                label = generator.choice(labels[generator.choice(tasks)])
                part = generator.choice([part for part in there if part.label == label])
                pair += [part] if label not in [other.label for other in pair] else []
            sounds = [_at_rate(*read_mono(part.path)) for part in pair]
            name = f'order-{split}-{index:04d}'
            save_recording(name, in_order(sounds, SAMPLE_RATE, generator), SAMPLE_RATE, folder)
            first, second = pair
            yield Known(
                name=name,
                split=split,
                facts=(Fact('order', first.label, (second.label,)),),
                caption=f'{first.label}, then {second.label}',
                source=' + '.join(sorted({part.source for part in pair})),
                licence=' + '.join(sorted({part.licence for part in pair})),
                near=any(part.near for part in pair),
            )


def _render(
    phrases: Sequence[Phrase],
    names: Sequence[str],
    soundfont: Path,
    folder: Path,
    *,
    program: int,
    drums: bool = False,
) -> None:
    if not all((folder / f'{name}.flac').exists() for name in names):
        rendered = render_together(phrases, soundfont, program=program, drums=drums)
        for name, (audio, rate) in zip(names, rendered, strict=True):
            save_recording(name, audio, rate, folder)


def _sounds(path: Path) -> bool:
    """Not so where a soundfont has no sample for the notes of a phrase."""
    return bool(np.abs(read_mono(path)[0]).max() > _SILENT)


def _at_rate(audio: np.ndarray, rate: int) -> np.ndarray:
    if rate != SAMPLE_RATE:
        raise ValueError(f'parts of scenes must have {SAMPLE_RATE} Hz; got {rate}')
    return audio


def _copy(cut: Any, name: str, folder: Path) -> None:
    if not (folder / f'{name}.flac').exists():
        save_recording(name, *read_mono(_path(cut)), folder)


def _path(cut: Any) -> Path:
    return Path(cut.recording.sources[0].source)


def _cuts(manifests: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
    for split, manifest in manifests.items():
        for cut in CutSet.from_file(manifest).with_recording_path_prefix(manifest.parent):
            yield split, cut


def _speech(name: str, language: str, source: str, licence: str, *, test: bool, near: bool) -> Known:
    spoken = LANGUAGES[language]
    validates = stable_hash(name) % 20 == 0
    return Known(
        name=name,
        split='test' if test else 'validation' if validates else 'train',
        facts=(Fact('language', spoken), Fact('kind', 'speech')),
        caption=f'a person speaking {spoken}',
        source=source,
        licence=licence,
        near=near,
    )


def _prompts(manifest: Path, folder: Path) -> Iterator[Known]:
    """English prompts, joined to five seconds."""
    pieces: list[np.ndarray] = []
    index = 0
    for _, cut in _cuts({'test': manifest}):
        if cut.custom['group'] != 'asterisk':
            continue
        audio, rate = read_mono(_path(cut))
        pieces += [audio, np.zeros(round(0.3 * rate), np.float32)]
        size = round(_SPEECH_S * rate)
        if sum(map(len, pieces)) >= size:
            name = f'speech-asterisk-{index}'
            save_recording(name, np.concatenate(pieces)[:size], rate, folder)
            near = stable_hash(name) % _TEST_SHARE == 0
            yield _speech(name, 'en', 'asterisk', cut.custom['licence'], test=near, near=near)
            pieces, index = [], index + 1
