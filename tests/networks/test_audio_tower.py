"""Claims about the small audio tower."""

import math

import numpy as np
import pytest
import torch

from nemo_audio_restore.networks.audio_tower import ConvolutionalAudioTower, LogMel


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return ConvolutionalAudioTower(
        embedding_dim=6, sample_rate=16000, window_frames=32, num_mels=32, widths=(4, 4, 4, 8), depths=(1, 1, 1, 1)
    ).eval()


def sound(tower, seed=0):
    return 0.1 * torch.randn(2, tower.window_samples, generator=torch.Generator().manual_seed(seed))


def test_log_mel_is_that_of_librosa():
    librosa = pytest.importorskip('librosa')
    made = LogMel(sample_rate=16000, n_fft=512, hop_length=320, num_mels=32, high_hz=8000.0)
    audio = 0.3 * torch.randn(1, 3200, generator=torch.Generator().manual_seed(0))
    power = librosa.feature.melspectrogram(
        y=audio[0].numpy(), sr=16000, n_fft=512, hop_length=320, n_mels=32, fmin=40, fmax=8000, pad_mode='constant'
    )
    wanted = librosa.power_to_db(power, ref=np.max, amin=1e-10, top_db=80.0)[:, :-1] / 40 + 1
    np.testing.assert_allclose(made(audio)[0].numpy(), wanted, atol=2e-3)


def test_level_has_no_effect(tower):
    audio = sound(tower)
    torch.testing.assert_close(tower(audio), tower(0.01 * audio), atol=1e-4, rtol=1e-4)


def test_silence_is_empty_and_finite(tower):
    silence = torch.zeros(1, tower.window_samples)
    assert tower.features(silence).max() == -1
    assert torch.isfinite(tower(silence)).all()


def test_pitch_matters(tower):
    times = torch.arange(tower.window_samples) / tower.sample_rate
    low, high = (torch.sin(2 * math.pi * f * times)[None] for f in (220.0, 1760.0))
    assert not torch.allclose(tower(low), tower(high), atol=1e-3)


def test_an_item_does_not_depend_on_its_neighbours(tower):
    audio = sound(tower)
    torch.testing.assert_close(tower(audio)[:1], tower(audio[:1]), atol=1e-6, rtol=1e-5)


def test_every_weight_learns(tower):
    tower.train()
    tower(sound(tower)).square().sum().backward()
    assert [name for name, weight in tower.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_default_is_as_small_as_it_must_be():
    count = sum(weight.numel() for weight in ConvolutionalAudioTower().parameters())
    assert count <= 1_300_000


def test_dropout_acts_in_training_only():
    tower = ConvolutionalAudioTower(
        embedding_dim=6,
        sample_rate=16000,
        window_frames=32,
        num_mels=32,
        widths=(4, 4, 4, 8),
        depths=(1, 1, 1, 1),
        dropout=0.9,
    )
    audio = sound(tower)
    assert not torch.equal(tower(audio), tower(audio))
    tower.eval()
    assert torch.equal(tower(audio), tower(audio))


@pytest.mark.parametrize('options', [{'window_frames': 48}, {'num_mels': 40}, {'widths': (4, 4)}])
def test_sizes_that_cannot_be_halved_are_refused(options):
    with pytest.raises(ValueError, match='must'):
        ConvolutionalAudioTower(**options)
