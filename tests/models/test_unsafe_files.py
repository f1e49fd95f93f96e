"""Claims about model files from strangers: nothing in them runs, reads from this machine, or fills the disk."""

import io
import os
import pickle
import shutil
import tarfile

import pytest
import torch
import yaml

from nemo_audio_restore._nemo import UnsafeFileError, allow_targets, target_class
from nemo_audio_restore.models import archive
from nemo_audio_restore.models.archive import check_config


class _Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, 'w'))


@pytest.fixture
def folder(toy, tmp_path):
    """An unpacked good model."""
    toy.save_to(tmp_path / 'good.nemo')
    with tarfile.open(tmp_path / 'good.nemo') as packed:
        packed.extractall(tmp_path / 'model', filter='data')
    return tmp_path / 'model'


def _pack(folder, path, extra=()):
    with tarfile.open(path, 'w:') as packed:
        packed.add(folder, arcname='.')
        for member, data in extra:
            packed.addfile(member, io.BytesIO(data) if data is not None else None)
    return path


def _change_config(folder, **changes):
    path = folder / 'model_config.yaml'
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


@pytest.mark.parametrize('force', [False, True])
def test_pickle_in_the_weights_is_refused_whatever_the_environment_says(
    force, folder, toy_class, tmp_path, monkeypatch
):
    if force:
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    torch.save({'line.layer.weight': _Evil(tmp_path / 'ran')}, folder / 'model_weights.ckpt')
    with pytest.raises(UnsafeFileError, match='more than tensors'):
        toy_class.restore_from(_pack(folder, tmp_path / 'evil.nemo'))
    (folder / 'model_weights.ckpt').write_bytes(pickle.dumps(_Evil(tmp_path / 'ran')))
    with pytest.raises(UnsafeFileError, match='more than tensors'):
        toy_class.restore_from(folder)
    assert not (tmp_path / 'ran').exists()


def test_weights_that_are_no_named_tensors_are_refused(folder, toy_class):
    torch.save({'line.layer.weight': [1, 2]}, folder / 'model_weights.ckpt')
    with pytest.raises(UnsafeFileError, match='something else than named tensors'):
        toy_class.restore_from(folder)


@pytest.mark.parametrize('text', ['${oc.env:HOME}', 'x-${oc.env:HOME}', '${multiply:2,3}', '${line.width}'])
def test_interpolation_in_a_stored_config_is_refused(text, folder, toy_class, tmp_path):
    _change_config(folder, line={'width': 4, 'bias': text})
    for path in (folder, _pack(folder, tmp_path / 'evil.nemo')):
        with pytest.raises(UnsafeFileError, match='line.bias holds the forbidden interpolation'):
            toy_class.restore_from(path)
        with pytest.raises(UnsafeFileError, match='interpolation'):
            toy_class.restore_from(path, return_config=True)


@pytest.mark.parametrize(
    'path',
    ['/etc/hostname', '../../etc/hostname', '~/.ssh/id_rsa', 'C:\\secret.txt', 'nemo:/etc/hostname', 'a/../../b'],
)
def test_artifact_outside_the_archive_is_refused(path, folder, toy_class):
    _change_config(folder, notes_file=path)
    with pytest.raises(UnsafeFileError, match='notes_file points outside the model file'):
        toy_class.restore_from(folder)


def test_relative_artifact_path_is_not_read_from_the_working_directory(folder, toy_class, tmp_path, monkeypatch):
    (tmp_path / 'secret.txt').write_text('secret')
    monkeypatch.chdir(tmp_path)
    _change_config(folder, notes_file='secret.txt')
    with pytest.raises(UnsafeFileError, match='only files inside the archive'):
        toy_class.restore_from(folder)


def test_names_in_prose_are_no_paths():
    check_config({'card': {'text': '## Use\n/not/a/path ../x', 'summary': 'See a/b, or ..'}}, source='test')


def test_yaml_that_builds_objects_is_refused(folder, toy_class, tmp_path):
    (folder / 'model_config.yaml').write_text(f"line: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    with pytest.raises(UnsafeFileError, match='no plain YAML'):
        toy_class.restore_from(folder)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('target', ['os.system', 'subprocess.Popen', 'shutil.rmtree'])
def test_foreign_class_in_a_stored_config_is_refused(target, folder, toy_class):
    _change_config(folder, target=target)
    with pytest.raises(UnsafeFileError, match='may not be built'):
        toy_class.restore_from(folder)


def _member(name, kind=tarfile.REGTYPE, size=0, link=''):
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member


@pytest.mark.parametrize(
    ('member', 'complaint'),
    [
        (_member('../outside.txt'), 'outside its folder'),
        (_member('/tmp/outside.txt'), 'outside its folder'),
        (_member('link', tarfile.SYMTYPE, link='/etc/passwd'), 'link or device'),
        (_member('hard', tarfile.LNKTYPE, link='./model_config.yaml'), 'link or device'),
        (_member('pipe', tarfile.FIFOTYPE), 'link or device'),
    ],
)
def test_odd_archive_member_is_refused(member, complaint, folder, toy_class, tmp_path):
    evil = _pack(folder, tmp_path / 'evil.nemo', [(member, None)])
    with pytest.raises(UnsafeFileError, match=complaint):
        toy_class.restore_from(evil)


def test_archive_that_would_fill_the_disk_is_refused_before_it_is_unpacked(folder, toy_class, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, 'MAX_TOTAL_BYTES', 5000)
    evil = _pack(folder, tmp_path / 'evil.nemo', [(_member('big', size=10_000), b'0' * 10_000)])
    with pytest.raises(UnsafeFileError, match='more than 5000 bytes'):
        toy_class.restore_from(evil)
    monkeypatch.setattr(archive, 'MAX_MEMBERS', 2)
    with pytest.raises(UnsafeFileError, match='more than 2 files'):
        toy_class.restore_from(evil)


def test_compressed_archive_that_grows_without_end_is_refused(folder, toy_class, tmp_path):
    with tarfile.open(tmp_path / 'evil.nemo', 'w:gz') as packed:
        packed.add(folder, arcname='.')
        member = _member('zeros', size=20_000_000)
        packed.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(UnsafeFileError, match='would unpack to more than'):
        toy_class.restore_from(tmp_path / 'evil.nemo')


@pytest.mark.parametrize('content', [b'', b'not a tar', b'\x1f\x8b' + b'0' * 100])
def test_file_that_is_no_archive_is_refused_in_plain_words(content, toy_class, tmp_path):
    (tmp_path / 'x.nemo').write_bytes(content)
    with pytest.raises(UnsafeFileError, match='no .nemo file|no model'):
        toy_class.restore_from(tmp_path / 'x.nemo')


def test_truncated_archive_is_refused(folder, toy_class, tmp_path):
    whole = (tmp_path / 'good.nemo').read_bytes()
    (tmp_path / 'cut.nemo').write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UnsafeFileError):
        toy_class.restore_from(tmp_path / 'cut.nemo')


def test_folder_without_config_is_refused(toy_class, tmp_path):
    with pytest.raises(UnsafeFileError, match='holds no model_config.yaml'):
        toy_class.restore_from(tmp_path)


def test_only_modules_of_allowed_packages_may_be_named():
    assert target_class('nemo_audio_restore.processes.bridge.SchrodingerBridge').__name__ == 'SchrodingerBridge'
    for target in (
        'nemo_audio_restore.apps.cli.main',
        'nemo_audio_restore.models.archive.check_config',
        'nemo_audio_restore.processes.bridge.Gaussian',
        'nemo_audio_restore.processes.bridge.torch.hub.load',
        None,
    ):
        with pytest.raises(UnsafeFileError):
            target_class(target)


@pytest.mark.parametrize('prefix', ['', '.', 'os', 'my_package'])
def test_prefix_that_would_allow_other_packages_is_refused(prefix):
    with pytest.raises(ValueError, match='end with a dot'):
        allow_targets(prefix)


def test_training_checkpoint_with_a_pickle_is_refused(toy_class, tmp_path):
    torch.save({'state_dict': {}, 'hyper_parameters': _Evil(tmp_path / 'ran')}, tmp_path / 'evil.ckpt')
    with pytest.raises(UnsafeFileError, match='more than tensors'):
        toy_class.load_from_checkpoint(tmp_path / 'evil.ckpt')
    assert not (tmp_path / 'ran').exists()


def test_training_checkpoint_that_reads_the_environment_is_refused(toy, toy_class, tmp_path):
    config = {'line': {'width': 4, 'bias': '${oc.env:HOME}'}}
    torch.save({'state_dict': toy.state_dict(), 'hyper_parameters': config}, tmp_path / 'evil.ckpt')
    with pytest.raises(UnsafeFileError, match='interpolation'):
        toy_class.load_from_checkpoint(tmp_path / 'evil.ckpt')


def test_unpacked_good_model_is_restored(folder, toy, toy_class):
    shutil.copytree(folder, folder.parent / 'copy')
    restored = toy_class.restore_from(folder.parent / 'copy')
    assert torch.equal(restored.line.layer.weight, toy.line.layer.weight)
    assert os.getcwd() != str(folder.parent / 'copy')
