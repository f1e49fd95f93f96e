import pytest
import torch

from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.networks.latent_transformer import LatentTransformer
from nemo_audio_restore.networks.latent_unet import LatentUNet
from nemo_audio_restore.networks.low_rank import (
    LowRankSettings,
    adapted_layers,
    adapter_state,
    add_adapters,
    merge_adapters,
    set_adapter_strength,
    with_adapter_names,
)

pytest.importorskip('peft', reason='LoRA needs peft (extra `generate`)')

TRANSFORMER = {'latent_channels': 4, 'dim': 32, 'depth': 2, 'num_heads': 1, 'token_dim': 32, 'summary_dim': None}
UNET = {
    'latent_channels': 4,
    'channels': 32,
    'multipliers': (1, 1),
    'factors': (2,),
    'blocks': (1,),
    'attentions': (1, 1),
    'num_heads': 2,
    'groups': 8,
    'token_dim': 8,
    'max_tokens': 5,
}


def made(kind):
    torch.manual_seed(0)
    network = LatentTransformer(**TRANSFORMER) if kind == 'transformer' else LatentUNet(**UNET)
    return network.eval()


def inputs(kind):
    generator = torch.Generator().manual_seed(1)
    width = 32 if kind == 'transformer' else 8
    tokens = torch.randn(2, 3, width, generator=generator)
    return torch.randn(2, 4, 8, generator=generator), torch.tensor([0.2, 0.7]), LatentCondition(tokens=tokens)


def trained(network, seed=2):
    """Gives the adapters something to add."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapter_state(network).values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))


@pytest.mark.parametrize('kind', ['transformer', 'unet'])
@torch.no_grad()
def test_strength_goes_from_the_plain_network_over_the_trained_one_in_a_line_of_weights_and_merging_keeps_it(kind):
    network, given = made(kind), inputs(kind)
    before = network(*given)
    add_adapters(network, LowRankSettings(rank=2, alpha=4.0))
    assert torch.equal(network(*given), before)
    trained(network)
    full = network(*given)
    assert not torch.allclose(full, before, atol=1e-3)
    set_adapter_strength(network, 0.0)
    assert torch.equal(network(*given), before)
    set_adapter_strength(network, 0.5)
    half = network(*given)
    assert not torch.allclose(half, full, atol=1e-3)
    names = set(made(kind).state_dict())
    merge_adapters(network)
    assert set(network.state_dict()) == names
    torch.testing.assert_close(network(*given), half, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('kind', ['transformer', 'unet'])
def test_only_adapters_learn_and_gradients_reach_all_of_them(kind):
    network = made(kind)
    add_adapters(network, LowRankSettings(rank=2, feed_forward=True))
    trained(network)
    network(*inputs(kind)).square().sum().backward()
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert learning == set(adapter_state(network))
    assert all(parameter.grad is not None for name, parameter in network.named_parameters() if name in learning)


def test_attention_is_adapted_and_feed_forwards_on_request():
    for kind, attention, forward in (('transformer', 2 * 5, 2 * 2), ('unet', 3 * 6, 3 * 2)):
        layers = adapted_layers(made(kind), feed_forward=False)
        assert len(layers) == attention
        assert len(adapted_layers(made(kind), feed_forward=True)) == attention + forward
        assert all('attn' in name or 'attention' in name for name in layers)


def test_alpha_scales_what_the_adapters_add():
    outputs = []
    for alpha in (None, 2.0, 6.0):
        network = made('transformer')
        add_adapters(network, LowRankSettings(rank=2, alpha=alpha))
        trained(network)
        with torch.no_grad():
            outputs.append(network(*inputs('transformer')))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2], atol=1e-3)


def test_dropout_acts_in_training_alone():
    network = made('transformer')
    add_adapters(network, LowRankSettings(rank=2, dropout=0.5))
    trained(network)
    with torch.no_grad():
        assert torch.equal(network(*inputs('transformer')), network(*inputs('transformer')))
        network.train()
        assert not torch.equal(network(*inputs('transformer')), network(*inputs('transformer')))


def test_cross_attention_to_nothing_still_adds_nothing():
    network = made('transformer')
    add_adapters(network, LowRankSettings(rank=2))
    trained(network)
    x, t, condition = inputs('transformer')
    with torch.no_grad():
        skipped = network(x, t, LatentCondition())
        zeros = network(x, t, LatentCondition(tokens=torch.zeros_like(condition.tokens)))
    assert torch.equal(skipped, zeros)


def test_weights_of_a_plain_network_fit_one_with_adapters():
    plain, network = made('transformer'), made('transformer')
    add_adapters(network, LowRankSettings(rank=2))
    trained(network)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.1)
    state = {f'network.{name}': tensor for name, tensor in plain.state_dict().items()}
    renamed = with_adapter_names(network, state, prefix='network.')
    network.load_state_dict({name.removeprefix('network.'): tensor for name, tensor in renamed.items()})
    set_adapter_strength(network, 0.0)
    with torch.no_grad():
        assert torch.equal(network(*inputs('transformer')), plain(*inputs('transformer')))
    assert with_adapter_names(network, renamed, prefix='network.') is renamed
    assert with_adapter_names(plain, state, prefix='network.') is state
    with pytest.raises(ValueError, match='merge them first'):
        with_adapter_names(plain, renamed, prefix='network.')


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match='rank must be at least 1'):
        LowRankSettings(rank=0)
    with pytest.raises(ValueError, match='no attention layers'):
        add_adapters(torch.nn.Linear(2, 2), LowRankSettings())
    with pytest.raises(ValueError, match='no adapters'):
        set_adapter_strength(made('unet'), 1.0)
