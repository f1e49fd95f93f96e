"""Claims about the restoration model: its parts, its files, and the published checkpoints."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_audio_restore import AudioRestoreModel
from nemo_audio_restore.models.blocks import ConfigError

SAMPLE_RATE = 16000
FIXTURES = os.environ.get('NAR_FIXTURES')


@pytest.fixture
def config():
    return OmegaConf.create(
        {
            'representation': {'sample_rate': SAMPLE_RATE, 'n_fft': 128, 'hop_length': 32},
            'network': {
                '_target_': 'nemo_audio_restore.networks.folded_unet.FoldedUNet',
                'num_bins': 64,
                'channels': [16, 16],
                'num_blocks': [1, 1],
                'attention_levels': [1],
                'num_heads': 2,
                'embedding_channels': 16,
            },
            'sampler': {'steps': 2, 'tile_frames': 64, 'tile_hop_frames': 32},
            'corruption': {'cutoff_range_hz': [2000, 6000], 'gap_range_s': [0.05, 0.1]},
            'optim': {
                '_target_': 'torch.optim.RAdam',
                'lr': 1e-3,
                'weight_decay': 1e-8,
                'decoupled_weight_decay': True,
            },
        }
    )


@pytest.fixture
def model(config):
    torch.manual_seed(3)
    model = AudioRestoreModel(config).eval()
    # A fresh network ends in zeros, and would do nothing.
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def _audio(seconds=1.0, channels=1):
    generator = torch.Generator().manual_seed(5)
    return 0.1 * torch.randn(channels, int(seconds * SAMPLE_RATE), generator=generator)


def _spectrogram(model):
    clean = model.representation.encode(_audio(0.3))
    mask = torch.zeros_like(clean[:, :1])
    mask[:, :, 32:] = 1
    return clean * (1 - mask) + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(6)) * mask, mask


def test_saved_model_restores_the_same_audio(model, tmp_path):
    model.save_to(tmp_path / 'model.nemo')
    again = AudioRestoreModel.restore_from(tmp_path / 'model.nemo')
    first = model.restore(_audio(), sample_rate=SAMPLE_RATE, cutoff_hz=4000)
    second = again.restore(_audio(), sample_rate=SAMPLE_RATE, cutoff_hz=4000)
    assert torch.equal(first, second) and not torch.equal(first, _audio())
    assert again.sampler == model.sampler and again.representation.n_fft == 128


def test_sample_leaves_the_known_region_and_follows_its_generator(model):
    degraded, mask = _spectrogram(model)

    def sample(seed, **options):
        return model.sample(degraded=degraded, mask=mask, generator=torch.Generator().manual_seed(seed), **options)

    first = sample(0)
    assert torch.equal(first, sample(0)) and not torch.equal(first, sample(1))
    assert torch.equal(first * (1 - mask), degraded * (1 - mask))
    assert not torch.equal(first, sample(0, times=torch.linspace(1, 0.1, 5)))
    assert torch.equal(sample(0, stochastic=False), sample(1, stochastic=False))
    assert not torch.allclose(sample(0, tile_frames=32, tile_hop_frames=16), first)


def test_restoring_puts_every_module_back_into_its_mode(model):
    model.train()
    model.process.eval()
    model.restore(_audio(), sample_rate=SAMPLE_RATE, gaps=[(0.4, 0.5)])
    assert model.network.training and not model.process.training


def test_restore_keeps_numpy_and_shape(model):
    audio = _audio(channels=2).numpy()
    restored = model.restore(audio, sample_rate=SAMPLE_RATE, gaps=[(0.4, 0.5)])
    assert isinstance(restored, np.ndarray) and restored.shape == audio.shape
    assert np.array_equal(restored[:, : int(0.38 * SAMPLE_RATE)], audio[:, : int(0.38 * SAMPLE_RATE)])


@pytest.mark.parametrize(
    ('arguments', 'options', 'complaint'),
    [
        (('a.wav',), {}, 'needs a target'),
        (('a.wav', 'b.wav'), {'sample_rate': 8000}, 'leave sample_rate out'),
        ((np.zeros(8000, np.float32),), {}, 'needs sample_rate'),
        ((np.zeros(8000, np.float32), 'b.wav'), {'sample_rate': 8000}, 'no target'),
    ],
)
def test_mixed_up_arguments_of_restore_are_explained(model, arguments, options, complaint):
    with pytest.raises(TypeError, match=complaint):
        model.restore(*arguments, **options)


@pytest.mark.parametrize(
    ('block', 'keys', 'complaint'),
    [
        ('representation', {'n_ftt': 128}, "unknown key 'n_ftt' in representation.*Did you mean 'n_fft'"),
        ('sampler', {'steps': 0}, 'sampler .SamplerSettings.: steps must be at least 1'),
        ('loss', {'time_rang': [0, 1]}, "Did you mean 'time_range'"),
        ('loss', {'time_range': [0.5, 0.5]}, 'time_range must satisfy'),
        ('validation', {'cutoffs_hz': [-1]}, 'must be positive'),
        ('network', None, 'network needs _target_'),
    ],
)
def test_wrong_value_in_a_block_is_an_error_in_the_terms_of_the_config(config, block, keys, complaint):
    config[block] = keys
    with pytest.raises(ConfigError, match=complaint):
        AudioRestoreModel(config)


def test_only_the_expert_of_the_trained_times_learns(config):
    network = OmegaConf.to_container(config.network)
    config.network = {
        '_target_': 'nemo_audio_restore.networks.time_experts.TimeExperts',
        'experts': [network, network, network],
        'splits': [[0.0, 0.3], [0.3, 0.6], [0.6, 1.0]],
    }
    config.loss = {'time_range': [0.3, 0.6]}
    model = AudioRestoreModel(config)
    learning = [all(p.requires_grad for p in expert.parameters()) for expert in model.network.experts]
    assert learning == [False, True, False]
    batch = {'audio': _audio(0.5), 'audio_lens': torch.tensor([8000]), 'bandwidth_hz': torch.tensor([8000.0])}
    model._loss(batch, seed=0).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.network.experts[1].parameters())
    assert all(p.grad is None for p in model.network.experts[0].parameters())
    config.loss = {}
    assert all(p.requires_grad for p in AudioRestoreModel(config).network.parameters())


def test_joined_experts_answer_each_for_their_times(model, config, tmp_path):
    torch.manual_seed(9)
    late = AudioRestoreModel(config)
    with torch.no_grad():
        for parameter in late.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    late.eval().save_to(tmp_path / 'late.nemo')
    joined = AudioRestoreModel.from_time_experts({(0.5, 1.0): tmp_path / 'late.nemo', (0.0, 0.5): model})
    joined.save_to(tmp_path / 'joined.nemo')
    joined = AudioRestoreModel.restore_from(tmp_path / 'joined.nemo')
    state, mask = _spectrogram(model)
    state, mask = state[..., :64], mask[..., :64]
    for t, expert in ((0.2, model), (0.8, late)):
        time = torch.tensor([t])
        assert torch.equal(joined.network(state, time, mask), expert.network(state, time, mask))


def test_experts_of_different_spectrograms_are_not_joined(model, config):
    config.representation.magnitude_power = 0.5
    with pytest.raises(ValueError, match='differ in their representation'):
        AudioRestoreModel.from_time_experts({(0.0, 0.5): model, (0.5, 1.0): AudioRestoreModel(config)})


def test_published_configuration_has_the_published_number_of_parameters():
    path = Path(__file__).resolve().parents[2] / 'conf' / 'a2sb_44k.yaml'
    if not path.exists():
        pytest.skip('needs conf/ of the repository')
    loaded = OmegaConf.load(path).model
    blocks = {key: loaded[key] for key in AudioRestoreModel.config_blocks if key in loaded}
    with torch.device('meta'):
        model = AudioRestoreModel(OmegaConf.create(OmegaConf.to_container(OmegaConf.create(blocks), resolve=True)))
    assert sum(parameter.numel() for parameter in model.network.parameters()) == 565_544_851


def test_optimizer_block_builds_radam_with_decoupled_decay(model):
    optimizer = model.setup_optimization()[0]
    assert type(optimizer) is torch.optim.RAdam
    assert optimizer.param_groups[0]['decoupled_weight_decay'] and optimizer.param_groups[0]['weight_decay'] == 1e-8


def _small_model(checkpoints):
    return AudioRestoreModel.from_a2sb_checkpoints(checkpoints, 1, 11025, 512, 128)


@pytest.mark.needs_fixtures
@pytest.mark.skipif(not FIXTURES, reason='NAR_FIXTURES does not name the folder with the reference arrays')
class TestPublishedCheckpoints:
    """The model reproduces what the published program computes with the same tensors."""

    @pytest.fixture(scope='class')
    def folder(self):
        folder = Path(FIXTURES)
        return folder / 'a2sb' if (folder / 'a2sb').is_dir() else folder

    def _trajectory(self, model, folder, name):
        data = np.load(folder / f'traj_{name}.npz')
        degraded = torch.from_numpy(data['x1']).float()
        degraded = degraded if degraded.ndim == 4 else degraded[None]
        row = torch.from_numpy(data['mask_row']).float()
        bins, frames = degraded.shape[-2:]
        if row.ndim == 1:
            row = row[:, None] if len(row) == bins else row[None, :]
        mask = row.expand(bins, frames)[None, None]
        times = torch.from_numpy(data['t_steps']).float()
        result = model.sample(
            degraded=degraded, mask=mask, times=times, stochastic=False, tile_frames=64, tile_hop_frames=32
        )
        final = torch.from_numpy(data['final']).float()
        return result, final if final.ndim == 4 else final[None]

    @pytest.mark.parametrize('name', ['small_combined_ode'])
    def test_sampler_follows_the_published_trajectory(self, name, folder):
        low, high = folder / 'ckpt_split_low.ckpt', folder / 'ckpt_split_high.ckpt'
        result, final = self._trajectory(_small_model({(0.0, 0.5): low, (0.5, 1.0): high}), folder, name)
        assert (result - final).abs().max() < 1e-4

    def test_three_experts_follow_the_published_trajectory_also_after_saving(self, folder, tmp_path):
        low, high = folder / 'ckpt_split_low.ckpt', folder / 'ckpt_split_high.ckpt'
        model = _small_model({(0.0, 0.3): low, (0.3, 0.7): high, (0.7, 1.0): low})
        model.save_to(tmp_path / 'a2sb.nemo')
        restored = AudioRestoreModel.restore_from(tmp_path / 'a2sb.nemo')
        result, final = self._trajectory(restored, folder, 'small_3split_ode')
        assert (result - final).abs().max() < 1e-4

    def test_converted_model_carries_the_licence_of_the_weights(self, folder):
        low, high = folder / 'ckpt_split_low.ckpt', folder / 'ckpt_split_high.ckpt'
        card = _small_model({(0.0, 0.5): low, (0.5, 1.0): high}).generate_model_card()
        assert 'license: other' in card and 'NVIDIA OneWay Noncommercial License' in card
        assert 'ckpt_split_low.ckpt' in card and 'nvidia/audio_to_audio_schrodinger_bridge' in card
