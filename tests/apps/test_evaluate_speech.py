"""``audio-restore evaluate --speech --language``."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_audio_restore.apps import commands_evaluate
from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.evaluation.report import FileScores, to_markdown
from nemo_audio_restore.evaluation.speech_report import Recogniser

RATE = 22050


def run(*arguments):
    result = CliRunner().invoke(app, ['evaluate', *map(str, arguments), '--fast', '-q', '--json'])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def folders(tmp_path):
    """Originals, and what a codec made of them: the same, 20 ms late."""
    late = round(0.02 * RATE)
    for name in ('ref', 'est'):
        (tmp_path / name).mkdir()
    for index in range(2):
        noise = np.random.default_rng(index).normal(0, 0.1, RATE)
        audio = noise * np.repeat(np.random.default_rng(9 + index).random(30), RATE // 30)
        soundfile.write(tmp_path / 'ref' / f'{index}.wav', audio, RATE, subtype='FLOAT')
        coded = np.concatenate([np.zeros(late), audio])[:RATE]
        soundfile.write(tmp_path / 'est' / f'{index}.wav', coded, RATE, subtype='FLOAT')
    return tmp_path / 'ref', tmp_path / 'est'


def test_a_delay_of_all_files_is_removed_before_they_are_scored(folders):
    for package in ('pystoi', 'pesq', 'speechmos', 'onnxruntime'):
        pytest.importorskip(package)
    scores = run(*folders, '--speech')
    for one in scores:
        assert one['mel_distance'] < 0.01 and one['stft_distance'] < 0.01 and one['estoi'] > 0.95
        assert one['pesq_wb'] > 3 and 0.5 < one['dnsmos'] < 5  # noise has the lowest opinion score
        assert '20.0 ms' in one['notes'][0]
    (unaligned, _) = run(*folders)
    assert unaligned['si_sdr_db'] < 0 < scores[0]['si_sdr_db'] and unaligned['notes'] == []


def test_error_rates_are_taken_against_the_text_beside_the_original(folders, monkeypatch):
    def recogniser(language):
        assert language == 'cs'
        return Recogniser(lambda recordings: ['abcd', 'abxx'], language)

    monkeypatch.setattr(commands_evaluate, '_recogniser', recogniser)
    (folders[0] / '0.txt').write_text('Abcz.')
    written, guessed = run(*folders, '--language', 'cs')
    assert (written['cer'], written['cer_original']) == (0.5, 0.25)
    assert guessed['cer'] == 0.5 and guessed['cer_original'] is None
    assert any('no .txt' in note for note in guessed['notes'])


def test_files_without_a_score_do_not_count_in_the_mean():
    table = to_markdown([FileScores('a', {'cer': float('nan')}), FileScores('b', {'cer': 0.25})])
    assert '| **mean** | 0.250 |' in table
