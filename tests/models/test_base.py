"""Claims about saving and restoring models."""

import os
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from nemo_audio_restore._nemo import UnsafeFileError
from nemo_audio_restore.models.blocks import ConfigError


def _same_weights(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def _stored_config(path):
    with tarfile.open(path) as archive:
        return yaml.safe_load(archive.extractfile('./model_config.yaml').read())


def test_saved_model_comes_back_identical_and_in_evaluation_mode(toy, toy_class, tmp_path):
    toy.train()
    toy.save_to(tmp_path / 'toy.nemo')
    restored = toy_class.restore_from(tmp_path / 'toy.nemo')
    assert type(restored) is toy_class and _same_weights(toy, restored)
    assert not any(module.training for module in restored.modules())


def test_file_of_another_class_is_refused_and_names_the_right_one(toy, toy_classes, tmp_path):
    toy.save_to(tmp_path / 'toy.nemo')
    with pytest.raises(TypeError, match='holds a Toy, not a Unrelated'):
        toy_classes['Unrelated'].restore_from(tmp_path / 'toy.nemo')


def test_subclass_and_base_class_both_restore_a_file(toy, toy_classes, tmp_path):
    from nemo_audio_restore.models.base import BaseModel

    toy.save_to(tmp_path / 'toy.nemo')
    assert type(toy_classes['OtherToy'].restore_from(tmp_path / 'toy.nemo')) is toy_classes['OtherToy']
    assert type(BaseModel.restore_from(tmp_path / 'toy.nemo')) is toy_classes['Toy']


def test_return_config_gives_the_stored_config(toy, toy_class, tmp_path):
    toy.save_to(tmp_path / 'toy.nemo')
    assert toy_class.restore_from(tmp_path / 'toy.nemo', return_config=True).line.width == 4


def test_half_precision_halves_matrices_only_and_restores_to_float32(toy, toy_class, tmp_path):
    toy.save_to(tmp_path / 'half.nemo', half_precision=True)
    with tarfile.open(tmp_path / 'half.nemo') as archive:
        stored = torch.load(archive.extractfile('./model_weights.ckpt'), weights_only=True)
    assert stored['line.layer.weight'].dtype == torch.float16 and stored['line.layer.bias'].dtype == torch.float32
    restored = toy_class.restore_from(tmp_path / 'half.nemo')
    assert restored.line.layer.weight.dtype == torch.float32
    assert torch.equal(restored.line.layer.weight, toy.line.layer.weight.half().float())
    toy.save_to(tmp_path / 'full.nemo')
    assert _same_weights(toy, toy_class.restore_from(tmp_path / 'full.nemo'))


def test_weight_too_large_for_half_precision_is_refused_and_nothing_is_left(toy, tmp_path):
    with torch.no_grad():
        toy.line.layer.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match='line.layer.weight.*half_precision=False'):
        toy.save_to(tmp_path / 'half.nemo', half_precision=True)
    assert list(tmp_path.iterdir()) == []


def test_broken_save_keeps_the_old_file_and_leaves_no_partial_one(toy, toy_class, tmp_path, monkeypatch):
    toy.save_to(tmp_path / 'toy.nemo')
    before = (tmp_path / 'toy.nemo').read_bytes()

    def full_disk(*_, **__):
        raise OSError('no space left on device')

    monkeypatch.setattr(tarfile.TarFile, 'add', full_disk)
    with pytest.raises(OSError, match='no space'):
        toy.save_to(tmp_path / 'toy.nemo')
    assert [path.name for path in tmp_path.iterdir()] == ['toy.nemo']
    assert (tmp_path / 'toy.nemo').read_bytes() == before


def test_dataset_paths_are_not_in_the_saved_config_but_stay_in_the_live_one(toy_class, toy_config, tmp_path):
    toy_config.train_ds = {'manifest_filepath': '/home/me/secret/train.jsonl'}
    toy = toy_class(toy_config)
    toy.save_to(tmp_path / 'toy.nemo')
    assert '/home/me' not in yaml.safe_dump(_stored_config(tmp_path / 'toy.nemo'))
    assert toy.cfg.train_ds.manifest_filepath == '/home/me/secret/train.jsonl'


def test_saved_config_names_the_version_of_this_package(toy, tmp_path):
    from nemo_audio_restore import __version__

    toy.save_to(tmp_path / 'toy.nemo')
    assert _stored_config(tmp_path / 'toy.nemo')['package_version'] == __version__


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'lines': {}}, "unknown key 'lines' in the model config. Did you mean 'line'.*Allowed: card, line"),
        ({'line': {'widht': 4}}, "unknown key 'widht' in line .Line.. Did you mean 'width'.*Allowed: bias, width"),
        ({'line': {}}, 'line .Line. lacks width'),
        ({'card': {'licence': 'mit'}}, "unknown key 'licence' in card"),
    ],
)
def test_wrong_config_key_is_named_together_with_the_right_ones(toy_class, change, named):
    with pytest.raises(ConfigError, match=named):
        toy_class(OmegaConf.create({'line': {'width': 4}, **change}))


@pytest.mark.parametrize('target', ['os.system', 'builtins.eval', 'nemo_audio_restore.models.base.Path'])
def test_config_that_names_a_class_outside_the_allowed_packages_is_refused(toy_class, target):
    with pytest.raises(UnsafeFileError, match='may not be built from a config'):
        toy_class(OmegaConf.create({'line': {'_target_': target}}))


def test_artifact_is_packed_and_read_from_the_archive(toy_class, toy_config, tmp_path):
    (tmp_path / 'notes.txt').write_text('tuned by ear')
    toy_config.notes_file = str(tmp_path / 'notes.txt')
    toy_class(toy_config).save_to(tmp_path / 'toy.nemo')
    os.remove(tmp_path / 'notes.txt')
    restored = toy_class.restore_from(tmp_path / 'toy.nemo')
    assert restored.notes == 'tuned by ear'
    restored.save_to(tmp_path / 'again.nemo')
    assert toy_class.restore_from(tmp_path / 'again.nemo').notes == 'tuned by ear'


def test_model_that_nobody_could_restore_is_not_saved(toy, tmp_path):
    from omegaconf import open_dict

    with open_dict(toy.cfg):
        toy.cfg.notes_file = '/etc/hostname'
    with pytest.raises(UnsafeFileError, match='notes_file points outside'):
        toy.save_to(tmp_path / 'toy.nemo')
    assert list(tmp_path.iterdir()) == []


def test_failed_restore_does_not_make_later_models_skip_their_data(toy, toy_class, toy_config, tmp_path):
    toy.save_to(tmp_path / 'toy.nemo')
    other = OmegaConf.create({'line': {'width': 5}})
    with pytest.raises(RuntimeError, match='size mismatch'):
        toy_class.restore_from(tmp_path / 'toy.nemo', override_config_path=other)
    toy_config.train_ds = {}
    assert toy_class(toy_config).train_dataloader() is not None


def test_model_card_states_the_configured_licence_and_never_nemos_default(toy_class, toy_config):
    unstated = toy_class(toy_config).generate_model_card()
    header = yaml.safe_load(unstated.split('---')[1])
    assert header['license'] == 'other' and header['library_name'] == 'nemo'
    assert 'cc-by' not in unstated and 'not stated' in unstated
    toy_config.card = {'license': 'apache-2.0', 'summary': 'Draws a line.', 'datasets': ['freecol (GPL-2)']}
    card = toy_class(toy_config).generate_model_card(template_kwargs={'model_name': 'Toy One', 'repo_id': 'me/toy'})
    assert yaml.safe_load(card.split('---')[1])['license'] == 'apache-2.0'
    for text in ('# Toy One', 'Draws a line.', "from_pretrained('me/toy')", 'freecol (GPL-2)', '20 parameters'):
        assert text in card


def test_unknown_licence_and_card_template_are_refused(toy, toy_class, toy_config):
    toy_config.card = {'license': 'free-for-all'}
    with pytest.raises(ConfigError, match='free-for-all'):
        toy_class(toy_config)
    with pytest.raises(ValueError, match='template'):
        toy.generate_model_card(template='{card_data}')


def test_importing_nemo_through_the_package_prints_nothing():
    import subprocess
    import sys

    code = 'import nemo_audio_restore._nemo'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path.cwd())
    assert result.returncode == 0
    assert 'OneLogger' not in result.stderr and 'one_logger' not in result.stderr
