"""Metrics of coded speech: definitions, limits, errors."""

import sys

import numpy as np
import pytest
import torch

from nemo_audio_restore.evaluation import speech

RATE = 22050


def syllables(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Noise whose bands rise and fall a few times a second, as those of speech do."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tones = [
        np.sin(2 * np.pi * (hz * time + rng.random())) * (0.6 + np.sin(2 * np.pi * (rng.uniform(2, 6) * time)))
        for hz in np.arange(150, 5000, 150)
    ]
    return 0.3 * np.sum(tones, axis=0) / np.abs(np.sum(tones, axis=0)).max() + 1e-4 * rng.normal(size=len(time))


def noisy(audio: np.ndarray, level: float, seed: int = 1) -> np.ndarray:
    return audio + level * np.random.default_rng(seed).normal(size=len(audio))


def test_distances_are_the_losses_that_nemo_trains_its_codecs_with():
    losses = pytest.importorskip('nemo.collections.tts.losses.audio_codec_loss')
    resolutions = [[length, length // 4, length] for length in (32, 64, 128, 256, 512, 1024, 2048)]
    mel = losses.MultiResolutionMelLoss(RATE, resolutions, [5, 10, 20, 40, 80, 160, 320])
    stft = losses.MultiResolutionSTFTLoss(resolutions)
    audio = syllables(0.5)
    pair = [torch.tensor(one, dtype=torch.float32)[None] for one in (audio, noisy(audio, 0.05))]
    batch = {'audio_real': pair[0], 'audio_gen': pair[1], 'audio_len': torch.tensor([len(audio)])}
    assert speech.mel_distance(pair[0][0], pair[1][0], RATE) == pytest.approx(float(mel(**batch)[0]), rel=1e-4)
    assert speech.stft_distance(pair[0][0], pair[1][0], RATE) == pytest.approx(float(stft(**batch)), rel=1e-4)


@pytest.mark.parametrize('distance', [speech.mel_distance, speech.stft_distance])
def test_high_hz_leaves_out_what_lies_above(distance):
    audio = syllables()
    whistling = audio + 0.1 * np.sin(2 * np.pi * 8000 * np.arange(len(audio)) / RATE)
    assert distance(audio, audio, RATE) == 0
    assert distance(audio, whistling, RATE) > 20 * distance(audio, whistling, RATE, high_hz=4000)
    # Within the band it is no smaller than over all frequencies.
    humming = audio + 0.1 * np.sin(2 * np.pi * 1000 * np.arange(len(audio)) / RATE)
    assert distance(audio, humming, RATE, high_hz=4000) > distance(audio, humming, RATE) > 0


@pytest.mark.parametrize('distance', [speech.mel_distance, speech.stft_distance])
def test_distances_are_taken_at_one_rate(distance):
    audio = syllables()
    # Up and down again: the filters take the last few percent below 11 kHz.
    twice = [speech.resampled(one, RATE, 2 * RATE) for one in (audio, noisy(audio, 0.01))]
    assert distance(*twice, 2 * RATE) == pytest.approx(distance(audio, noisy(audio, 0.01), RATE), rel=0.1)


def test_nothing_to_compare_is_refused():
    audio = syllables()
    with pytest.raises(ValueError, match='no mel channel ends below 10 Hz'):
        speech.mel_distance(audio, audio, RATE, high_hz=10)
    with pytest.raises(ValueError, match='must not be negative'):
        speech.stft_distance(audio, audio, RATE, high_hz=-1)
    with pytest.raises(ValueError, match='47 ms'):
        speech.mel_distance(audio[:500], audio[:500], RATE)
    with pytest.raises(ValueError, match='same length'):
        speech.stft_distance(audio, audio[:-1], RATE)


def test_estoi_falls_with_noise_and_wants_enough_speech():
    pytest.importorskip('pystoi')
    audio = syllables()
    assert speech.estoi(audio, audio, RATE) == pytest.approx(1, abs=1e-3)
    assert speech.estoi(audio, noisy(audio, 0.5), RATE) < speech.estoi(audio, noisy(audio, 0.1), RATE) < 0.99
    with pytest.raises(ValueError, match='0.4 s of speech'):
        speech.estoi(audio[:4000], audio[:4000], RATE)
    mostly_silent = np.concatenate([audio[:4000], np.zeros(RATE)])
    with pytest.raises(ValueError, match='0.4 s of speech'):
        speech.estoi(mostly_silent, mostly_silent, RATE)


def test_pesq_falls_with_noise_and_refuses_silence():
    pytest.importorskip('pesq')
    audio = syllables()
    assert speech.pesq_wb(audio, audio, RATE) == pytest.approx(4.64, abs=0.01)
    assert speech.pesq_wb(audio, noisy(audio, 0.05), RATE) < 4
    with pytest.raises(ValueError, match='silent'):
        speech.pesq_wb(audio, np.zeros_like(audio), RATE)
    with pytest.raises(ValueError, match='0.25 s'):
        speech.pesq_wb(audio[:2000], audio[:2000], RATE)


def test_dnsmos_scales_what_exceeds_full_scale():
    pytest.importorskip('speechmos')
    pytest.importorskip('onnxruntime')
    audio = speech.resampled(syllables(), RATE, 16000)
    full = speech.dnsmos(audio / np.abs(audio).max(), 16000)
    assert 1 <= full.overall <= 5 and full.overall < full.background
    assert speech.dnsmos(3 * audio / np.abs(audio).max(), 16000).signal == pytest.approx(full.signal, abs=1e-4)


@pytest.mark.parametrize(('module', 'metric'), [('pystoi', speech.estoi), ('pesq', speech.pesq_wb)])
def test_a_missing_package_is_named_with_its_extra(module, metric, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"'{module}'.*nemo-audio-restore\[speech\]"):
        metric(syllables(), syllables(), RATE)
