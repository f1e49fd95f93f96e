from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nemo_audio_restore.networks.spectrogram_unet import (
    AxialRotary,
    ResBlock,
    SpectrogramUNet,
    Upsample,
    band_embedding,
    time_embedding,
)

FIXTURES = Path(__file__).resolve().parent.parent / 'fixtures' / 'a2sb'
PARITY_CONFIG = {'hidden_channels': (32, 32, 32, 96, 96, 96), 'time_embedding_dim': 32, 'num_heads': 1}


def seeded(network, seed=0):
    """Fills all parameters from a generator, the zero-initialised ones too, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                fan_in = max(1, parameter[0].numel())
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
                if 'norm' in name and name.endswith('weight'):
                    parameter.add_(1.0)
    return network


def small(**changes):
    config = {
        'hidden_channels': (32, 32, 64, 128),
        'time_embedding_dim': 8,
        'band_embedding_dim': 4,
        'num_heads': 1,
        'attention_levels': (2,),
        'num_res_blocks': 1,
    }
    return seeded(SpectrogramUNet(**{**config, **changes}))


def inputs(batch=2, rows=32, frames=16, seed=1):
    x = torch.randn(batch, 3, rows, frames, generator=torch.Generator().manual_seed(seed))
    return x, torch.linspace(0.1, 1.0, batch)


def test_defaults_are_the_published_network():
    with torch.device('meta'):
        network = SpectrogramUNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 565_544_851
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 565_544_707
    state = network.state_dict()
    assert len(state) == 327
    assert state['middle_block.0.emb_layers.1.weight'].shape == (4096, 144, 1, 1)
    assert state['dec_blocks.1.3.pos_emb.freqs'].shape == (16,)
    assert not any(name.startswith('dec_blocks.2.') and 'q_proj' in name for name in state)


@pytest.mark.parametrize('channels', [32, 128])
def test_time_embedding_is_the_published_one(channels):
    stored = np.load(FIXTURES / 'bridge.npz')
    embedding = time_embedding(torch.from_numpy(stored['t']), channels)
    torch.testing.assert_close(embedding, torch.from_numpy(stored[f'temb{channels}']), atol=1e-5, rtol=0)


@pytest.mark.needs_fixtures
@pytest.mark.parametrize(
    ('name', 'checkpoint'), [('small_low', 'low'), ('small_high', 'high'), ('oddshape_low', 'low')]
)
@pytest.mark.parametrize('gradients', [False, True])
def test_outputs_of_the_published_program(reference_arrays, name, checkpoint, gradients):
    folder = reference_arrays / 'a2sb'
    network = SpectrogramUNet(**PARITY_CONFIG).eval()
    state = torch.load(folder / f'ckpt_split_{checkpoint}.ckpt', weights_only=True)['state_dict']
    prefix = 'vf_model.'
    network.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    stored = np.load(folder / f'net_{name}.npz')
    arrays = {key: torch.from_numpy(stored[key]) for key in stored}
    features = {}
    for key in arrays:
        if key.startswith('feat_') and key.endswith('_sub'):
            module = key.removeprefix('feat_').removesuffix('_sub')
            if not isinstance(network.get_submodule(module), nn.ModuleList):  # a level: the same as its last block
                network.get_submodule(module).register_forward_hook(
                    lambda _module, _inputs, output, key=key: features.update({key: output})
                )
    with torch.set_grad_enabled(gradients):
        y = network(arrays['x'], arrays['t'])
    torch.testing.assert_close(y.detach(), arrays['y'], atol=2e-5, rtol=0)
    assert len(features) >= 25 or 'oddshape' in name
    for key, value in features.items():
        rows, columns = max(1, value.shape[2] // 8), max(1, value.shape[3] // 8)
        torch.testing.assert_close(value.detach()[:, :4, ::rows, ::columns], arrays[key], atol=5e-5, rtol=0)
    for key, value in arrays.items():
        if key.startswith('band_emb_'):
            rows = int(key.removeprefix('band_emb_'))
            assert torch.equal(band_embedding(rows, 16, torch.device('cpu')), value)
    assert torch.equal(AxialRotary().freqs, arrays['rotary_freqs_param'])


def test_output_has_not_changed_since_it_matched_the_published_network():
    with torch.no_grad():
        y = small().eval()(*inputs())
    golden = torch.from_numpy(np.load(FIXTURES / 'unet_golden.npz')['y'])
    torch.testing.assert_close(y, golden, atol=1e-4 * golden.abs().max().item(), rtol=0)


@pytest.mark.parametrize('shape', [(2, 3, 4, 6), (1, 5, 1, 1), (1, 2, 3, 1)])
def test_phase_split_upsampling_equals_the_plain_form(shape):
    layer = seeded(Upsample(shape[1], 7))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = layer(x)
    torch.testing.assert_close(y, layer(x).detach(), atol=2e-6, rtol=0)


def test_conditioning_on_one_column_equals_conditioning_on_every_position():
    block = seeded(ResBlock(32, 6, 0.0)).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 32, 8, 5, generator=generator)
    embedding = torch.randn(2, 6, 8, 1, generator=generator)
    scale, shift = block.emb_layers(embedding.expand(-1, -1, -1, 5)).chunk(2, dim=1)
    norm = functional.group_norm(block.in_layers(x), 32, block.out_norm.weight, block.out_norm.bias)
    plain = x + block.out_rest(norm * (1 + scale) + shift)
    torch.testing.assert_close(block(x, embedding), plain, atol=2e-6, rtol=1e-6)


def test_rotary_attention_scores_depend_on_the_distance_only():
    rotary = AxialRotary()
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 80, 1, 1, generator=generator).expand(-1, -1, -1, 5, 6) for _ in range(2))
    scores = torch.einsum('bndhw,bndij->hwij', rotary(query), rotary(key))
    torch.testing.assert_close(scores[0, 0, 2, 1], scores[2, 3, 4, 4], atol=1e-4, rtol=0)
    assert (scores[0, 0, 2, 1] - scores[0, 0, 1, 2]).abs() > 1e-3
    assert torch.equal(rotary(query)[:, :, 64:], query[:, :, 64:])


def test_fresh_residual_blocks_are_the_identity_in_evaluation():
    block = ResBlock(32, 6, 0.1).eval()
    x = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x, torch.zeros(1, 6, 4, 1)), x)


def test_dropout_acts_in_training_only():
    network = small(dropout=0.5)
    x, t = inputs()
    assert not torch.equal(network.train()(x, t), network.train()(x, t))
    assert torch.equal(network.eval()(x, t), network.eval()(x, t))


def test_every_trainable_parameter_gets_a_gradient_and_checkpointing_gives_the_same_ones():
    x, t = inputs()
    gradients = []
    for checkpointing in (False, True):
        network = small(dropout=0.0, gradient_checkpointing=checkpointing).train()
        network(x, t).square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.requires_grad})
    assert all(gradient.abs().max() > 0 for name, gradient in gradients[0].items() if 'k_proj.bias' not in name)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_gradient_checkpointing_keeps_fewer_activations():
    x, t = inputs()
    kept = []
    for checkpointing in (False, True):
        network = small(gradient_checkpointing=checkpointing).train()
        count = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, count=count: count.append(1) or tensor, lambda x: x
        ):
            network(x, t)
        kept.append(len(count))
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize(('dtype', 'error'), [(torch.bfloat16, 0.05), (torch.float16, 0.008)])
def test_half_precision_weights_stay_close(dtype, error):
    x, t = inputs()
    network = small().eval()
    with torch.no_grad():
        exact = network(x, t)
        with torch.autocast('cpu', dtype):
            automatic = network(x, t)
        half = network.to(dtype)(x.to(dtype), t)
    assert half.dtype == dtype
    for approximate in (automatic, half):
        assert (approximate.float() - exact).norm() < error * exact.norm()


def test_rows_and_times_and_attention_settings_change_the_output():
    x, t = inputs()
    y = small().eval()(x, t)
    assert (small().eval()(x, 1 - t) - y).abs().max() > 1e-3
    assert (small().eval()(x.flip(2), t).flip(2) - y).abs().max() > 1e-3
    assert (small(num_heads=2, hidden_channels=(32, 32, 128, 128)).eval()(x, t)).isfinite().all()


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'num_heads': 2}, 'fewer heads'),
        ({'hidden_channels': (32, 40)}, 'multiples of 32'),
        ({'attention_levels': (3,)}, r'0\.\.2'),
        ({'time_embedding_dim': 7}, 'even'),
    ],
)
def test_impossible_sizes_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        small(**config)


def test_lengths_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match=r'multiples of 8; got \(2, 3, 32, 12\)'):
        small()(*inputs(frames=12))
