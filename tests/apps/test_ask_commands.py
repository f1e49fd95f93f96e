"""``audio-restore ask`` and ``caption`` as a user meets them."""

import json
import warnings

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_audio_restore.apps import console, loading
from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.data.listening import InputWarning
from nemo_audio_restore.files.audio import read_audio
from nemo_audio_restore.models.audio_language_answers import CAPTION_PROMPT, Answer, CutAnswerWarning

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


class StandIn:
    """Answers with what it was asked; says that quiet files are silent."""

    def __init__(self):
        self.settings, self.batches = None, []

    def listen(self, path):
        audio, _ = read_audio(path)
        if not audio.any():
            warnings.warn(f'{path} is silent', InputWarning, stacklevel=2)
        return path.name

    def generate(self, *, prompts, audios, settings, on_text):
        self.settings = settings
        self.batches.append(audios)
        if on_text is not None:
            for piece in ('answer', f' to {prompts[0]}'):
                on_text(0, piece)
        return [f'answer to {prompt}' for prompt in prompts]

    def ask(self, audio, question, options):
        return Answer(options[0], {option: 1 / len(options) for option in options})


@pytest.fixture
def listener(monkeypatch):
    made = StandIn()
    monkeypatch.setattr(loading, 'load_listener', lambda name, device: made)
    return made


@pytest.fixture
def clip(tmp_path):
    soundfile.write(tmp_path / 'clip.wav', 0.1 * np.ones(800, np.float32), 16000)
    return tmp_path / 'clip.wav'


def test_answer_is_the_result_and_its_words_appear_as_they_are_written(listener, clip, monkeypatch):
    done = run('ask', clip, 'Which sound?', '-m', 'x')
    assert done.exit_code == 0
    assert (done.stdout, done.stderr) == ('answer to Which sound?\n', '')
    pieces = []
    monkeypatch.setattr(console, 'result_piece', pieces.append)
    assert run('ask', clip, 'Which sound?', '-m', 'x').stdout == '\n'
    assert pieces == ['answer', ' to Which sound?']
    run('ask', clip, 'Which sound?', '-m', 'x', '--jsonl')
    assert len(pieces) == 2


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

    monkeypatch.setattr(loading, 'load_listener', refuse)
    done = run('ask', clip, 'Which?', '-m', 'x')
    assert done.exit_code == 2 and 'the model x cannot be loaded: why' in done.stderr


@pytest.fixture
def folder(tmp_path):
    """Five files."""
    (tmp_path / 'clips').mkdir()
    for index in range(5):
        soundfile.write(tmp_path / 'clips' / f'{index}.wav', 0.1 * np.ones(80, np.float32), 16000)
    return tmp_path / 'clips'


def test_files_of_a_folder_are_answered_in_batches(listener, folder):
    done = run('ask', folder, 'Which?', '-m', 'x', '-b', 2)
    assert [list(batch) for batch in listener.batches] == [['0.wav', '1.wav'], ['2.wav', '3.wav'], ['4.wav']]
    assert done.stdout.splitlines() == [f'{folder}/{index}.wav: answer to Which?' for index in range(5)]
    run('caption', folder, '-m', 'x')
    assert len(listener.batches[-1]) == 5


def test_a_batch_that_fails_is_answered_file_by_file(listener, folder, monkeypatch):
    def choosy(*, prompts, audios, settings, on_text):
        if '3.wav' in audios:
            raise RuntimeError('boom')
        return [f'heard {audio}' for audio in audios]

    monkeypatch.setattr(listener, 'generate', choosy)
    done = run('ask', folder, 'Which?', '-m', 'x')
    assert done.exit_code == 1 and '1 of 5 files failed' in done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ['0.wav', '1.wav', '2.wav', '4.wav']
    assert '3.wav: RuntimeError: boom' in done.stderr


def test_what_the_model_does_not_get_is_said_of_every_file(listener, folder, monkeypatch):
    def warns(*, prompts, audios, settings, on_text):
        warnings.warn('the question has 900 tokens; the model reads the first 510', InputWarning, stacklevel=2)
        return list(audios)

    monkeypatch.setattr(listener, 'generate', warns)
    records = [json.loads(line) for line in run('ask', folder, 'W?', '-m', 'x', '--jsonl').stdout.splitlines()]
    assert len(records) == 5 and all('the first 510' in record['warnings'][0] for record in records)


def test_answers_that_were_cut_are_told_of_their_files_alone(listener, folder, monkeypatch, tmp_path):
    def cuts(*, prompts, audios, settings, on_text):
        items = [item for item, name in enumerate(audios) if name in ('1.wav', '4.wav')]
        if items:
            warnings.warn(CutAnswerWarning('answers are cut', items), stacklevel=2)
        return list(audios)

    monkeypatch.setattr(listener, 'generate', cuts)
    done = run('ask', folder, 'W?', '-m', 'x', '-b', 3, '--max-tokens', 7, '--jsonl')
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record.get('cut') for record in records] == [None, True, None, None, True]
    lines = [f'warning: {folder}/{i}.wav: the answer is cut at 7 tokens; --max-tokens allows more' for i in (1, 4)]
    assert done.stderr.splitlines() == lines and done.exit_code == 0
    alone = run('caption', folder / '4.wav', '-m', 'x')
    assert alone.stderr == f'{lines[1]}\n'.replace('7 tokens', '256 tokens')
    assert run('caption', folder / '4.wav', '-m', 'x', '-q').stderr == ''


def test_lines_of_json_appear_when_complete_and_a_stopped_run_goes_on(listener, folder, monkeypatch, tmp_path):
    target, partial = tmp_path / 'answers.jsonl', tmp_path / '.answers.jsonl.partial'
    plain = listener.generate

    def stops(*, audios, **options):
        if '2.wav' in audios:
            raise KeyboardInterrupt
        return plain(audios=audios, **options)

    monkeypatch.setattr(listener, 'generate', stops)
    stopped = run('ask', folder, 'Which?', '-m', 'x', '-b', 1, '-o', target)
    assert stopped.exit_code != 0 and not target.exists()
    assert len(partial.read_text().splitlines()) == 2
    with partial.open('a') as file:
        file.write('{"audio": "half a li')
    monkeypatch.setattr(listener, 'generate', plain)
    listener.batches.clear()
    done = run('ask', folder, 'Which?', '-m', 'x', '-o', target)
    assert done.exit_code == 0 and not partial.exists()
    assert '2 of 5 files were answered by an earlier run' in done.stderr
    assert [list(batch) for batch in listener.batches] == [['2.wav', '3.wav', '4.wav']]
    records = [json.loads(line) for line in target.read_text().splitlines()]
    assert sorted(record['audio'][-5:] for record in records) == [f'{index}.wav' for index in range(5)]
    assert all(record['question'] == 'Which?' and record['answer'] == 'answer to Which?' for record in records)
    again = run('ask', folder, 'Which?', '-m', 'x', '-o', target)
    assert again.exit_code == 2 and 'allow it with --overwrite' in again.stderr
    assert done.stdout == f'{target}\n'
    replaced = run('ask', folder, 'Which?', '-m', 'x', '-o', target, '--overwrite', '--jsonl')
    assert replaced.exit_code == 0
    assert replaced.stdout == target.read_text()  # lines go to both places


def test_answers_to_another_question_and_failures_are_not_taken_over(listener, folder, tmp_path):
    target = tmp_path / 'answers.jsonl'
    head = {'question': 'Which?', 'model': 'x', 'max_tokens': 256, 'temperature': 0.0}
    lines = [
        {'audio': f'{folder}/0.wav', **head, 'question': 'Other?', 'answer': 'old'},
        {'audio': f'{folder}/1.wav', **head, 'error': 'boom'},
        {'audio': f'{folder}/2.wav', **head, 'answer': 'old'},
    ]
    (tmp_path / '.answers.jsonl.partial').write_text('\n'.join(map(json.dumps, lines)) + '\n')
    assert run('ask', folder, 'Which?', '-m', 'x', '-o', target).exit_code == 0
    answers = {record['audio'][-5:]: record['answer'] for record in map(json.loads, target.read_text().splitlines())}
    assert [name for name, text in answers.items() if text == 'old'] == ['2.wav'] and len(answers) == 5


def test_output_in_a_folder_that_does_not_exist_is_refused(listener, clip, tmp_path):
    done = run('caption', clip, '-m', 'x', '-o', tmp_path / 'none' / 'answers.jsonl')
    assert done.exit_code == 2 and 'in a folder that exists' in done.stderr


def test_the_small_model_is_asked_unless_another_is_named(monkeypatch, clip):
    asked = []
    monkeypatch.setattr(loading, 'load_listener', lambda name, device: asked.append(name) or StandIn())
    run('ask', clip, 'Which?')
    run('caption', clip)
    assert asked == ['audio_flamingo2_small'] * 2
