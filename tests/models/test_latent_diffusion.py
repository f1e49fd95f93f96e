"""LatentDiffusionModel: its sampler, its conditions, its files, its adapters."""

import pytest
import torch
from omegaconf import OmegaConf

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.generation.settings import GenerationError
from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
from nemo_audio_restore.processes.item_noise import item_generators, noise_from_each


@pytest.fixture
def model(latent_diffusion_config):
    torch.manual_seed(0)
    made = LatentDiffusionModel(latent_diffusion_config).eval()
    with torch.no_grad():
        made.network.preprocess_conv.weight.normal_(std=0.3)
        made.network.postprocess_conv.weight.normal_(std=0.3)
    return made


def told(batch=2, seed=0, tokens=6):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, tokens, 32, generator=generator)
    mask = torch.ones(batch, tokens)
    return {'prompt': (features, mask), 'seconds_total': torch.arange(1.0, batch + 1)}


def noise(batch=2, latents=20, seed=1):
    return noise_from_each(item_generators(range(seed, seed + batch)))(0, torch.zeros(batch, 2, latents))


def test_every_choice_of_a_run_matters(model):
    plain = {'noise': noise(), 'condition': told(), 'sampler': 'dpmpp_2m', 'steps': 4}
    samples = {'plain': model.sample(**plain)}
    for name, change in {
        'steps': {'steps': 5},
        'sampler': {'sampler': 'ddim'},
        'heun': {'sampler': 'heun'},
        'rk4': {'sampler': 'rk4'},
        'guidance': {'guidance': 5.0},
        'none': {'guidance': 1.0},
        'rescale': {'rescale': 0.7},
        'interval': {'interval': (0.0, 0.9)},
        'sigma_min': {'sigma_min': 0.1},
        'sigma_max': {'sigma_max': 80.0},
        'rho': {'rho': 2.0},
        'times': {'times': torch.tensor([0.9, 0.4])},
        'negative': {'negative': told(seed=5)},
        'initial': {'initial': torch.ones(1, 2, 20), 'sigma_max': 2.0},
        'condition': {'condition': told(seed=6)},
        'noise': {'noise': noise(seed=9)},
    }.items():
        samples[name] = model.sample(**{**plain, **change})
    names = list(samples)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            assert not torch.allclose(samples[first], samples[second], atol=1e-5), (first, second)
    assert torch.equal(model.sample(**plain), samples['plain'])


@pytest.mark.parametrize('sampler', ['dpmpp_2m_sde', 'dpmpp_3m_sde', 'ping_pong'])
def test_same_seed_gives_the_same_clip_in_any_batch(model, sampler):
    given = told(3)
    whole = model.sample(
        noise=noise(3), condition=given, sampler=sampler, generators=item_generators([7, 8, 9]), steps=4
    )
    alone = model.sample(
        noise=noise(1, seed=2),
        condition={'prompt': tuple(part[1:2] for part in given['prompt']), 'seconds_total': [2.0]},
        sampler=sampler,
        generators=item_generators([8]),
        steps=4,
    )
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=1e-5)
    other = model.sample(
        noise=noise(3), condition=given, sampler=sampler, generators=item_generators([7, 1, 9]), steps=4
    )
    assert not torch.allclose(other[1], whole[1], atol=1e-3)
    torch.testing.assert_close(other[0], whole[0], atol=1e-5, rtol=1e-5)


def test_names_of_the_published_program_are_understood(model):
    given = {'noise': noise(), 'condition': told(), 'steps': 3, 'generators': None}
    for ours, theirs in (('ddim', 'v-ddim'), ('heun', 'k-heun'), ('dpmpp_2m', 'dpmpp-2m'), ('ddim', 'euler')):
        assert torch.equal(model.sample(**given, sampler=ours), model.sample(**given, sampler=theirs))
    with pytest.raises(GenerationError, match='"k-lms" is unknown; choose from ddim'):
        model.sample(**given, sampler='k-lms')


def test_sampling_that_cannot_be_is_refused(model):
    given = {'noise': noise(), 'condition': told()}
    for change, message in (
        ({}, 'give step_noise for all of them, or generators'),
        ({'step_noise': noise()[None], 'steps': 4}, 'give step_noise for all'),
        ({'initial': torch.zeros(1, 2, 9)}, 'initial must be shaped like the noise'),
        ({'steps': 0}, 'steps must be'),
        ({'sampler': 'ddim', 'sigma_max': 0.0}, 'sigma_max must be positive'),
        ({'condition': {'prompt': told()['prompt']}}, 'missing: seconds_total'),
    ):
        with pytest.raises(ValueError, match=message):
            model.sample(**{**given, **change})


def test_text_encoder_of_a_folder_makes_conditions_and_is_in_no_file(model, text_encoder_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match='--text-encoder FOLDER'):
        model.condition(['soft rain'], 3.0)
    model.use_text_encoder(text_encoder_folder)
    made = model.condition(['soft rain', 'rain'], [3.0, 4.0])
    assert made['prompt'].mask.sum(dim=1).tolist() == [2, 1] and made['seconds_total'].tolist() == [3.0, 4.0]
    assert set(made) == {'prompt', 'seconds_total'}
    model.save_to(tmp_path / 'a.nemo')
    restored = LatentDiffusionModel.restore_from(tmp_path / 'a.nemo')
    assert not any('encoder.block' in name for name in restored.state_dict())
    with pytest.raises(FileNotFoundError, match='text encoder'):
        restored.condition(['rain'], 1.0)
    restored.use_text_encoder(text_encoder_folder)
    clips = [
        each.sample(noise=noise(), condition=made, generators=item_generators([1, 2])) for each in (model, restored)
    ]
    assert torch.equal(*clips)
    with pytest.raises(ValueError, match='one number or 2'):
        model.condition(['rain', 'soft'], [1.0, 2.0, 3.0])


def test_config_with_the_folder_of_a_text_encoder_can_be_passed_on(
    latent_diffusion_config, text_encoder_folder, tmp_path
):
    latent_diffusion_config.conditions.conditioners.prompt.source = str(text_encoder_folder)
    model = LatentDiffusionModel(latent_diffusion_config)
    assert latent_diffusion_config.conditions.conditioners.prompt.source == str(text_encoder_folder)
    assert model.condition(['rain'], 1.0)['prompt'].features.shape == (1, 6, 32)
    model.save_to(tmp_path / 'a.nemo')
    stored = LatentDiffusionModel.restore_from(tmp_path / 'a.nemo', return_config=True)
    assert str(tmp_path) not in OmegaConf.to_yaml(stored) and str(tmp_path) not in str(model.hparams)


def test_text_encoder_of_another_width_is_refused(latent_diffusion_config, text_encoder_folder):
    latent_diffusion_config.conditions.conditioners.prompt.feature_dim = 48
    with pytest.raises(ValueError, match='gives 32 features for each token; the model was trained with 48'):
        LatentDiffusionModel(latent_diffusion_config).use_text_encoder(text_encoder_folder)


def test_projection_behind_the_text_encoder_is_trained_and_keeps_padding_zero(
    latent_diffusion_config, text_encoder_folder
):
    latent_diffusion_config.conditions.conditioners.prompt.dim = 32
    model = LatentDiffusionModel(latent_diffusion_config)
    model.use_text_encoder(text_encoder_folder)
    assert 'conditions.conditioners.prompt.proj_out.weight' in model.state_dict()
    tokens = model.conditions({'prompt': ['rain'], 'seconds_total': [1.0]}).tokens
    assert tokens[0, 1:6].abs().sum() == 0
    tokens.sum().backward()
    assert model.conditions.conditioners['prompt'].proj_out.weight.grad.abs().sum() > 0


def test_autoencoder_is_taken_from_a_model_and_becomes_part_of_the_file(latent_diffusion_config, model, tmp_path):
    model.save_to(tmp_path / 'a.nemo')
    assert not model.autoencoder.is_trained
    latent_diffusion_config.autoencoder.model = str(tmp_path / 'a.nemo')
    taken = LatentDiffusionModel(latent_diffusion_config)
    assert taken.autoencoder.is_trained
    audio = torch.randn(1, 2, 300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(taken.autoencoder.encode(audio), model.autoencoder.encode(audio))
    taken.save_to(tmp_path / 'b.nemo')
    (tmp_path / 'a.nemo').unlink()
    restored = LatentDiffusionModel.restore_from(tmp_path / 'b.nemo')
    assert torch.equal(restored.autoencoder.encode(audio), model.autoencoder.encode(audio))
    assert restored.autoencoder.is_trained and not restored.train().autoencoder.training


def test_autoencoder_draws_from_its_posterior_on_request(model):
    audio = torch.randn(1, 2, 300, generator=torch.Generator().manual_seed(0))
    mean = model.autoencoder.encode(audio)
    draws = [
        model.autoencoder.encode(audio, sample=True, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert mean.shape == (1, 2, 19) and model.autoencoder.decode(mean, length=300).shape == audio.shape
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], mean)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'objective': 'x0'}, 'objective must be one of v, rectified_flow'),
        ({'window_latents': 0}, 'window_latents must be a positive multiple of 1'),
        ({'autoencoder': None}, 'needs an autoencoder block'),
        ({'autoencoder.is_trained': True}, 'weights are loaded, not promised'),
        ({'network.latent_channels': 3}, 'autoencoder has 2 latent channels, but network.latent_channels is 3'),
        ({'conditions.cross_attention': ['prompt', 'tempo']}, None),
        ({'sampler.sampler': 'best'}, 'choose from'),
        ({'windows': 3}, "Did you mean 'window_latents'"),
    ],
)
def test_config_that_makes_no_sense_is_refused(latent_diffusion_config, change, message):
    for name, value in change.items():
        OmegaConf.update(latent_diffusion_config, name, value)
    if message is None:
        with pytest.raises(ValueError, match='also told tempo'):
            LatentDiffusionModel(latent_diffusion_config).condition([], [])
        return
    with pytest.raises(ConfigError, match=message):
        LatentDiffusionModel(latent_diffusion_config)


def test_latents_for_a_length_are_what_holds_it(model):
    assert [model.latents_for(seconds) for seconds in (0.0, 16 / 8000, 17 / 8000, 1.0)] == [1, 1, 2, 500]
    assert model.window_s == 1.0


def test_adapters_are_saved_with_the_model_or_alone_and_merged(model, tmp_path):
    pytest.importorskip('peft', reason='LoRA needs peft (extra `generate`)')
    given = {'noise': noise(), 'condition': told(), 'sampler': 'ddim', 'steps': 2}
    before = model.sample(**given)
    model.save_to(tmp_path / 'plain.nemo')
    model.add_lora(rank=2, alpha=4.0)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name in model.state_dict() if '.lora_' in name
    }
    assert torch.equal(model.sample(**given), before)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if '.lora_' in name:
                parameter.normal_(std=0.3)
    trained = model.sample(**given)
    with pytest.raises(ValueError, match='has adapters already'):
        model.add_lora()
    model.save_to(tmp_path / 'lora.nemo')
    restored = LatentDiffusionModel.restore_from(tmp_path / 'lora.nemo')
    assert torch.equal(restored.sample(**given), trained)
    model.save_lora(tmp_path / 'lora.safetensors')
    assert (tmp_path / 'lora.safetensors').stat().st_size < 10_000
    other = LatentDiffusionModel.restore_from(tmp_path / 'plain.nemo')
    other.load_lora(tmp_path / 'lora.safetensors')
    assert torch.equal(other.sample(**given), trained)
    other.set_lora_strength(0.0)
    assert torch.equal(other.sample(**given), before)
    other.set_lora_strength(1.0)
    other.merge_lora()
    torch.testing.assert_close(other.sample(**given), trained, atol=1e-4, rtol=1e-4)
    other.save_to(tmp_path / 'merged.nemo')
    merged = LatentDiffusionModel.restore_from(tmp_path / 'merged.nemo')
    assert not merged.has_lora and torch.equal(merged.sample(**given), other.sample(**given))
    with pytest.raises(ValueError, match='no adapters to save'):
        other.save_lora(tmp_path / 'none.safetensors')


def test_adapters_of_another_network_are_refused_and_leave_nothing(latent_diffusion_config, model, tmp_path):
    pytest.importorskip('peft', reason='LoRA needs peft (extra `generate`)')
    model.add_lora(rank=2)
    model.save_lora(tmp_path / 'lora.safetensors')
    latent_diffusion_config.network.depth = 2
    other = LatentDiffusionModel(latent_diffusion_config)
    names = set(other.state_dict())
    with pytest.raises(CheckpointError, match='belongs to another network'):
        other.load_lora(tmp_path / 'lora.safetensors')
    assert set(other.state_dict()) == names and not other.has_lora
