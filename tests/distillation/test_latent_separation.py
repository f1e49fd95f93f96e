"""Separation by levels and latents: nothing is compared with the mixture's waveform."""

import pytest
import torch

from nemo_audio_restore.distillation.analytic_priors import ModesPrior
from nemo_audio_restore.distillation.distances import MultiScaleSpectralDistance
from nemo_audio_restore.distillation.fit import fit
from nemo_audio_restore.distillation.objectives import latent_objective
from nemo_audio_restore.distillation.score_distillation import ScoreDistillation
from nemo_audio_restore.distillation.sources import LatentSources

RATE = 16000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rms(x):
    return float(x.square().mean().sqrt())


def distillation_of(prior):
    return ScoreDistillation(prior, guidance=1.0, denoising_steps=1, draws=4)


def test_powers_of_sources_add_up_whatever_their_phases():
    distance = MultiScaleSpectralDistance((64, 256))
    sources = torch.randn(2, 1, 2048, generator=seeded(1))
    plain = distance.features_of_sum(sources)
    turned = distance.features_of_sum(sources * torch.tensor([1.0, -1.0])[:, None, None])
    one, other = (distance.features(source[None]) for source in sources)
    for both, other_phase, a, b in zip(plain, turned, one, other, strict=True):
        torch.testing.assert_close(both, other_phase)
        torch.testing.assert_close(both, (a.square() + b.square()).sqrt(), atol=1e-4, rtol=1e-4)


def test_latents_of_two_known_sounds_are_found_from_levels_alone():
    # Two tones: their powers add up to those of the sum, and nothing compares waveforms with the mixture.
    time = torch.arange(2048) / RATE
    modes = {'low': torch.sin(2 * torch.pi * 500 * time)[None], 'high': torch.sin(2 * torch.pi * 3000 * time)[None]}
    prior = ModesPrior(modes, std=0.05, sample_rate=RATE)
    mixture = modes['low'] + modes['high']
    distance = MultiScaleSpectralDistance((128, 512), exponent=0.6)
    conditions = [prior.condition([name]) for name in modes]
    errors = []
    for gamma in (1.0, 0.0):
        renderer = LatentSources.from_mixture(prior, mixture, 2, spread=0.1, generator=seeded(6))
        objective = latent_objective(distillation_of(prior), conditions, mixture, gamma=gamma, distance=distance)
        fit(renderer, objective, iterations=100, learning_rate=0.05)
        errors.append(rms(renderer.sources(2048)[0].detach() - modes['low']))
    assert errors[0] < 0.1
    assert errors[1] > 0.4


def test_without_weight_the_prior_is_never_asked():
    prior = ModesPrior({'a': torch.zeros(1, 512), 'b': torch.ones(1, 512)}, std=0.1, sample_rate=RATE)
    mixture = torch.randn(1, 512, generator=seeded(1))
    conditions = [prior.condition(['a']), prior.condition(['b'])]
    prior.denoise = None
    renderer = LatentSources.from_mixture(prior, mixture, 2, spread=0.1, generator=seeded())
    distance = MultiScaleSpectralDistance((64,))
    objective = latent_objective(distillation_of(prior), conditions, mixture, gamma=0.0, distance=distance)
    assert set(objective(renderer, seeded())) == {'reconstruction'}
    with pytest.raises(ValueError, match='2 sources, 1 prompts'):
        latent_objective(distillation_of(prior), conditions[:1], mixture, gamma=0.0, distance=distance)(
            renderer, seeded()
        )
