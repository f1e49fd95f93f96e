"""Claims about low-rank adapters of the language model inside an audio-language model."""

import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from nemo_audio_restore.models.audio_language import AudioLanguageModel
from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.text_decoding import TextSettings

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / 'checkpoints'))
from audio_language_stand_in import CLIPS, QUESTIONS, RATE, config_of, made, save_language_model  # noqa: E402

pytest.importorskip('peft', reason='LoRA needs peft (extra `language`)')
ASKED = {'prompts': QUESTIONS, 'audios': CLIPS, 'settings': TextSettings(max_new_tokens=5)}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return made(tmp_path_factory.mktemp('flamingo'))


@pytest.fixture
def foreign_weights(plain, tmp_path):
    """The block of a language model that is loaded from elsewhere."""
    save_language_model(tmp_path / 'whole')
    plain.language_model.save_pretrained(tmp_path / 'whole')
    return {**OmegaConf.to_container(plain.cfg.language_model), 'weights': str(tmp_path / 'whole')}


def batch_of(model):
    text, labels = model.questions.pairs(QUESTIONS, ['a dog', 'a cat'])
    windows = torch.stack([model.listening.windows(clip[:RATE], RATE) for clip in CLIPS])
    return {
        'windows': windows,
        'window_mask': torch.ones(2, 1, dtype=torch.bool),
        'input_ids': text.input_ids,
        'attention_mask': text.attention_mask,
        'labels': labels,
    }


def step(model):
    """One step of training; names of what it changed."""
    model.train()
    model.log = lambda *args, **options: None
    model.setup_optimizer_param_groups()
    (group,) = model._optimizer_param_groups
    assert all(parameter.requires_grad for parameter in group['params'])
    language = model.language_model.state_dict()
    before = {name: tensor.clone() for name, tensor in {**model.state_dict(), **language}.items()}
    optimizer = torch.optim.SGD(group['params'], lr=0.01)
    for _ in range(2):  # the second matrix of an adapter begins at zero, so the first has no gradient yet
        optimizer.zero_grad()
        model.training_step(batch_of(model), 0).backward()
        optimizer.step()
    model.eval()
    after = {**model.state_dict(), **model.language_model.state_dict()}
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_adapters_and_small_parts_learn_and_nothing_else(plain):
    model = AudioLanguageModel(config_of(plain, lora={'rank': 2}, training={'trained': ['cross_attention']}))
    model.load_state_dict(plain.state_dict())  # of a model without adapters
    assert model.eval().generate(**ASKED) == plain.generate(**ASKED)
    changed = step(model)
    assert all('.lora_' in name or name.startswith('cross_attention') for name in changed)
    adapted = {name.split('.lora_')[0] for name in changed if '.lora_' in name and name.startswith('language.')}
    assert len(adapted) == 4 * model.language.num_layers  # query, key, value and output of every layer


def test_dropout_of_adapters_acts_in_training_alone(plain):
    model = AudioLanguageModel(config_of(plain, lora={'rank': 2, 'dropout': 0.5}))
    dropouts = [module for name, module in model.named_modules() if name.endswith('lora_dropout.default')]
    model.train()
    assert dropouts and all(module.training for module in dropouts)
    assert not model.language_model.training
    model.eval()
    assert not any(module.training for module in dropouts)


def test_feed_forward_layers_are_adapted_too_where_asked_for(plain):
    model = AudioLanguageModel(config_of(plain, lora={'rank': 1, 'feed_forward': True}))
    assert any('mlp.up_proj.lora_A' in name for name in model.state_dict())


def test_adapters_are_saved_with_the_model_and_merged(plain, tmp_path):
    model = AudioLanguageModel(config_of(plain, lora={'rank': 2}))
    model.load_state_dict(plain.state_dict())
    step(model)
    said = model.generate(**ASKED)
    model.save_to(tmp_path / 'lora.nemo')
    restored = AudioLanguageModel.restore_from(tmp_path / 'lora.nemo')
    assert restored.has_lora and restored.generate(**ASKED) == said
    batch = batch_of(restored)
    with torch.no_grad():
        expected = restored._logits(batch)
        restored.set_lora_strength(0.0)
        assert not torch.allclose(restored._logits(batch), expected, atol=1e-4)
        restored.set_lora_strength(1.0)
        restored.merge_lora()
        assert torch.allclose(restored._logits(batch), expected, atol=1e-4)
    assert not restored.has_lora and set(restored.state_dict()) == set(plain.state_dict())
    learning = {name.split('.')[0] for name, parameter in restored.named_parameters() if parameter.requires_grad}
    assert learning == {'audio_transform', 'cross_attention'}


def test_adapters_of_a_language_model_from_elsewhere_are_all_of_it_that_is_saved(plain, foreign_weights):
    lora = {'rank': 2}
    model = AudioLanguageModel(config_of(plain, language_model=foreign_weights, lora=lora))
    kept = {name: tensor for name, tensor in plain.state_dict().items() if not name.startswith('language')}
    model.load_state_dict(kept)
    assert any(name.startswith('language_adapters') for name in step(model))
    of_language = [name for name in model.state_dict() if name.startswith('language')]
    assert of_language and all('language_adapters' in name for name in of_language)
    again = AudioLanguageModel(config_of(plain, language_model=foreign_weights, lora=lora))
    again.load_state_dict(model.state_dict())
    batch = batch_of(model)
    with torch.no_grad():
        assert torch.equal(again.eval()._logits(batch), model.eval()._logits(batch))
    with pytest.raises(ConfigError, match='merged adapters would be lost'):
        model.merge_lora()


def test_adapters_and_a_trained_language_model_exclude_each_other(plain):
    with pytest.raises(ConfigError, match='with adapters its own weights are frozen'):
        AudioLanguageModel(config_of(plain, lora={'rank': 2}, training={'trained': ['language_model']}))
