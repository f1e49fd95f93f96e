"""Claims about writing text with a language model."""

import pytest
import torch

from nemo_audio_restore.models.text_decoding import TextSettings, answer_log_likelihoods, write_text

VOCABULARY, STOP, PADDING = 12, 1, 0


@pytest.fixture(scope='module')
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


PROMPTS = [[5, 6, 7], [8], [9, 3, 4, 2, 6]]


def batch(prompts):
    longest = max(map(len, prompts))
    ids = torch.tensor([[PADDING] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    return ids, mask


def write(model, prompts, on_token=None, **options):
    settings = TextSettings(**{'max_new_tokens': 6, **options})
    return write_text(model, *batch(prompts), stop_id=STOP, padding_id=PADDING, settings=settings, on_token=on_token)


def test_greedy_text_is_that_of_the_library(model):
    ids, mask = batch(PROMPTS[:1])
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=STOP)
    assert write(model, PROMPTS[:1])[0] == expected[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize('options', [{}, {'temperature': 1.0, 'seed': 3}, {'temperature': 0.7, 'top_k': 3}])
def test_batch_of_mixed_lengths_writes_what_single_runs_write(model, options):
    together = write(model, PROMPTS, **options)
    assert together == [write(model, [prompt], **options)[0] for prompt in PROMPTS]


def test_seed_decides_the_draws_and_the_global_generator_does_not(model):
    torch.manual_seed(1)
    first = write(model, PROMPTS, temperature=1.5, seed=1)
    torch.manual_seed(2)
    assert write(model, PROMPTS, temperature=1.5, seed=1) == first
    assert any(write(model, PROMPTS, temperature=1.5, seed=seed) != first for seed in (2, 3, 4))


def test_drawing_among_one_token_is_greedy(model):
    assert write(model, PROMPTS, temperature=2.0, top_k=1) == write(model, PROMPTS)
    assert write(model, PROMPTS, temperature=2.0, top_p=1e-6) == write(model, PROMPTS)
    assert write(model, PROMPTS, temperature=1e-4) == write(model, PROMPTS)


def test_text_ends_with_the_stop_token_or_at_its_limit(model):
    for row in write(model, PROMPTS, max_new_tokens=30, temperature=2.0):
        assert STOP not in row[:-1]
        assert row[-1] == STOP or len(row) == 30
    assert all(len(row) <= 2 for row in write(model, PROMPTS, max_new_tokens=2))


def test_no_token_comes_twice_where_that_is_forbidden(model):
    for prompt, row in zip(PROMPTS, write(model, PROMPTS, no_repeat_ngram=1), strict=True):
        assert len({*prompt, *row}) == len(prompt) + len(row)


def test_tokens_are_told_as_they_are_written(model):
    told = [[] for _ in PROMPTS]
    written = write(model, PROMPTS, on_token=lambda item, token: told[item].append(token))
    assert told == written


@pytest.mark.parametrize('options', [{'temperature': 1.0}, {'temperature': 2.0, 'seed': 1, 'no_repeat_ngram': 2}])
def test_items_that_have_ended_leave_the_batch_and_the_others_go_on_as_alone(model, options):
    prompts, options, told = [*PROMPTS, [2, 2, 4], [10, 11]], {'max_new_tokens': 12, **options}, []
    expected = write(model, prompts, **options)
    assert len({len(row) for row in expected}) > 2  # they end at different times
    computed, dropped = [], []
    hook = model.register_forward_pre_hook(
        lambda _, args, given: computed.append(len(given['input_ids'])), with_kwargs=True
    )
    found = write_text(
        model,
        *batch(prompts),
        stop_id=STOP,
        padding_id=PADDING,
        settings=TextSettings(**options),
        on_token=lambda item, token: told.append((item, token)),
        on_drop=lambda rest: dropped.append(len(rest)),
    )
    hook.remove()
    assert found == expected
    assert [[token for item, token in told if item == row] for row in range(len(prompts))] == expected
    going_on = [sum(len(row) > step for row in expected) for step in range(max(map(len, expected)))]
    assert computed == going_on
    assert dropped == [after for before, after in zip(going_on, going_on[1:], strict=False) if after < before]


def test_draws_follow_the_distribution(model):
    ids, mask = batch([PROMPTS[0]])
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits[0, -1].double().softmax(dim=0)
    counts = torch.zeros(VOCABULARY, dtype=torch.float64)
    for seed in range(300):
        counts[write(model, [PROMPTS[0]], max_new_tokens=1, temperature=1.0, seed=seed)[0][0]] += 1 / 300
    assert (counts - expected).abs().max() < 0.1


def test_likelihood_of_an_answer_is_the_product_over_its_tokens(model):
    answers = [[7, 8], [2], [4, 3], [5, 5]]
    ids = torch.tensor([row + [PADDING] * (2 - len(row)) for row in answers])
    mask = torch.tensor([[1] * len(row) + [0] * (2 - len(row)) for row in answers])
    found = answer_log_likelihoods(model, *batch(PROMPTS[:2]), ids, mask)
    expected = []
    for index, answer in enumerate(answers):
        question = PROMPTS[index // 2]  # two answers to each
        with torch.no_grad():
            steps = model(torch.tensor([question + answer])).logits[0].log_softmax(dim=-1)
        expected.append(sum(steps[len(question) - 1 + place, token] for place, token in enumerate(answer)))
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)
    single = answer_log_likelihoods(model, *batch(PROMPTS[:1]), ids[1:2, :1], mask[1:2, :1])
    assert torch.allclose(single, found[1:2], atol=1e-5)


@pytest.mark.parametrize(
    'options', [{'max_new_tokens': 0}, {'temperature': -1}, {'no_repeat_ngram': -1}, {'top_p': 0.0}, {'top_k': 0}]
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match='must be'):
        TextSettings(**options)
