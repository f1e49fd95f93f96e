"""``audio-restore ask`` and ``caption`` as a user meets them."""

import json
import warnings

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_audio_restore.apps import commands_ask
from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.data.listening import InputWarning
from nemo_audio_restore.files.audio import read_audio
from nemo_audio_restore.models.audio_language_answers import CAPTION_PROMPT, Answer

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


class StandIn:
    """Answers with what it was asked, after reading the file; says that quiet files are silent."""

    def __init__(self):
        self.settings = None

    def generate(self, *, prompts, audios, settings, on_text):
        self.settings = settings
        audio, _ = read_audio(audios[0])
        if not audio.any():
            warnings.warn(f'{audios[0]} is silent', InputWarning, stacklevel=2)
        text = f'answer to {prompts[0]}'
        if on_text is not None:
            for piece in ('answer', f' to {prompts[0]}'):
                on_text(0, piece)
        return [text]

    def ask(self, audio, question, options):
        read_audio(audio)
        return Answer(options[0], {option: 1 / len(options) for option in options})

    def caption(self, audio, *, prompt, settings):
        return self.generate(prompts=[prompt], audios=[audio], settings=settings, on_text=None)[0]


@pytest.fixture
def listener(monkeypatch):
    made = StandIn()
    monkeypatch.setattr(commands_ask, 'load_listener', lambda name, device: made)
    return made


@pytest.fixture
def clip(tmp_path):
    soundfile.write(tmp_path / 'clip.wav', 0.1 * np.ones(800, np.float32), 16000)
    return tmp_path / 'clip.wav'


def test_answer_is_the_result_and_its_words_appear_as_they_are_written(listener, clip):
    done = run('ask', clip, 'Which sound?', '-m', 'x')
    assert done.exit_code == 0
    assert done.stdout == 'answer to Which sound?\n'
    assert done.stderr == 'answer to Which sound?\n'
    assert run('ask', clip, 'Which sound?', '-m', 'x', '-q').stderr == ''


def test_question_may_be_long(listener, clip):
    assert run('ask', clip, 'Which? ' * 100, '-m', 'x', '-q').exit_code == 0


def test_options_are_scored(listener, clip):
    done = run('ask', clip, 'Which?', '-m', 'x', '--option', 'dog', '--option', 'cat')
    assert done.stdout.splitlines() == ['dog', '  0.500 dog', '  0.500 cat']
    both = run('ask', clip, 'Which?', '-m', 'x', '--option', 'dog', '--option', 'cat', '--temperature', '1')
    assert both.exit_code == 2 and 'nothing is drawn' in both.stderr


def test_settings_reach_the_model(listener, clip):
    run('ask', clip, 'Which?', '-m', 'x', '--max-tokens', 7, '--temperature', 0.5, '--seed', 3)
    assert (listener.settings.max_new_tokens, listener.settings.temperature, listener.settings.seed) == (7, 0.5, 3)
    run('caption', clip, '-m', 'x', '--max-tokens', 9)
    assert listener.settings.max_new_tokens == 9


def test_captions_of_a_folder_are_lines_of_json_and_one_bad_file_ends_nothing(listener, clip, tmp_path):
    (tmp_path / 'bad.wav').write_bytes(b'')
    soundfile.write(tmp_path / 'silent.wav', np.zeros(800), 16000)
    done = run('caption', tmp_path, '-m', 'x', '--jsonl')
    assert done.exit_code == 1
    records = {record['audio'].split('/')[-1]: record for record in map(json.loads, done.stdout.splitlines())}
    assert records['clip.wav']['caption'] == f'answer to {CAPTION_PROMPT}'
    assert 'is empty (0 bytes)' in records['bad.wav']['error']
    assert 'is silent' in records['silent.wav']['warnings'][0]
    assert '1 of 3 files failed' in done.stderr
    other = run('caption', clip, '-m', 'x', '--prompt', 'Say it.')
    assert other.stdout == 'answer to Say it.\n'


def test_error_of_the_model_names_the_file(listener, clip, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError('boom')

    monkeypatch.setattr(listener, 'generate', broken)
    done = run('ask', clip, 'Which?', '-m', 'x')
    assert done.exit_code == 1
    assert 'clip.wav: RuntimeError: boom (-v shows the details)' in done.stderr
    assert 'Traceback' in run('ask', clip, 'Which?', '-m', 'x', '-v').stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{clip}'], 'a file and a question are needed'),
        (['{clip}', '{clip}'], 'the last argument must be the question'),
        (['{clip}', ' '], 'the question is empty'),
        (['{folder}/*.mp3', 'Which?'], 'no file matches'),
    ],
)
def test_command_lines_that_cannot_be_carried_out_are_refused(listener, clip, tmp_path, arguments, message):
    filled = [text.format(clip=clip, folder=tmp_path) for text in arguments]
    done = run('ask', *filled, '-m', 'x')
    assert done.exit_code == 2 and message in done.stderr


def test_file_that_does_not_exist_and_model_that_does_not_load(clip, listener, monkeypatch):
    gone = run('ask', 'nothing.wav', 'Which?', '-m', 'x')
    assert gone.exit_code == 1 and 'nothing.wav does not exist' in gone.stderr
    from nemo_audio_restore.apps.inputs import UsageError

    def refuse(name, device):
        raise UsageError(f'the model {name} cannot be loaded: why')

    monkeypatch.setattr(commands_ask, 'load_listener', refuse)
    done = run('ask', clip, 'Which?', '-m', 'x')
    assert done.exit_code == 2 and 'the model x cannot be loaded: why' in done.stderr
