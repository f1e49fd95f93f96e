"""Spectral distance at drawn resolutions."""

import pytest
import torch

from nemo_audio_restore.losses.sampled_spectra import SampledSpectralLoss


def loss_of(**changes) -> SampledSpectralLoss:
    settings = {'sample_rate': 8000, 'window_lengths': (64, 128, 256), 'mel_channels': (8, 12, 16), 'num_drawn': 2}
    return SampledSpectralLoss(**(settings | changes))


def noise(seed: int, level: float = 0.2) -> torch.Tensor:
    return level * torch.randn(2, 1024, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_audio_is_at_distance_zero_from_itself():
    assert loss_of()(noise(0), noise(0)) == 0


def test_a_sign_cannot_be_heard():
    assert loss_of()(noise(0), -noise(0)) < 1e-5


def test_the_louder_the_error_the_larger_the_distance():
    loss = loss_of(num_drawn=3)
    distances = [float(loss(noise(0), noise(0) + noise(1, level))) for level in (0.01, 0.05, 0.2)]
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_the_mean_over_draws_is_the_distance_at_all_resolutions():
    whole = float(loss_of(num_drawn=3)(noise(0), noise(1)))
    one = loss_of(num_drawn=1)
    drawn = {round(float(one(noise(0), noise(1), generator=seeded(seed))), 5) for seed in range(30)}
    assert len(drawn) == 3
    assert sum(drawn) / 3 == pytest.approx(whole, abs=1e-4)


def test_the_same_generator_draws_the_same_resolutions():
    loss = loss_of()
    first, second = (loss(noise(0), noise(1), generator=seeded(3)) for _ in range(2))
    assert first == second


def test_gradient_reaches_the_estimate_only():
    target, estimate = noise(0).requires_grad_(), noise(1).requires_grad_()
    loss_of()(target, estimate).backward()
    assert target.grad is None
    assert estimate.grad[:, 1:-1].abs().min() > 0


def test_silence_has_a_finite_gradient():
    estimate = torch.zeros(1, 1024, requires_grad=True)
    loss_of(num_drawn=3)(noise(0)[:1], estimate).backward()
    assert estimate.grad.isfinite().all()


@pytest.mark.parametrize(
    'change',
    [{'mel_guard': 1.0}, {'magnitude_guard': 1.0}, {'magnitude_weight': 2.0}, {'convergence_weight': 1.0}]
    + [{'sample_rate': 16000}, {'mel_channels': (4, 6, 8)}],
)
def test_every_setting_counts(change):
    first, second = (float(loss_of(num_drawn=3, **item)(noise(0), noise(1))) for item in ({}, change))
    assert first != pytest.approx(second, rel=1e-3)


def test_true_magnitudes_of_windows_are_at_distance_zero():
    audio = noise(0)
    padded = torch.nn.functional.pad(audio, (48, 48))
    spectrum = torch.fft.rfft(padded.unfold(1, 128, 32) * torch.hann_window(128)).abs()
    loss = loss_of()
    assert loss.of_windows(audio, spectrum.clamp(min=1e-6).log()) < 1e-3
    assert loss.of_windows(audio, spectrum.clamp(min=1e-6).log() + 0.5) > 0.3


@pytest.mark.parametrize(
    ('change', 'message'),
    [({'mel_channels': (4, 6)}, 'as many'), ({'num_drawn': 4}, '1 to 3'), ({'mel_guard': 0.0}, 'positive')],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        loss_of(**change)


def true_phases(audio: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(audio, (48, 48))
    return torch.fft.rfft(padded.unfold(1, 128, 32) * torch.hann_window(128)).angle()


def test_true_phases_turn_as_they_should():
    assert loss_of().of_phases(noise(0), true_phases(noise(0))) == pytest.approx(0, abs=1e-4)


def test_a_constant_turn_of_all_phases_cannot_be_heard():
    assert loss_of().of_phases(noise(0), true_phases(noise(0)) + 1.0) == pytest.approx(0, abs=1e-4)


def test_random_phases_turn_at_random():
    phase = 6.3 * torch.rand(true_phases(noise(0)).shape, generator=seeded(1))
    assert loss_of().of_phases(noise(0), phase) == pytest.approx(2, abs=0.1)


def test_a_delay_turns_phases_from_bin_to_bin():
    delayed = noise(0).roll(8, dims=1)
    assert loss_of().of_phases(noise(0), true_phases(delayed)) > 0.1
