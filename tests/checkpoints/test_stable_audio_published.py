"""Models of the Stable Audio family against the published program: names, shapes, and whole trajectories."""

import json

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints.stable_audio import load_stable_audio
from nemo_audio_restore.checkpoints.stable_audio_autoencoder import (
    autoencoder_arguments,
    autoencoder_file_name,
    build_autoencoder,
)
from nemo_audio_restore.checkpoints.text_encoders import load_clap_text, load_clap_text_conditioner
from nemo_audio_restore.networks.latent_transformer import LatentTransformer
from nemo_audio_restore.networks.latent_unet import LatentUNet
from nemo_audio_restore.processes.diffusion import VDiffusion
from nemo_audio_restore.processes.diffusion_samplers import sample_ddim, sample_heun, sample_ping_pong, sample_rk4
from nemo_audio_restore.processes.diffusion_times import exponential_times, linear_times, log_snr_times
from nemo_audio_restore.processes.dpm_solvers import sample_dpmpp_2m, sample_dpmpp_2m_sde, sample_dpmpp_3m_sde
from nemo_audio_restore.processes.guidance import guided

TOLERANCE = 5e-4
RELEASES = {
    'stable_audio_1_0': {
        'kind': 'dac',
        'network': (LatentUNet, {}),
    },
    'stable_audio_2_0': {'kind': 'oobleck', 'network': (LatentTransformer, {})},
    'stable_audio_open_1_0': {'kind': 'oobleck', 'network': (LatentTransformer, {})},
    'stable_audio_open_small': {
        'kind': 'oobleck',
        'network': (
            LatentTransformer,
            {
                'dim': 1024,
                'depth': 16,
                'num_heads': 8,
                'project_tokens': True,
                'summary_dim': 768,
                'normed_heads': True,
            },
        ),
    },
}
DAC = {
    'encoder': {
        'type': 'dac',
        'config': {'in_channels': 2, 'latent_dim': 128, 'd_model': 128, 'strides': [4, 4, 8, 8]},
    },
    'decoder': {
        'type': 'dac',
        'config': {'out_channels': 2, 'latent_dim': 64, 'channels': 1536, 'rates': [8, 8, 4, 4]},
    },
    'bottleneck': {'type': 'vae'},
    'latent_dim': 64,
}
OOBLECK_SIZES = {'channels': 128, 'c_mults': [1, 2, 4, 8, 16], 'strides': [2, 4, 4, 8, 8], 'use_snake': True}
OOBLECK = {
    'encoder': {'type': 'oobleck', 'config': {'in_channels': 2, 'latent_dim': 128, **OOBLECK_SIZES}},
    'decoder': {
        'type': 'oobleck',
        'config': {'out_channels': 2, 'latent_dim': 64, 'final_tanh': False, **OOBLECK_SIZES},
    },
    'bottleneck': {'type': 'vae'},
    'latent_dim': 64,
}


@pytest.mark.needs_fixtures
@pytest.mark.parametrize('release', RELEASES)
def test_names_and_shapes_of_the_real_sizes(reference_arrays, release):
    listed = json.loads((reference_arrays / 'stable_audio' / 'shapes' / f'{release}.json').read_text())
    kind = RELEASES[release]['kind']
    network_type, arguments = RELEASES[release]['network']
    with torch.device('meta'):
        network = network_type(**arguments)
        autoencoder = build_autoencoder(autoencoder_arguments(DAC if kind == 'dac' else OOBLECK), latent_scale=1.0)
    found = {f'model.model.{name}': list(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, tensor in autoencoder.state_dict().items():
        found[f'pretransform.model.{autoencoder_file_name(name, dac=kind == "dac")}'] = list(tensor.shape)
    assert found == {name: shape for name, shape in listed.items() if not name.startswith('conditioner.')}


def pipeline(reference_arrays, name):
    folder = reference_arrays / 'stable_audio' / name
    model = load_stable_audio(folder / 'model_config.json', folder / 'model.safetensors')
    return model, {key: torch.from_numpy(value) for key, value in np.load(folder / 'io.npz').items()}


def same(found, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(found.float(), expected, atol=tolerance * expected.abs().max().item(), rtol=0)


def condition_of(model, arrays, which=''):
    values = {'prompt': (arrays[f'{which}prompt_features'], arrays[f'{which}prompt_mask'])}
    for name in model.conditions.parts[1:]:
        values[name] = arrays[f'{which}md_{name}']
    return model.conditions(values)


def start_state(process, times, noise, clean=None):
    return process.marginal(times[0], torch.zeros_like(noise) if clean is None else clean).sample(noise)


@pytest.mark.needs_fixtures
@pytest.mark.parametrize(('name', 'rescale'), [('e1_unet_pipeline', 0.4), ('e2_dit_pipeline', 0.0)])
@torch.no_grad()
def test_trajectories_of_the_v_objective(reference_arrays, name, rescale):
    model, arrays = pipeline(reference_arrays, name)
    process, noise = model.process, arrays['noise']
    assert isinstance(process, VDiffusion)
    condition, negative = condition_of(model, arrays), condition_of(model, arrays, 'neg_')
    same(condition.tokens, arrays['cross_attn_cond'], 1e-6)
    assert torch.equal(condition.tokens_mask, arrays['cross_attn_mask'])
    if 'global_cond' in arrays:
        same(condition.summary, arrays['global_cond'], 1e-6)
    drawn = torch.randn(noise.shape, generator=torch.Generator().manual_seed(int(arrays['seed'])))
    assert torch.equal(drawn, noise)
    same(model.autoencoder.encode(arrays['audio_in']), arrays['encoded_mean_scaled'], 1e-4)

    def denoise_away_from(null):
        predict = guided(model.network, null, process=process, scale=float(arrays['cfg_scale']), rescale=rescale)
        return process.denoiser(predict, condition)

    denoise = denoise_away_from(model.network.null_condition(condition))
    times, steps = linear_times(8), []
    latents = sample_ddim(denoise, start_state(process, times, noise), times, process=process, on_step=steps.append)
    same(latents, arrays['ddim_latents'])
    same(model.autoencoder.decode(latents), arrays['ddim_audio'])
    same(torch.stack([step.clean_estimate for step in steps]), arrays['ddim_denoised'])
    same(process.sigma(times), arrays['ddim_sigma'].float(), 1e-6)

    times, steps = exponential_times(process, 8, sigma_min=0.03, sigma_max=500), []
    start = start_state(process, times, noise)
    latents = sample_dpmpp_2m(denoise, start, times, process=process, on_step=steps.append)
    same(latents, arrays['dpmpp2m_latents'])
    same(model.autoencoder.decode(latents), arrays['dpmpp2m_audio'])
    same(torch.stack([step.clean_estimate for step in steps]), arrays['dpmpp2m_denoised'])
    scale = process.alpha(times).float().view(-1, 1, 1, 1)
    same(torch.stack([step.state for step in steps]) / scale, arrays['dpmpp2m_x'])
    away = denoise_away_from(model.network.null_condition(condition, negative))
    same(sample_dpmpp_2m(away, start, times, process=process), arrays['dpmpp2m_negative_latents'])

    times = exponential_times(process, 8, sigma_min=0.3, sigma_max=500)
    start = start_state(process, times, noise)
    same(process.sigma(times) / process.alpha(times), arrays['sde_sigmas'][:-1], 1e-6)
    same(sample_heun(denoise, start, times, process=process), arrays['heun_latents'])

    def fresh(draw, like):
        return arrays['sde_step_noise'][draw]

    latents = sample_dpmpp_2m_sde(denoise, start, times, process=process, noise=fresh)
    same(latents, arrays['dpmpp2m_sde_latents'])
    latents = sample_dpmpp_3m_sde(denoise, start, times, process=process, noise=fresh)
    same(latents, arrays['dpmpp3m_sde_latents'])
    same(model.autoencoder.decode(latents), arrays['dpmpp3m_sde_audio'])

    clip = arrays['init_latents']
    times = exponential_times(process, 8, sigma_min=0.03, sigma_max=float(arrays['init_noise_level_k']))
    latents = sample_dpmpp_2m(denoise, start_state(process, times, noise, clip), times, process=process)
    same(latents, arrays['variation_dpmpp2m_latents'])
    times = linear_times(8, t_max=float(arrays['init_noise_level_ddim']))
    latents = sample_ddim(denoise, start_state(process, times, noise, clip), times, process=process)
    same(latents, arrays['variation_ddim_latents'])


@pytest.mark.needs_fixtures
@torch.no_grad()
def test_trajectories_of_rectified_flow(reference_arrays):
    model, arrays = pipeline(reference_arrays, 'e3_rf_pipeline')
    process, noise = model.process, arrays['noise']
    condition = condition_of(model, arrays)
    same(condition.tokens, arrays['cross_attn_cond'], 1e-6)
    same(condition.summary, arrays['global_cond'], 1e-6)
    same(model.autoencoder.encode(arrays['audio_in']), arrays['encoded_mean_scaled'], 1e-4)
    null = model.network.null_condition(condition)

    def fresh(draw, like):
        return arrays['pingpong_step_noise'][draw]

    for scale, name in ((1.0, 'cfg1'), (float(arrays['cfg_scale']), 'cfg4')):
        predict = guided(model.network, null, process=process, scale=scale)
        denoise = process.denoiser(predict, condition)
        times = log_snr_times(8)
        same(times, arrays['euler_t'].float(), 1e-6)
        same(times, arrays['dpmpp_t'].float(), 1e-6)
        same(sample_ddim(denoise, noise, times, process=process), arrays[f'euler_{name}_latents'])
        same(sample_dpmpp_2m(denoise, noise, times, process=process), arrays[f'dpmpp_{name}_latents'])
        steps = []
        latents = sample_ping_pong(denoise, noise, times, process=process, noise=fresh, on_step=steps.append)
        same(latents, arrays[f'pingpong_{name}_latents'])
        same(torch.stack([step.clean_estimate for step in steps]), arrays[f'pingpong_{name}_denoised'])
        same(model.autoencoder.decode(latents), arrays[f'pingpong_{name}_audio'])
        times = linear_times(8)
        same(times, arrays['rk4_t'].float(), 1e-6)

        def slope(x, t, predict=predict):
            return predict(x, t, condition)

        same(sample_rk4(slope, noise, times, process=process), arrays[f'rk4_{name}_latents'])
        if name == 'cfg1':
            times = log_snr_times(8, t_max=float(arrays['init_noise_level']))
            start = start_state(process, times, noise, arrays['init_latents'])
            latents = sample_ping_pong(denoise, start, times, process=process, noise=fresh)
            same(latents, arrays['variation_pingpong_latents'])


@pytest.mark.needs_fixtures
def test_clap_text_of_the_published_program(reference_arrays):
    folder = reference_arrays / 'stable_audio' / 'd3_clap_text'
    arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / 'io.npz').items()}
    conditioner = load_clap_text_conditioner(folder / 'clap.ckpt', tokenizer=None, num_heads=4)
    made = conditioner(arrays['input_ids'], arrays['attention_mask'])
    same(made.features, arrays['features_penultimate'], 1e-5)
    assert torch.equal(made.mask, arrays['attention_mask'])
    with torch.no_grad():
        out = load_clap_text(folder / 'clap.ckpt', num_heads=4)(
            input_ids=arrays['input_ids'], attention_mask=arrays['attention_mask']
        )
    same(out.last_hidden_state, arrays['features_last'], 1e-5)
    embedding = torch.nn.functional.normalize(out.text_embeds, dim=-1)
    same(embedding, arrays['pooled_normalised_embedding'], 1e-5)
