"""Convert, models, evaluate, and what help costs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from fake_restorer import noise_audio
from typer.testing import CliRunner

from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.apps.commands_convert import parse_split
from nemo_audio_restore.apps.inputs import UsageError

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


def test_help_imports_neither_torch_nor_nemo(repository):
    program = (
        'import sys\n'
        'from typer.testing import CliRunner\n'
        'from nemo_audio_restore.apps.cli import app\n'
        'for command in ([], ["restore"], ["demo"], ["convert", "a2sb"], ["evaluate"], ["models"],\n'
        '                ["encode"], ["decode"], ["tokens"]):\n'
        '    assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0, command\n'
        'loaded = {"torch", "nemo", "lightning", "numpy", "soundfile", "scipy"} & set(sys.modules)\n'
        'assert not loaded, loaded\n'
    )
    subprocess.run([sys.executable, '-c', program], check=True, cwd=repository)


def test_the_list_of_models_names_sizes_and_licences():
    result = run('models', 'list')
    assert result.exit_code == 0 and 'a2sb_44k_small' in result.stdout and 'Noncommercial' in result.stdout
    entry = json.loads(run('models', 'info', 'a2sb_44k_small', '--json').stdout)
    assert entry['sample_rate'] == 44100 and entry['licence'] == 'apache-2.0'
    assert 'sample_rate: 44100' in run('models', 'info', 'a2sb_44k_small').stdout
    wrong = run('models', 'info', 'a2sb_45k')
    assert wrong.exit_code == 2 and 'a2sb_44k_small' in wrong.stderr


def test_splits_are_ranges_with_a_file():
    span, path = parse_split('0.5:1=some folder/high=2.ckpt')
    assert span == (0.5, 1.0) and str(path) == 'some folder/high=2.ckpt'
    for wrong in ('low.ckpt', '0:0.5', '0:0.5=', 'a:b=low.ckpt', '0.5=low.ckpt'):
        with pytest.raises(UsageError, match='FROM:TO=FILE'):
            parse_split(wrong)


def test_converting_nonsense_ends_in_one_sentence(tmp_path):
    checkpoint = tmp_path / 'low.ckpt'
    checkpoint.write_text('no tensors here')
    for arguments, code, message in (
        ((f'0:1={checkpoint}', '-o', tmp_path / 'a.zip'), 2, '.nemo'),
        ((f'0:1={tmp_path / "none.ckpt"}', '-o', tmp_path / 'a.nemo'), 2, 'does not exist'),
        ((f'0:0.5={checkpoint}', '-o', tmp_path / 'a.nemo'), 1, ''),
        ((f'0:1={checkpoint}', '-o', tmp_path / 'a.nemo'), 1, 'low.ckpt'),
    ):
        result = run('convert', 'a2sb', '-q', '--split', *arguments)
        assert result.exit_code == code and message in result.stderr, result.stderr
        assert 'Traceback' not in result.stderr and result.exception.__class__ is SystemExit
    assert [path.name for path in tmp_path.iterdir()] == ['low.ckpt']


def test_evaluate_compares_two_files_and_writes_a_table(tmp_path):
    audio = noise_audio(1.0)
    soundfile.write(tmp_path / 'ref.wav', audio.T, 44100)
    soundfile.write(tmp_path / 'est.wav', 0.5 * audio.T, 44100)
    result = run('evaluate', tmp_path / 'ref.wav', tmp_path / 'est.wav', '--fast', '--json', '-o', tmp_path / 't.csv')
    assert result.exit_code == 0, result.stderr
    (scores,) = json.loads(result.stdout)
    assert scores['lsd'] == pytest.approx(2 * np.log10(2), abs=0.01)
    assert (tmp_path / 't.csv').read_text().startswith('file,lsd')
    again = run('evaluate', tmp_path / 'ref.wav', tmp_path / 'est.wav', '-o', tmp_path / 't.csv')
    assert again.exit_code == 2 and 'exists' in again.stderr
    missing = run('evaluate', tmp_path / 'ref.wav', tmp_path / 'none.wav')
    assert missing.exit_code == 1 and 'does not exist' in missing.stderr


def test_converting_a_published_generator_says_what_is_missing_before_it_reads_anything(tmp_path):
    weights, folder = tmp_path / 'model.safetensors', tmp_path / 'diffusers'
    weights.write_bytes(b'12345678')
    folder.mkdir()
    for arguments, code, message in (
        (('--weights', weights, '-o', tmp_path / 'a.nemo'), 2, 'give --config'),
        (
            ('--weights', weights, '--config', tmp_path / 'c.json', '-o', tmp_path / 'a.nemo'),
            2,
            'c.json does not exist',
        ),
        (('--weights', folder, '-o', tmp_path / 'a.zip'), 2, 'must end in .nemo'),
        (('--weights', folder, '-o', tmp_path / 'a.nemo'), 1, 'lacks transformer'),
    ):
        result = run('convert', 'stable-audio', '-q', *arguments)
        assert result.exit_code == code and message in result.stderr, result.stderr
    assert not (tmp_path / 'a.nemo').exists()


@pytest.mark.needs_fixtures
def test_published_generator_becomes_a_file(reference_arrays, tmp_path):
    folder = reference_arrays / 'stable_audio' / 'e3_rf_pipeline'
    output = tmp_path / 'small.nemo'
    arguments = ('--config', folder / 'model_config.json', '--weights', folder / 'model.safetensors', '-o', output)
    result = run('convert', 'stable-audio', *arguments)
    assert result.exit_code == 0 and result.stdout.strip() == str(output), result.stderr
    assert run('convert', 'stable-audio', *arguments).exit_code == 2
    assert run('convert', 'stable-audio', *arguments, '--overwrite').exit_code == 0
