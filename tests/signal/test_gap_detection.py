"""Damage is found by its edges; what music does by itself is not damage. On real music see benchmarks."""

import numpy as np
import pytest

from nemo_audio_restore.signal.gap_detection import GapDetector

RATE = 44100


def music(seconds=2.0, channels=1, seed=0):
    """Tones and noise (C, T) that never pause."""
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal((channels, len(t)))
    return (0.2 * np.sin(2 * np.pi * 220 * t) + 0.05 * noise).astype(np.float32)


def detect(audio, block=1 << 16):
    detector = GapDetector(len(audio), RATE)
    for start in range(0, audio.shape[1], block):
        detector.add(audio[:, start : start + block])
    return detector.gaps()


def damaged(kind, start, stop, channels=1):
    audio = music(channels=channels)
    part = audio[:1, start:stop]
    part[:] = {'silence': 0, 'stuck': part[:, :1], 'drop-out': 0.005 * part}[kind]
    return audio


@pytest.mark.parametrize('kind', ['silence', 'drop-out', 'stuck'])
@pytest.mark.parametrize('length_ms', [6, 50, 400])
def test_damage_is_found_where_it_is(kind, length_ms):
    start, length = 40000, length_ms * RATE // 1000
    (gap,) = detect(damaged(kind, start, start + length))
    assert gap.kind == kind
    assert start / RATE - 0.004 < gap.start_s <= start / RATE + 0.0005
    assert (start + length) / RATE - 0.0005 <= gap.end_s < (start + length) / RATE + 0.004


def test_damage_in_one_channel_is_found():
    assert [gap.kind for gap in detect(damaged('silence', 30000, 33000, channels=2))] == ['silence']


@pytest.mark.parametrize('block', [100, 4096])
def test_the_size_of_the_blocks_changes_nothing(block):
    audio = damaged('drop-out', 30000, 33000)
    assert detect(audio, block) == detect(audio)


def test_music_has_no_gaps():
    assert detect(music()) == []


def test_silence_at_the_ends_is_no_damage():
    quiet = np.zeros((1, 20000), np.float32)
    assert detect(np.concatenate([quiet, music(), quiet], axis=1)) == []


def test_a_pause_that_is_reached_by_decay_is_no_damage():
    audio = music()
    fade = np.ones(audio.shape[1], np.float32)
    fade[30000:45000] = np.linspace(1, 0, 15000) ** 2
    fade[45000:60000] = 0
    assert detect(audio * fade) == []


def test_a_long_break_is_a_pause():
    audio = music(5.0)
    audio[:, RATE : 4 * RATE] = 0
    assert detect(audio) == []


def test_clipping_is_not_stuck():
    audio = np.clip(5 * music(), -0.5, 0.5)
    audio[:, 30000:30400] = 0.5
    assert detect(audio) == []


def test_quiet_samples_of_zero_are_not_damage():
    audio = np.round(0.0005 * music() * 2**15) / 2**15
    assert detect(audio.astype(np.float32)) == []


def test_silence_and_snippets_have_no_gaps():
    assert detect(np.zeros((2, 50000), np.float32)) == []
    assert detect(np.ones((1, 10), np.float32)) == []
