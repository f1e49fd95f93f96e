"""Every baseline has to do what its name says and to beat doing nothing."""

from functools import cache

import numpy as np
import pytest
import torch

from nemo_audio_restore.evaluation import metrics
from nemo_audio_restore.evaluation.baselines import (
    average_spectrum,
    nothing,
    own_slope,
    shaped_noise,
    spectral_band_replication,
    straight_line,
)

RATE = 44100
CUTOFF_HZ = 6000.0


@cache
def song(seconds: float = 1.5) -> np.ndarray:
    """Plucked notes with many harmonics over pink noise: a spectrum that falls and levels that move."""
    generator = np.random.default_rng(0)
    time = np.arange(int(seconds * RATE)) / RATE
    audio = np.zeros_like(time)
    for onset, pitch_hz in zip(np.arange(0, seconds, 0.25), (220, 277, 330, 440, 330, 277), strict=True):
        local = np.clip(time - onset, 0, None)
        for harmonic in range(1, int(20000 / pitch_hz)):
            decay = np.exp(-local * (3 + 0.2 * harmonic)) * (time >= onset)
            audio += decay * np.sin(2 * np.pi * harmonic * pitch_hz * local) / harmonic**1.5
    white = np.fft.rfft(generator.normal(size=len(time)))
    pink = np.fft.irfft(white / np.sqrt(np.arange(len(white)) + 1) ** 2.5, len(time))
    return 0.2 * audio + 3.0 * pink


def low_pass(audio: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(audio)
    spectrum[np.fft.rfftfreq(audio.shape[-1], 1 / RATE) > CUTOFF_HZ] = 0
    return np.fft.irfft(spectrum, audio.shape[-1])


def high_band_lsd(estimate: np.ndarray) -> float:
    return metrics.lsd(song(), estimate, RATE, low_hz=CUTOFF_HZ, high_hz=15000)


@pytest.mark.parametrize('envelope', [straight_line, average_spectrum])
@pytest.mark.parametrize('method', [shaped_noise, spectral_band_replication])
def test_bandwidth_extension_beats_doing_nothing_by_far(method, envelope):
    degraded = low_pass(song())
    restored = method(degraded, RATE, CUTOFF_HZ, envelope=envelope)
    assert high_band_lsd(restored) < 2.5
    assert high_band_lsd(nothing(degraded)) > 6


def test_own_slope_goes_on_as_the_recording_falls():
    frequency = np.fft.rfftfreq(2 * RATE, 1 / RATE)
    white = np.fft.rfft(np.random.default_rng(1).normal(size=2 * RATE))
    for octave_db in (-6.0, -12.0):
        audio = np.fft.irfft(white * np.maximum(frequency, 100) ** (octave_db / 6.02))
        envelope = own_slope(low_pass(audio), RATE, CUTOFF_HZ)
        level = envelope(torch.zeros(1, dtype=torch.float64), np.array([8000.0, 16000.0]), CUTOFF_HZ)[:, 0]
        assert (level[1] - level[0]).item() == pytest.approx(octave_db, abs=0.5)


@pytest.mark.parametrize('method', [shaped_noise, spectral_band_replication])
def test_bandwidth_extension_leaves_the_known_band_alone(method):
    degraded = low_pass(song())
    restored = method(degraded, RATE, CUTOFF_HZ)
    assert metrics.lsd(degraded, restored, RATE, high_hz=CUTOFF_HZ - 150) < 0.02


def test_shaped_noise_has_the_level_that_the_envelope_asks_for():
    def same_level(level_db: torch.Tensor, frequency_hz: np.ndarray, cutoff_hz: float) -> torch.Tensor:
        return level_db[None, :].expand(len(frequency_hz), -1)

    white = np.random.default_rng(1).normal(0, 0.1, RATE)
    restored = shaped_noise(low_pass(white), RATE, CUTOFF_HZ, envelope=same_level)
    assert np.var(restored) == pytest.approx(np.var(white), rel=0.05)


def test_replication_has_the_level_that_the_envelope_asks_for():
    def same_level(level_db: torch.Tensor, frequency_hz: np.ndarray, cutoff_hz: float) -> torch.Tensor:
        return level_db[None, :].expand(len(frequency_hz), -1)

    white = np.random.default_rng(1).normal(0, 0.1, RATE)
    restored = spectral_band_replication(low_pass(white), RATE, CUTOFF_HZ, envelope=same_level)
    # Neighbouring frames agree on the shifted phase, or their overlap-add would lose half of the power.
    assert np.var(restored) == pytest.approx(np.var(white), rel=0.15)


def test_replication_moves_a_tone_up_without_breaking_it():
    bin_hz = RATE / 2048
    tone = np.sin(2 * np.pi * 200.3 * bin_hz * np.arange(RATE) / RATE)
    restored = spectral_band_replication(tone, RATE, 256 * bin_hz)
    spectrum = np.abs(np.fft.rfft(restored * np.hanning(RATE)))
    spectrum[: int(256 * bin_hz)] = 0
    shift_bins = (np.argmax(spectrum) / bin_hz) - 200.3
    assert shift_bins == pytest.approx(round(shift_bins), abs=0.05)


def test_noise_is_reproducible_and_depends_on_the_generator():
    degraded = low_pass(song())
    first, again, other = (
        shaped_noise(degraded, RATE, CUTOFF_HZ, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_average_spectrum_knows_the_roll_off_of_codecs():
    level_db, top_hz = torch.zeros(1), np.array([21500.0])
    assert average_spectrum(level_db, top_hz, 8000.0) < straight_line(level_db, top_hz, 8000.0) - 20


def test_channels_are_extended_one_by_one_and_the_input_is_not_changed():
    stereo = np.stack([low_pass(song()), np.zeros(len(song()))])
    before = stereo.copy()
    restored = spectral_band_replication(stereo, RATE, CUTOFF_HZ)
    np.testing.assert_array_equal(stereo, before)
    np.testing.assert_allclose(restored[0], spectral_band_replication(stereo[0], RATE, CUTOFF_HZ))
    assert np.abs(restored[1]).max() < 1e-4


@pytest.mark.parametrize('cutoff_hz', [300.0, 23000.0])
def test_a_cutoff_outside_the_spectrum_is_refused(cutoff_hz: float):
    with pytest.raises(ValueError, match='cutoff_hz'):
        shaped_noise(song(), RATE, cutoff_hz)


def test_audio_shorter_than_a_frame_is_refused():
    with pytest.raises(ValueError, match='samples'):
        shaped_noise(np.zeros(500), RATE, CUTOFF_HZ)
