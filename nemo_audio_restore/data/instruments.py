"""Solo phrases of named instruments: scales, arpeggios, melodies and chords, composed from a seed.

``gm_instruments.csv`` beside this file names the programs of General MIDI, puts those that play solo into families
(the classes) and says which are held out: 'both' keeps a program out of training with either soundfont, 'musescore'
with that soundfont only.
"""

import csv
import functools
import random
from dataclasses import dataclass
from pathlib import Path

from nemo_audio_restore.data.clips import Clip, stable_hash
from nemo_audio_restore.data.midi import Note

_TABLE = Path(__file__).with_name('gm_instruments.csv')
_NOTES = ('C', 'C sharp', 'D', 'E flat', 'E', 'F', 'F sharp', 'G', 'A flat', 'A', 'B flat', 'B')
_SCALES = {'major': (0, 2, 4, 5, 7, 9, 11), 'minor': (0, 2, 3, 5, 7, 8, 10)}
_PHRASES = {
    'chords': ('chords', 'an arpeggio', 'a melody', 'a scale'),
    'plucked': ('an arpeggio', 'a melody', 'chords', 'a riff'),
    'bowed': ('a slow melody', 'long notes', 'a melody', 'a scale'),
    'sustained': ('long notes', 'slow chords'),
    'melody': ('a melody', 'a scale', 'an arpeggio', 'long notes', 'a riff'),
    'bass': ('a bass line', 'a riff', 'a scale'),
    'drums': ('a steady beat', 'a busy beat', 'a drum fill', 'a half-time beat'),
}
_VALIDATION_SHARE = 0.07
_KICK, _SNARE, _CLOSED_HAT, _OPEN_HAT, _CRASH, _TOMS = 36, 38, 42, 46, 49, (50, 47, 43)


@dataclass(frozen=True)
class Instrument:
    """A row of the table; ``family`` is empty for programs that only need a name."""

    program: int
    name: str
    family: str
    low: int
    high: int
    manner: str
    held_out: str
    drums: bool


@dataclass(frozen=True)
class Phrase:
    """Notes with what they were composed as; times in beats."""

    notes: tuple[Note, ...]
    tempo: int
    what: str
    key: str
    seconds: float


def instruments() -> list[Instrument]:
    """Reads the table."""
    with _TABLE.open(newline='', encoding='utf-8') as file:
        return [
            Instrument(
                program=int(row['program']),
                name=row['name'],
                family=row['family'],
                low=int(row['low']),
                high=int(row['high']),
                manner=row['manner'],
                held_out=row['held_out'],
                drums=row['drums'] == 'yes',
            )
            for row in csv.DictReader(file)
        ]


@functools.cache
def program_names() -> dict[int, str]:
    """Name of each General MIDI program."""
    return {row.program: row.name for row in instruments() if not row.drums}


def compose(instrument: Instrument, seed: int) -> Phrase:
    """Composes a phrase of 2 to 6 s in the manner of an instrument.

    Args:
        instrument: its range and manner are kept to.
        seed: the same seed composes the same phrase.

    Returns:
        The phrase; it starts at beat 0.
    """
    generator = random.Random(stable_hash('phrase', instrument.family, instrument.program, seed))
    seconds = round(generator.uniform(2.5, 6.0), 2)
    tempo = generator.randint(80, 150)
    what = generator.choice(_PHRASES[instrument.manner])
    beats = (seconds - 0.4) * tempo / 60
    if instrument.manner == 'drums':
        return Phrase(tuple(_beat(what, beats, generator)), tempo, what, '', seconds)
    root, mode = generator.randrange(12), generator.choice(sorted(_SCALES))
    scale = [pitch for pitch in range(instrument.low, instrument.high + 1) if (pitch - root) % 12 in _SCALES[mode]]
    notes = _chords(what, scale, beats, generator) if 'chords' in what else _line(what, scale, beats, generator)
    return Phrase(tuple(notes), tempo, what, f'{_NOTES[root]} {mode}', seconds)


def phrase_clip(instrument: Instrument, phrase: Phrase, index: int, soundfont: str, licence: str) -> Clip:
    """Writes the caption of a render.

    Args:
        instrument: who plays.
        phrase: what is played.
        index: number of the phrase.
        soundfont: short name.
        licence: of the soundfont.

    Returns:
        The clip; those of held-out instruments are for the test.
    """
    name = f'instrument-{instrument.family}-{instrument.program:03d}-{index:02d}-{soundfont}'.replace(' ', '-').lower()
    generator = random.Random(stable_hash(name))
    held_out = instrument.held_out in ('both', soundfont.lower())
    validates = generator.random() < _VALIDATION_SHARE
    pace = 'slow' if phrase.tempo < 95 else 'fast' if phrase.tempo > 130 else 'moderate'
    family = instrument.family
    # The family is always said: it is the class, and a program's own name may not tell it.
    player = instrument.name if family in instrument.name else f'{family}, {instrument.name}'
    captions = [
        f'solo {player} playing {phrase.what}',
        f'{player} playing {phrase.what} at {phrase.tempo} BPM',
        f'{family} solo, {phrase.what}, {pace} tempo',
    ]
    if phrase.key:
        captions.append(f'{player} playing {phrase.what} in {phrase.key}')
    tags = {'Instruments': player, 'Type': 'solo', 'Phrase': phrase.what, 'BPM': str(phrase.tempo), 'Pace': pace}
    if phrase.key:
        tags['Key'] = phrase.key
    return Clip(
        name=name,
        split='test' if held_out else 'validation' if validates else 'train',
        task='instrument',
        kind=family,
        caption=generator.choice(captions),
        licence=f'{licence} ({soundfont})',
        group=soundfont,
        tags=tags,
    )


def _line(what: str, scale: list[int], beats: float, generator: random.Random) -> list[Note]:
    """One note after another."""
    slow = what in ('a slow melody', 'long notes')
    lengths = {'long notes': (2.0, 3.0, 4.0), 'a slow melody': (1.0, 1.5, 2.0)}.get(what, (0.5, 0.5, 1.0))
    position = generator.randrange(len(scale) // 4, max(len(scale) // 4 + 1, len(scale) // 2))
    direction = generator.choice((1, -1))
    riff = [generator.randint(-2, 4) for _ in range(4)]
    start_position, notes, now = position, [], 0.0
    while now < beats:
        length = 0.5 if what in ('a scale', 'an arpeggio', 'a riff') else generator.choice(lengths)
        length = min(length, beats - now)
        velocity = generator.randint(70, 105)
        pitch = scale[min(max(position, 0), len(scale) - 1)]
        notes.append(Note(pitch, now, max(0.1, length * (0.98 if slow else 0.92)), velocity))
        now += length
        if what in ('a scale', 'an arpeggio'):
            step = 1 if what == 'a scale' else 2
            if not 0 <= position + step * direction < len(scale):
                direction = -direction
            position += step * direction
        elif what == 'a riff':
            position = start_position + riff[len(notes) % len(riff)]
        else:
            position = min(max(position + generator.choice((-2, -1, -1, 1, 1, 2, 3)), 0), len(scale) - 1)
    return notes


def _chords(what: str, scale: list[int], beats: float, generator: random.Random) -> list[Note]:
    """Triads on steps of the scale."""
    notes, now = [], 0.0
    while now < beats:
        length = min(generator.choice((2.0, 4.0) if what == 'slow chords' else (0.5, 1.0, 2.0)), beats - now)
        lowest = generator.randrange(0, max(1, len(scale) - 5))
        velocity = generator.randint(65, 95)
        for step in (0, 2, 4):
            notes.append(Note(scale[min(lowest + step, len(scale) - 1)], now, max(0.1, length * 0.95), velocity))
        now += length
    # Two steps of one chord may meet at the end of the range.
    return list({(note.pitch, note.start): note for note in notes}.values())


def _beat(what: str, beats: float, generator: random.Random) -> list[Note]:
    """A pattern of drums in eighths."""
    notes = []
    if generator.random() < 0.3:
        notes.append(Note(_CRASH, 0.0, 0.5, 100))
    for eighth in range(int(beats * 2)):
        now, step = eighth / 2, eighth % 8
        if what == 'a drum fill':
            notes.append(Note(generator.choice((_SNARE, *_TOMS)), now, 0.2, generator.randint(80, 115)))
            notes.append(Note(generator.choice((_SNARE, *_TOMS)), now + 0.25, 0.2, generator.randint(60, 100)))
            continue
        busy = what == 'a busy beat'
        back = (4,) if what == 'a half-time beat' else (2, 6)
        if step in (0, 4) and step not in back or generator.random() < (0.3 if busy else 0.08):
            notes.append(Note(_KICK, now, 0.3, generator.randint(95, 115)))
        if step in back or busy and generator.random() < 0.2:
            notes.append(Note(_SNARE, now, 0.3, generator.randint(90, 115)))
        hat = _OPEN_HAT if step == 7 and generator.random() < 0.3 else _CLOSED_HAT
        notes.append(Note(hat, now, 0.2, generator.randint(60, 95)))
        if busy:
            notes.append(Note(_CLOSED_HAT, now + 0.25, 0.2, generator.randint(45, 75)))
    return list({(note.pitch, note.start): note for note in notes}.values())
