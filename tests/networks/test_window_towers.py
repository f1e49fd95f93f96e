"""Claims about audio towers."""

import numpy as np
import pytest
import torch

from nemo_audio_restore.networks.window_towers import HtsatTower, WhisperTower

SMALL = {'embed_dim': 8, 'depths': [1, 1, 1, 1], 'num_heads': [1, 1, 2, 2]}


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_htsat_makes_64_tokens_of_a_window_and_windows_do_not_mix():
    tower = HtsatTower(**SMALL, fusion=False).eval()
    windows = noise(2, 160000)
    features = tower(windows)
    assert features.shape == (2, 64, tower.feature_dim)
    assert torch.allclose(tower(windows[1:]), features[1:], atol=1e-5)


@torch.no_grad()
def test_fusion_is_idle_for_windows():
    torch.manual_seed(0)
    tower = HtsatTower(**SMALL, fusion=True).eval()
    mel = noise(1, 4, 1001, 64)
    assert torch.equal(tower.encode_mel(mel), tower.encode_mel(mel[:, :1]))
    assert not torch.allclose(tower.encode_mel(mel, torch.tensor([True])), tower.encode_mel(mel), atol=1e-4)


def test_paths_are_dropped_in_training_alone():
    torch.manual_seed(0)
    tower = HtsatTower(**SMALL, fusion=False, drop_path=0.9)
    tower.clap.audio_encoder.batch_norm.eval()
    mel = noise(4, 1, 200, 64)
    assert not torch.equal(tower.encode_mel(mel), tower.encode_mel(mel))
    assert torch.equal(tower.eval().encode_mel(mel), tower.encode_mel(mel))


@torch.no_grad()
def test_pictures_of_whisper_are_those_of_its_own_extractor():
    from transformers import WhisperFeatureExtractor

    tower = WhisperTower(window_s=1.0, dim=8, num_layers=1, num_heads=1)
    audio = noise(1, 16000)
    own = WhisperFeatureExtractor(chunk_length=1)(audio[0].numpy(), sampling_rate=16000, return_tensors='np')
    assert np.abs(tower.log_mel(audio).numpy() - own['input_features']).max() < 1e-3


@torch.no_grad()
def test_frames_of_whisper_are_averaged_to_tokens():
    torch.manual_seed(0)
    fine = WhisperTower(window_s=1.0, dim=8, num_layers=1, num_heads=1, frames_per_token=1).eval()
    coarse = WhisperTower(window_s=1.0, dim=8, num_layers=1, num_heads=1, frames_per_token=5).eval()
    coarse.load_state_dict(fine.state_dict())
    audio = noise(2, 16000)
    assert torch.allclose(coarse(audio), fine(audio).view(2, 10, 5, 8).mean(dim=2), atol=1e-5)


def test_windows_that_do_not_fit_whisper_are_refused():
    with pytest.raises(ValueError, match='50 frames, which frames_per_token=3 must divide'):
        WhisperTower(window_s=1.0, frames_per_token=3)
    tower = WhisperTower(window_s=1.0, dim=8, num_layers=1, num_heads=1)
    with pytest.raises(ValueError, match='must have 16000 samples; got 8000'):
        tower(noise(1, 8000))
