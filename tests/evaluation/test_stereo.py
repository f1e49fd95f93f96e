import importlib
from pathlib import Path

import numpy as np
import pytest

from nemo_audio_restore.evaluation.stereo import band_coherence, band_side_share

RATE = 44100


def noise(seed, seconds=3.0):
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def low(audio, hz=4000):
    """Brick wall."""
    spectrum = np.fft.rfft(audio)
    spectrum[np.fft.rfftfreq(len(audio), 1 / RATE) > hz] = 0
    return np.fft.irfft(spectrum, len(audio))


@pytest.mark.parametrize('gains', [(1.0, 1.0), (1.0, 0.01), (1.0, -0.5)])
def test_channels_that_differ_in_level_alone_are_coherent(gains):
    audio = np.stack([gain * noise(0) for gain in gains])
    assert band_coherence(audio, RATE) == pytest.approx(1.0, abs=1e-9)


def test_unrelated_noise_is_not_coherent_and_half_of_it_is_side():
    audio = np.stack([noise(0), noise(1)])
    assert band_coherence(audio, RATE) < 0.1
    assert band_side_share(audio, RATE) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize('side', [0.0, 0.3, 1.0])
def test_mixtures_have_the_coherence_and_side_share_of_theory(side):
    mid, difference = noise(0), side * noise(1)
    audio = np.stack([mid + difference, mid - difference])
    assert band_coherence(audio, RATE) == pytest.approx(abs(1 - side**2) / (1 + side**2), abs=0.06)
    assert band_side_share(audio, RATE) == pytest.approx(side**2 / (1 + side**2), abs=0.02)


def test_only_the_band_counts():
    low_band, high_left, high_right = low(noise(0)), noise(1), noise(2)
    audio = np.stack([10 * low_band + high_left - low(high_left), 10 * low_band + high_right - low(high_right)])
    assert band_coherence(audio, RATE, high_hz=3800) > 0.99
    assert band_coherence(audio, RATE, low_hz=4200) < 0.1


def test_silence_and_wrong_shapes_are_answered():
    assert np.isnan(band_coherence(np.zeros((2, RATE * 2)), RATE))
    assert np.isnan(band_side_share(np.zeros((2, RATE * 2)), RATE))
    with pytest.raises(ValueError, match='must be'):
        band_coherence(noise(0), RATE)
    with pytest.raises(ValueError, match='at least'):
        band_coherence(np.zeros((2, 1000)), RATE)
    with pytest.raises(ValueError, match='no frequency'):
        band_coherence(np.zeros((2, RATE * 2)), RATE, low_hz=30000)


def test_the_benchmark_predicts_every_recording_from_the_others(monkeypatch):
    pytest.importorskip('zimtohrli')
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'benchmarks'))
    predicted = importlib.import_module('stereo_prediction').predicted
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 2)
    rows = rng.standard_normal((120, 3))
    known = predicted(rows, 0.5 + rows @ np.array([0.2, 0.0, -0.1]), groups)
    assert np.corrcoef(known, rows @ np.array([0.2, 0.0, -0.1]))[0, 1] > 0.99
    # What a recording alone has cannot be predicted, however well its own excerpts would tell it.
    own = np.repeat(rng.standard_normal(60), 2)
    hints = np.eye(60)[groups] + 1e-3 * rng.standard_normal((120, 60))
    assert abs(np.corrcoef(predicted(hints, own, groups), own)[0, 1]) < 0.5
