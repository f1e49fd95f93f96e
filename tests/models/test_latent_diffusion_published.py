"""LatentDiffusionModel on published files: conversion, and every stored trajectory through ``model.sample``."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.stable_audio_autoencoder import autoencoder_file_name
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel

pytestmark = pytest.mark.needs_fixtures
TRAJECTORY, PASS = 5e-4, 1e-4


def loaded(reference_arrays, name):
    folder = reference_arrays / 'stable_audio' / name
    model = LatentDiffusionModel.from_stable_audio(folder / 'model_config.json', folder / 'model.safetensors')
    return model, {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(folder / 'io.npz').items()}


def told(model, arrays, which=''):
    values = {'prompt': (arrays[f'{which}prompt_features'], arrays[f'{which}prompt_mask'])}
    return {**values, **{name: arrays[f'{which}md_{name}'] for name in model.conditions.parts[1:]}}


def same(found, expected, tolerance):
    torch.testing.assert_close(found.float(), expected, atol=tolerance * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize(('name', 'rescale'), [('e1_unet_pipeline', 0.4), ('e2_dit_pipeline', 0.0)])
def test_v_objective(reference_arrays, name, rescale):
    model, arrays = loaded(reference_arrays, name)
    given = {
        'noise': arrays['noise'],
        'condition': told(model, arrays),
        'steps': int(arrays['steps']),
        'guidance': float(arrays['cfg_scale']),
        'rescale': rescale,
    }
    same(model.autoencoder.encode(arrays['audio_in']), arrays['encoded_mean_scaled'], PASS)
    low = {'sigma_min': 0.03, 'sigma_max': 500.0, 'rho': 1.0}
    high = {'sigma_min': 0.3, 'sigma_max': 500.0}
    drawn = {**high, 'step_noise': arrays['sde_step_noise']}
    clip, negative = {'initial': arrays['init_latents']}, {'negative': told(model, arrays, 'neg_')}
    level, time = float(arrays['init_noise_level_k']), float(arrays['init_noise_level_ddim'])
    for stored, choices in {
        'ddim_latents': {'sampler': 'v-ddim'},
        'dpmpp2m_latents': {'sampler': 'dpmpp_2m', **low},
        'dpmpp2m_negative_latents': {'sampler': 'dpmpp_2m', **low, **negative},
        'heun_latents': {'sampler': 'heun', **high},
        'dpmpp2m_sde_latents': {'sampler': 'dpmpp_2m_sde', **drawn},
        'dpmpp3m_sde_latents': {'sampler': 'dpmpp_3m_sde', **drawn},
        'variation_dpmpp2m_latents': {'sampler': 'dpmpp_2m', **low, 'sigma_max': level, **clip},
        'variation_ddim_latents': {'sampler': 'ddim', 'sigma_max': time, **clip},
    }.items():
        latents = model.sample(**given, **choices)
        same(latents, arrays[stored], TRAJECTORY)
        if stored.replace('latents', 'audio') in arrays:
            same(model.autoencoder.decode(latents), arrays[stored.replace('latents', 'audio')], TRAJECTORY)


def test_rectified_flow_and_its_file(reference_arrays, tmp_path):
    model, arrays = loaded(reference_arrays, 'e3_rf_pipeline')
    given = {
        'noise': arrays['noise'],
        'condition': told(model, arrays),
        'steps': int(arrays['steps']),
        'step_noise': arrays['pingpong_step_noise'],
    }
    for scale, name in ((1.0, 'cfg1'), (float(arrays['cfg_scale']), 'cfg4')):
        for sampler in ('euler', 'rk4', 'dpmpp', 'pingpong'):
            latents = model.sample(**given, guidance=scale, sampler=sampler)
            same(latents, arrays[f'{sampler}_{name}_latents'], TRAJECTORY)
        same(model.autoencoder.decode(latents), arrays[f'pingpong_{name}_audio'], TRAJECTORY)
    model.save_to(tmp_path / 'small.nemo')
    restored = LatentDiffusionModel.restore_from(tmp_path / 'small.nemo')
    # Published defaults: eight steps of ping-pong without guidance.
    varied = {'initial': arrays['init_latents'], 'sigma_max': float(arrays['init_noise_level'])}
    for each in (model, restored):
        same(each.sample(**given, **varied), arrays['variation_pingpong_latents'], TRAJECTORY)


def test_ckpt_gives_the_same_model_and_other_checkpoints_are_refused(reference_arrays, tmp_path):
    folder = reference_arrays / 'stable_audio' / 'e3_rf_pipeline'
    tensors = load_file(folder / 'model.safetensors')
    torch.save({'state_dict': tensors}, tmp_path / 'model.ckpt')
    model, _ = loaded(reference_arrays, 'e3_rf_pipeline')
    other = LatentDiffusionModel.from_stable_audio(folder / 'model_config.json', tmp_path / 'model.ckpt')
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    alone = {name: tensor for name, tensor in tensors.items() if name.startswith('model.')}
    save_file(alone, tmp_path / 'network.safetensors')
    with pytest.raises(CheckpointError, match='does not hold the conditioner seconds_total|the autoencoder'):
        LatentDiffusionModel.from_stable_audio(folder / 'model_config.json', tmp_path / 'network.safetensors')
    config = reference_arrays / 'stable_audio' / 'a2_dac' / 'model_config.json'
    with pytest.raises(CheckpointError, match='model_type'):
        LatentDiffusionModel.from_stable_audio(config, folder / 'model.safetensors')
    with pytest.raises(ValueError, match='needs the model_config.json'):
        LatentDiffusionModel.from_stable_audio(None, folder / 'model.safetensors')
    with pytest.raises(ValueError, match='leave model_config out'):
        LatentDiffusionModel.from_stable_audio(folder / 'model_config.json', folder)


@pytest.mark.parametrize(
    ('conf', 'release', 'parameters'),
    [
        ('stable_audio_44k', 'stable_audio_1_0', 1_040_899_012),
        ('stable_audio_open_44k', 'stable_audio_open_1_0', 1_213_337_602),
        ('stable_audio_open_44k', 'stable_audio_2_0', 1_213_337_602),
        ('stable_audio_open_small_44k', 'stable_audio_open_small', 497_190_274),
    ],
)
def test_configs_are_the_published_models_name_for_name(reference_arrays, repository, conf, release, parameters):
    with initialize_config_dir(str(repository / 'conf'), version_base=None):
        config = compose(conf)
    with torch.device('meta'):
        model = LatentDiffusionModel(OmegaConf.merge(config.model, {'train_ds': None, 'validation_ds': None}))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    dac = release == 'stable_audio_1_0'
    found = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition('.')
        if part == 'autoencoder':
            rest = f'pretransform.model.{autoencoder_file_name(rest.removeprefix("network."), dac=dac)}'
        prefix = {'network': 'model.model.', 'conditions': 'conditioner.', 'autoencoder': ''}[part]
        found[prefix + rest] = list(tensor.shape)
    listed = json.loads((reference_arrays / 'stable_audio' / 'shapes' / f'{release}.json').read_text())
    assert found == listed
