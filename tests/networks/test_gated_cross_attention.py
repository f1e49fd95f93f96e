"""Claims about how a language model hears."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nemo_audio_restore.models.text_decoding import TextSettings, reads_one_for_many, write_text
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers, decoder_layers

AUDIO, WIDTH, VOCABULARY = 6, 16, 20


def language_model(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def opened(layers):
    """The same with gates that let audio through."""
    for block in layers.blocks.values():
        nn.init.constant_(block.attention_gate, 0.9)
        nn.init.constant_(block.feed_forward_gate, 0.9)
    return layers.eval()


def hearing_model(kind='qwen2', layers=(0, 2)):
    model = language_model(kind)
    blocks = opened(CrossAttentionLayers(dim=WIDTH, audio_dim=AUDIO, layers=layers, num_heads=2, head_dim=4))
    blocks.attach(model)
    return model, blocks


def inputs(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(batch, 5, AUDIO, generator=generator)
    ids = torch.randint(VOCABULARY, (batch, 4), generator=generator)
    return audio, torch.ones(batch, 5, dtype=torch.bool), ids


@torch.no_grad()
@pytest.mark.parametrize('kind', ['qwen2', 'llama'])
def test_closed_gates_leave_the_language_model_as_it_is(kind):
    model = language_model(kind)
    audio, mask, ids = inputs()
    expected = model(ids).logits
    blocks = CrossAttentionLayers(dim=WIDTH, audio_dim=AUDIO, layers=[0, 1, 2])
    blocks.attach(model)
    with blocks.hearing(audio, mask):
        assert torch.equal(model(ids).logits, expected)
    opened(blocks)
    with blocks.hearing(audio, mask):
        heard = model(ids).logits
    assert not torch.allclose(heard, expected, atol=1e-3)
    assert torch.equal(model(ids).logits, expected)  # outside it hears nothing


@torch.no_grad()
def test_masked_audio_has_no_effect():
    model, blocks = hearing_model()
    audio, mask, ids = inputs()
    mask[1, 3:] = False
    with blocks.hearing(audio, mask):
        expected = model(ids).logits
    audio[1, 3:] = 100.0
    with blocks.hearing(audio, mask):
        assert torch.equal(model(ids).logits, expected)
    with blocks.hearing(audio[1:, :3], mask[1:, :3]):
        assert torch.allclose(model(ids[1:]).logits, expected[1:], atol=1e-5)


@torch.no_grad()
def test_cache_gives_the_logits_of_the_whole_text():
    model, blocks = hearing_model()
    audio, mask, ids = inputs()
    with blocks.hearing(audio, mask):
        whole = model(ids).logits
        first = model(ids[:, :3], use_cache=True)
        last = model(ids[:, 3:], past_key_values=first.past_key_values, use_cache=True)
    assert torch.allclose(first.logits, whole[:, :3], atol=1e-5)
    assert torch.allclose(last.logits, whole[:, 3:], atol=1e-5)


@torch.no_grad()
def test_several_texts_in_a_row_hear_one_recording():
    model, blocks = hearing_model()
    audio, mask, ids = inputs(batch=2)
    texts = torch.cat([ids, ids.flip(0)])[[0, 2, 1, 3]]
    with blocks.hearing(audio, mask):
        together = model(texts).logits
        again = model(ids).logits  # a smaller batch afterwards hears as before
    for row in range(4):
        with blocks.hearing(audio[row // 2 :][:1], mask[row // 2 :][:1]):
            assert torch.allclose(model(texts[row : row + 1]).logits[0], together[row], atol=1e-5)
    assert torch.allclose(again[0], together[0], atol=1e-5)
    with blocks.hearing(audio, mask), pytest.raises(ValueError, match='3 texts cannot hear 2 recordings'):
        model(torch.cat([ids, ids[:1]]))


@torch.no_grad()
@pytest.mark.parametrize('layers', [(0, 2), (1,), (2,)])
def test_one_question_about_several_recordings_is_read_once_and_answered_like_one_by_one(layers):
    model, blocks = hearing_model(layers=layers)
    audio, mask, ids = inputs(batch=3)
    mask[1, 3:] = False
    question, seen = ids[:1], []
    hook = decoder_layers(model)[0].register_forward_hook(lambda layer, given, state: seen.append(len(state)))
    settings = TextSettings(max_new_tokens=5)
    options = {'stop_id': 99, 'padding_id': 0, 'settings': settings}
    with blocks.hearing(audio, mask):
        together = write_text(model, question, torch.ones_like(question), copies=3, **options)
        logits = model(question).logits
        repeated = model(question.expand(3, -1)).logits
    assert seen[0] == (3 if layers[0] == 0 else 1)
    hook.remove()
    assert torch.allclose(logits, repeated, atol=1e-5)
    for row in range(3):
        with blocks.hearing(audio[row : row + 1], mask[row : row + 1]):
            assert write_text(model, question, torch.ones_like(question), **options) == [together[row]]
    assert reads_one_for_many(model)


@torch.no_grad()
@pytest.mark.parametrize('one_question', [True, False])
def test_texts_that_go_on_hear_their_own_recordings_when_others_have_ended(one_question):
    model, blocks = hearing_model()
    audio, mask, ids = inputs(batch=5, seed=3)
    mask[1, 3:] = False
    prompts = ids[:1] if one_question else ids
    options = {'stop_id': 3, 'padding_id': 0, 'settings': TextSettings(max_new_tokens=12, temperature=1.0)}
    there = torch.ones_like(prompts)
    with blocks.hearing(audio, mask):
        together = write_text(model, prompts, there, copies=5 // len(prompts), on_drop=blocks.keep, **options)
    assert len({len(row) for row in together}) > 2
    for row in range(5):
        prompt = prompts[row % len(prompts)][None]
        with blocks.hearing(audio[row : row + 1], mask[row : row + 1]):
            assert write_text(model, prompt, torch.ones_like(prompt), **options) == [together[row]]
    with pytest.raises(RuntimeError, match='inside hearing'):
        blocks.keep(torch.tensor([0]))


def test_models_that_keep_more_than_keys_and_values_are_not_asked_to_read_once():
    from transformers import LlamaConfig, MambaConfig

    assert reads_one_for_many(SimpleNamespace(config=LlamaConfig(num_hidden_layers=2)))
    assert not reads_one_for_many(SimpleNamespace(config=MambaConfig(num_hidden_layers=2)))


@torch.no_grad()
def test_generation_of_the_library_works():
    model, blocks = hearing_model()
    audio, mask, ids = inputs()
    options = {'max_new_tokens': 4, 'do_sample': False, 'pad_token_id': 0}
    with blocks.hearing(audio, mask):
        cached = model.generate(ids, use_cache=True, **options)
        assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
        beams = model.generate(ids, num_beams=2, **options)
    assert beams.shape[0] == 2


def test_only_layers_that_are_named_hear():
    model, blocks = hearing_model(layers=(1,))
    audio, mask, ids = inputs()
    states = []
    for layer in decoder_layers(model):
        layer.register_forward_hook(lambda layer, given, state: states.append(state.detach()))
    with torch.no_grad():
        model(ids)
        with blocks.hearing(audio, mask):
            model(ids)
    assert torch.equal(states[0], states[3])
    assert not torch.allclose(states[1], states[4])


def test_gradient_reaches_blocks_through_a_frozen_model():
    model, blocks = hearing_model()
    model.requires_grad_(False)
    audio, mask, ids = inputs()
    with blocks.hearing(audio, mask):
        model(ids).logits.square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in blocks.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def test_a_copy_hears_by_itself():
    model, blocks = hearing_model()
    pair = copy.deepcopy(nn.ModuleList([model, blocks]))
    audio, mask, ids = inputs()
    with blocks.hearing(audio, mask):
        heard = model(ids).logits
        deaf = pair[0](ids).logits
    with pair[1].hearing(audio, mask):
        assert torch.equal(pair[0](ids).logits, heard)
    assert not torch.allclose(deaf, heard, atol=1e-3)


def test_what_cannot_be_heard_is_refused():
    model, blocks = hearing_model()
    audio, mask, _ = inputs()
    mask[1] = False
    with pytest.raises(ValueError, match='item 1 of the batch has no audio'), blocks.hearing(audio, mask):
        pass
    with pytest.raises(ValueError, match='at layer 3, but the language model has the layers 0 to 2'):
        CrossAttentionLayers(dim=WIDTH, audio_dim=AUDIO, layers=[3]).attach(model)
    with pytest.raises(ValueError, match='no list of decoder layers'):
        blocks.attach(nn.Linear(1, 1))
    for layers in ([], [0, 0], [-1]):
        with pytest.raises(ValueError, match='layers must name decoder layers'):
            CrossAttentionLayers(dim=WIDTH, audio_dim=AUDIO, layers=layers)


@torch.no_grad()
def test_transform_ignores_masked_tokens_and_sees_order():
    torch.manual_seed(0)
    transform = AudioTransform(dim=128, num_layers=2, num_heads=2, inner_dim=32).eval()
    tokens = torch.randn(1, 6, 128)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]]).bool()
    expected = transform(tokens[:, :4], mask[:, :4])
    assert torch.allclose(transform(tokens, mask)[:, :4], expected, atol=1e-5)
    assert not torch.allclose(transform(tokens[:, [1, 0, 2, 3]], mask[:, :4])[:, [1, 0, 2, 3]], expected, atol=1e-3)


def test_attention_is_dropped_in_training_alone():
    torch.manual_seed(0)
    tokens, mask = torch.randn(1, 6, 64), torch.ones(1, 6, dtype=torch.bool)
    dropping = AudioTransform(dim=64, num_layers=1, num_heads=1, inner_dim=8, attention_dropout=0.5)
    kept = AudioTransform(dim=64, num_layers=1, num_heads=1, inner_dim=8, attention_dropout=0.0)
    kept.load_state_dict(dropping.state_dict())
    assert not torch.equal(dropping(tokens, mask), kept(tokens, mask))
    assert torch.equal(dropping.eval()(tokens, mask), kept(tokens, mask))


def test_heads_too_narrow_to_rotate_are_refused():
    with pytest.raises(ValueError, match='num_heads=3 must divide dim=64'):
        AudioTransform(dim=64, num_heads=3)
    with pytest.raises(ValueError, match='at least 32 dimensions'):
        AudioTransform(dim=64, num_heads=4)


def test_the_position_wise_network_may_be_narrower_than_the_text():
    widths = [
        CrossAttentionLayers(dim=WIDTH, audio_dim=AUDIO, layers=[0], ff_mult=mult)
        .blocks['0']
        .feed_forward[1]
        .out_features
        for mult in (4, 0.25)
    ]
    assert widths == [64, 4]
