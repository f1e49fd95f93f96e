"""The closed-form oracles of score distillation: what must come out when the prior is known exactly."""

import math

import pytest
import torch

from nemo_audio_restore.distillation.analytic_priors import ModesPrior
from nemo_audio_restore.distillation.distances import (
    MultiScaleSpectralDistance,
    WaveformDistance,
    half_squared_error,
)
from nemo_audio_restore.distillation.fit import fit
from nemo_audio_restore.distillation.objectives import prompt_objective, separation_objective
from nemo_audio_restore.distillation.prior import add_noise, denoise_in_steps, implied_noise
from nemo_audio_restore.distillation.renderers import FMSynthesizer
from nemo_audio_restore.distillation.score_distillation import ScoreDistillation
from nemo_audio_restore.distillation.sources import LatentSources, WaveformBuffer

T = 64
RATE = 16000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sounds(*names, samples=T):
    return {name: torch.randn(1, samples, generator=seeded(i + 100)) for i, name in enumerate(names)}


def rms(x):
    return float(x.square().mean().sqrt())


def waveform_distillation(prior, **settings):
    defaults = {'distance': WaveformDistance(), 'guidance': 1.0, 'denoising_steps': 1, 'draws': 4}
    return ScoreDistillation(prior, **{**defaults, **settings})


def test_one_step_difference_is_the_noise_error_times_sigma_over_alpha():
    prior = ModesPrior(sounds('a'), std=0.5, sample_rate=RATE)
    z = torch.randn(3, 1, T, generator=seeded(1))
    noise = torch.randn(3, 1, T, generator=seeded(2))
    t = torch.tensor([0.1, 0.5, 0.8])
    noised = add_noise(prior, z, t, noise)
    clean = prior.denoise(noised, t, prior.condition(['a']), guidance=1.0)
    alpha, sigma = (value[:, None, None] for value in prior.alpha_sigma(t))
    predicted = implied_noise(prior, noised, clean, t)
    assert torch.allclose(clean - z, sigma / alpha * (noise - predicted), atol=1e-5)


def test_estimate_of_one_gaussian_is_the_posterior_mean():
    # E[z | z_t] for z ~ N(mu, s^2): regression of z on z_t.
    sound = sounds('a')
    prior = ModesPrior(sound, std=0.7, sample_rate=RATE)
    t = torch.tensor([0.4])
    alpha, sigma = (float(value) for value in prior.alpha_sigma(t))
    noised = torch.randn(1, 1, T, generator=seeded(1))
    gain = alpha * 0.49 / (alpha**2 * 0.49 + sigma**2)
    expected = sound['a'] + gain * (noised - alpha * sound['a'])
    estimate = prior.denoise(noised, t, prior.condition(['a']), guidance=1.0)
    assert torch.allclose(estimate, expected, atol=1e-5)


def test_decoder_mode_equals_classic_sds_with_an_identity_codec_and_one_step():
    prior = ModesPrior(sounds('a', 'b'), std=0.5, sample_rate=RATE)
    condition = prior.condition(['a'])
    gradients = []
    for mode in ('decoder', 'encoder'):
        audio = torch.randn(1, T, generator=seeded(3)).requires_grad_()
        loss = waveform_distillation(prior, mode=mode, guidance=3.0)(audio, condition, generator=seeded(4))
        loss.backward()
        gradients.append(audio.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_encoder_mode_with_unit_weight_is_the_noise_error():
    prior = ModesPrior(sounds('a'), std=0.5, sample_rate=RATE)
    condition = prior.condition(['a'])
    audio = torch.randn(1, T, generator=seeded(3)).requires_grad_()
    distillation = waveform_distillation(
        prior, mode='encoder', draws=1, weight=lambda alpha, sigma: torch.ones_like(alpha)
    )
    distillation(audio, condition, generator=seeded(4)).backward()
    (t, noise), *_ = distillation._draws(audio.detach()[None], seeded(4))
    noised = add_noise(prior, audio.detach()[None], t, noise)
    predicted = implied_noise(prior, noised, prior.denoise(noised, t, condition, guidance=1.0), t)
    assert torch.allclose(audio.grad * T, (predicted - noise)[0], atol=1e-4)


def test_surrogate_gradient_is_minus_the_update_through_the_spectra():
    prior = ModesPrior(sounds('a', samples=1024), std=0.5, sample_rate=RATE)
    distance = MultiScaleSpectralDistance((128, 256))
    distillation = waveform_distillation(prior, distance=distance)
    audio = torch.randn(1, 1024, generator=seeded(3)).requires_grad_()
    distillation(audio, prior.condition(['a']), generator=seeded(4)).backward()

    again = audio.detach().clone().requires_grad_()
    targets = distillation.target_features(again.detach()[None], prior.condition(['a']), generator=seeded(4))
    features = distance.features(again[None])
    # u = sum_m (E[S_m(x_hat)] - S_m(x)) dS_m/dx, equation 7, with each scale's mean over bins.
    update = torch.autograd.grad(
        features,
        again,
        [(target - mine.detach()) / mine.numel() for mine, target in zip(features, targets, strict=True)],
    )[0]
    assert torch.allclose(audio.grad, -update, atol=1e-9)


def test_targets_are_means_of_magnitudes_not_magnitudes_of_means():
    prior = ModesPrior(sounds('a', samples=1024), std=1.0, sample_rate=RATE)
    distance = MultiScaleSpectralDistance((256,))
    distillation = waveform_distillation(prior, distance=distance, draws=8, t_range=(0.5, 0.8))
    audio = torch.randn(1, 1, 1024, generator=seeded(3))
    (target,) = distillation.target_features(audio, prior.condition(['a']), generator=seeded(4))
    estimates = [
        prior.denoise(add_noise(prior, audio, t, noise), t, prior.condition(['a']), guidance=1.0)
        for batch in distillation._draws(audio, seeded(4))
        for t, noise in zip(batch[0].split(1), batch[1].split(1), strict=True)
    ]
    mean_of_magnitudes = torch.stack([distance.features(x)[0] for x in estimates]).mean(0)
    magnitude_of_mean = distance.features(torch.stack(estimates).mean(0))[0]
    assert torch.allclose(target, mean_of_magnitudes, atol=1e-5)
    assert not torch.allclose(target, magnitude_of_mean, atol=1e-2)


@pytest.mark.parametrize('mode', ['decoder', 'encoder'])
def test_gaussian_prior_pulls_any_start_to_its_mean(mode):
    sound = sounds('a')
    prior = ModesPrior(sound, std=0.3, sample_rate=RATE)
    renderer = WaveformBuffer(2 * torch.randn(1, T, generator=seeded(5)), sample_rate=RATE)
    objective = prompt_objective(waveform_distillation(prior, mode=mode), prior.condition(['a']), num_samples=T)
    fit(renderer, objective, iterations=300, learning_rate=0.1, learning_rate_floor=0.01)
    assert rms(renderer.audio.detach() - sound['a']) < 0.05


@pytest.mark.parametrize('prompt', ['a', 'b'])
def test_each_prompt_lands_on_its_own_mode(prompt):
    modes = sounds('a', 'b')
    prior = ModesPrior(modes, std=0.3, sample_rate=RATE)
    renderer = WaveformBuffer(torch.zeros(1, T), sample_rate=RATE)
    objective = prompt_objective(waveform_distillation(prior, guidance=3.0), prior.condition([prompt]), num_samples=T)
    fit(renderer, objective, iterations=300, learning_rate=0.1, learning_rate_floor=0.01)
    other = 'b' if prompt == 'a' else 'a'
    assert rms(renderer.audio.detach() - modes[prompt]) < 0.1
    assert rms(renderer.audio.detach() - modes[other]) > 1.0


def test_separation_with_two_known_sounds_recovers_both():
    modes = sounds('a', 'b')
    prior = ModesPrior(modes, std=0.1, sample_rate=RATE)
    mixture = modes['a'] + modes['b']
    renderer = LatentSources.from_mixture(prior, mixture, 2, spread=0.1, generator=seeded(6))
    objective = separation_objective(
        waveform_distillation(prior, guidance=1.0),
        [prior.condition(['a']), prior.condition(['b'])],
        mixture,
        gamma=1.0,
        distance=WaveformDistance(),
    )
    fit(renderer, objective, iterations=300, learning_rate=0.05, learning_rate_floor=0.01)
    stems = renderer.sources(T).detach()
    assert rms(stems[0] - modes['a']) < 0.1
    assert rms(stems[1] - modes['b']) < 0.1
    assert rms(stems.sum(0) - mixture) < 0.05


def test_without_the_prompts_separation_stays_where_it_started():
    modes = sounds('a', 'b')
    prior = ModesPrior(modes, std=0.1, sample_rate=RATE)
    mixture = modes['a'] + modes['b']
    renderer = LatentSources.from_mixture(prior, mixture, 2, spread=0.1, generator=seeded(6))
    conditions = [prior.condition(['a']), prior.condition(['b'])]
    objective = separation_objective(
        waveform_distillation(prior), conditions, mixture, gamma=0.0, distance=WaveformDistance()
    )
    fit(renderer, objective, iterations=100, learning_rate=0.05)
    assert rms(renderer.sources(T).detach()[0] - modes['a']) > 0.5


def test_a_prior_of_one_sound_turns_distillation_into_sound_matching():
    def synthesizer(detune):
        return FMSynthesizer(
            frequency_hz=[220 * detune, 440 * detune],
            modulation=[[0, 0], [1.0, 0]],
            level=[0.2, 0.4],
            attack_s=[0.005, 0.01],
            decay_s=[0.2, 0.3],
            sample_rate=8000,
        )

    target = synthesizer(1.0)(4000).detach()
    prior = ModesPrior({'target': target}, std=0.0, sample_rate=8000)
    renderer = synthesizer(1.02)
    distillation = waveform_distillation(prior, distance=MultiScaleSpectralDistance((256, 512, 1024)), draws=1)
    objective = prompt_objective(distillation, prior.condition(['target']), num_samples=4000)
    history = fit(renderer, objective, iterations=60, learning_rate=0.01)
    assert history.terms['total'][-1] < 0.1 * history.terms['total'][0]


def test_no_gradient_reaches_the_prior():
    class Learned(ModesPrior):
        def __init__(self):
            super().__init__(sounds('a'), std=0.5, sample_rate=RATE)
            self.gain = torch.nn.Parameter(torch.ones(()))

        def encode(self, audio):
            return self.gain * audio

        def denoise(self, noised, t, condition, *, guidance):
            return self.gain * super().denoise(noised, t, condition, guidance=guidance)

    prior = Learned()
    audio = torch.randn(1, T, generator=seeded(3)).requires_grad_()
    waveform_distillation(prior)(audio, prior.condition(['a']), generator=seeded(4)).backward()
    assert prior.gain.grad is None
    assert audio.grad.abs().max() > 0


def test_times_stay_in_their_range():
    distillation = waveform_distillation(
        ModesPrior(sounds('a'), std=0.5, sample_rate=RATE), draws=1000, t_range=(0.3, 0.4)
    )
    times = torch.cat([t for t, _ in distillation._draws(torch.zeros(1, 1, 2), seeded())])
    assert 0.3 <= times.min() < 0.302
    assert 0.398 < times.max() <= 0.4


def test_guidance_zero_is_the_mixture_and_one_the_named_mode():
    modes = sounds('a', 'b')
    prior = ModesPrior(modes, std=0.0, sample_rate=RATE)
    noised, t = torch.zeros(1, 1, T), torch.tensor([0.999])
    mean = (modes['a'] + modes['b']) / 2
    mixture = prior.denoise(noised, t, prior.condition(['a']), guidance=0.0)
    named = prior.denoise(noised, t, prior.condition(['a']), guidance=1.0)
    guided = prior.denoise(noised, t, prior.condition(['a']), guidance=2.0)
    assert torch.allclose(mixture[0], mean, atol=0.05)
    assert torch.allclose(named[0], modes['a'])
    assert torch.allclose(guided, 2 * named - mixture, atol=1e-5)


def test_guidance_rescale_brings_the_spread_back():
    prior = ModesPrior(sounds('a', 'b'), std=0.3, sample_rate=RATE)
    audio = torch.randn(1, 1, T, generator=seeded(3))

    def spread(rescale):
        distillation = waveform_distillation(
            prior, guidance=20.0, guidance_rescale=rescale, draws=1, t_range=(0.8, 0.87)
        )
        return distillation.target_features(audio, prior.condition(['a']), generator=seeded(4))[0].std()

    plain = waveform_distillation(prior, guidance=1.0, draws=1, t_range=(0.8, 0.87))
    wanted = plain.target_features(audio, prior.condition(['a']), generator=seeded(4))[0].std()
    assert spread(0.0) > 2 * wanted
    assert torch.allclose(spread(1.0), wanted, rtol=1e-4)


def test_micro_batches_do_not_change_the_loss():
    prior = ModesPrior(sounds('a', samples=512), std=0.5, sample_rate=RATE)
    audio = torch.randn(1, 512, generator=seeded(3))
    losses = [
        waveform_distillation(prior, draws=7, micro_batch=size, distance=MultiScaleSpectralDistance((64,)))(
            audio, prior.condition(['a']), generator=seeded(4)
        )
        for size in (1, 3, 7)
    ]
    assert torch.allclose(losses[0], losses[1], rtol=1e-5)
    assert torch.allclose(losses[0], losses[2], rtol=1e-5)


def test_more_denoising_steps_come_nearer_to_the_prior():
    # From pure noise, one step of a broad two-mode prior returns near the mean of the modes; a chain lands on a mode.
    modes = {'a': torch.full((1, T), 1.0), 'b': torch.full((1, T), -1.0)}
    prior = ModesPrior(modes, std=0.05, sample_rate=RATE)
    noised = torch.randn(16, 1, T, generator=seeded(7))
    t = torch.full((16,), 0.995)
    condition = prior.condition(['a'])
    one = denoise_in_steps(prior, noised, t, condition, guidance=0.0, steps=1)
    ten = denoise_in_steps(prior, noised, t, condition, guidance=0.0, steps=30)
    distance = [min(rms(x - 1), rms(x + 1)) for x in one], [min(rms(x - 1), rms(x + 1)) for x in ten]
    assert sum(distance[1]) < 0.5 * sum(distance[0])


def test_gradient_at_silence_is_finite():
    prior = ModesPrior({'a': torch.zeros(1, 4096)}, std=0.0, sample_rate=RATE)
    audio = torch.zeros(1, 4096, requires_grad=True)
    distillation = waveform_distillation(prior, distance=MultiScaleSpectralDistance())
    distillation(audio, prior.condition(['a']), generator=seeded()).backward()
    assert torch.isfinite(audio.grad).all()


def test_segments_keep_the_loss_local_to_the_window():
    prior = ModesPrior({'a': torch.zeros(1, 256)}, std=0.1, sample_rate=RATE)
    audio = torch.randn(1, 4096, generator=seeded(3)).requires_grad_()
    waveform_distillation(prior, segment_samples=256)(audio, prior.condition(['a']), generator=seeded()).backward()
    touched = audio.grad[0].nonzero()[:, 0]
    assert 0 < len(touched) <= 256
    assert int(touched.max() - touched.min()) < 256


def test_one_channel_serves_a_prior_of_two():
    prior = ModesPrior({'a': torch.randn(2, T, generator=seeded(8))}, std=0.1, sample_rate=RATE)
    loss = waveform_distillation(prior)(torch.zeros(1, T), prior.condition(['a']), generator=seeded())
    assert math.isfinite(loss)


@pytest.mark.parametrize(
    ('audio', 'message'),
    [
        (torch.zeros(T), 'channels, samples'),
        (torch.zeros(3, T), '1 or 1 channels'),
        (torch.full((1, T), math.nan), 'NaN'),
    ],
)
def test_a_renderer_that_returns_nonsense_is_told_so(audio, message):
    prior = ModesPrior(sounds('a'), std=0.1, sample_rate=RATE)
    with pytest.raises(ValueError, match=message):
        waveform_distillation(prior)(audio, prior.condition(['a']), generator=seeded())


@pytest.mark.parametrize(
    'settings',
    [
        {'mode': 'both'},
        {'t_range': (0.0, 0.5)},
        {'t_range': (0.6, 0.5)},
        {'draws': 0},
        {'guidance_rescale': 2.0},
        {'level_db': 3.0},
    ],
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ScoreDistillation(ModesPrior(sounds('a'), std=0.1, sample_rate=RATE), **settings)


def test_a_renderer_of_another_rate_is_refused():
    prior = ModesPrior(sounds('a'), std=0.1, sample_rate=RATE)
    objective = prompt_objective(waveform_distillation(prior), prior.condition(['a']), num_samples=T)
    with pytest.raises(ValueError, match='8000 Hz, the prior knows 16000'):
        objective(WaveformBuffer(torch.zeros(1, T), sample_rate=8000), seeded())


def test_sources_and_prompts_must_match():
    modes = sounds('a', 'b')
    prior = ModesPrior(modes, std=0.1, sample_rate=RATE)
    mixture = modes['a'] + modes['b']
    renderer = LatentSources.from_mixture(prior, mixture, 3, spread=0.1, generator=seeded())
    conditions = [prior.condition([name]) for name in modes]
    objective = separation_objective(
        waveform_distillation(prior), conditions, mixture, gamma=1.0, distance=WaveformDistance()
    )
    with pytest.raises(ValueError, match='3 sources, 2 prompts'):
        objective(renderer, seeded())


def test_distances_are_zero_only_for_equal_sounds():
    a, b = (torch.randn(1, 1, 4096, generator=seeded(i)) for i in range(2))
    for distance in (WaveformDistance(), MultiScaleSpectralDistance()):
        same = half_squared_error(distance.features(a), distance.features(a))
        other = half_squared_error(distance.features(a), distance.features(b))
        assert same == 0
        assert other > 0.05


def test_white_noise_has_the_same_level_at_every_scale():
    noise = torch.randn(1, 1, 32768, generator=seeded())
    levels = [feature.square().mean() for feature in MultiScaleSpectralDistance((256, 1024, 4096)).features(noise)]
    assert max(levels) / min(levels) < 1.15


def test_latent_loss_is_encoder_mode_without_the_encoder():
    prior = ModesPrior(sounds('a', 'b'), std=0.5, sample_rate=RATE)
    latents = torch.randn(1, 1, T, generator=seeded(3))
    distillation = waveform_distillation(prior, mode='encoder', guidance=3.0)
    losses = [
        distillation(latents[0], prior.condition(['a']), generator=seeded(4)),
        distillation.latent_loss(latents, prior.condition(['a']), generator=seeded(4)),
    ]
    assert torch.equal(*losses) and losses[0] > 0


@pytest.mark.parametrize('mode', ['decoder', 'encoder'])
def test_at_one_level_the_level_of_a_sound_is_not_judged(mode):
    prior = ModesPrior(sounds('a'), std=0.5, sample_rate=RATE)
    audio = torch.randn(1, T, generator=seeded(3))

    def loss(scale, level_db):
        scaled = (scale * audio).requires_grad_()
        value = waveform_distillation(prior, mode=mode, level_db=level_db)(
            scaled, prior.condition(['a']), generator=seeded(4)
        )
        value.backward()
        return value.detach(), (scaled.grad * scaled).sum() / (scaled.grad.norm() * scaled.norm())

    quiet, loud = loss(0.01, -16.0), loss(7.0, -16.0)
    torch.testing.assert_close(quiet[0], loud[0])
    assert abs(quiet[1]) < 1e-3  # no pull towards louder or softer
    assert not torch.allclose(loss(0.01, None)[0], loss(7.0, None)[0], rtol=0.1)


def test_an_exponent_below_one_lets_quiet_parts_count():
    loud, quiet = torch.randn(1, 1, 4096, generator=seeded(1)), 0.01 * torch.randn(1, 1, 4096, generator=seeded(2))
    shares = []
    for exponent in (1.0, 0.3):
        distance = MultiScaleSpectralDistance((256,), exponent=exponent)
        silence, a, b = (distance.features(x) for x in (torch.zeros(1, 1, 4096), loud, quiet))
        shares.append(half_squared_error(b, silence) / half_squared_error(a, silence))
    assert shares[1] > 20 * shares[0]
    with pytest.raises(ValueError, match='exponent'):
        MultiScaleSpectralDistance(exponent=0.0)
