"""What was recorded stays: null tests below the cutoff and outside gaps, exact length, channels and rate."""

import numpy as np
import pytest
import soxr
import torch
from fake_restorer import FakeRestorer, level_db, noise_audio

from nemo_audio_restore.files.resample import resampled_length
from nemo_audio_restore.restoration import SamplerSettings, restore_array
from nemo_audio_restore.restoration.engine import CROSSFADE_S

SETTINGS = SamplerSettings(steps=2, tile_frames=64, tile_hop_frames=32)
RATES = [8000, 22050, 44100, 48000, 96000]
N_FFT = 256
TRANSITION_HZ = 8 * 44100 / N_FFT


def _dry(audio: np.ndarray, rate: int) -> np.ndarray:
    """The input at the rate of the output."""
    if rate >= 44100:
        return audio
    dry = soxr.resample(audio.T, rate, 44100, quality='VHQ').T
    length = resampled_length(audio.shape[1], rate, 44100)
    return np.pad(dry, ((0, 0), (0, max(length - dry.shape[1], 0))))[:, :length]


def _low_band_db(audio: np.ndarray, rate: int, below_hz: float) -> float:
    """Level of what lies below a frequency; the window's side lobes are below -140 dB."""
    window = np.kaiser(audio.shape[1], 20.0)
    spectrum = np.fft.rfft(audio.astype(np.float64) * window, axis=1)
    low = np.fft.rfftfreq(audio.shape[1], 1 / rate) < below_hz
    return 10 * np.log10(np.square(np.abs(spectrum[:, low])).sum() + 1e-30)


@pytest.mark.parametrize('rate', RATES)
@pytest.mark.parametrize('channels', [1, 2])
def test_bandwidth_extension_nulls_below_the_cutoff(rate, channels):
    cutoff = 3000.0
    audio = noise_audio(0.6, rate=rate, channels=channels)
    output = restore_array(FakeRestorer(), audio, rate, cutoff_hz=cutoff, settings=SETTINGS)
    dry = _dry(audio, rate)
    assert output.shape == dry.shape
    difference, output_rate = output - dry, max(rate, 44100)
    below = cutoff - TRANSITION_HZ
    assert _low_band_db(difference, output_rate, below) < _low_band_db(dry, output_rate, below) - 90
    assert level_db(difference) > -50  # and something was added above


@pytest.mark.parametrize('rate', RATES)
def test_outside_gaps_nothing_changes(rate):
    gap = (0.3, 0.33)
    audio = noise_audio(0.6, rate=rate, channels=2)
    output = restore_array(FakeRestorer(), audio, rate, gaps=[gap], settings=SETTINGS)
    dry = _dry(audio, rate)
    assert output.shape == dry.shape
    time = np.arange(dry.shape[1]) / max(rate, 44100)
    outside = (time < gap[0] - CROSSFADE_S - 1e-3) | (time > gap[1] + CROSSFADE_S + 1e-3)
    difference = output - dry
    assert level_db(difference[:, outside]) < level_db(dry) - 90
    assert level_db(difference[:, ~outside]) > -40


def test_six_channels_are_kept_apart():
    audio = noise_audio(0.4, channels=6)
    together = restore_array(FakeRestorer(), audio, 44100, cutoff_hz=6000, settings=SETTINGS)
    alone = restore_array(FakeRestorer(), audio[4:5], 44100, cutoff_hz=6000, settings=SETTINGS)
    assert together.shape == audio.shape
    np.testing.assert_allclose(together[4:5], alone, atol=1e-5)


def test_equal_channels_stay_equal():
    audio = np.repeat(noise_audio(0.4), 2, axis=0)
    output = restore_array(FakeRestorer(), audio, 44100, cutoff_hz=6000, settings=SETTINGS)
    np.testing.assert_allclose(output[0], output[1], atol=1e-6)


def test_damage_inside_a_gap_has_no_influence():
    """No frame that overlaps damaged samples counts as known, at the model's rate and above it."""
    for rate in (44100, 96000):
        audio = noise_audio(0.6, rate=rate, channels=1)
        start, stop = round(0.2 * rate), round(0.25 * rate)
        damaged = audio.copy()
        damaged[:, start:stop] = np.sign(audio[:, start:stop])
        request = {'gaps': [(0.2, 0.25)], 'cutoff_hz': 9000, 'settings': SETTINGS}
        expected = restore_array(FakeRestorer(), audio, rate, **request)
        actual = restore_array(FakeRestorer(), damaged, rate, **request)
        assert np.abs(actual - expected).max() < 1e-6, rate


def test_a_gap_beside_the_extended_band_does_not_ring_into_the_known_audio():
    audio = np.zeros((1, 22050), np.float32)
    audio[:, :] = 0.3 * np.sin(2 * np.pi * 400 * np.arange(22050) / 44100)
    audio[:, 10000:12000] = 0.0  # the step at the edge of the hole holds all frequencies
    gaps = [(10000 / 44100, 12000 / 44100)]
    output = restore_array(FakeRestorer(), audio, 44100, cutoff_hz=4000, gaps=gaps, settings=SETTINGS)
    known = np.r_[9000:9750, 12250:13000]
    below = _low_band_db((output - audio)[:, known], 44100, 4000 - 2 * TRANSITION_HZ)
    assert below < _low_band_db(audio[:, known], 44100, 4000 - 2 * TRANSITION_HZ) - 60


@pytest.mark.parametrize('gap', [(0.0, 0.05), (0.45, 0.5), (0.0, 0.02), (0.497, 0.5)])
@pytest.mark.parametrize('cutoff', [None, 8000.0])
def test_gaps_at_the_ends_of_the_file(gap, cutoff):
    audio = noise_audio(0.5)
    output = restore_array(FakeRestorer(), audio, 44100, cutoff_hz=cutoff, gaps=[gap], settings=SETTINGS)
    assert output.shape == audio.shape and np.isfinite(output).all()
    start, stop = (round(second * 44100) for second in gap)
    assert level_db((output - audio)[:, start:stop]) > -40


def test_several_gaps_and_bandwidth_in_one_pass_equal_the_formula():
    """Gaps far from each other: each comes out as if it were alone."""
    audio = noise_audio(1.5)
    gaps = [(0.2, 0.23), (0.8, 0.82), (1.2, 1.26)]
    together = restore_array(FakeRestorer(), audio, 44100, gaps=gaps, settings=SETTINGS)
    for gap in gaps:
        alone = restore_array(FakeRestorer(), audio, 44100, gaps=[gap], settings=SETTINGS)
        part = slice(round((gap[0] - 0.05) * 44100), round((gap[1] + 0.05) * 44100))
        np.testing.assert_allclose(together[:, part], alone[:, part], atol=1e-6)


@pytest.mark.parametrize('gain_db', [-60.0, -30.0, 25.0])
def test_very_quiet_and_loud_audio_is_restored_like_normal_audio(gain_db):
    audio, gain = noise_audio(0.4, rms=0.0501), 10 ** (gain_db / 20)  # at the lower end of the trained levels
    if gain_db > 0:
        audio = noise_audio(0.4, rms=0.1995)  # the upper end
    normal = restore_array(FakeRestorer(), audio, 44100, cutoff_hz=6000, settings=SETTINGS)
    other = restore_array(FakeRestorer(), gain * audio, 44100, cutoff_hz=6000, settings=SETTINGS)
    assert level_db(other / gain - normal) < level_db(normal - audio) - 50


def test_tensors_come_back_as_tensors_and_inputs_are_not_changed():
    audio = torch.from_numpy(noise_audio(0.3, channels=2))
    before = audio.clone()
    output = restore_array(FakeRestorer(), audio, 44100, cutoff_hz=6000, stereo='shared', settings=SETTINGS)
    assert isinstance(output, torch.Tensor) and output.shape == audio.shape
    assert torch.equal(audio, before)
    mono = restore_array(FakeRestorer(), audio[0].numpy(), 44100, cutoff_hz=6000, settings=SETTINGS)
    assert isinstance(mono, np.ndarray) and mono.shape == (audio.shape[1],)
    np.testing.assert_allclose(mono, output[0].numpy(), atol=1e-5)


def test_same_seed_same_samples_and_other_seed_other_samples():
    audio = noise_audio(0.3)
    first, again, other = (
        restore_array(FakeRestorer(), audio, 44100, cutoff_hz=6000, settings=SETTINGS, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert level_db(first - other) > -50
