"""LatentDiffusionModel as a prior of score distillation."""

import pytest
import torch

from nemo_audio_restore.distillation.fit import fit
from nemo_audio_restore.distillation.objectives import prompt_objective
from nemo_audio_restore.distillation.score_distillation import ScoreDistillation
from nemo_audio_restore.distillation.sources import WaveformBuffer
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
from nemo_audio_restore.models.latent_diffusion_prior import LatentDiffusionPrior
from nemo_audio_restore.models.latent_generation import AsGenerator


@pytest.fixture
def prior(latent_diffusion_config, text_encoder_folder):
    torch.manual_seed(0)
    model = LatentDiffusionModel(latent_diffusion_config)
    model.use_text_encoder(text_encoder_folder)
    with torch.no_grad():
        model.network.postprocess_conv.weight.normal_(std=0.3)
    return LatentDiffusionPrior(model)


def test_guidance_mixes_what_the_prompt_and_nothing_give(prior):
    condition = prior.condition(['soft rain'], seconds=0.5 * prior.max_seconds)
    noised, t = torch.randn(3, 2, 20), torch.tensor([0.2, 0.5, 0.9])
    null, named, guided = (prior.denoise(noised, t, condition, guidance=scale) for scale in (0.0, 1.0, 4.0))
    torch.testing.assert_close(guided, null + 4 * (named - null), atol=1e-4, rtol=1e-4)
    assert (named - null).abs().max() > 1e-4
    other = prior.condition(['soft rain'], negative=['rain'], seconds=0.5 * prior.max_seconds)
    assert not torch.allclose(prior.denoise(noised, t, other, guidance=4.0), guided, atol=1e-5)


def test_one_prompt_serves_a_batch_of_any_size_with_equal_rows(prior):
    condition = prior.condition(['rain'], seconds=0.1 * prior.max_seconds)
    noised, t = torch.randn(1, 2, 20), torch.tensor([0.4])
    alone = prior.denoise(noised, t, condition, guidance=3.0)
    batch = prior.denoise(noised.expand(4, -1, -1), t.expand(4), condition, guidance=3.0)
    torch.testing.assert_close(batch, alone.expand(4, -1, -1), atol=1e-5, rtol=1e-5)


def test_a_denoiser_in_bfloat16_is_another_and_nearly_the_same(prior):
    condition = prior.condition(['soft rain'], seconds=0.5 * prior.max_seconds)
    noised, t = torch.randn(2, 2, 20), torch.tensor([0.3, 0.7])
    exact = prior.denoise(noised, t, condition, guidance=2.0)
    coarse = LatentDiffusionPrior(prior.model, denoiser_dtype=torch.bfloat16).denoise(
        noised, t, condition, guidance=2.0
    )
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - exact).norm() / exact.norm() < 0.05


def test_encoder_and_decoder_let_gradients_through_and_the_model_keeps_none(prior):
    audio = (0.1 * torch.randn(1, prior.channels, 333)).requires_grad_()
    latents = prior.encode(audio)
    assert latents.shape[-1] % AsGenerator(prior.model).latents_multiple == 0
    back = prior.decode(latents, num_samples=333)
    back.square().sum().backward()
    assert back.shape == audio.shape and audio.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in prior.model.parameters())


def test_a_few_iterations_of_distillation_run_and_move_the_sound(prior):
    renderer = WaveformBuffer(0.1 * torch.randn(prior.channels, 320), sample_rate=prior.sample_rate)
    before = renderer.audio.detach().clone()
    loss = ScoreDistillation(prior, guidance=3.0, draws=2, denoising_steps=1)
    objective = prompt_objective(loss, prior.condition(['rain'], seconds=0.1 * prior.max_seconds), num_samples=320)
    history = fit(renderer, objective, iterations=2)
    assert len(history) == 2 and (renderer.audio - before).abs().max() > 1e-3


def test_bad_conditions_are_named(prior):
    for options, message in (
        ({'prompts': ['']}, 'some text'),
        ({'prompts': ['rain'], 'seconds': 1e3}, 'at most'),
        ({'prompts': ['rain'], 'negative': ['a', 'b']}, '2 negative prompts for 1'),
    ):
        with pytest.raises(ValueError, match=message):
            prior.condition(**options)
