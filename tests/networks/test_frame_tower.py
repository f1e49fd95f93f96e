"""Claims about the small tower that keeps time."""

import pytest
import torch

from nemo_audio_restore.networks.frame_tower import FrameTower

RATE, TOKEN = 8000, 1280


def tower(**changes):
    torch.manual_seed(0)
    settings = {'feature_dim': 8, 'sample_rate': RATE, 'window_s': 1.28, 'num_mels': 32, 'widths': (4, 4, 8, 8)}
    return FrameTower(**{**settings, 'depths': (1, 1, 1, 1), **changes}).eval()


@torch.no_grad()
def test_a_sound_half_a_second_later_is_heard_three_tokens_later():
    network = tower(window_s=5.12)
    audio = torch.zeros(2, 32 * TOKEN)
    hit = torch.randn(800, generator=torch.Generator().manual_seed(0))
    # Far enough from both ends: convolutions see the padding there.
    for row, token in enumerate((12, 15)):
        audio[row, token * TOKEN + 100 : token * TOKEN + 900] = hit
    heard = network(audio) - network.places
    torch.testing.assert_close(heard[0, 11:14], heard[1, 14:17], atol=1e-4, rtol=1e-3)
    assert (heard[0, 11:14] - heard[1, 11:14]).abs().max() > 0.01


@torch.no_grad()
def test_equal_sounds_at_different_places_differ_and_the_level_has_no_effect():
    network = tower()
    tokens = network(torch.zeros(1, 8 * TOKEN))
    assert (tokens[0, 0] - tokens[0, 5]).abs().max() > 0.1
    audio = torch.randn(1, 8 * TOKEN, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(audio), network(0.01 * audio), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_pictures_may_be_computed_before():
    network, audio = tower(), torch.randn(2, 8 * TOKEN, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network.encode_pictures(network.pictures(audio)), network(audio))


def test_other_sizes_give_other_numbers_of_tokens_and_weights():
    assert tower(window_s=2.56).num_tokens == 2 * tower().num_tokens == 16
    weights = {
        sum(weight.numel() for weight in network.parameters())
        for network in (tower(), tower(num_mels=64), tower(depths=(1, 1, 2, 1)), tower(widths=(4, 4, 8, 16)))
    }
    assert len(weights) == 4
    assert tower(dropout=0.5).dropout.p == 0.5


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'window_s': 1.0}, 'window_s must be a multiple of 0.16 .* got 1.0, 32'),
        ({'num_mels': 40}, 'num_mels of 32; got 1.28, 40'),
        ({'depths': (1, 1)}, 'must name four stages'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tower(**changes)


def test_windows_of_another_length_are_refused():
    with pytest.raises(ValueError, match='windows must have 10240 samples; got 9000'):
        tower()(torch.zeros(1, 9000))
