"""Claims about heads that tell facts from keys and values of cross-attention."""

import torch
from torch.nn import functional

from nemo_audio_restore.networks.fact_heads import FactHeads
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers

DIM = 8


def parts():
    torch.manual_seed(0)
    layers = CrossAttentionLayers(dim=12, audio_dim=DIM, layers=(1, 3), num_heads=2, head_dim=4)
    return layers, FactHeads(layers, {'drum': 3, 'tempo': 2})


def test_masked_tokens_change_nothing_and_every_block_tells_every_fact():
    layers, heads = parts()
    for query in heads.queries.values():
        torch.nn.init.normal_(query)
    audio, mask = torch.randn(2, 5, DIM), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    told = heads(layers, audio, mask)
    assert {fact: tuple(logits.shape) for fact, logits in told.items()} == {'drum': (2, 2, 3), 'tempo': (2, 2, 2)}
    audio[1, 3:] = 100.0
    again = heads(layers, audio, mask)
    torch.testing.assert_close(again['drum'], told['drum'])
    assert not torch.allclose(told['drum'][0], told['drum'][1])  # the blocks are not the same


def test_keys_and_values_of_every_block_learn_what_the_heads_are_asked_for():
    layers, heads = parts()
    # One token of six is loud, and its first number says which label is right.
    labels = torch.randint(3, (64,))
    audio = 0.1 * torch.randn(64, 6, DIM)
    audio[torch.arange(64), torch.randint(6, (64,)), :3] = 3 * functional.one_hot(labels, 3).float()
    mask = torch.ones(64, 6, dtype=torch.bool)
    before = {name: weight.clone() for name, weight in layers.named_parameters()}
    optimizer = torch.optim.Adam([*heads.parameters(), *layers.parameters()], lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        logits = heads(layers, audio, mask)['drum']
        functional.cross_entropy(logits.flatten(0, 1), labels.repeat(2)).backward()
        optimizer.step()
    right = (heads(layers, audio, mask)['drum'].argmax(dim=2) == labels).float().mean(dim=1)
    assert bool((right > 0.95).all())
    moved = {name for name, weight in layers.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {'blocks.1.key_value.weight', 'blocks.3.key_value.weight'}
