import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints.stable_audio_networks import load_network
from nemo_audio_restore.checkpoints.tensor_files import read_tensors
from nemo_audio_restore.networks.latent_condition import LatentCondition, mix_conditions
from nemo_audio_restore.networks.latent_transformer import LatentTransformer
from nemo_audio_restore.networks.transformer_layer import Attention, Rotary, rotate

FIXTURES = Path(__file__).resolve().parent.parent / 'fixtures' / 'stable_audio'
SIZES = {'latent_channels': 4, 'dim': 64, 'depth': 2, 'num_heads': 2, 'token_dim': 32, 'summary_dim': 6}
VARIANTS = {
    'open': {},
    'open_small': {'project_tokens': True, 'normed_heads': True, 'num_heads': 1},
    'modulated': {
        'project_tokens': True,
        'summary_use': 'modulate',
        'prepended_dim': 5,
        'concatenated_channels': 3,
        'memory_tokens': 2,
    },
}


def seeded(network, seed=0):
    """Draws parameters and stored constants, the zero ones too, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith('inv_freq'):
                continue
            scale = 0.1 if tensor.ndim < 2 else 1 / max(1, tensor[0].numel()) ** 0.5
            offset = 1.0 if name.endswith(('gamma', '_norm.weight')) else 0.0
            tensor.copy_(offset + scale * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def small(variant='open', **changes):
    return seeded(LatentTransformer(**{**SIZES, **VARIANTS[variant], **changes}))


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(variant='open', batch=2, length=12):
    condition = LatentCondition(tokens=drawn(batch, 5, 32, seed=2), summary=drawn(batch, 6, seed=3))
    if variant == 'modulated':
        condition = replace(
            condition, prepended=drawn(batch, 3, 5, seed=4), concatenated=drawn(batch, 3, length // 2, seed=5)
        )
    return drawn(batch, 4, length), torch.linspace(0.2, 0.9, batch), condition


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_defaults_are_the_published_network():
    with torch.device('meta'):
        network = LatentTransformer()
    assert count(network) == 1_056_828_544
    assert sum(buffer.numel() for buffer in network.buffers()) == 110_608
    assert network.state_dict()['transformer.layers.23.cross_attn.to_kv.weight'].shape == (1536, 768)


def test_open_small_has_the_published_size():
    with torch.device('meta'):
        network = LatentTransformer(
            dim=1024, depth=16, num_heads=8, project_tokens=True, summary_dim=768, normed_heads=True
        )
    assert count(network) == 340_879_488
    assert sum(buffer.numel() for buffer in network.buffers()) == 49_184


@pytest.mark.needs_fixtures
@pytest.mark.parametrize('folder', ['c1_dit_sao_like', 'c2_dit_small_like', 'c3_dit_adaln_prepend'])
def test_outputs_of_the_published_program(reference_arrays, folder):
    folder = reference_arrays / 'stable_audio' / folder
    section = json.loads((folder / 'model_config.json').read_text())
    network = load_network(section, read_tensors(folder / 'model.safetensors'), prefix='model.', source='file')
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / 'io.npz').items()}
    seen = {}
    for index, layer in enumerate(network.transformer.layers):
        layer.register_forward_hook(lambda _module, _inputs, out, index=index: seen.update({f'hidden{index}': out}))
    for name, module in {
        'timestep_features': network.timestep_features,
        'timestep_embed': network.to_timestep_embed,
        'cond_embed': network.to_cond_embed,
        'global_embed': network.to_global_embed,
    }.items():
        module.register_forward_hook(lambda _module, _inputs, out, name=name: seen.update({name: out}))
    condition = LatentCondition(
        tokens=arrays['context'],
        tokens_mask=arrays['context_mask'],
        summary=arrays['global_cond'],
        prepended=arrays.get('prepend_cond'),
        concatenated=arrays.get('input_concat_cond'),
    )
    with torch.no_grad():
        seen['out'] = network(arrays['x'], arrays['t'], condition)
        seen['out_nomask'] = network(arrays['x'], arrays['t'], replace(condition, tokens_mask=None))
    positions = arrays['rotary_freqs'].shape[0]
    cosine, sine = network.transformer.rotary_pos_emb(positions)
    seen['rotary_freqs'] = torch.arange(positions)[:, None] * network.transformer.rotary_pos_emb.inv_freq.repeat(2)
    torch.testing.assert_close(cosine, arrays['rotary_freqs'].cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sine, arrays['rotary_freqs'].sin(), atol=1e-5, rtol=0)
    assert len(seen) >= 9
    for name, found in seen.items():
        expected = arrays[name]
        torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize('variant', VARIANTS)
def test_output_has_not_changed_since_it_matched_the_published_network(variant):
    with torch.no_grad():
        found = small(variant)(*inputs(variant))
    golden = torch.from_numpy(np.load(FIXTURES / 'networks_golden.npz')[f'transformer_{variant}'])
    torch.testing.assert_close(found, golden, atol=1e-5 * golden.abs().max().item(), rtol=0)


@pytest.mark.parametrize('variant', VARIANTS)
def test_null_branch_without_cross_attention_equals_the_one_with_zeros(variant):
    network = small(variant)
    x, t, condition = inputs(variant)
    null = network.null_condition(condition)
    zeros = replace(null, tokens=torch.zeros_like(condition.tokens))
    calls = []
    for layer in network.transformer.layers:
        layer.cross_attn.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        skipped = network(x, t, null)
        assert calls == []
        assert torch.equal(skipped, network(x, t, zeros))
        assert not torch.equal(skipped, network(x, t, condition))


def test_null_condition_keeps_the_summary_and_empties_tokens_and_prepended():
    network = small('modulated')
    _, _, condition = inputs('modulated')
    null = network.null_condition(condition)
    assert null.tokens is None
    assert null.prepended.abs().sum() == 0
    assert null.summary is condition.summary
    assert null.concatenated is condition.concatenated


def test_negative_condition_replaces_the_tokens_and_zeroes_its_padding():
    network = small()
    _, _, condition = inputs()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    negative = LatentCondition(tokens=drawn(2, 3, 32, seed=9), tokens_mask=mask)
    tokens = network.null_condition(condition, negative).tokens
    assert torch.equal(tokens[mask > 0], negative.tokens[mask > 0])
    assert tokens[mask == 0].abs().sum() == 0


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_part_of_the_condition_matters(variant):
    network = small(variant)
    x, t, condition = inputs(variant)
    with torch.no_grad():
        plain = network(x, t, condition)
        assert not torch.allclose(plain, network(x, t + 0.1, condition))
        for name in ('tokens', 'summary', 'prepended', 'concatenated'):
            value = getattr(condition, name)
            if value is not None:
                changed = replace(condition, **{name: value + 1})
                assert not torch.allclose(plain, network(x, t, changed), atol=1e-4), name


@pytest.mark.parametrize('variant', VARIANTS)
def test_items_of_a_batch_do_not_see_each_other_and_gradients_reach_every_parameter(variant):
    network = small(variant)
    x, t, condition = inputs(variant)
    both = network(x, t, condition)
    names = ('tokens', 'summary', 'prepended', 'concatenated')
    second = {name: getattr(condition, name)[1:] for name in names if getattr(condition, name) is not None}
    torch.testing.assert_close(network(x[1:], t[1:], LatentCondition(**second)), both[1:], atol=1e-5, rtol=0)
    both.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_untrained_convolutions_leave_the_latents_alone():
    network = LatentTransformer(**SIZES)
    assert network.preprocess_conv.weight.abs().sum() == 0
    assert network.postprocess_conv.weight.abs().sum() == 0


def test_rotation_depends_on_the_distance_of_two_positions_only():
    query, key = drawn(1, 1, 1, 16, seed=1).expand(1, 1, 20, 16), drawn(1, 1, 1, 16, seed=2).expand(1, 1, 20, 16)
    rotation = Rotary(8)(20)
    products = rotate(query, rotation)[0, 0] @ rotate(key, rotation)[0, 0].T
    for offset in range(-5, 6):
        diagonal = products.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)
    assert products.diagonal(1)[0] != products.diagonal(2)[0]
    assert torch.equal(rotate(query, rotation)[..., 8:], query[..., 8:])


def test_shared_heads_of_tokens_equal_repeated_ones():
    shared = Attention(16, 4, context_dim=8)
    full = Attention(16, 4, context_dim=16)
    x, context = drawn(1, 3, 16), drawn(1, 5, 8, seed=2)
    with torch.no_grad():
        full.to_q.weight.copy_(shared.to_q.weight)
        full.to_out.weight.copy_(shared.to_out.weight)
        heads = shared.to_kv.weight.view(2, 2, 4, 8).repeat_interleave(2, dim=1)
        full.to_kv.weight.zero_()
        full.to_kv.weight[:, :8] = heads.reshape(32, 8)
        padded = torch.cat([context, torch.zeros(1, 5, 8)], -1)
        torch.testing.assert_close(shared(x, context), full(x, padded))


def test_mixing_takes_items_from_either_condition():
    first, second = inputs()[2], LatentCondition(summary=inputs()[2].summary + 1)
    mixed = mix_conditions(first, second, torch.tensor([True, False]))
    assert torch.equal(mixed.tokens[0], first.tokens[0])
    assert mixed.tokens[1].abs().sum() == 0
    assert torch.equal(mixed.summary, torch.stack([first.summary[0], second.summary[1]]))
    assert mixed.prepended is None


def test_what_does_not_fit_is_said_in_the_terms_of_the_condition():
    network = small()
    x, t, condition = inputs()
    with pytest.raises(ValueError, match='needs the summary'):
        network(x, t, replace(condition, summary=None))
    with pytest.raises(ValueError, match='cannot use prepended'):
        network(x, t, replace(condition, prepended=torch.zeros(2, 1, 5)))
    with pytest.raises(ValueError, match=r'x_t must be \(B, 4, L\)'):
        network(x[:, :3], t, condition)
    with pytest.raises(ValueError, match='needs the concatenated channels'):
        small('modulated')(x, t, condition)
    with pytest.raises(ValueError, match='multiple of num_heads'):
        LatentTransformer(**{**SIZES, 'num_heads': 3})
    with pytest.raises(ValueError, match='summary_use'):
        LatentTransformer(**{**SIZES, 'summary_use': 'add'})
    with pytest.raises(ValueError, match='heads of at least 32'):
        LatentTransformer(**{**SIZES, 'num_heads': 4})
    with pytest.raises(ValueError, match='split into heads of 32'):
        LatentTransformer(**{**SIZES, 'token_dim': 24})


def test_patches_are_positions_with_the_channels_of_several_latents():
    network = small(patch_size=2)
    x_t, t, condition = inputs()
    mixed = network.preprocess_conv(x_t) + x_t
    folded = small(latent_channels=8)
    folded.load_state_dict(
        {
            name: torch.zeros_like(tensor) if 'process_conv' in name else network.state_dict()[name]
            for name, tensor in folded.state_dict().items()
        }
    )
    pairs = torch.stack([mixed[:, :, 0::2], mixed[:, :, 1::2]], dim=2).flatten(1, 2)
    out = folded(pairs, t, condition).unflatten(1, (4, 2))
    expected = torch.stack([out[:, :, 0], out[:, :, 1]], dim=-1).flatten(2)
    expected = network.postprocess_conv(expected) + expected
    torch.testing.assert_close(network(x_t, t, condition), expected)
    assert network.latents_multiple == 2
    with pytest.raises(ValueError, match='must be a multiple of 2; got 11'):
        network(x_t[:, :, :11], t, condition)
    with pytest.raises(ValueError, match='patch_size must be at least 1; got 0'):
        small(patch_size=0)
