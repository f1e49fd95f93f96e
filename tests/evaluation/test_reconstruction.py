"""Claims about the distances of decoded music."""

import numpy as np
import pytest
import torch

from nemo_audio_restore.evaluation.reconstruction import mel_distance, panning_distance, stft_distance


def music(seed=0, seconds=0.4):
    time = torch.arange(int(seconds * 44100)) / 44100
    generator = torch.Generator().manual_seed(seed)
    hum = sum(torch.sin(2 * torch.pi * 220 * k * time) / k for k in range(1, 20))
    return 0.2 * torch.stack([hum, 0.5 * hum]) + 0.01 * torch.randn(2, len(time), generator=generator)


def test_equal_audio_has_no_distance():
    assert stft_distance(music(), music()) == 0
    assert mel_distance(music(), music(), 44100) == 0


def test_half_the_level_costs_one_half_and_the_logarithm_of_two():
    # |x - x/2| / |x| = 1/2, |log x - log x/2| = log 2, wherever nothing is near the floor.
    wanted = 0.5 + np.log(2)
    assert stft_distance(music(), music() / 2) == pytest.approx(wanted, abs=0.01)
    assert mel_distance(music(), music() / 2, 44100) == pytest.approx(wanted, abs=0.01)


def test_convergence_is_measured_against_the_original():
    assert stft_distance(music(), 2 * music()) == pytest.approx(1 + np.log(2), abs=0.01)


def test_channels_count_alike():
    left_wrong = torch.stack([music()[0] / 2, music()[1]])
    assert mel_distance(music(), left_wrong, 44100) == pytest.approx((0.5 + np.log(2)) / 2, abs=0.01)


def test_numbers_are_those_of_auraloss():
    auraloss = pytest.importorskip('auraloss', reason='auraloss is not installed')
    original, decoded = music()[:1], music(1)[:1] * 0.8 + 0.01
    stft = auraloss.freq.MultiResolutionSTFTLoss()(decoded[None], original[None])
    mel = auraloss.freq.MelSTFTLoss(44100)(decoded[None], original[None])
    assert stft_distance(original, decoded) == pytest.approx(float(stft), rel=1e-4)
    assert mel_distance(original, decoded, 44100) == pytest.approx(float(mel), rel=1e-4)


@pytest.mark.parametrize('shape', [(2, 1024), (2000,), (2, 2001)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match='channels, samples'):
        stft_distance(torch.zeros(2, 2000), torch.zeros(shape))


def test_panning_is_the_change_of_the_level_difference():
    audio = music()
    assert panning_distance(audio, audio, 44100) == 0
    assert panning_distance(audio, 0.3 * audio, 44100) == pytest.approx(0, abs=1e-3)
    quieter_right = audio * torch.tensor([[1.0], [10 ** (-4 / 20)]])
    assert panning_distance(audio, quieter_right, 44100) == pytest.approx(4, abs=1e-3)
    assert panning_distance(torch.stack([audio[0], 0 * audio[0]]), audio[:1].expand(2, -1), 44100) == pytest.approx(60)


def test_panning_is_of_both_channels_and_of_sound():
    with pytest.raises(ValueError, match='two channels; got 1'):
        panning_distance(music()[:1], music()[:1], 44100)
    assert np.isnan(panning_distance(torch.zeros(2, 4410), music(seconds=0.1), 44100))
