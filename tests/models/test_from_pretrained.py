"""Claims about the ways to name a model."""

import pytest
import torch
from huggingface_hub import constants

from nemo_audio_restore._nemo import PretrainedModelInfo
from nemo_audio_restore.checkpoints import registry


@pytest.fixture
def saved(toy, tmp_path):
    toy.save_to(tmp_path / 'toy.nemo')
    return tmp_path / 'toy.nemo'


def _is(model, toy):
    return torch.equal(model.line.layer.weight, toy.line.layer.weight) and not model.training


def _entry(location, how_to_get=''):
    return registry.ModelEntry(
        name='toy_44k',
        model_class='Toy',
        task='drawing',
        description='A line.',
        location=location,
        licence='apache-2.0',
        sample_rate=44100,
        size_mb=0.1,
        how_to_get=how_to_get,
    )


def test_local_file_folder_and_file_address_are_restored(saved, toy, toy_class, tmp_path):
    connector = toy._save_restore_connector
    (tmp_path / 'folder').mkdir()
    connector.pack_nemo_file = False
    toy.save_to(tmp_path / 'folder' / 'toy.nemo')
    for name in (saved, str(saved), tmp_path / 'folder', saved.as_uri()):
        assert _is(toy_class.from_pretrained(name), toy)


def test_file_in_the_working_directory_is_found_by_its_name(saved, toy, toy_class, monkeypatch):
    monkeypatch.chdir(saved.parent)
    assert _is(toy_class.from_pretrained('toy.nemo'), toy)


def test_shipped_name_is_restored_from_the_package_and_listed(saved, toy, toy_class, monkeypatch):
    monkeypatch.setattr(registry, 'PRETRAINED_FOLDER', saved.parent)
    monkeypatch.setattr(registry, '_MODELS', (_entry('package://toy.nemo'),))
    assert _is(toy_class.from_pretrained('toy_44k'), toy)
    assert toy_class.from_pretrained('toy_44k', return_model_file=True) == str(saved)
    (info,) = toy_class.list_available_models()
    assert info.pretrained_model_name == 'toy_44k' and info.class_ is toy_class


def test_file_entry_of_a_subclass_is_restored(saved, toy, toy_class):
    class Listed(toy_class):
        @classmethod
        def list_available_models(cls):
            return [PretrainedModelInfo('my_toy', 'Mine.', saved.as_uri(), cls)]

    assert _is(Listed.from_pretrained('my_toy'), toy)


def test_weights_that_must_be_converted_first_say_how(toy_class, monkeypatch):
    monkeypatch.setattr(registry, '_MODELS', (_entry('hf://x/y', how_to_get='Run `audio-restore convert`.'),))
    with pytest.raises(FileNotFoundError, match='audio-restore convert'):
        toy_class.from_pretrained('toy_44k')
    assert toy_class.list_available_models() == []


def test_cached_hub_file_needs_no_network(saved, toy, toy_class, tmp_path, monkeypatch):
    commit = 'a' * 40
    repository = tmp_path / 'hub' / 'models--me--toy'
    (repository / 'snapshots' / commit).mkdir(parents=True)
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text(commit)
    saved.rename(repository / 'snapshots' / commit / 'toy.nemo')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert _is(toy_class.from_pretrained('me/toy'), toy)


def test_uncached_hub_name_without_network_says_what_is_missing(toy_class, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match='me/toy is no local file, is not in the cache'):
        toy_class.from_pretrained('me/toy')


@pytest.mark.parametrize('name', ['toy_45k', 'missing.nemo', './missing.nemo', 'file:///missing.nemo'])
def test_name_of_nothing_is_an_error_in_plain_words(name, toy_class):
    with pytest.raises(FileNotFoundError, match='missing.nemo|no model of this kind is called'):
        toy_class.from_pretrained(name)


def test_registry_names_are_unique_and_their_facts_complete():
    models = registry.list_models()
    assert len({entry.name for entry in models}) == len(models) > 0
    for entry in models:
        assert entry.location.split('://')[0] in ('package', 'hf') and entry.licence and entry.size_mb > 0
        assert entry.path is None or entry.path.suffix == '.nemo'
