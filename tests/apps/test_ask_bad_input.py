"""``ask`` and ``caption`` with a real, tiny model and input that makes little sense: one sentence each."""

import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_audio_restore.apps import loading
from nemo_audio_restore.apps.cli import app

sys.path.insert(0, str(Path(__file__).parents[1] / 'models'))
from audio_language_stand_in import made, save_language_model  # noqa: E402

RUNNER = CliRunner()
RATE = 2000


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return made(tmp_path_factory.mktemp('flamingo'))


@pytest.fixture
def asked(monkeypatch, model, tmp_path):
    """Asks the model about samples; without samples about a file that is not there."""
    monkeypatch.setattr(loading, 'load_listener', lambda name, device: model)

    def ask(samples, question='what is it'):
        path = tmp_path / 'clip.wav'
        if samples is not None:
            soundfile.write(path, samples, RATE, subtype='FLOAT')
        return RUNNER.invoke(app, ['ask', str(path), question, '-m', 'x', '--max-tokens', '2', '-q'])

    return ask


def problems(done):
    """Lines about what is wrong."""
    return [line for line in done.stderr.splitlines() if line.startswith(('error:', 'warning:'))]


@pytest.mark.parametrize(
    ('samples', 'message'),
    [
        (None, 'does not exist'),
        (np.zeros(0, np.float32), 'holds no'),
        (np.full(100, np.nan, np.float32), 'is not a number'),
    ],
)
def test_nothing_to_hear_is_one_error(asked, samples, message):
    done = asked(samples)
    assert done.exit_code == 1 and not done.stdout
    (line,) = problems(done)
    assert message in line and 'clip.wav' in line


@pytest.mark.parametrize(
    ('question', 'message'),
    [(' ', 'the question is empty'), ('<audio> and <audio>: what', 'the question holds 2 <audio> tags, but one')],
)
def test_question_that_cannot_be_asked_is_one_error(asked, question, message):
    done = asked(np.ones(9, np.float32), question)
    assert done.exit_code == 2 and not done.stdout
    (line,) = problems(done)
    assert message in line


@pytest.mark.parametrize(
    ('samples', 'message'),
    [
        (np.zeros(RATE, np.float32), 'clip.wav is silent'),
        (0.1 * np.sin(np.arange(360 * RATE)), 'lasts 360.0 s; the model hears the first 120 s'),
        (np.float32([0.1, -0.2, 0.3]), 'lasts 1.5 ms: there is next to nothing to hear'),
    ],
)
def test_silence_six_minutes_and_three_samples_are_answered_with_one_warning(asked, monkeypatch, samples, message):
    done = asked(samples)
    assert done.exit_code == 0 and done.stdout and not problems(done)  # quiet
    monkeypatch.setattr(RUNNER, 'invoke', lambda app, words: CliRunner().invoke(app, words[:-1]))
    (line,) = [line for line in problems(asked(samples)) if 'the answer is cut at 2 tokens' not in line]
    assert line.startswith('warning:') and message in line


def test_tokenizer_without_the_special_tokens_is_one_error(model, tmp_path):
    model.save_to(tmp_path / 'model.nemo')
    folder = tmp_path / 'model'
    with tarfile.open(tmp_path / 'model.nemo') as archive:
        archive.extractall(folder, filter='data')
    (file,) = folder.glob('*tokenizer.json')
    file.write_bytes((save_language_model(tmp_path / 'words') / 'tokenizer.json').read_bytes())
    soundfile.write(tmp_path / 'clip.wav', np.ones(9), RATE)
    done = RUNNER.invoke(app, ['ask', str(tmp_path / 'clip.wav'), 'what', '-m', str(folder), '-d', 'cpu'])
    assert done.exit_code == 2
    (line,) = problems(done)
    assert 'lacks the special tokens <audio>, <|endofchunk|>, <|PAD_TOKEN|>, <SEP>' in line
