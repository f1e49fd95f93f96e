import collections

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints.a2sb import (
    _RELEASES,
    CheckpointError,
    infer_network_config,
    load_a2sb_experts,
    read_a2sb_weights,
)
from nemo_audio_restore.networks.spectrogram_unet import SpectrogramUNet
from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.reference_sampler import sample_reference, sample_reference_gaps
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

CONFIG = {
    'in_channels': 3,
    'out_channels': 3,
    'hidden_channels': [32, 64, 128],
    'time_embedding_dim': 8,
    'band_embedding_dim': 16,
    'num_heads': 1,
    'attention_levels': [1],
    'num_res_blocks': 1,
}


def write(path, *, change=None, frequencies=True, trainer=False, config=CONFIG):
    """A checkpoint of a small network, as the published program names its tensors."""
    network = SpectrogramUNet(**config)
    state = {f'vf_model.{name}': tensor for name, tensor in network.state_dict().items()}
    if frequencies:
        state['t_to_emb.multipliers'] = torch.linspace(0.5, 16, config['time_embedding_dim'] // 2)[None]
    if change is not None:
        change(state)
    content = {'state_dict': state}
    if trainer:
        content |= {'epoch': 3, 'optimizer_states': [{'state': {}}], 'callbacks': {}, 'lr_schedulers': []}
    torch.save(content, path)
    return path, network


@pytest.mark.parametrize('trainer', [False, True])
@pytest.mark.parametrize('frequencies', [False, True])
def test_sizes_and_weights_are_read_from_the_tensors(tmp_path, trainer, frequencies):
    path, network = write(tmp_path / 'one.ckpt', trainer=trainer, frequencies=frequencies)
    experts, description = load_a2sb_experts({(0.0, 1.0): path}, num_heads=1)
    assert description.network == CONFIG
    assert description.splits == ((0.0, 1.0),)
    assert description.sources[0].path == path
    assert description.sources[0].release is None
    for name, tensor in network.state_dict().items():
        assert torch.equal(experts.experts[0].state_dict()[name], tensor)
    assert not experts.training
    assert not experts.experts[0].middle_block[1].pos_emb.freqs.requires_grad


def test_an_unusual_band_embedding_is_recognised_by_the_time_frequencies(tmp_path):
    config = {**CONFIG, 'band_embedding_dim': 4, 'num_res_blocks': 2, 'in_channels': 4}
    path, _ = write(tmp_path / 'one.ckpt', config=config)
    assert infer_network_config(read_a2sb_weights(path), num_heads=1) == config


def test_ranges_may_come_in_any_order(tmp_path):
    low, low_network = write(tmp_path / 'low.ckpt')
    high, high_network = write(tmp_path / 'high.ckpt')
    experts, description = load_a2sb_experts({(0.5, 1.0): high, (0.0, 0.5): low}, num_heads=1, one_resident=True)
    assert description.splits == ((0.0, 0.5), (0.5, 1.0))
    assert [source.path for source in description.sources] == [low, high]
    name = 'input_projection.weight'
    assert torch.equal(experts.experts[0].state_dict()[name], low_network.state_dict()[name])
    assert torch.equal(experts.experts[1].state_dict()[name], high_network.state_dict()[name])
    assert experts.one_resident
    with pytest.raises(ValueError, match='overlap'):
        load_a2sb_experts({(0.0, 0.6): low, (0.5, 1.0): high}, num_heads=1)


def test_weights_are_writable_copies_that_never_change_the_file(tmp_path):
    path, _ = write(tmp_path / 'one.ckpt')
    before = path.read_bytes()
    experts, _ = load_a2sb_experts({(0.0, 1.0): path}, num_heads=1)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.zero_()
    assert path.read_bytes() == before


def test_half_precision_and_old_style_files_load(tmp_path):
    path, network = write(tmp_path / 'half.ckpt')
    state = {f'vf_model.{name}': tensor.half() for name, tensor in network.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'old.ckpt', _use_new_zipfile_serialization=False)
    experts, _ = load_a2sb_experts({(0.0, 1.0): tmp_path / 'old.ckpt'}, num_heads=1)
    weight = experts.experts[0].input_projection.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, network.input_projection.weight, atol=1e-3, rtol=0)


def test_a_published_file_is_named_by_its_hash(tmp_path, monkeypatch):
    path, _ = write(tmp_path / 'one.ckpt')
    digest = load_a2sb_experts({(0.0, 1.0): path}, num_heads=1)[1].sources[0].sha256
    monkeypatch.setitem(_RELEASES, digest, 'a known file')
    assert load_a2sb_experts({(0.0, 1.0): path}, num_heads=1)[1].sources[0].release == 'a known file'


def replace(name, value):
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda s: s.pop('vf_model.middle_block.0.out_norm.bias'),
            r'middle_block\.0\.out_norm\.bias is missing.*\(128,\)',
        ),
        (lambda s: s.pop('vf_model.input_projection.weight'), r'input_projection\.weight with 4 axes; found none'),
        (
            replace('vf_model.enc_blocks.1.1.q_proj.weight', torch.zeros(64, 32, 1, 1)),
            r'q_proj\.weight has shape \(64, 32, 1, 1\), expected \(64, 64, 1, 1\)',
        ),
        (replace('vf_model.input_projection.weight', torch.zeros(3)), r'4 axes; found one of shape \(3,\)'),
        (replace('vf_model.extra', torch.zeros(3)), r'vf_model\.extra of shape \(3,\) is not part of the network'),
        (replace('vf_model.output_projection.0.bias', torch.zeros(32, dtype=torch.long)), 'int64, expected floating'),
        (replace('t_to_emb.multipliers', torch.ones(1, 4)), 'evenly spaced from 0.5 to 16'),
        (lambda s: s.clear(), r'holds no vf_model\.\* tensors'),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, change, message):
    path, _ = write(tmp_path / 'one.ckpt', change=change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_a2sb_experts({(0.0, 1.0): path}, num_heads=1)
    assert str(path) in str(caught.value)


def test_wrong_heads_and_experts_of_different_size_are_refused(tmp_path):
    path, _ = write(tmp_path / 'one.ckpt')
    with pytest.raises(CheckpointError, match='fewer heads'):
        load_a2sb_experts({(0.0, 1.0): path}, num_heads=8)
    other, _ = write(tmp_path / 'other.ckpt', config={**CONFIG, 'hidden_channels': [64, 64, 128]})
    with pytest.raises(CheckpointError, match='different size'):
        load_a2sb_experts({(0.0, 0.5): path, (0.5, 1.0): other}, num_heads=1)


class Trap:
    """Runs code when it is unpickled."""

    ran = []

    def __reduce__(self):
        return (self.ran.append, ('ran',))


def test_files_that_would_run_code_are_refused_without_running_it(tmp_path):
    for number, content in enumerate([{'state_dict': {}, 'x': Trap()}, collections.Counter([Trap])]):
        for new_style in (True, False):
            path = tmp_path / f'{number}{new_style}.ckpt'
            torch.save(content, path, _use_new_zipfile_serialization=new_style)
            with pytest.raises(CheckpointError, match='foreign code'):
                read_a2sb_weights(path)
    assert Trap.ran == []


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path, _ = write(tmp_path / 'one.ckpt')
    whole = path.read_bytes()
    torch.save([1, 2], tmp_path / 'list.ckpt')
    for name, content in {'cut': whole[: len(whole) // 2], 'empty': b'', 'text': b'not a checkpoint\n'}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match='not a checkpoint, or a damaged one'):
            read_a2sb_weights(tmp_path / name)
    with pytest.raises(CheckpointError, match='no state_dict'):
        read_a2sb_weights(tmp_path / 'list.ckpt')
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        read_a2sb_weights(tmp_path / 'absent.ckpt')


# ---- the published program's runs, number by number ----------------------------------------------------------------

REPRESENTATION = MagnitudePhaseSpectrogram(sample_rate=11025, n_fft=512, hop_length=128)
TILES = {'tile_frames': 64, 'tile_hop_frames': 32}


@pytest.fixture(scope='module')
def two_experts(reference_arrays):
    return load(reference_arrays, {(0.0, 0.5): 'low', (0.5, 1.0): 'high'})


def load(folder, files):
    paths = {split: folder / 'a2sb' / f'ckpt_split_{name}.ckpt' for split, name in files.items()}
    return load_a2sb_experts(paths, num_heads=1)[0]


def run(folder, name):
    stored = np.load(folder / 'a2sb' / f'{name}.npz')
    arrays = {key: torch.from_numpy(stored[key]) for key in stored if stored[key].ndim}
    degraded, mask = arrays['x1'][None], arrays['mask_row']
    if mask.ndim == 1:
        mask = mask[:, None] if len(mask) == degraded.shape[2] else mask[None]
    return arrays, degraded, mask.expand(degraded.shape[2:])[None, None]


@pytest.mark.needs_fixtures
@pytest.mark.parametrize('name', ['bwe', 'inpaint', 'combined', 'onewindow', '3split'])
@torch.no_grad()
def test_published_trajectories(reference_arrays, two_experts, name):
    arrays, degraded, mask = run(reference_arrays, f'traj_small_{name}_ode')
    network = two_experts
    if name == '3split':
        network = load(reference_arrays, {(0.0, 0.3): 'low', (0.3, 0.7): 'high', (0.7, 1.0): 'low'})
    estimates = []
    final = sample_reference(
        network,
        SchrodingerBridge(),
        degraded,
        mask,
        arrays['t_steps'],
        stochastic=False,
        batch_size=2,
        on_step=lambda step: estimates.append(step.clean_estimate[0, ..., : degraded.shape[-1]]),
        **TILES,
    )
    assert len(estimates) == len(arrays['t_steps']) - 1
    for index, estimate in enumerate(estimates[:-1]):
        key = f'pred_x0_{index:02d}'
        expected = arrays.get(key, arrays.get(f'{key}_sub'))
        part = estimate if key in arrays else estimate[:, ::16, ::2]
        torch.testing.assert_close(part, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(final[0], arrays['final'], atol=1e-4, rtol=0)
    torch.testing.assert_close(REPRESENTATION.decode(final)[0], arrays['wav'], atol=1e-4, rtol=0)


@pytest.mark.needs_fixtures
@torch.no_grad()
def test_published_fast_inpainting(reference_arrays, two_experts):
    arrays, degraded, mask = run(reference_arrays, 'traj_small_fastinpaint_ode')
    final = sample_reference_gaps(
        two_experts, SchrodingerBridge(), degraded, mask, arrays['t_steps'], stochastic=False, **TILES
    )
    torch.testing.assert_close(final[0], arrays['final'], atol=1e-4, rtol=0)
    torch.testing.assert_close(REPRESENTATION.decode(final)[0], arrays['wav'], atol=1e-4, rtol=0)


@pytest.mark.needs_fixtures
@torch.no_grad()
def test_published_stochastic_run_from_the_same_seed(reference_arrays, two_experts):
    arrays, degraded, mask = run(reference_arrays, 'e2e_small_bwe_sde')
    seeds = np.load(reference_arrays / 'a2sb' / 'e2e_small_bwe_sde.npz')
    drawing = torch.Generator().manual_seed(int(seeds['seed_corruption']))
    torch.multinomial(torch.ones(3), 1, generator=drawing)
    torch.randint(1, (1,), generator=drawing)
    noise = torch.randn(degraded.shape[1:], generator=drawing)
    clean = REPRESENTATION.encode(arrays['wav_in'][None])
    torch.testing.assert_close(torch.lerp(clean, 0.5 * noise, mask), degraded, atol=1e-4, rtol=0)
    final = sample_reference(
        two_experts,
        SchrodingerBridge(),
        degraded,
        mask,
        torch.linspace(1, 0.05, int(seeds['n_steps_arg'])),
        stochastic=True,
        batch_size=2,
        generator=torch.Generator().manual_seed(int(seeds['seed_sampler'])),
        **TILES,
    )
    torch.testing.assert_close(final[0], arrays['pred_x0_final'], atol=1e-4, rtol=0)
    torch.testing.assert_close(REPRESENTATION.decode(final)[0], arrays['wav_out'], atol=1e-4, rtol=0)
