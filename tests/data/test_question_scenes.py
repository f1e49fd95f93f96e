"""Claims about recordings that are made to be asked about."""

import random

import numpy as np
import pytest

from nemo_audio_restore.data.question_scenes import SCENE_S, TEMPI, compose_chords, in_order, struck, trimmed

RATE = 8000


def click(seconds=0.1, hz=1000.0):
    times = np.arange(round(seconds * RATE)) / RATE
    return (np.exp(-30 * times) * np.sin(2 * np.pi * hz * times)).astype(np.float32)


@pytest.mark.parametrize('times', [1, 2, 5])
def test_as_many_hits_sound_as_were_asked_for(times):
    audio = struck(click(), RATE, times, random.Random(times))
    loud = np.abs(audio).reshape(-1, RATE // 10).max(axis=1) > 0.2
    assert np.sum(loud[1:] & ~loud[:-1]) + loud[0] == times
    assert len(audio) == SCENE_S * RATE and np.abs(audio).max() <= 1


def test_hits_are_unevenly_far_apart():
    audio = struck(click(), RATE, 4, random.Random(0))
    begins = np.flatnonzero(np.diff((np.abs(audio) > 0.3).astype(int)) > 0)
    begins = begins[np.r_[True, np.diff(begins) > RATE // 4]]
    assert np.ptp(np.diff(begins)) > 0.05 * RATE


def test_the_first_sound_comes_first_and_is_over_before_the_second():
    times = np.arange(RATE, dtype=np.float32) / RATE
    tones = [np.sin(2 * np.pi * hz * times) for hz in (300.0, 3000.0)]
    audio = in_order(tones, RATE, random.Random(0))
    loud = np.flatnonzero(np.abs(audio) > 0.1)
    parts = audio[loud[0] :][: RATE // 2], audio[: loud[-1]][-RATE // 2 :]
    pitches = [2 * np.abs(np.fft.rfft(part)).argmax() for part in parts]
    assert pitches == pytest.approx([300, 3000], abs=30)
    assert np.diff(loud).max() > 0.15 * RATE
    assert len(audio) >= SCENE_S * RATE


def test_silence_around_a_sound_goes_and_a_long_one_fades():
    sound = trimmed(np.concatenate([np.zeros(500, np.float32), 0.1 * np.ones(RATE, np.float32)]), RATE, longest_s=0.5)
    assert len(sound) == RATE // 2
    assert sound[0] == pytest.approx(0.9) and sound[-1] == 0
    with pytest.raises(ValueError, match='silent'):
        trimmed(np.zeros(100, np.float32), RATE, longest_s=0.5)


@pytest.mark.parametrize('tempo', TEMPI)
@pytest.mark.parametrize(('mode', 'third'), [('major', 4), ('minor', 3)])
def test_first_and_last_chord_are_those_of_the_key(tempo, mode, third):
    phrase = compose_chords(tempo, mode, 3)
    assert TEMPI[tempo][0] <= phrase.tempo <= TEMPI[tempo][1]
    bass = min(phrase.notes, key=lambda note: (note.start, note.pitch))
    bars = sorted({note.start for note in phrase.notes if note.beats > 1})
    for start in (bars[0], bars[-1]):
        chord = sorted({(note.pitch - bass.pitch) % 12 for note in phrase.notes if 0 <= note.start - start < 1})
        assert chord == [0, third, 7]
    assert phrase == compose_chords(tempo, mode, 3) != compose_chords(tempo, mode, 4)
