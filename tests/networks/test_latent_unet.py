import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints.stable_audio_networks import load_network
from nemo_audio_restore.checkpoints.tensor_files import read_tensors
from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.networks.latent_unet import LatentUNet
from nemo_audio_restore.networks.latent_unet_blocks import Downsample, Upsample

FIXTURES = Path(__file__).resolve().parent.parent / 'fixtures' / 'stable_audio'
SIZES = {
    'latent_channels': 4,
    'channels': 16,
    'multipliers': (2, 2, 4),
    'factors': (1, 4),
    'blocks': (1, 2),
    'attentions': (0, 1, 1),
    'num_heads': 2,
    'groups': 8,
    'token_dim': 12,
    'max_tokens': 6,
}


def seeded(network, seed=0):
    """Draws all parameters, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = 0.1 if parameter.ndim < 2 else 1 / max(1, parameter[0].numel()) ** 0.5
            offset = 1.0 if name.endswith('weight') and parameter.ndim == 1 else 0.0
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def small(**changes):
    return seeded(LatentUNet(**{**SIZES, **changes}))


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch=2):
    condition = LatentCondition(
        tokens=drawn(batch, 5, 12, seed=2), tokens_mask=torch.tensor([[1, 1, 1, 1, 0]] * batch)
    )
    return drawn(batch, 4, 16), torch.linspace(0.2, 0.9, batch), condition


def test_defaults_are_the_published_network():
    with torch.device('meta'):
        network = LatentUNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 906_679_744
    assert network.latents_multiple == 16
    state = network.state_dict()
    assert state['fixed_embedding.embedding.weight'].shape == (79, 768)
    assert state['downsamples.3.downsample.weight'].shape == (1280, 1280, 9)
    assert state['upsamples.3.upsample.weight'].shape == (1024, 1024, 3)


@pytest.mark.needs_fixtures
def test_outputs_of_the_published_program(reference_arrays):
    folder = reference_arrays / 'stable_audio' / 'b_unet'
    section = json.loads((folder / 'model_config.json').read_text())
    network = load_network(section, read_tensors(folder / 'model.safetensors'), prefix='model.', source='file')
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / 'io.npz').items()}
    seen = {}

    def record(name):
        def hook(_module, _inputs, out):
            seen.setdefault(name, out[0] if isinstance(out, tuple) else out)

        return hook

    network.to_in.register_forward_hook(record('act_to_in'))
    network.bottleneck.register_forward_hook(record('act_bottleneck'))
    network.to_mapping.register_forward_hook(record('mapping'))
    for level in range(4):
        network.downsamples[level].register_forward_hook(record(f'act_down{level}'))
        network.upsamples[level].register_forward_hook(record(f'act_up{level}'))
    condition = LatentCondition(tokens=arrays['context'])
    masked = replace(condition, tokens_mask=arrays['context_mask'])
    null = network.null_condition(condition)
    with torch.no_grad():
        seen['out_cond'] = network(arrays['x'], arrays['t'], condition)
        seen['out_cond_masked'] = network(arrays['x'], arrays['t'], masked)
        seen['out_uncond'] = network(arrays['x'], arrays['t'], null)
    assert torch.equal(null.tokens[:1], arrays['fixed_embedding'])
    assert len(seen) == 14
    for name, found in seen.items():
        expected = arrays[name]
        torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_output_has_not_changed_since_it_matched_the_published_network():
    with torch.no_grad():
        found = small()(*inputs())
    golden = torch.from_numpy(np.load(FIXTURES / 'networks_golden.npz')['unet'])
    torch.testing.assert_close(found, golden, atol=1e-5 * golden.abs().max().item(), rtol=0)


def test_masked_tokens_lose_their_content_but_not_their_place():
    network = small()
    x, t, condition = inputs()
    with torch.no_grad():
        out = network(x, t, condition)
        other_padding = condition.tokens.clone()
        other_padding[:, 4] += 7
        assert torch.equal(network(x, t, replace(condition, tokens=other_padding)), out)
        shorter = LatentCondition(tokens=condition.tokens[:, :4])
        assert not torch.allclose(network(x, t, shorter), out, atol=1e-4)
        assert not torch.allclose(network(x, t, replace(condition, tokens_mask=None)), out, atol=1e-4)


def test_null_condition_is_learned_and_keeps_the_mask():
    network = small()
    x, t, condition = inputs()
    null = network.null_condition(condition)
    assert torch.equal(null.tokens[1], network.fixed_embedding.embedding.weight[:5])
    assert null.tokens_mask is condition.tokens_mask
    network(x, t, null).square().sum().backward()
    assert network.fixed_embedding.embedding.weight.grad[:4].abs().sum() > 0


def test_negative_condition_falls_back_to_the_learned_tokens_where_it_is_masked():
    network = small()
    _, _, condition = inputs()
    mask = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0]])
    negative = LatentCondition(tokens=drawn(2, 5, 12, seed=9), tokens_mask=mask)
    tokens = network.null_condition(condition, negative).tokens
    assert torch.equal(tokens[mask > 0], negative.tokens[mask > 0])
    assert torch.equal(tokens[0, 1:], network.fixed_embedding.embedding.weight[1:5])


def test_tokens_and_time_matter_and_items_do_not_see_each_other():
    network = small()
    x, t, condition = inputs()
    both = network(x, t, condition)
    assert not torch.allclose(both, network(x, t + 0.1, condition), atol=1e-4)
    assert not torch.allclose(both, network(x, t, replace(condition, tokens=condition.tokens.roll(1, -1))), atol=1e-4)
    alone = network(x[1:], t[1:], LatentCondition(condition.tokens[1:], condition.tokens_mask[1:]))
    torch.testing.assert_close(alone, both[1:], atol=1e-5, rtol=0)


def test_changes_of_length_are_exact_and_aligned():
    for factor in (2, 3, 4):
        x = torch.zeros(1, 1, 8 * factor)
        x[..., 4 * factor] = 1
        down, up = Downsample(1, 1, factor, 2), Upsample(1, 1, factor)
        with torch.no_grad():
            for layer in (down, up):
                layer.weight.fill_(1)
                layer.bias.zero_()
            assert down(x).shape[-1] == 8
            assert down(x)[0, 0, 4] == 1
            doubled = up(torch.eye(8)[4].view(1, 1, 8))
        assert doubled.shape[-1] == 8 * factor
        assert doubled[0, 0, 4 * factor] == 1


def test_what_does_not_fit_is_said():
    network = small()
    x, t, condition = inputs()
    with pytest.raises(ValueError, match='L a multiple of 4'):
        network(x[..., :15], t, condition)
    with pytest.raises(ValueError, match='needs the tokens'):
        network(x, t, LatentCondition())
    with pytest.raises(ValueError, match='cannot use summary'):
        network(x, t, replace(condition, summary=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match='at most 6 tokens'):
        network.null_condition(LatentCondition(tokens=torch.zeros(1, 7, 12)))
    with pytest.raises(ValueError, match='as many tokens'):
        network.null_condition(condition, LatentCondition(tokens=torch.zeros(2, 3, 12)))
    with pytest.raises(ValueError, match='2 factors need 2 blocks'):
        small(blocks=(1,))
    with pytest.raises(ValueError, match='multiple of 32'):
        small(multipliers=(2, 2, 3))
