"""What channels share while they are generated."""

import dataclasses

import numpy as np
import pytest
import torch
from fake_restorer import FakeRestorer, level_db, noise_audio

from nemo_audio_restore.restoration import RestorationError, SamplerSettings, restore_array
from nemo_audio_restore.restoration.stereo import mid_side

SETTINGS = SamplerSettings(steps=2, tile_frames=32, tile_hop_frames=16, batch_size=4)


def restored(audio, **options):
    request = {'cutoff_hz': 6000, 'settings': SETTINGS, **options}
    return restore_array(FakeRestorer(), audio, 44100, **request)


def test_mid_side_is_its_own_inverse_and_keeps_the_power():
    audio = torch.from_numpy(noise_audio(0.1, channels=2))
    torch.testing.assert_close(mid_side(mid_side(audio)), audio)
    torch.testing.assert_close(mid_side(audio).square().sum(), audio.square().sum())


def test_independent_channels_have_noise_of_their_own():
    audio = np.repeat(noise_audio(0.3), 2, axis=0)
    shared, independent = (restored(audio, stereo=mode) for mode in ('shared', 'independent'))
    np.testing.assert_allclose(shared[0], shared[1], atol=1e-6)
    assert level_db(independent[0] - independent[1]) > -50
    np.testing.assert_allclose(independent[0], shared[0], atol=1e-5)  # the first channel is as ever


def test_mid_side_restores_mid_and_side_and_decodes_them():
    # At one level for both, so that each can be restored alone as what it is.
    mid, side = noise_audio(0.4, seed=1)[0], noise_audio(0.4, seed=2)[0]
    left_right = np.stack([mid + side, mid - side]) * np.float32(0.5**0.5)
    actual = restored(left_right, stereo='mid-side')
    alone = restored(np.stack([mid, side]), stereo='independent')
    expected = mid_side(torch.from_numpy(alone)).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_mid_side_of_equal_channels_stays_mono():
    audio = np.repeat(noise_audio(0.3), 2, axis=0)
    output = restored(audio, stereo='mid-side')
    assert np.array_equal(output[0], output[1])
    assert level_db(output - audio) > -50


def test_a_quiet_side_is_restored_at_its_own_level():
    mid, side = noise_audio(0.4, seed=1)[0], 1e-3 * noise_audio(0.4, seed=2)[0]
    audio = np.stack([mid + side, mid - side])
    output = restored(audio, stereo='mid-side')
    changed = mid_side(torch.from_numpy(output - audio)).numpy()
    assert 45 < level_db(changed[0]) - level_db(changed[1]) < 65  # the input's: 60 dB


@pytest.mark.parametrize(('second_db', 'mode'), [(0.0, 'mid-side'), (-15.0, 'mid-side'), (-25.0, 'shared')])
def test_auto_decodes_mid_and_side_where_both_channels_sound(second_db, mode):
    audio = noise_audio(0.3, channels=2)
    audio[1] *= 10 ** (second_db / 20)
    assert np.array_equal(restored(audio), restored(audio, stereo=mode))


def test_auto_shares_noise_beside_a_silent_channel_and_between_more_than_two():
    one_sided = noise_audio(0.3, channels=2)
    one_sided[1] = 0
    for audio in (one_sided, noise_audio(0.2, channels=3)):
        assert np.array_equal(restored(audio), restored(audio, stereo='shared'))


def test_side_gain_turns_the_generated_difference_down_and_no_gap():
    audio = noise_audio(0.4, channels=2)
    quiet = dataclasses.replace(SETTINGS, side_gain_db=-6.0)

    def treble(settings: SamplerSettings) -> np.ndarray:
        spectrum = np.fft.rfft(mid_side(torch.from_numpy(restored(audio, settings=settings))).numpy())
        return np.abs(spectrum[:, np.fft.rfftfreq(audio.shape[1], 1 / 44100) > 8000])

    plain, changed = treble(SETTINGS), treble(quiet)
    np.testing.assert_allclose(changed[0], plain[0], atol=1e-3)
    assert np.sqrt(np.square(changed[1]).mean() / np.square(plain[1]).mean()) == pytest.approx(0.501, abs=0.01)
    gap = {'cutoff_hz': None, 'gaps': [(0.2, 0.22)]}
    assert np.array_equal(restored(audio, settings=SETTINGS, **gap), restored(audio, settings=quiet, **gap))


@pytest.mark.parametrize('stereo', ['mid-side', 'independent'])
def test_gaps_and_the_known_band_hold_in_every_mode(stereo):
    audio = noise_audio(0.5, channels=2)
    output = restored(audio, cutoff_hz=None, gaps=[(0.2, 0.22)], stereo=stereo)
    time = np.arange(audio.shape[1]) / 44100
    outside = (time < 0.19) | (time > 0.23)
    assert np.abs((output - audio)[:, outside]).max() < 1e-6
    assert level_db((output - audio)[:, ~outside]) > -50


@pytest.mark.parametrize('stereo', ['auto', 'shared', 'mid-side', 'independent'])
def test_mono_is_the_same_in_every_mode(stereo):
    audio = noise_audio(0.3)
    np.testing.assert_array_equal(restored(audio, stereo=stereo), restored(audio))


@pytest.mark.parametrize('stereo', ['shared', 'mid-side', 'independent'])
def test_the_tile_batch_does_not_change_the_result(stereo):
    audio = noise_audio(0.5, channels=2)
    few = restored(audio, stereo=stereo, settings=dataclasses.replace(SETTINGS, batch_size=1, eta=0.5))
    many = restored(audio, stereo=stereo, settings=dataclasses.replace(SETTINGS, batch_size=16, eta=0.5))
    np.testing.assert_allclose(few, many, atol=1e-6)


def test_modes_that_do_not_fit_are_refused():
    with pytest.raises(RestorationError, match='choose from auto, shared'):
        restored(noise_audio(0.3), stereo='wide')
    with pytest.raises(RestorationError, match='two channels'):
        restored(noise_audio(0.3, channels=3), stereo='mid-side')
