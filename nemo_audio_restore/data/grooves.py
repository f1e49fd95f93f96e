"""Accompaniments in named styles: the grooves of mma (Musical MIDI Accompaniment), rendered with soundfonts.

Style, tempo, key and instruments are known by construction. ``grooves.csv`` beside this file says which library files
belong to which class. A groove (one variant of a style) is in one split only, with all of its renders.
"""

import csv
import random
import re
from dataclasses import dataclass
from pathlib import Path

from nemo_audio_restore.data.clips import Clip, stable_hash
from nemo_audio_restore.data.instruments import program_names

_TABLE = Path(__file__).with_name('grooves.csv')
LIBRARY = Path('/usr/share/mma/lib')
_LICENCE = 'GPL-2+ (mma) rendered with {}'
# Parts of an arrangement that do not show the style.
_PARTS = re.compile(r'intro|end|fill|metronome|count|break|stop', re.IGNORECASE)
_KEYS = ('C', 'Db', 'D', 'Eb', 'E', 'F', 'G', 'Ab', 'A', 'Bb')
_FLATS = ('C', 'Db', 'D', 'Eb', 'E', 'F', 'Gb', 'G', 'Ab', 'A', 'Bb', 'B')
# Semitones above the key note and the kind of chord, one for each bar.
_MAJOR = (
    ((0, ''), (9, 'm'), (5, ''), (7, '7')),
    ((0, ''), (5, ''), (7, '7'), (0, '')),
    ((0, 'M7'), (9, 'm7'), (2, 'm7'), (7, '7')),
    ((0, ''), (7, ''), (9, 'm'), (5, '')),
)
_MINOR = (
    ((0, 'm'), (5, 'm'), (7, '7'), (0, 'm')),
    ((0, 'm'), (8, ''), (3, ''), (10, '')),
    ((0, 'm7'), (5, 'm7'), (10, '7'), (3, 'M7')),
)
_BLUES = tuple((step, '7') for step in (0, 0, 0, 0, 5, 5, 0, 0, 7, 5, 0, 7))
_NUM_INSTRUMENTS = 4
_TEST_SHARE, _VALIDATION_SHARE = 0.17, 0.07


@dataclass(frozen=True)
class Style:
    """A row of the table: a class, the library files of its grooves, and what to ask of mma."""

    kind: str
    files: tuple[str, ...]
    tempi: tuple[int, int]
    minor: bool
    captions: tuple[str, ...]


@dataclass(frozen=True)
class GrooveTake:
    """What one clip of a groove plays: enough to write the mma file and the caption."""

    style: Style
    file: str
    groove: str
    index: int
    tempo: int
    key: str
    mode: str
    seconds: float
    chords: tuple[str, ...]
    split: str

    @property
    def source(self) -> str:
        """Text of the mma file; the seed makes mma's random accents repeatable."""
        # Few measures are shorter than two beats: so many last long enough.
        num_bars = int(self.seconds * self.tempo / 60 / 2) + 1
        bars = [f'{index + 1} {self.chords[index % len(self.chords)]}' for index in range(num_bars)]
        seed = stable_hash(self.file, self.groove, self.index) % 2**16
        head = [f'RndSeed {seed}', f'Use {self.file}', f'Tempo {self.tempo}', f'Groove {self.groove}']
        return '\n'.join(head + bars) + '\n'


def styles() -> list[Style]:
    """Reads the table."""
    with _TABLE.open(newline='', encoding='utf-8') as file:
        return [
            Style(
                kind=row['class'],
                files=tuple(row['files'].split()),
                tempi=(int(row['low_bpm']), int(row['high_bpm'])),
                minor=row['minor'] == 'yes',
                captions=tuple(row['captions'].split('|')),
            )
            for row in csv.DictReader(file)
        ]


def groove_names(path: Path) -> list[str]:
    """The grooves that an mma library file defines, without introductions, endings and fills."""
    text = path.read_text(encoding='utf-8', errors='replace')
    names = re.findall(r'^\s*DefGroove\s+(\S+)', text, re.IGNORECASE | re.MULTILINE)
    return [name for name in dict.fromkeys(names) if not _PARTS.search(name)]


def plan_takes(style: Style, library: Path, *, count: int, seed: int = 0) -> list[GrooveTake]:
    """Chooses grooves, tempi, keys and chords for the clips of a class.

    Args:
        style: the class.
        library: mma's folder of library files.
        count: number of clips; every groove serves about equally often, files in turn.
        seed: of the choices.

    Returns:
        The takes.

    Raises:
        FileNotFoundError: no library file of the class is there.
    """
    paths = {file: library / f'{file}.mma' for file in style.files}
    queues = [[(file, name) for name in groove_names(path)] for file, path in paths.items() if path.exists()]
    if not any(queues):
        raise FileNotFoundError(f'{library} holds no groove of {", ".join(style.files)}; install Debian package mma')
    generator = random.Random(stable_hash(seed, style.kind))
    for queue in queues:
        generator.shuffle(queue)
    # File by file, so that a library with many variants does not dominate.
    longest = max(map(len, queues))
    order = [queue[index] for index in range(longest) for queue in queues if index < len(queue)][:count]
    splits = _splits(order)
    takes = []
    for index in range(count):
        file, groove = order[index % len(order)]
        minor = style.minor and generator.random() < 0.5
        takes.append(
            GrooveTake(
                style=style,
                file=file,
                groove=groove,
                index=index,
                tempo=generator.randint(*style.tempi),
                key=(key := generator.choice(_KEYS)),
                mode='minor' if minor else 'major',
                seconds=round(generator.uniform(6.0, 10.0), 2),
                chords=_chords(key, style.kind, minor, generator),
                split=splits[file, groove],
            )
        )
    return takes


def groove_clip(take: GrooveTake, programs: list[int | None], soundfont: str, licence: str) -> Clip:
    """Writes the caption of a render.

    Args:
        take: what is played.
        programs: the instruments that sound, see :func:`nemo_audio_restore.data.midi.read_programs`.
        soundfont: short name.
        licence: of the soundfont.

    Returns:
        The clip.
    """
    name = re.sub(r'\W+', '-', f'groove-{take.file}-{take.groove}-{take.index:03d}-{soundfont}'.lower())
    generator = random.Random(stable_hash(name))
    instruments = ['drums' if program is None else program_names()[program] for program in programs]
    instruments = list(dict.fromkeys(instruments))[:_NUM_INSTRUMENTS]
    style = generator.choice(take.style.captions)
    pace = 'slow' if take.tempo < 85 else 'fast' if take.tempo > 140 else 'mid-tempo'
    listed = ' and '.join([', '.join(instruments[:-1]), instruments[-1]] if len(instruments) > 1 else instruments)
    # Drums alone have no key.
    key = f'{take.key} {take.mode}' if programs != [None] else ''
    captions = [
        f'{style} groove with {listed}, {take.tempo} BPM',
        f'a {pace} {style} accompaniment at {take.tempo} BPM',
        f'{style} played by {listed}',
    ]
    if key:
        captions += [f'{pace} {style} in {key} with {listed}', f'{style}, {take.tempo} BPM, {key}']
    tags = {'Genre': style, 'Instruments': ', '.join(instruments), 'BPM': str(take.tempo), 'Pace': pace}
    if key:
        tags['Key'] = key
    return Clip(
        name=name,
        split=take.split,
        task='groove',
        kind=take.style.kind,
        caption=generator.choice(captions),
        licence=_LICENCE.format(f'{soundfont}, {licence}'),
        group=soundfont,
        tags=tags,
    )


def _splits(grooves: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Keeps grooves apart: with all of its renders, a groove is in one split."""
    ordered = sorted(grooves, key=lambda groove: stable_hash('split', *groove))
    num_test = max(1, round(_TEST_SHARE * len(ordered)))
    num_held_out = num_test + max(1, round(_VALIDATION_SHARE * len(ordered)))
    return {
        groove: 'test' if rank < num_test else 'validation' if rank < num_held_out else 'train'
        for rank, groove in enumerate(ordered)
    }


def _chords(key: str, kind: str, minor: bool, generator: random.Random) -> tuple[str, ...]:
    pattern = _BLUES if kind == 'blues' else generator.choice(_MINOR if minor else _MAJOR)
    root = _FLATS.index(key)
    return tuple(_FLATS[(root + step) % 12] + quality for step, quality in pattern)
