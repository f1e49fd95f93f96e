"""The detector of cutoffs on noise that is shaped like music; on real music see benchmarks/cutoff.py."""

import numpy as np
import pytest
import torch

from nemo_audio_restore.signal.cutoff import CutoffDetector
from nemo_audio_restore.signal.knee_network import KneeNetwork

RATE = 44100


def shaped_noise(seconds, gain, *, rate=RATE, channels=1, seed=0):
    """Noise (C, T) float32 with a magnitude ``gain(frequency)`` on top of a slope of 6 dB per octave."""
    count = round(seconds * rate)
    white = np.random.default_rng(seed).standard_normal((channels, count))
    frequency = np.fft.rfftfreq(count, 1 / rate)
    shape = gain(frequency) / np.maximum(frequency / 300, 1)
    return (0.3 * np.fft.irfft(np.fft.rfft(white) * shape, count)).astype(np.float32)


def estimate(audio, rate=RATE):
    detector = CutoffDetector(len(audio), rate)
    detector.add(audio)
    return detector.estimate()


def brick(cutoff_hz):
    return lambda f: (f < cutoff_hz).astype(float)


def butterworth(cutoff_hz, order):
    return lambda f: (1 + (f / cutoff_hz) ** (2 * order)) ** -0.5


@pytest.mark.parametrize('cutoff_hz', [2000, 4300, 8000, 16000])
@pytest.mark.parametrize('shape', [brick, lambda hz: butterworth(hz, 24), lambda hz: butterworth(hz, 12)])
def test_the_knee_is_found_within_five_percent(cutoff_hz, shape):
    found = estimate(shaped_noise(3, shape(cutoff_hz)))
    assert found.cutoff_hz == pytest.approx(cutoff_hz, rel=0.05)
    assert found.is_sure and 0.85 * cutoff_hz < found.wall_hz < found.cutoff_hz


@pytest.mark.parametrize('slope_db', [0, 6, 12])
def test_dark_music_is_full_band(slope_db):
    found = estimate(shaped_noise(3, lambda f: np.maximum(f / 500, 1) ** (-slope_db / 6.02)))
    assert found.cutoff_hz is None and found.wall_hz is None and found.is_sure
    assert 'falls off by itself' in found.reason


def test_dark_music_that_sinks_into_the_last_bit_is_full_band():
    audio = shaped_noise(3, lambda f: np.maximum(f / 500, 1) ** -2)
    assert estimate(np.round(audio * 2**15).astype(np.float32) / 2**15).cutoff_hz is None


@pytest.mark.parametrize('quiet', ['zeros', 'dither'])
def test_silence_does_not_move_the_knee(quiet):
    audio = shaped_noise(3, brick(5000))
    rest = np.zeros_like(audio)
    if quiet == 'dither':
        rest += np.random.default_rng(1).triangular(-1, 0, 1, rest.shape).astype(np.float32) / 2**15
    found = estimate(np.concatenate([rest, audio], axis=1))
    assert found.cutoff_hz == pytest.approx(5000, rel=0.03)


def test_a_steep_wall_inside_a_soft_slope_does_not_hide_the_knee():
    found = estimate(shaped_noise(3, lambda f: butterworth(5000, 16)(f) * brick(6500)(f)))
    assert found.cutoff_hz == pytest.approx(5000, rel=0.08)


def test_channels_that_differ_are_reported_and_lower_the_confidence():
    alike = estimate(shaped_noise(3, brick(6000), channels=2))
    audio = np.concatenate([shaped_noise(3, brick(6000)), shaped_noise(3, brick(9000), seed=1)])
    found = estimate(audio)
    assert found.channels_hz == pytest.approx((6000, 9000), rel=0.05)
    assert found.confidence < alike.confidence and 'the channels differ' in found.reason


def test_a_recording_that_changes_is_reported():
    parts = [shaped_noise(9, brick(4000)), shaped_noise(9, lambda f: np.ones_like(f), seed=1)]
    found = estimate(np.concatenate(parts, axis=1))
    assert found.confidence < 0.9 and 'parts of the recording differ' in found.reason


def test_a_knee_that_half_of_the_parts_do_not_have_is_none():
    parts = [shaped_noise(9, lambda f: np.ones_like(f)), 0.3 * shaped_noise(9, brick(4000), seed=1)]
    assert estimate(np.concatenate(parts, axis=1)).cutoff_hz is None


def test_a_low_sample_rate_is_a_cutoff_by_itself():
    found = estimate(shaped_noise(3, lambda f: np.ones_like(f), rate=22050), rate=22050)
    assert found.cutoff_hz == pytest.approx(0.95 * 11025) and 'sample rate' in found.reason
    assert estimate(shaped_noise(3, brick(4000), rate=22050), rate=22050).cutoff_hz == pytest.approx(4000, rel=0.05)


@pytest.mark.parametrize('audio', [np.zeros((2, 50000), np.float32), np.ones((1, 100), np.float32)])
def test_silence_and_snippets_end_in_no_cutoff_without_confidence(audio):
    found = estimate(audio)
    assert found.cutoff_hz is None and found.confidence == 0 and not found.is_sure


@pytest.mark.parametrize(('first', 'second'), [(4000, 9000), (9000, 4000)])
def test_a_recording_that_changes_gets_the_cutoff_of_most_of_its_time(first, second):
    parts = [shaped_noise(12, brick(first)), shaped_noise(4, brick(second), seed=1)]
    found = estimate(np.concatenate(parts, axis=1))
    assert found.cutoff_hz == pytest.approx(first, rel=0.05) and 'parts of the recording differ' in found.reason


def test_a_gap_that_is_blanked_does_not_hide_the_knee():
    audio = shaped_noise(1, brick(6000))
    audio[:, 20000:20500] = 0
    assert estimate(audio).cutoff_hz == pytest.approx(6000, rel=0.05)


def test_another_network_judges_otherwise():
    torch.manual_seed(0)
    audio = shaped_noise(1, brick(6000))
    detector = CutoffDetector(1, RATE, network=KneeNetwork(8).eval())
    detector.add(audio)
    assert detector.estimate().confidence < 0.5 * estimate(audio).confidence
