"""``audio-restore encode``, ``decode`` and ``tokens`` as a user meets them."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from nemo_audio_restore.apps import commands_codec
from nemo_audio_restore.apps.cli import app

sys.path.insert(0, str(Path(__file__).parents[1] / 'codec'))
RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


def make(path, seconds=0.3, *, rate=22050, channels=1, subtype=None):
    from stand_in_codec import voice

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * voice(seconds, rate=rate, channels=channels).numpy().T, rate, subtype)
    return path


@pytest.fixture
def codecs(monkeypatch):
    """What ``--model`` loads in these tests, by name; notes every load."""
    from stand_in_codec import StandInCodec

    from nemo_audio_restore.apps import loading
    from nemo_audio_restore.checkpoints import registry

    loads = []

    def load(name, device):
        loads.append(name)
        return StandInCodec(seed=1 if 'other' in name else 0)

    entry = registry.ModelEntry(
        commands_codec.DEFAULT_CODEC,
        'SpeechCodecModel',
        'speech codec',
        '',
        'package://x.nemo',
        'apache-2.0',
        22050,
        1,
    )
    monkeypatch.setattr(loading, 'load_codec', load)
    monkeypatch.setattr(registry, '_MODELS', (entry,))
    return loads


def test_a_file_goes_there_and_back_at_its_length(tmp_path, codecs):
    source = make(tmp_path / 'in.flac', rate=44100, channels=2)
    there = run('encode', source, '-o', tmp_path / 'a.nac')
    assert there.exit_code == 0 and there.stdout.strip() == str(tmp_path / 'a.nac')
    assert 'x real time' in there.stderr and 'bit/s' in there.stderr
    back = run('decode', tmp_path / 'a.nac', '-o', tmp_path / 'out.wav', '--rate', 44100, '-q')
    assert back.exit_code == 0 and back.stderr == '' and back.stdout.strip() == str(tmp_path / 'out.wav')
    info = soundfile.info(tmp_path / 'out.wav')
    assert (info.frames, info.samplerate, info.channels) == (soundfile.info(source).frames, 44100, 1)
    assert codecs == [commands_codec.DEFAULT_CODEC] * 2


def test_folders_keep_their_tree_and_existing_results_are_skipped(tmp_path, codecs):
    for name in ('a.wav', 'deep/er/b.flac'):
        make(tmp_path / 'in' / name, channels=2)
    (tmp_path / 'in' / 'notes.txt').write_text('not audio')
    there = run('encode', tmp_path / 'in', '-o', tmp_path / 'nac', '--channels', 'each', '--json')
    assert there.exit_code == 0 and [file['channels'] for file in json.loads(there.stdout)['files']] == [2, 2]
    assert sorted(path.name for path in (tmp_path / 'nac').rglob('*.nac')) == ['a.nac', 'b.nac']
    again = run('encode', tmp_path / 'in', '-o', tmp_path / 'nac')
    assert again.exit_code == 0 and again.stderr.count('skipped') == 2
    over = run('encode', tmp_path / 'in', '-o', tmp_path / 'nac', '--overwrite', '--json')
    assert [file['channels'] for file in json.loads(over.stdout)['files']] == [1, 1]
    back = run(
        'decode', tmp_path / 'nac', '-o', tmp_path / 'out', '--format', 'flac', '--bits', 16, '--name', '{stem}.{ext}'
    )
    assert back.exit_code == 0, back.stderr
    assert soundfile.info(tmp_path / 'out' / 'deep' / 'er' / 'b.flac').subtype == 'PCM_16'
    assert len(codecs) == 3  # once for each command that had something to do
    named = run('decode', tmp_path / 'nac', '-o', tmp_path / 'out')
    assert named.exit_code == 0 and (tmp_path / 'out' / 'a.decoded.wav').exists()


def test_one_bad_file_does_not_stop_the_others(tmp_path, codecs):
    make(tmp_path / 'in' / 'good.wav')
    (tmp_path / 'in' / 'letter.wav').write_text('dear archive')
    result = run('encode', tmp_path / 'in', '-o', tmp_path / 'out', '--json')
    report = {Path(file['source']).name: file for file in json.loads(result.stdout)['files']}
    assert result.exit_code == 1 and '1 of 2 files failed' in result.stderr
    assert report['good.wav']['status'] == 'encoded' and 'not an audio file' in report['letter.wav']['error']


def test_no_model_is_loaded_for_files_that_cannot_be_read(tmp_path, codecs):
    (tmp_path / 'a.nac').write_text('dear archive')
    assert run('encode', tmp_path / 'none.wav', '-o', tmp_path / 'b.nac').exit_code == 1
    wrong = run('decode', tmp_path / 'a.nac', '-o', tmp_path / 'b.wav')
    assert wrong.exit_code == 1 and 'not a token file' in wrong.stderr and codecs == []


def test_the_file_says_which_registered_codec_decodes_it(tmp_path, codecs):
    source = make(tmp_path / 'in.wav')
    for model in ('folder/other.nemo', 'org/other'):
        run('encode', source, '-o', tmp_path / 'other.nac', '-m', model, '--overwrite')
        codecs.clear()
        unknown = run('decode', tmp_path / 'other.nac', '-o', tmp_path / 'out.wav')
        # A file from a stranger must not make us open other files, or the network.
        assert unknown.exit_code == 1 and '--model' in unknown.stderr and codecs == []
    wrong = run('decode', tmp_path / 'other.nac', '-o', tmp_path / 'out.wav', '-m', 'mine.nemo')
    assert wrong.exit_code == 1 and 'would decode noise' in wrong.stderr and not (tmp_path / 'out.wav').exists()
    right = run('decode', tmp_path / 'other.nac', '-o', tmp_path / 'out.wav', '-m', 'other.nemo', '--json')
    assert right.exit_code == 0 and json.loads(right.stdout)['files'][0]['model_name'] == 'org/other'


@pytest.mark.parametrize(
    ('command', 'arguments', 'code', 'message'),
    [
        ('encode', ['-o', 'out.wav'], 2, 'must end in .nac'),
        ('encode', ['-o', 'a.nac', '--channels', 'left'], 2, 'choose from mono, each'),
        ('encode', ['in.wav', '-o', 'a.nac'], 2, 'give a folder'),
        ('encode', ['-o', 'out', '--name', '../{stem}'], 2, '--name'),
        ('decode', ['-o', 'out.mp3'], 2, 'must end in .wav or .flac'),
        ('decode', ['-o', 'out.wav', '--bits', '20'], 2, 'choose from 16, 24, float'),
        ('decode', ['-o', 'out.wav', '--format', 'flac'], 2, 'must end in .flac'),
        ('decode', ['-o', 'out.flac', '--bits', 'float'], 2, 'not possible in FLAC'),
        ('decode', ['-o', 'out.wav', '--rate', '10'], 2, '1000 to 1000000 Hz; got 10'),
        ('decode', ['-o', 'out.wav', '--format', 'mp3'], 2, 'choose from wav, flac'),
    ],
)
def test_wrong_options_end_in_one_sentence(tmp_path, codecs, monkeypatch, command, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    make(Path('in.wav'))
    Path('in.nac').write_bytes(b'NAC')
    before = sorted(path.name for path in tmp_path.iterdir())
    result = run(command, 'in.wav' if command == 'encode' else 'in.nac', *arguments)
    assert result.exit_code == code and message in result.stderr and 'Traceback' not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before and codecs == []


def test_the_inputs_stay_and_two_of_them_never_share_an_output(tmp_path, codecs):
    make(tmp_path / 'in' / 'a.wav')
    make(tmp_path / 'in' / 'a.flac')
    result = run('encode', tmp_path / 'in', '-o', tmp_path / 'out')
    assert result.exit_code == 2 and '{suffix}' in result.stderr and not (tmp_path / 'out').exists()
    named = run('encode', tmp_path / 'in', '-o', tmp_path / 'out', '--name', '{stem}.{suffix}.{ext}')
    assert named.exit_code == 0 and len(list((tmp_path / 'out').iterdir())) == 2
    (tmp_path / 'link.nac').symlink_to(tmp_path / 'in' / 'a.wav')
    same = run('encode', tmp_path / 'in' / 'a.wav', '-o', tmp_path / 'link.nac', '--overwrite')
    assert same.exit_code == 1 and 'is the input' in same.stderr


def test_tokens_shows_the_header_and_checks_the_rest(tmp_path, codecs):
    run('encode', make(tmp_path / 'in.wav', 1.0), '-o', tmp_path / 'a.nac')
    facts = json.loads(run('tokens', tmp_path / 'a.nac', '--json').stdout)
    assert facts['num_frames'] == 87 and facts['duration_s'] == pytest.approx(1.0) and facts['num_codebooks'] == 4
    assert facts['size_bytes'] == (tmp_path / 'a.nac').stat().st_size
    assert len(facts['codes_used']) == 4 and all(1 <= used <= 63 for used in facts['codes_used'])
    assert all(0 <= bits <= np.log2(63) for bits in facts['entropy_bits'])
    assert f'model_hash: {facts["model_hash"]}' in run('tokens', tmp_path / 'a.nac').stdout
    content = bytearray((tmp_path / 'a.nac').read_bytes())
    content[-9] ^= 1
    (tmp_path / 'a.nac').write_bytes(content)
    damaged = run('tokens', tmp_path / 'a.nac')
    assert damaged.exit_code == 1 and 'damaged' in damaged.stderr and damaged.stdout == ''


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_damaged_files_end_in_a_sentence_or_a_valid_file(tmp_path_factory, codecs, data):
    folder = tmp_path_factory.mktemp('fuzz')
    source = make(folder / data.draw(st.sampled_from(['a.wav', 'a.flac', 'a.ogg', 'a.mp3'])), 0.1)
    if data.draw(st.booleans()):
        run('encode', source, '-o', folder / 'a.nac')
        source = folder / 'a.nac'
    content = bytearray(source.read_bytes())
    del content[data.draw(st.integers(1, len(content))) :]
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, min(len(content), data.draw(st.sampled_from([48, 10**6]))) - 1))
        content[at] = data.draw(st.integers(0, 255))
    source.write_bytes(content)
    is_tokens = source.suffix == '.nac'
    target = folder / ('out.wav' if is_tokens else 'out.nac')
    with warnings.catch_warnings():
        warnings.simplefilter('error', RuntimeWarning)
        result = run('decode' if is_tokens else 'encode', source, '-o', target)
    assert result.exit_code in (0, 1) and 'Traceback' not in result.stderr
    assert '(-v shows the details)' not in result.stderr, result.stderr
    assert target.exists() == (result.exit_code == 0)
    assert not [path for path in folder.iterdir() if path.name.startswith('.')]
