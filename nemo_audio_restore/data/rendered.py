"""Renders grooves and solo phrases with soundfonts: from plans to captioned clips on disk."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nemo_audio_restore.data.clips import Clip, clip_path, prepare_audio, save_clip
from nemo_audio_restore.data.grooves import GrooveTake, groove_clip, plan_takes, styles
from nemo_audio_restore.data.instruments import compose, instruments, phrase_clip
from nemo_audio_restore.data.midi import read_programs, render_midi, run_mma, write_midi
from nemo_audio_restore.files.audio import read_audio

Report = Callable[[str], None]


@dataclass(frozen=True)
class Soundfont:
    """A soundfont and where it comes from.

    Attributes:
        name: short name, the group of its clips.
        package: Debian package.
        member: path in the package.
        licence: as the package states it.
    """

    name: str
    package: str
    member: str
    licence: str


SOUNDFONTS = (
    Soundfont('FluidR3', 'fluid-soundfont-gm', 'usr/share/sounds/sf2/FluidR3_GM.sf2', 'MIT'),
    Soundfont(
        'MuseScore',
        'musescore-general-soundfont-lossless',
        'usr/share/sounds/sf2/MuseScore_General_Full.sf2',
        'MIT',
    ),
)


def render_grooves(
    soundfonts: dict[Soundfont, Path],
    folder: Path,
    *,
    library: Path,
    per_class: int,
    seed: int = 0,
    workers: int = 2,
    report: Report | None = None,
) -> list[Clip]:
    """Renders accompaniments of every class; clips on disk are kept.

    Training takes use the soundfonts in turn, test takes all of them.

    Args:
        soundfonts: files by soundfont.
        folder: for the clips; the MIDI files go into ``midi`` beside it.
        library: mma's folder of library files.
        per_class: takes of each class.
        seed: of the choices.
        workers: renders at a time.
        report: receives a message for every take that failed.

    Returns:
        The clips on disk.
    """
    midi_folder = folder.parent / 'midi'
    midi_folder.mkdir(parents=True, exist_ok=True)
    plans = [plan_takes(style, library, count=per_class, seed=seed) for style in styles()]
    # Class by class in turn: a preparation that is interrupted leaves a balanced folder.
    takes = [take for turn in zip(*plans, strict=True) for take in turn]

    def render(take: GrooveTake) -> list[Clip]:
        midi = midi_folder / f'{take.file.replace("/", "-")}-{take.groove}-{take.index:03d}-{seed}.mid'
        if not midi.exists():
            run_mma(take.source, midi)
        programs = read_programs(midi)
        if not programs:
            raise ValueError(f'{take.groove} of {take.file} plays no notes')
        names = sorted(soundfonts, key=lambda soundfont: soundfont.name)
        chosen = names if take.split == 'test' else [names[take.index % len(names)]]
        made = []
        for soundfont in chosen:
            clip = groove_clip(take, programs, soundfont.name, soundfont.licence)
            _render(clip, midi, soundfonts[soundfont], folder, take.seconds)
            made.append(clip)
        return made

    return list(_together(render, takes, workers, report))


def render_phrases(
    soundfonts: dict[Soundfont, Path],
    folder: Path,
    *,
    per_family: int,
    seed: int = 0,
    workers: int = 2,
    report: Report | None = None,
) -> list[Clip]:
    """Renders solo phrases of every instrument family; clips on disk are kept.

    Args:
        soundfonts: files by soundfont.
        folder: for the clips.
        per_family: about as many clips of each family.
        seed: of the phrases.
        workers: renders at a time.
        report: receives a message for every phrase that failed.

    Returns:
        The clips on disk.
    """
    rows = [row for row in instruments() if row.family]
    jobs = []
    for row in rows:
        programs = sum(other.family == row.family for other in rows)
        each = max(1, round(per_family / programs / len(soundfonts)))
        for number, soundfont in enumerate(sorted(soundfonts, key=lambda item: item.name)):
            jobs += [(row, soundfont, index * len(soundfonts) + number) for index in range(each)]

    def render(job: tuple) -> list[Clip]:
        instrument, soundfont, index = job
        phrase = compose(instrument, seed * 10_000 + index)
        clip = phrase_clip(instrument, phrase, index, soundfont.name, soundfont.licence)
        with tempfile.TemporaryDirectory() as temporary:
            midi = Path(temporary) / 'phrase.mid'
            write_midi(phrase.notes, midi, tempo=phrase.tempo, program=instrument.program, drums=instrument.drums)
            _render(clip, midi, soundfonts[soundfont], folder, phrase.seconds)
        return [clip]

    return list(_together(render, jobs, workers, report))


def _render(clip: Clip, midi: Path, soundfont: Path, folder: Path, seconds: float) -> None:
    if clip_path(clip, folder).exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        wav = Path(temporary) / 'render.wav'
        render_midi(midi, soundfont, wav)
        audio, rate = read_audio(wav)
    save_clip(clip, prepare_audio(audio, rate, seconds=seconds), folder)


def _together(
    work: Callable[[object], list[Clip]], jobs: Iterable[object], workers: int, report: Report | None
) -> Iterator[Clip]:
    """The work is done by other programs: threads are enough."""

    def attempt(job: object) -> list[Clip]:
        try:
            return work(job)
        except (RuntimeError, ValueError) as error:
            if 'not installed' in str(error):
                raise
            if report is not None:
                report(str(error))
            return []

    with ThreadPoolExecutor(workers) as pool:
        for clips in pool.map(attempt, jobs):
            yield from clips
