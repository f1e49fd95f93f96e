"""``model.generate``: from prompts to audio with a tiny LatentDiffusionModel."""

import numpy as np
import pytest
import torch

from nemo_audio_restore.apps.inputs import UsageError
from nemo_audio_restore.apps.loading import load_generator
from nemo_audio_restore.generation import GenerationError, SamplerSettings
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
from nemo_audio_restore.models.latent_generation import AsGenerator
from nemo_audio_restore.processes.item_noise import item_generators, noise_from_each

QUICK = {'steps': 3, 'guidance': 2.0}


@pytest.fixture
def model(latent_diffusion_config, text_encoder_folder):
    torch.manual_seed(0)
    made = LatentDiffusionModel(latent_diffusion_config)
    made.use_text_encoder(text_encoder_folder)
    with torch.no_grad():
        made.network.preprocess_conv.weight.normal_(std=0.3)
        made.network.postprocess_conv.weight.normal_(std=0.3)
    return made


def test_a_clip_is_what_sample_and_decode_give(model):
    seconds = 0.6 * model.window_s
    (clip,) = model.generate('soft rain', seconds=seconds, seed=4, negative='rain', **QUICK)
    latents = model.window_latents if model.sampler.full_window else model.latents_for(seconds)
    generators = item_generators([4])
    model.eval()
    sampled = model.sample(
        noise=noise_from_each(generators)(0, torch.zeros(1, model.autoencoder.latent_channels, latents)),
        generators=generators,
        condition=model.condition(['soft rain'], seconds),
        negative=model.condition(['rain'], seconds),
        **QUICK,
    )
    length = round(seconds * model.sample_rate)
    expected = model.autoencoder.decode(sampled, length=length)[0]
    assert clip.audio.shape == (model.autoencoder.audio_channels, length) and clip.sample_rate == model.sample_rate
    np.testing.assert_allclose(clip.audio, expected.numpy(), atol=1e-5)


def test_everything_that_is_asked_reaches_the_clip(model):
    seconds = 0.6 * model.window_s
    plain = {'seconds': seconds, **QUICK}
    (first,) = model.generate('rain', **plain)
    for change in (
        {'steps': 4},
        {'guidance': 5.0},
        {'sampler': 'k-heun'},
        {'negative': 'soft'},
        {'seed': 1},
        {'settings': SamplerSettings(spacing='linear')},
        {'initial_audio': first.audio, 'strength': 0.4},
        {'loudness_lufs': -30.0},
    ):
        (other,) = model.generate('rain', **{**plain, **change})
        assert np.abs(other.audio - first.audio).max() > 1e-6, change
    told = []
    clips = model.generate(['rain', 'soft rain'], seed=(0, 1), batch_size=3, on_step=told.append, **plain)
    assert told[-1].done == told[-1].total == 6 and len(clips) == 4
    np.testing.assert_allclose(clips[0].audio, first.audio, atol=1e-5)


def test_known_parts_stay_sample_for_sample(model):
    audio = 0.1 * torch.randn(model.autoencoder.audio_channels, model.window_samples)
    middle = 0.5 * model.window_s
    (clip,) = model.generate('rain', inpaint=(audio, [(middle, middle + 4 / model.sample_rate)]), **QUICK)
    changed = np.flatnonzero((clip.audio != audio.numpy()).any(axis=0))
    fade = round(0.03 * model.sample_rate)
    centre = round(middle * model.sample_rate)
    assert centre - fade <= changed[0] and changed[-1] < centre + 4 + fade
    seconds = 0.25 * model.window_s
    (longer,) = model.generate('rain', continue_from=audio, seconds=seconds, **QUICK)
    assert longer.audio.shape[1] == model.window_samples + round(seconds * model.sample_rate)


def test_the_mode_of_the_model_is_left_as_it_was_and_requests_are_checked(model):
    model.network.train()
    model.generate('rain', seconds=0.5 * model.window_s, steps=1)
    assert model.network.training and AsGenerator(model).device == torch.device('cpu')
    with pytest.raises(GenerationError, match='the prompt is empty'):
        model.generate(' ')
    with pytest.raises(GenerationError, match='at most'):
        model.generate('rain', seconds=2 * model.window_s)


def test_a_model_of_another_kind_is_named(repository):
    with pytest.raises(UsageError, match='holds a AudioRestoreModel, not a LatentDiffusionModel'):
        load_generator(str(repository / 'nemo_audio_restore' / 'pretrained' / 'a2sb_44k_small.nemo'), 'cpu')
    with pytest.raises(UsageError, match='none.nemo'):
        load_generator('none.nemo', 'cpu')


def test_a_text_encoder_that_is_not_there_is_named(model, tmp_path):
    model.save_to(tmp_path / 'a.nemo')
    with pytest.raises(UsageError, match='the text encoder .*nowhere cannot be used'):
        load_generator(str(tmp_path / 'a.nemo'), 'cpu', text_encoder=str(tmp_path / 'nowhere'))
    generator = load_generator(str(tmp_path / 'a.nemo'), 'cpu')
    with pytest.raises(FileNotFoundError, match='--text-encoder FOLDER'):
        generator.condition(['rain'], seconds=0.1, negative=None)
