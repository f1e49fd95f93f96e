"""Recordings at one level."""

import pytest
import torch

from nemo_audio_restore.signal.level import at_level

RATE = 8000


@pytest.mark.parametrize('gain', [1e-3, 1.0, 3.0])
def test_a_tone_comes_out_at_the_level_whatever_it_went_in_at(gain):
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE).expand(2, -1)
    audio = torch.cat([0.1 * tone, tone, torch.zeros(2, RATE)], dim=1) * gain
    leveled = at_level(audio, RATE, -20.0)
    assert leveled[:, RATE : 2 * RATE].square().mean().sqrt() == pytest.approx(0.1, rel=1e-3)
    torch.testing.assert_close(leveled / leveled[0, RATE + 3], audio / audio[0, RATE + 3])


def test_a_click_is_limited_by_its_peak():
    click = torch.zeros(1, RATE)
    click[0, 500] = -0.01
    assert at_level(click, RATE, -20.0).abs().max() == pytest.approx(0.95)


def test_silence_stays_and_noise_is_not_raised_by_more_than_60_db():
    silence, faint = torch.zeros(2, RATE), torch.full((2, 10), 1e-6)
    assert torch.equal(at_level(silence, RATE, -20.0), silence)
    torch.testing.assert_close(at_level(faint, RATE, -20.0), faint * 1000)
