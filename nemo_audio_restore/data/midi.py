"""MIDI files: notes written to a file, the instruments read from one, and rendering with FluidSynth and mma."""

import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DRUM_CHANNEL = 9
_TICKS = 480


@dataclass(frozen=True)
class Note:
    """A note of a phrase.

    Attributes:
        pitch: MIDI number, 60 = middle C; on the drum channel the piece of the kit.
        start: in beats.
        beats: length in beats.
        velocity: 1 to 127.
    """

    pitch: int
    start: float
    beats: float
    velocity: int = 90


def write_midi(notes: Iterable[Note], path: Path, *, tempo: float, program: int, drums: bool = False) -> None:
    """Writes notes of one instrument as a standard MIDI file of format 0.

    Args:
        notes: in any order.
        path: of the file.
        tempo: in beats per minute.
        program: General MIDI program 0 to 127; the number of the kit for drums.
        drums: play on the drum channel.

    Raises:
        ValueError: a pitch, velocity or program outside its range.
    """
    channel = DRUM_CHANNEL if drums else 0
    events = []
    for note in notes:
        if not (0 <= note.pitch <= 127 and 1 <= note.velocity <= 127):
            raise ValueError(f'pitch must be 0 to 127 and velocity 1 to 127; got {note}')
        start = round(note.start * _TICKS)
        # At equal times, a note ends before the next begins.
        events.append((start + max(1, round(note.beats * _TICKS)), 0, bytes((0x80 | channel, note.pitch, 0))))
        events.append((start, 1, bytes((0x90 | channel, note.pitch, note.velocity))))
    if not 0 <= program <= 127:
        raise ValueError(f'program must be 0 to 127; got {program}')
    track = bytearray(b'\x00\xff\x51\x03' + round(60e6 / tempo).to_bytes(3, 'big'))
    track += b'\x00' + bytes((0xC0 | channel, program))
    now = 0
    for time, _, message in sorted(events):
        track += _variable_length(time - now) + message
        now = time
    track += b'\x00\xff\x2f\x00'
    header = b'MThd' + struct.pack('>IHHH', 6, 0, 1, _TICKS)
    path.write_bytes(header + b'MTrk' + struct.pack('>I', len(track)) + bytes(track))


def read_programs(path: Path) -> list[int | None]:
    """Finds the instruments that sound in a MIDI file.

    Args:
        path: a standard MIDI file.

    Returns:
        Program numbers, most notes first; None stands for the drums.

    Raises:
        ValueError: not a MIDI file.
    """
    content = path.read_bytes()
    if content[:4] != b'MThd':
        raise ValueError(f'{path} is not a MIDI file')
    counts: dict[int | None, int] = {}
    position = 8 + struct.unpack('>I', content[4:8])[0]
    while position + 8 <= len(content):
        length = struct.unpack('>I', content[position + 4 : position + 8])[0]
        if content[position : position + 4] == b'MTrk':
            for program in _sounding(content[position + 8 : position + 8 + length]):
                counts[program] = counts.get(program, 0) + 1
        position += 8 + length
    return sorted(counts, key=lambda program: -counts[program])


def run_mma(source: str, path: Path) -> None:
    """Compiles the text of an mma file (Musical MIDI Accompaniment) to a MIDI file.

    Args:
        source: what the mma file says.
        path: of the MIDI file; the text is left beside it with the suffix ``.mma``.

    Raises:
        RuntimeError: mma is missing or refuses the text.
    """
    text = path.with_suffix('.mma')
    text.write_text(source, encoding='utf-8')
    _run(['mma', '-f', str(path), str(text)], 'Debian package mma')
    if not path.exists():
        raise RuntimeError(f'mma wrote nothing for {text}')


def render_midi(midi: Path, soundfont: Path, wav: Path, *, gain: float = 0.5) -> None:
    """Renders a MIDI file with FluidSynth, stereo at 44.1 kHz and 24 bits.

    Args:
        midi: the notes.
        soundfont: a ``.sf2`` or ``.sf3`` file.
        wav: of the audio.
        gain: of the synthesizer; 0.5 leaves head room for a small ensemble.

    Raises:
        RuntimeError: FluidSynth is missing or fails.
    """
    command = ['fluidsynth', '-ni', '-q', '-g', f'{gain:g}', '-r', '44100', '-O', 's24']
    # Only the samples in use are read: a soundfont of 500 MB opens in a fraction of a second.
    command += ['-o', 'synth.dynamic-sample-loading=1', '-F', str(wav), str(soundfont), str(midi)]
    _run(command, 'Debian package fluidsynth')
    if not wav.exists():
        raise RuntimeError(f'fluidsynth rendered nothing for {midi} with {soundfont}')


def _run(command: list[str], package: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f'{command[0]} is not installed; install it ({package})') from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f'{" ".join(command)} failed: {(error.stderr or error.stdout).strip()[-500:]}') from error


def _variable_length(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def _sounding(track: bytes) -> list[int | None]:
    """The program of every note of a track."""
    found: list[int | None] = []
    programs = dict.fromkeys(range(16), 0)
    position = status = 0

    def number() -> int:
        nonlocal position
        value = 0
        while True:
            byte = track[position]
            position += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value

    while position < len(track):
        number()
        if track[position] >= 0x80:
            status = track[position]
            position += 1
        channel = status & 0x0F
        if status in (0xF0, 0xF7, 0xFF):
            position += status == 0xFF
            length = number()
            position += length
        elif status & 0xF0 == 0xC0:
            programs[channel] = track[position]
            position += 1
        elif status & 0xF0 == 0xD0:
            position += 1
        else:
            if status & 0xF0 == 0x90 and track[position + 1]:
                found.append(None if channel == DRUM_CHANNEL else programs[channel])
            position += 2
    return found
