"""The plain trainer of the small audio-language model: both stages learn, and a run goes on where it ended."""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from nemo_audio_restore.checkpoints.packaged_language import PACKAGED
from nemo_audio_restore.data.question_corpus import Fact, Known, save_recording, write_question_manifests
from nemo_audio_restore.data.question_text import QuestionFormat
from nemo_audio_restore.models.answer_trees import answer_tree

WIDTH = 16


@pytest.fixture(scope='module')
def script(repository: Path):
    spec = importlib.util.spec_from_file_location('language_plain', repository / 'examples/train_language_plain.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def language_model():
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {'vocab_size': 128, 'hidden_size': WIDTH, 'intermediate_size': 16, 'num_hidden_layers': 3}
    config = AutoConfig.for_model('llama', **sizes, num_attention_heads=2, num_key_value_heads=1)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def tokenizer():
    words = Tokenizer(models.WordLevel({'<unk>': 0, '<|endoftext|>': 1, 'cowbell': 2, 'cymbal': 3}, unk_token='<unk>'))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(list(QuestionFormat().tokens()))
    return words


@pytest.fixture
def run_folder(tmp_path, script, monkeypatch):
    """Low and high tones that are called drums, a tiny tower and a tiny language model."""
    monkeypatch.setattr(script, 'load_packaged_language_model', language_model)
    monkeypatch.setattr(script, 'load_packaged_tokenizer', tokenizer)
    times, recordings = np.arange(16000) / 16000, []
    for split in ('train', 'validation'):
        for index in range(8):
            label = ('cowbell', 'cymbal')[index % 2]
            name = f'{split}{index}'
            tone = 0.5 * np.sin(2 * np.pi * (300 + 3000 * (index % 2) + index) * times)
            save_recording(name, tone, 16000, tmp_path / 'audio')
            recordings.append(Known(name, split, (Fact('drum', label),), f'a {label}', 'here', 'CC0'))
    write_question_manifests(recordings, tmp_path / 'audio', tmp_path)
    tower = {'feature_dim': 32, 'window_s': 1.28, 'num_mels': 32, 'widths': [4, 4, 8, 8], 'depths': [1, 1, 1, 1]}
    config = {
        'audio_tower': {'_target_': 'nemo_audio_restore.networks.frame_tower.FrameTower', **tower},
        'listening': {'window_s': 1.28},
        'audio_transform': {'num_layers': 1, 'num_heads': 1, 'inner_dim': 8},
        'cross_attention': {'layers': [1, 2], 'num_heads': 2, 'head_dim': 8, 'ff_mult': 0.5},
        'language_model': {'config': {'hidden_size': WIDTH}, 'weights': PACKAGED},
        'tokenizer': {'eos_token': '<|endoftext|>'},
        'question': {'lettered_answers': False},
    }
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump({'model': config}))
    return tmp_path


def options(folder, **changes):
    settings = {'config': folder / 'config.yaml', 'data': folder, 'out': folder / 'run', 'minutes': 1000.0}
    settings |= {'facts_share': 0.5, 'max_steps': 30, 'ema_decay': 0.5, 'threads': 1, 'validation_minutes': 1000.0}
    settings |= {'lists': 2, 'texts_only': False}
    (folder / 'run').mkdir(exist_ok=True)
    return argparse.Namespace(**{**settings, **changes})


def log(folder):
    return [json.loads(line) for line in (folder / 'run/log.jsonl').read_text().splitlines()]


def test_both_stages_learn_and_an_ended_run_goes_on(run_folder, script, monkeypatch):
    monkeypatch.setattr(script.FactStage, 'batch_size', 8)
    monkeypatch.setattr(script.AnswerStage, 'batch_sizes', {'words': 8, 'yes or no': 8, 'options': 4})
    script.train(options(run_folder))
    facts, answers = log(run_folder)
    assert facts['stage'] == 'facts' and facts['loss'] < 1.6  # of a guess among 8 drums: 2.08
    assert answers['stage'] == 'answers' and answers['loss'] < 5.2  # of guesses among 128 words and 8 drums: 5.47
    state = torch.load(run_folder / 'run/last.pt', weights_only=True)
    gates = [value for name, value in state['listener'].items() if name.endswith('_gate')]
    assert all(gate.abs() > 0 for gate in gates)
    script.train(options(run_folder, max_steps=32))
    assert [row['step'] for row in log(run_folder)] == [30, 30, 32]
    # The tower that the first stage left is what answers are learned with.
    again = torch.load(run_folder / 'run/last.pt', weights_only=True)['listener']
    assert torch.equal(again['audio_tower.stem.weight'], state['listener']['audio_tower.stem.weight'])


def test_texts_that_were_read_beside_the_first_stage_are_not_read_again(run_folder, script, monkeypatch):
    script.train(options(run_folder, texts_only=True))
    assert (run_folder / 'run/texts.pt').exists() and not (run_folder / 'run/last.pt').exists()
    asked = []
    monkeypatch.setattr(script, 'answer_tree', lambda *parts: asked.append(parts) or answer_tree(*parts))
    monkeypatch.setattr(script.FactStage, 'batch_size', 2)
    monkeypatch.setattr(script.AnswerStage, 'batch_sizes', {'words': 2, 'yes or no': 2, 'options': 2})
    script.train(options(run_folder, max_steps=1))
    assert len(asked) == 1  # the question that is never trained


def test_what_was_computed_for_other_settings_is_not_used(run_folder, script, monkeypatch):
    script.train(options(run_folder, texts_only=True))
    config = yaml.safe_load((run_folder / 'config.yaml').read_text())
    config['model']['cross_attention']['layers'] = [2]
    (run_folder / 'config.yaml').write_text(yaml.safe_dump(config))
    asked = []
    monkeypatch.setattr(script, 'answer_tree', lambda *parts: asked.append(parts) or answer_tree(*parts))
    script.train(options(run_folder, texts_only=True))
    again = len(asked)
    script.train(options(run_folder, texts_only=True))
    assert again > 50 and len(asked) == again


def test_other_language_models_are_left_to_the_other_trainer(run_folder, script):
    config = yaml.safe_load((run_folder / 'config.yaml').read_text())
    config['model']['language_model']['weights'] = 'Qwen/Qwen2.5-0.5B'
    (run_folder / 'config.yaml').write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match=r'train\.py trains with any language model'):
        script.train(options(run_folder))
