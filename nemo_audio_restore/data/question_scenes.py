"""Recordings made to be asked about: counted hits, sounds in order, chords of known key and tempo."""

import random

import numpy as np

from nemo_audio_restore.data.instruments import Phrase
from nemo_audio_restore.data.midi import Note

SCENE_S = 5.0
TEMPI = {'slow': (58, 76), 'medium': (94, 114), 'fast': (142, 176)}
PROGRAMS = (0, 4, 11, 16, 19, 21, 24, 48)
"""Programs of General MIDI that play chords: pianos, vibraphone, organs, accordion, guitar, strings."""
_LONGEST_HIT_S = 0.7
_LONGEST_PART_S = 2.1
_FADE_S = 0.03
# Semitones above the key note, one chord for every bar; the first and the last are the key's own.
_BARS = {
    'major': ((0, 5, 7, 0), (0, 7, 5, 0), (0, 9, 7, 0), (0, 2, 7, 0)),
    'minor': ((0, 5, 7, 0), (0, 8, 10, 0), (0, 3, 10, 0), (0, 5, 10, 0)),
}
_MINOR_CHORDS = {'major': (2, 9), 'minor': (0, 5, 7)}


def trimmed(audio: np.ndarray, sample_rate: int, *, longest_s: float) -> np.ndarray:
    """A sound from its start to its end, cut with a fade if it is long.

    Args:
        audio: (T,) samples.
        sample_rate: in Hz.
        longest_s: seconds to keep.

    Returns:
        (T',) samples with a peak of 0.9.

    Raises:
        ValueError: the sound is silent.
    """
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < 1e-4:
        raise ValueError('the sound is silent')
    loud = np.flatnonzero(np.abs(audio) > 0.02 * peak)
    sound = audio[loud[0] : loud[-1] + 1][: round(longest_s * sample_rate)] * np.float32(0.9 / peak)
    fade = min(round(_FADE_S * sample_rate), len(sound))
    sound[len(sound) - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    return sound


def struck(sound: np.ndarray, sample_rate: int, times: int, generator: random.Random) -> np.ndarray:
    """One sound several times, at uneven distances and levels.

    Args:
        sound: (T,) samples.
        sample_rate: in Hz.
        times: 1 to 5.
        generator: of distances and levels.

    Returns:
        (T',) samples, ``SCENE_S`` long whatever the number.
    """
    hit = trimmed(sound, sample_rate, longest_s=_LONGEST_HIT_S)
    audio = np.zeros(round(SCENE_S * sample_rate), np.float32)
    position = generator.uniform(0.0, 0.6)
    for _ in range(times):
        start = round(position * sample_rate)
        room = audio[start : start + len(hit)]
        room += hit[: len(room)] * np.float32(generator.uniform(0.7, 1.0))
        position += generator.uniform(0.4, 1.0)
    return audio * np.float32(0.9 / max(0.9, float(np.abs(audio).max())))


def in_order(sounds: list[np.ndarray], sample_rate: int, generator: random.Random) -> np.ndarray:
    """Sounds one after another.

    Args:
        sounds: (T,) samples each.
        sample_rate: in Hz.
        generator: of pauses and levels.

    Returns:
        (T',) samples, at least ``SCENE_S`` long.
    """
    parts = [np.zeros(round(generator.uniform(0.0, 0.3) * sample_rate), np.float32)]
    for sound in sounds:
        part = trimmed(sound, sample_rate, longest_s=_LONGEST_PART_S)
        pause = np.zeros(round(generator.uniform(0.15, 0.4) * sample_rate), np.float32)
        parts += [part * np.float32(generator.uniform(0.6, 1.0)), pause]
    audio = np.concatenate(parts)
    return np.pad(audio, (0, max(0, round(SCENE_S * sample_rate) - len(audio))))


def compose_chords(tempo: str, mode: str, seed: int) -> Phrase:
    """Four bars of chords over a bass, a chord on every beat, in a key that first and last chord make clear.

    Args:
        tempo: slow, medium or fast.
        mode: major or minor.
        seed: the same seed composes the same phrase.

    Returns:
        The phrase, up to 10 s long; slow ones have bars of two beats.
    """
    generator = random.Random(f'chords/{tempo}/{mode}/{seed}')
    bpm = generator.randint(*TEMPI[tempo])
    root = generator.randrange(52, 64)
    steps = generator.choice(_BARS[mode])
    beats = 2 if tempo == 'slow' else 4
    broken = generator.random() < 0.4
    notes, now = [], 0
    for bar in steps:
        minor = bar in _MINOR_CHORDS[mode]
        chord = [root + bar, root + bar + (3 if minor else 4), root + bar + 7]
        notes.append(Note(root + bar - 12, now, beats * 0.95, generator.randint(80, 100)))
        for beat in range(beats):
            velocity = generator.randint(75, 100) + (10 if beat == 0 else 0)
            for index, pitch in enumerate(chord):
                delay = index / 3 if broken else 0.0
                notes.append(Note(pitch, now + beat + delay, 0.9 - delay, velocity))
        now += beats
    return Phrase(tuple(notes), bpm, 'chords', mode, min(10.0, now * 60 / bpm + 0.6))
