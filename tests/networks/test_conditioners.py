import warnings

import numpy as np
import pytest
import torch

from nemo_audio_restore.checkpoints.tensor_files import read_tensors
from nemo_audio_restore.networks.condition_builder import ConditionBuilder
from nemo_audio_restore.networks.conditioners import (
    IntegerConditioner,
    NumberConditioner,
    TextConditioner,
    TextCutWarning,
    TokenFeatures,
)


def tiny_t5():
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=20, d_model=8, d_ff=16, d_kv=4, num_layers=2, num_heads=2, dropout_rate=0.0)
    return T5EncoderModel(config)


def tokens(*, batch=2, length=6):
    ids = torch.randint(2, 20, (batch, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, 4:] = 0
    return ids, mask


def test_number_changes_its_token_continuously_and_stops_at_the_ends_of_the_range():
    conditioner = NumberConditioner(dim=5, minimum=0, maximum=100)
    with torch.no_grad():
        low, lowest, middle, near = conditioner(torch.tensor([-3.0, 0.0, 50.0, 50.01])).features
        high, highest = conditioner(torch.tensor([100.0, 1e9])).features
    torch.testing.assert_close(low, lowest)
    torch.testing.assert_close(high, highest)
    assert 0 < (middle - near).abs().max() < 0.1
    assert torch.equal(conditioner(torch.tensor([1.0, 2.0])).mask, torch.ones(2, 1))


def test_number_is_measured_against_its_range():
    wide = NumberConditioner(dim=5, minimum=0, maximum=200)
    narrow = NumberConditioner(dim=5, minimum=-10, maximum=90)
    narrow.load_state_dict(wide.state_dict())
    torch.testing.assert_close(wide(torch.tensor([50.0])).features, narrow(torch.tensor([15.0])).features)


def test_integer_picks_a_row_counted_from_the_minimum():
    conditioner = IntegerConditioner(dim=5, minimum=10, maximum=12)
    table = conditioner.int_embedder.weight
    found = conditioner(torch.tensor([3, 10, 11, 12, 99])).features[:, 0]
    assert torch.equal(found, table[[0, 0, 1, 2, 2]])
    assert torch.equal(conditioner(torch.tensor([10.6])).features[0, 0], table[1])


def test_text_encoder_moves_with_the_conditioner_but_is_neither_state_nor_trained():
    conditioner = TextConditioner(encoder=tiny_t5(), dim=3)
    assert set(conditioner.state_dict()) == {'proj_out.weight', 'proj_out.bias'}
    assert sum(parameter.numel() for parameter in conditioner.parameters()) == 3 * 8 + 3
    conditioner.to(torch.float64)
    assert next(conditioner.encoder.parameters()).dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in conditioner.encoder.parameters())
    assert conditioner.dim == 3
    assert TextConditioner(encoder=tiny_t5()).dim == 8


def test_padding_is_zeroed_unless_it_is_to_stay():
    encoder = tiny_t5()
    ids, mask = tokens()
    zeroed = TextConditioner(encoder=encoder)(ids, mask)
    kept = TextConditioner(encoder=encoder, zero_padding=False)(ids, mask)
    assert zeroed.features[0, 4:].abs().sum() == 0
    assert kept.features[0, 4:].abs().sum() > 0
    assert torch.equal(zeroed.features[mask > 0], kept.features[mask > 0])
    assert torch.equal(zeroed.mask, mask)


def test_layer_is_the_one_asked_for():
    encoder = tiny_t5()
    ids, mask = tokens()
    states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    before = TextConditioner(encoder=encoder, layer=-2, zero_padding=False)(ids, mask).features
    torch.testing.assert_close(before, states[-2])


def test_without_a_tokenizer_texts_are_refused():
    with pytest.raises(ValueError, match='no tokenizer'):
        TextConditioner(encoder=tiny_t5()).encode(['rain'])


def test_a_text_with_more_tokens_than_are_read_is_cut_with_a_warning():
    class Words:
        def __call__(self, texts, padding=None, truncation=False, max_length=None, return_tensors=None, verbose=True):
            if not truncation:
                return {'input_ids': texts.split()}
            counts = [min(len(text.split()), max_length) for text in texts]
            mask = torch.tensor([[1] * count + [0] * (max_length - count) for count in counts])
            return {'input_ids': mask, 'attention_mask': mask}

    text = TextConditioner(encoder=tiny_t5(), tokenizer=Words(), max_length=3)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        text.encode(['rain on leaves', 'rain'])
    with pytest.warns(TextCutWarning, match=r'"rain on the old tin roof" has 6 tokens, the model reads the first 3'):
        text.encode(['rain', 'rain on the old tin roof'])


def builder(**changes):
    numbers = {name: NumberConditioner(dim=4) for name in ('seconds_start', 'seconds_total')}
    arguments = {
        'conditioners': numbers,
        'cross_attention': ('prompt', 'seconds_start', 'seconds_total'),
        'summary': ('seconds_start', 'seconds_total'),
        **changes,
    }
    return ConditionBuilder(**arguments)


def values(batch=2):
    return {
        'prompt': (torch.randn(batch, 3, 4), torch.tensor([[1, 1, 0]] * batch)),
        'seconds_start': [0.0] * batch,
        'seconds_total': torch.full((batch,), 30.0),
    }


def test_parts_go_where_the_network_reads_them_in_the_order_of_the_names():
    made, given = builder(), values()
    condition = made(given)
    start = made.conditioners['seconds_start'](torch.zeros(2)).features
    total = made.conditioners['seconds_total'](torch.full((2,), 30.0)).features
    torch.testing.assert_close(condition.tokens, torch.cat([given['prompt'][0], start, total], dim=1))
    assert condition.tokens_mask[0].tolist() == [1, 1, 0, 1, 1]
    torch.testing.assert_close(condition.summary, torch.cat([start, total], dim=-1)[:, 0])
    assert condition.prepended is None
    made = builder(summary=(), prepended=('seconds_total',), cross_attention=('prompt', 'seconds_start'))
    before, total = made(given), made.conditioners['seconds_total'](torch.full((2,), 30.0)).features
    torch.testing.assert_close(before.prepended, total)
    assert before.summary is None
    assert before.tokens.shape[1] == 4


def test_token_features_and_pairs_mean_the_same():
    made, given = builder(), values()
    packed = {**given, 'prompt': TokenFeatures(*given['prompt'])}
    assert torch.equal(made(given).tokens, made(packed).tokens)


def test_texts_go_through_their_encoder():
    class Words:
        def __call__(self, texts, padding, truncation, max_length, return_tensors):
            assert (padding, truncation, return_tensors) == ('max_length', True, 'pt')
            ids = torch.tensor([[len(text)] + [0] * (max_length - 1) for text in texts])
            return {'input_ids': ids, 'attention_mask': (ids > 0).long()}

    text = TextConditioner(encoder=tiny_t5(), tokenizer=Words(), max_length=5)
    made = ConditionBuilder(conditioners={'prompt': text}, cross_attention=('prompt',))
    condition = made({'prompt': ['rain', 'a storm']})
    assert condition.tokens.shape == (2, 5, 8)
    assert condition.tokens_mask.sum(1).tolist() == [1, 1]
    assert not torch.equal(condition.tokens[0], condition.tokens[1])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'seconds_total': None}, 'missing: seconds_total, unknown: none'),
        ({'tempo': [120]}, 'missing: none, unknown: tempo'),
        ({'prompt': ['rain', 'wind']}, 'no conditioner for prompt'),
        ({'seconds_start': [0.0]}, 'as many items; got prompt 2, seconds_start 1'),
    ],
)
def test_what_is_missing_or_wrong_in_a_condition_is_named(change, message):
    given = {name: value for name, value in {**values(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        builder()(given)


def test_summary_takes_single_tokens_only():
    made = builder(summary=('prompt',))
    with pytest.raises(ValueError, match='prompt is part of the summary and must be one token; got 3'):
        made(values())


def test_empty_ranges_are_refused():
    for conditioner in (NumberConditioner, IntegerConditioner):
        with pytest.raises(ValueError, match='minimum must be below maximum'):
            conditioner(dim=4, minimum=5, maximum=5)


def arrays_of(folder):
    return {name: torch.from_numpy(value) for name, value in np.load(folder / 'io.npz').items()}


def same(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, atol=tolerance * expected.abs().max().item(), rtol=0)


@pytest.mark.needs_fixtures
def test_seconds_of_the_published_program(reference_arrays):
    folder = reference_arrays / 'stable_audio' / 'd1_number'
    stored, arrays = read_tensors(folder / 'model.safetensors'), arrays_of(folder)
    for name in ('seconds_start', 'seconds_total'):
        conditioner = NumberConditioner(dim=768)
        prefix = f'conditioners.{name}.'
        conditioner.load_state_dict(
            {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}
        )
        seen = {}
        conditioner.embedder.embedding[0].register_forward_hook(
            lambda _module, inputs, out, seen=seen: seen.update(share=inputs[0], features=out)
        )
        made = conditioner(arrays[name])
        same(made.features, arrays[f'{name}_embed'])
        assert torch.equal(made.mask, arrays[f'{name}_mask'])
        if name == 'seconds_total':
            same(seen['share'], arrays['normalised'])
            same(seen['features'], arrays['fourier257'])


@pytest.mark.needs_fixtures
def test_t5_features_of_the_published_program(reference_arrays):
    from transformers import T5EncoderModel

    folder = reference_arrays / 'stable_audio' / 'd4_t5_text'
    arrays, encoder = arrays_of(folder), T5EncoderModel.from_pretrained(folder)
    made = TextConditioner(encoder=encoder)(arrays['input_ids'], arrays['attention_mask'])
    same(made.features, arrays['conditioner_out_fp32'])
    halved = TextConditioner(encoder=encoder.half())(arrays['input_ids'], arrays['attention_mask'])
    same(halved.features, arrays['conditioner_out_fp16_encoder'], tolerance=2e-3)
    assert halved.features.dtype == torch.float32
