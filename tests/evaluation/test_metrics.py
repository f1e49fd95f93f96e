"""Metrics against values of `ssr_eval` 0.0.7, against scikit-image, and against closed forms."""

import builtins
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_audio_restore.evaluation import metrics

RATE = 44100


def noise(seconds: float = 1.0, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, int(seconds * RATE))


def low_pass(audio: np.ndarray, cutoff_hz: float) -> np.ndarray:
    spectrum = np.fft.rfft(audio)
    spectrum[np.fft.rfftfreq(len(audio), 1 / RATE) > cutoff_hz] = 0
    return np.fft.irfft(spectrum, len(audio))


@pytest.mark.skipif('NAR_FIXTURES' not in os.environ, reason='set NAR_FIXTURES to the folder of the full parity suite')
@pytest.mark.parametrize('name', ['lowpass4k', 'noisy', 'perturbed_repr'])
def test_all_estimates_score_what_the_reference_implementation_scores(name: str):
    stored = np.load(Path(os.environ['NAR_FIXTURES']) / 'a2sb/aux_metrics_rolloff.npz')
    estimate = stored[f'est_{name}']
    reference = stored['reference'][: len(estimate)]
    assert metrics.lsd(reference, estimate, RATE) == pytest.approx(float(stored[f'{name}_lsd']), abs=1e-5)
    assert metrics.ssim(reference, estimate, RATE) == pytest.approx(float(stored[f'{name}_ssim']), abs=1e-6)
    # The reference takes norms in float32, which is worth up to 4e-4 dB.
    assert metrics.sispec(reference, estimate, RATE) == pytest.approx(float(stored[f'{name}_sispec']), abs=1e-3)
    expected = float(stored[f'{name}_log_sispec'])
    assert metrics.log_sispec(reference, estimate, RATE) == pytest.approx(expected, abs=1e-3)


@pytest.mark.skipif('NAR_FIXTURES' not in os.environ, reason='set NAR_FIXTURES to the folder of the full parity suite')
def test_half_gain_scores_what_the_reference_implementation_scores():
    stored = np.load(Path(os.environ['NAR_FIXTURES']) / 'a2sb/aux_metrics_rolloff.npz')
    reference = stored['reference']
    estimate = 0.5 * reference
    assert metrics.lsd(reference, estimate, RATE) == pytest.approx(float(stored['half_gain_lsd']), abs=1e-5)
    assert metrics.ssim(reference, estimate, RATE) == pytest.approx(float(stored['half_gain_ssim']), abs=1e-6)
    assert metrics.log_sispec(reference, estimate, RATE) == pytest.approx(
        float(stored['half_gain_log_sispec']), abs=1e-3
    )
    # A pure gain is perfect; 91 dB is what float32 norms leave of that in the reference implementation.
    assert metrics.sispec(reference, estimate, RATE) > float(stored['half_gain_sispec'])


def test_half_gain_is_log10_of_four_in_lsd():
    # Far above the floor under the logarithm.
    audio = noise(level=100.0)
    assert metrics.lsd(audio, 0.5 * audio, RATE) == pytest.approx(np.log10(4), rel=1e-3)


def test_magnitudes_are_those_of_centred_zero_padded_hann_frames():
    audio = noise()
    padded = np.pad(audio, 1024)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    frames = np.stack([padded[start : start + 2048] for start in range(0, len(audio) + 1, 441)])
    expected = np.abs(np.fft.rfft(frames * window)).T
    np.testing.assert_allclose(metrics.magnitude_spectrogram(audio, RATE).numpy(), expected, atol=1e-9)


def test_ssim_equals_that_of_scikit_image():
    structural_similarity = pytest.importorskip('skimage.metrics').structural_similarity
    reference, estimate = noise(seed=1), 0.7 * noise(seed=1) + noise(seed=2, level=0.03)
    first, second = (metrics.magnitude_spectrogram(audio, RATE).numpy() for audio in (reference, estimate))
    data_range = max(first.max(), second.max()) - min(first.min(), second.min())
    expected = structural_similarity(first, second, win_size=7, data_range=data_range)
    assert metrics.ssim(reference, estimate, RATE) == pytest.approx(expected, abs=1e-9)


def test_lsd_of_a_gain_is_its_logarithm():
    reference = noise()
    assert metrics.lsd(reference, 10 * reference, RATE) == pytest.approx(2.0, abs=1e-6)


def test_lsd_of_digital_silence_is_twelve_whatever_the_estimate():
    silence = np.zeros(RATE)
    assert metrics.lsd(silence, noise(level=1e-4), RATE) == pytest.approx(12.0, abs=0.1)
    assert metrics.lsd(silence, noise(level=1e-1), RATE) == pytest.approx(12.0, abs=0.1)


def test_band_limits_confine_lsd_to_the_damage():
    reference = noise()
    damaged = low_pass(reference, 8000.0)
    below = metrics.lsd(reference, damaged, RATE, high_hz=7900.0)
    above = metrics.lsd(reference, damaged, RATE, low_hz=8100.0)
    assert below < 0.01
    assert above > 8.0
    assert below < metrics.lsd(reference, damaged, RATE) < above


def test_gap_lsd_sees_only_frames_that_overlap_the_gap():
    reference = noise(2.0)
    damaged = reference.copy()
    damaged[RATE // 2 : RATE // 2 + 4410] = 0
    assert metrics.gap_lsd(reference, damaged, RATE, start_s=0.5, end_s=0.6) > 1.0
    assert metrics.gap_lsd(reference, damaged, RATE, start_s=1.2, end_s=1.3) < 1e-9


def test_sispec_ignores_gain_and_measures_added_noise():
    reference = noise(seed=3)
    assert metrics.sispec(reference, 3 * reference, RATE) > 100
    quiet, loud = (metrics.sispec(reference, reference + noise(seed=4, level=level), RATE) for level in (0.001, 0.01))
    assert quiet > loud + 15


def test_si_sdr_is_the_level_of_orthogonal_noise():
    time = np.arange(RATE) / RATE
    reference, orthogonal = np.sin(2 * np.pi * 440 * time), np.cos(2 * np.pi * 440 * time)
    assert metrics.si_sdr(reference, 0.3 * (reference + 0.1 * orthogonal)) == pytest.approx(20.0, abs=1e-6)


def test_tensors_and_arrays_score_alike():
    reference, estimate = noise(seed=5), noise(seed=6)
    tensors = metrics.lsd(torch.from_numpy(reference), torch.from_numpy(estimate), RATE)
    assert tensors == metrics.lsd(reference, estimate, RATE)


@pytest.mark.parametrize(
    ('reference', 'estimate', 'message'),
    [
        (np.zeros(100), np.zeros(101), 'same length'),
        (np.zeros(0), np.zeros(0), 'not empty'),
        (np.zeros((2, 100)), np.zeros((2, 100)), '1-D'),
        (np.zeros(100), np.full(100, np.nan), 'NaN'),
    ],
)
def test_unusable_arrays_are_refused_with_a_reason(reference: np.ndarray, estimate: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        metrics.lsd(reference, estimate, RATE)


def test_a_band_without_bins_is_refused():
    with pytest.raises(ValueError, match='no bin'):
        metrics.lsd(noise(), noise(), RATE, low_hz=30000.0)


def test_si_sdr_of_a_silent_reference_is_refused():
    with pytest.raises(ValueError, match='silent'):
        metrics.si_sdr(np.zeros(100), np.ones(100))


def test_zimtohrli_falls_as_bandwidth_is_removed():
    pytest.importorskip('zimtohrli')
    audio = noise(2.0, level=0.05)
    scores = [metrics.zimtohrli_mos(audio, low_pass(audio, cutoff), RATE) for cutoff in (22000.0, 8000.0, 3000.0)]
    assert scores[0] > 4.5
    assert scores[0] > scores[1] > scores[2]


def test_visqol_prefers_the_original():
    pytest.importorskip('visqol')
    audio = noise(1.2, level=0.05)
    assert metrics.visqol_mos(audio, audio, RATE) > metrics.visqol_mos(audio, low_pass(audio, 3000.0), RATE) + 1


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    original = builtins.__import__

    def without_zimtohrli(name: str, *args: object, **kwargs: object) -> object:
        if name == 'zimtohrli':
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr('importlib.import_module', without_zimtohrli)
    with pytest.raises(ImportError, match=r'nemo-audio-restore\[metrics\]'):
        metrics.zimtohrli_mos(noise(), noise(), RATE)
