"""Claims about a language model in two parts."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.split_decoder import split_decoder

AUDIO, WIDTH = 6, 16


def hearing_model(kind='llama'):
    torch.manual_seed(0)
    sizes = {'vocab_size': 20, 'hidden_size': WIDTH, 'intermediate_size': 24, 'num_hidden_layers': 3}
    config = AutoConfig.for_model(kind, **sizes, num_attention_heads=2, num_key_value_heads=1)
    model = AutoModelForCausalLM.from_config(config).eval()
    blocks = CrossAttentionLayers(dim=WIDTH, audio_dim=AUDIO, layers=(1, 2), num_heads=2, head_dim=4)
    for block in blocks.blocks.values():
        torch.nn.init.constant_(block.attention_gate, 0.9)
        torch.nn.init.constant_(block.feed_forward_gate, 0.9)
    blocks.attach(model)
    return model, blocks


def inputs():
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(2, 5, AUDIO, generator=generator)
    return audio, torch.ones(2, 5, dtype=torch.bool), torch.randint(20, (2, 4), generator=generator)


@pytest.mark.parametrize('kind', ['qwen2', 'llama'])
def test_both_parts_say_what_the_whole_says(kind):
    model, blocks = hearing_model(kind)
    audio, mask, ids = inputs()
    attention = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    wanted = torch.tensor([[False, True, True, False], [True, False, True, False]])
    parts = split_decoder(model, 1)
    with torch.no_grad(), blocks.hearing(audio, mask):
        whole = model(input_ids=ids, attention_mask=attention, use_cache=False).logits
        found = parts.logits(parts.texts(ids, attention), attention, wanted)
    torch.testing.assert_close(found, whole[wanted])
    assert len(model.get_decoder().layers) == 3  # the model is as it was


def test_two_answers_behind_one_question_are_read_as_if_each_stood_alone():
    model, blocks = hearing_model()
    audio, heard, ids = inputs()
    parts = split_decoder(model, 1)
    together = torch.cat([ids[:1], ids[1:, :2]], dim=1)  # two of question, two of either answer
    places = torch.tensor([[0, 1, 2, 3, 2, 3]])
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()
    allowed[4:, 2:4] = False
    allowed = allowed[None, None]
    alone = torch.cat([ids[:1, :2], ids[1:, :2]], dim=1)
    with torch.no_grad(), blocks.hearing(audio[:1], heard[:1]):
        found = parts.logits(
            parts.texts(together, allowed, places), allowed, torch.ones(1, 6, dtype=torch.bool), places
        )
        for row, where in ((ids[:1], [0, 1, 2, 3]), (alone, [0, 1, 4, 5])):
            whole = model(input_ids=row, use_cache=False).logits[0]
            torch.testing.assert_close(found[where], whole)


def test_gradients_reach_the_blocks_through_frozen_layers():
    model, blocks = hearing_model()
    model.requires_grad_(False)
    audio, mask, ids = inputs()
    parts, attention = split_decoder(model, 1), torch.ones_like(ids)
    with blocks.hearing(audio, mask):
        parts.logits(parts.texts(ids, attention), attention, attention.bool()).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in blocks.parameters())


@pytest.mark.parametrize('layer', [0, 3])
def test_there_must_be_something_in_both_parts(layer):
    with pytest.raises(ValueError, match=f'layer must be 1 to 2; got {layer}'):
        split_decoder(hearing_model()[0], layer)
