import math

import numpy as np
import pytest
import torch

from nemo_audio_restore.losses.a_weighting import AWeighting, a_weighting_taps
from nemo_audio_restore.losses.stereo_spectral import SpectralDistance, StereoSpectralLoss

WINDOWS = (256, 64)


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(**changes):
    return StereoSpectralLoss(**{'window_lengths': WINDOWS, 'a_weighted': False, **changes})


def test_filter_has_the_level_of_the_a_curve():
    response = np.fft.rfft(a_weighting_taps(44100).double().numpy(), 44100)
    # IEC 61672-1, table 3. At low frequencies 101 taps are too short for the steep fall, and the bilinear transform
    # lowers the highest ones.
    for frequency, level_db in {500: -3.2, 1000: 0.0, 2000: 1.2, 4000: 1.0}.items():
        assert 20 * math.log10(abs(response[frequency])) == pytest.approx(level_db, abs=0.5)
    assert 20 * math.log10(abs(response[40])) < -10


def test_filter_does_not_move_the_audio():
    pulse = torch.zeros(1, 301)
    pulse[0, 150] = 1
    filtered = AWeighting(44100)(pulse)[0]
    assert filtered.abs().argmax() == 150
    torch.testing.assert_close(filtered, filtered.flip(0), atol=1e-6, rtol=0)
    assert AWeighting(44100, taps=31)(pulse)[0, :130].abs().sum() == 0
    with pytest.raises(ValueError, match='taps must be odd'):
        a_weighting_taps(44100, taps=100)


def test_equal_signals_have_no_distance_and_a_gain_has_the_closed_form():
    audio = drawn(2, 2, 1024)
    assert plain()(audio, audio) == 0
    # Half of the amplitude: relative error 1/2 and ln 2 in the logarithm, in each of the four signals.
    expected = (0.5 + math.log(2)) * (1 + 2 * 0.5)
    assert plain()(audio / 2, audio).item() == pytest.approx(expected, rel=1e-4)
    assert plain(channel_weight=0.25)(audio / 2, audio).item() == pytest.approx(expected * 1.5 / 2, rel=1e-4)


def test_sum_and_difference_are_compared():
    audio = drawn(1, 2, 1024)
    swapped = audio.flip(1)
    distance = plain().sum_and_difference(swapped, audio)
    # The sum stays, the difference only changes its sign: nothing of it shows in magnitudes.
    assert distance.item() == pytest.approx(0, abs=1e-6)
    assert plain()(swapped, audio) > 0.5
    mono = audio.mean(1, keepdim=True).expand(-1, 2, -1)
    assert plain().sum_and_difference(mono, audio) > 1


def test_relative_distance_is_measured_against_the_reference():
    loud, quiet = drawn(1, 2, 1024), 0.1 * drawn(1, 2, 1024, seed=2)
    assert plain()(loud, quiet) > 2 * plain()(quiet, loud)


def test_weighting_and_windows_change_the_loss():
    estimate, reference = drawn(1, 2, 1024), drawn(1, 2, 1024, seed=2)
    values = {
        plain()(estimate, reference).item(),
        plain(a_weighted=True)(estimate, reference).item(),
        plain(a_weighted=True, sample_rate=16000)(estimate, reference).item(),
        plain(window_lengths=(128,))(estimate, reference).item(),
    }
    assert len(values) == 4
    each = SpectralDistance(window_lengths=WINDOWS, a_weighted=False)
    by_resolution = each.by_resolution(estimate[:, 0], reference[:, 0])
    assert each(estimate[:, 0], reference[:, 0]) == by_resolution.mean()


def test_silence_has_finite_gradients():
    estimate = torch.zeros(1, 2, 1024, requires_grad=True)
    plain()(estimate, drawn(1, 2, 1024)).backward()
    assert estimate.grad.isfinite().all()


def test_other_than_two_stereo_signals_are_refused():
    with pytest.raises(ValueError, match='two stereo signals'):
        plain()(torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))
    with pytest.raises(ValueError, match='two stereo signals'):
        plain()(torch.zeros(1, 2, 64), torch.zeros(1, 2, 65))


@pytest.mark.needs_fixtures
def test_distances_of_the_published_program(reference_arrays):
    stored = np.load(reference_arrays / 'stable_audio' / 'f_losses' / 'io.npz')
    arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    real, fake, loss = arrays['reals'], arrays['fakes'], StereoSpectralLoss()
    found = {
        'aweight_fir': a_weighting_taps(44100),
        'left_per_resolution': loss.distance.by_resolution(real[:, 0], fake[:, 0]),
        'left_loss': loss.distance(real[:, 0], fake[:, 0]),
        'right_loss': loss.distance(real[:, 1], fake[:, 1]),
        'sd_loss': loss.sum_and_difference(real, fake),
        'sd_loss_swapped': loss.sum_and_difference(fake, real),
        'spectral_total': loss(real, fake),
    }
    for name, value in found.items():
        torch.testing.assert_close(value, arrays[name], atol=1e-5 * arrays[name].abs().max().item(), rtol=0)
