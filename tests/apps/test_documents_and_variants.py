"""What ``restore`` writes besides the restored file, variants by seed, ``models pull`` and ``doctor``."""

import hashlib
import json

import numpy as np
import pytest
import soundfile
from fake_restorer import noise_audio
from typer.testing import CliRunner

from nemo_audio_restore import __version__
from nemo_audio_restore.apps import inputs, loading
from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.reporting import documents, environment

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'in' / 'tape.wav'
    path.parent.mkdir()
    soundfile.write(path, noise_audio(0.3).T, 44100)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_variant_has_its_seed_in_its_name_and_equals_that_seed_alone(tmp_path, fake_model, source):
    out = tmp_path / 'out'
    result = run('restore', source, '-o', out / 'a.wav', '--cutoff', 6000, '--seeds', 3, '--seed', 4)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(out / f'a.seed{seed}.wav') for seed in (4, 5, 6)]
    run('restore', source, '-o', out / 'alone.wav', '--cutoff', 6000, '--seed', 5)
    variants = [soundfile.read(out / name)[0] for name in ('a.seed4.wav', 'a.seed5.wav', 'alone.wav')]
    assert np.abs(variants[0] - variants[1]).max() > 1e-4
    np.testing.assert_array_equal(variants[1], variants[2])
    assert json.loads((out / 'a.seed5.restored.json').read_text())['report']['seed'] == 5
    assert fake_model.loads == 2


def test_variants_in_a_folder_need_the_seed_in_their_name(tmp_path, fake_model, source):
    folder, out = source.parent, tmp_path / 'out'
    result = run('restore', folder, '-o', out, '--cutoff', 6000, '--seeds', 2, '--no-sidecar')
    assert result.exit_code == 0 and names(out) == ['tape.restored.seed0.wav', 'tape.restored.seed1.wav']
    wrong = run('restore', folder, '-o', out, '--cutoff', 6000, '--seeds', 2, '--name', '{stem}.{ext}')
    assert wrong.exit_code == 2 and 'add {seed} to --name' in wrong.stderr


def test_a_name_template_and_a_single_output_file_contradict_each_other(tmp_path, fake_model, source):
    result = run('restore', source, '-o', tmp_path / 'a.wav', '--cutoff', 6000, '--name', '{stem}.{ext}')
    assert result.exit_code == 2 and '--name is for folders' in result.stderr


def test_provenance_is_written_unless_declined_picture_and_page_on_request(tmp_path, fake_model, source):
    plain, full, bare = (tmp_path / name for name in ('plain', 'full', 'bare'))
    run('restore', source, '-o', plain / 'a.wav', '--cutoff', 6000)
    result = run('restore', source, '-o', full / 'a.wav', '--cutoff', 6000, '--plot', '--report', '--json')
    run('restore', source, '-o', bare / 'a.wav', '--cutoff', 6000, '--no-sidecar')
    assert names(plain) == ['a.restored.json', 'a.wav'] and names(bare) == ['a.wav']
    assert names(full) == ['a.restored.html', 'a.restored.json', 'a.restored.png', 'a.wav']
    (file,) = json.loads(result.stdout)['files']
    assert [path.rsplit('.')[-1] for path in file['documents']] == ['json', 'png', 'html']
    record = json.loads((full / 'a.restored.json').read_text())
    assert record['model'] == {'name': 'a2sb_44k_small', 'device': 'cpu'} and record['settings']['steps'] == 2
    assert record['output']['sha256'] == hashlib.sha256((full / 'a.wav').read_bytes()).hexdigest()


def test_a_document_that_cannot_be_written_fails_the_file_but_keeps_the_audio(
    tmp_path, fake_model, source, monkeypatch
):
    def full(path, content):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(documents, 'write_whole', full)
    result = run('restore', source, '-o', tmp_path / 'out' / 'a.wav', '--cutoff', 6000)
    assert result.exit_code == 1 and 'a.wav is complete' in result.stderr and 'No space left' in result.stderr
    assert names(tmp_path / 'out') == ['a.wav'] and 'Traceback' not in result.stderr


def test_pull_prints_the_file_and_its_hash(tmp_path, monkeypatch):
    weights = tmp_path / 'small.nemo'
    weights.write_bytes(b'weights')
    asked = []

    def fetch(name, *, refresh):
        asked.append((name, refresh))
        return weights

    monkeypatch.setattr(loading, 'fetch_model', fetch)
    facts = json.loads(run('models', 'pull', 'ORG/small', '--refresh', '--json').stdout)
    assert facts['file'] == str(weights) and facts['sha256'] == hashlib.sha256(b'weights').hexdigest()
    assert asked == [('ORG/small', True)]
    assert f'file: {weights}' in run('models', 'pull', 'small').stdout


def test_pull_knows_the_models_of_every_class():
    facts = json.loads(run('models', 'pull', 'speech_codec_22k_small', '--json').stdout)
    assert facts['file'].endswith('speech_codec_22k_small.nemo')
    result = run('models', 'pull', 'audio_flamingo2_3b')
    assert result.exit_code == 1 and 'convert audio-flamingo2' in result.stderr
    assert 'Known names: a2sb_44k_small' in run('models', 'pull', 'nothing').stderr


def test_pull_of_what_cannot_be_had_ends_in_one_sentence(monkeypatch):
    def fetch(name, *, refresh):
        raise inputs.UsageError('ORG/none could not be fetched')

    monkeypatch.setattr(loading, 'fetch_model', fetch)
    result = run('models', 'pull', 'ORG/none')
    assert result.exit_code == 1 and result.stderr.strip() == 'error: ORG/none could not be fetched'


def test_doctor_says_what_to_paste_and_fails_where_something_is_wrong(monkeypatch):
    result = run('doctor')
    assert result.stdout.startswith('versions:') and __version__ in result.stdout and 'cpu' in result.stdout
    assert set(json.loads(run('doctor', '--json').stdout)) >= {'versions', 'machine', 'devices', 'audio', 'problems'}
    monkeypatch.setattr(environment, '_models', lambda problems: {})
    monkeypatch.setattr(environment, '_memory_gb', lambda: (8.0, 4.0))
    assert run('doctor').exit_code == 0
    monkeypatch.setattr(environment, '_memory_gb', lambda: (8.0, 0.5))
    broken = run('doctor')
    assert broken.exit_code == 1 and 'close other programs' in broken.stdout
