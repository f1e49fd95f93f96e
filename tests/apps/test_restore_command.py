"""``audio-restore restore`` as a user meets it."""

import json

import numpy as np
import pytest
import soundfile
import torch
from fake_restorer import level_db, noise_audio
from typer.testing import CliRunner

from nemo_audio_restore.apps import commands_restore
from nemo_audio_restore.apps.cli import app

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, ['restore', *map(str, arguments)])


def make(path, seconds=0.3, *, rate=44100, channels=1, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise_audio(seconds, rate=rate, channels=channels).T, rate, subtype)
    return path


@pytest.mark.parametrize('suffix', ['wav', 'flac', 'ogg', 'mp3'])
def test_every_input_format_gives_a_file_of_the_same_length(tmp_path, fake_model, suffix):
    source = make(tmp_path / f'in.{suffix}', channels=2)
    result = run(source, '-o', tmp_path / 'out.wav', '--cutoff', 6000, '--gap', '0.1:0.12', '-q')
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / 'out.wav') and result.stderr == ''
    before, after = soundfile.read(source, dtype='float32')[0], soundfile.read(tmp_path / 'out.wav')[0]
    assert after.shape == before.shape and level_db(after - before) > -50


@pytest.mark.parametrize(
    ('rate', 'channels', 'seconds'), [(8000, 1, 0.3), (96000, 2, 0.2), (192000, 1, 0.1), (44100, 12, 0.1)]
)
def test_any_rate_and_channel_count(tmp_path, fake_model, rate, channels, seconds):
    source = make(tmp_path / 'in.wav', seconds, rate=rate, channels=channels)
    result = run(source, '-o', tmp_path / 'out.wav', '--cutoff', 3000)
    assert result.exit_code == 0, result.stderr
    info = soundfile.info(tmp_path / 'out.wav')
    assert (info.channels, info.samplerate) == (channels, max(rate, 44100))
    assert info.frames == round(seconds * info.samplerate)


def test_a_folder_keeps_its_tree_and_existing_results_are_skipped(tmp_path, fake_model):
    for name in ('a.wav', 'deep/er/b.flac', 'deep/c.wav'):
        make(tmp_path / 'in' / name)
    (tmp_path / 'in' / 'notes.txt').write_text('not audio')
    out = tmp_path / 'out'
    result = run(tmp_path / 'in', '-o', out, '--cutoff', 6000, '--name', '{stem}.{suffix}.{seed}.{ext}', '--seed', 3)
    assert result.exit_code == 0, result.stderr
    names = {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file()}
    results = {'a.wav.3', 'deep/er/b.flac.3', 'deep/c.wav.3'}
    assert names == {f'{name}.wav' for name in results} | {f'{name}.restored.json' for name in results}
    evaluations = fake_model.network.tiles
    again = run(tmp_path / 'in', '-o', out, '--cutoff', 6000, '--name', '{stem}.{suffix}.{seed}.{ext}', '--seed', 3)
    assert again.exit_code == 0 and again.stderr.count('skipped') == 3
    assert fake_model.network.tiles == evaluations
    over = run(
        out / 'a.wav.3.wav', tmp_path / 'in', '-o', out, '--cutoff', 6000, '--overwrite', '--json', '--format', 'flac'
    )
    assert over.exit_code == 0
    report = json.loads(over.stdout)
    assert [file['status'] for file in report['files']] == ['restored'] * 4 and report['failed'] == 0


def test_patterns_work_without_a_shell(tmp_path, fake_model):
    for name in ('a1.wav', 'a2.wav', 'b.wav'):
        make(tmp_path / name)
    result = run(tmp_path / 'a*.wav', '-o', tmp_path / 'out', '--gap', '0.1:0.12', '--no-sidecar')
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a1.restored.wav', 'a2.restored.wav']


def test_one_bad_file_does_not_stop_the_others_and_is_listed(tmp_path, fake_model):
    make(tmp_path / 'in' / 'good.wav')
    (tmp_path / 'in' / 'letter.wav').write_text('dear archive')
    (tmp_path / 'in' / 'short.wav').write_bytes(make(tmp_path / 'short.wav', 10 / 44100).read_bytes())
    result = run(tmp_path / 'in', '-o', tmp_path / 'out', '--cutoff', 6000, '--json', '--no-sidecar')
    assert result.exit_code == 1
    report = {file['source'].rsplit('/')[-1]: file for file in json.loads(result.stdout)['files']}
    assert report['good.wav']['status'] == 'restored' and report['good.wav']['cutoff_hz'] == 6000
    assert 'not an audio file' in report['letter.wav']['error']
    assert 'too short' in report['short.wav']['error']
    assert '2 of 3 files failed' in result.stderr
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['good.restored.wav']


def test_a_dry_run_loads_no_model_and_writes_nothing(tmp_path, fake_model):
    make(tmp_path / 'in' / 'a.wav')
    result = run(tmp_path / 'in', '-o', tmp_path / 'out', '--cutoff', 6000, '--dry-run')
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / 'out' / 'a.restored.wav')
    assert fake_model.loads == 0 and not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['--cutoff', 'high'], 2, 'frequency in Hz, like 4000, or auto'),
        (['--region', '1:2'], 2, 'START:END,LOW:HIGH'),
        (['--region', '0.1:0.2,9000:4000'], 1, 'lower value first'),
        (['--gaps', 'missing.txt'], 2, 'cannot be read as a label track'),
        (['--gap', '0.05:0.25'], 1, '--force'),
        (['--gap', '12'], 2, 'START:END'),
        (['--gap', 'a:b'], 2, 'START:END'),
        (['--cutoff', '6000', '--bits', '20'], 2, 'choose from 16, 24, float'),
        (['--cutoff', '6000', '--clip', 'maybe'], 2, 'choose from none, clamp, rescale'),
        (['--cutoff', '6000', '--format', 'flac'], 2, 'contradicts'),
        (['--cutoff', '6000', '--precision', 'int8'], 2, 'choose from fp32, bf16, fp16'),
        (['--cutoff', '6000', '--batch-size', '0'], 2, 'auto or a number of tiles, at least 1; got 0'),
        (['--cutoff', '6000', '--batch-size', 'all'], 2, 'auto or a number of tiles, at least 1; got all'),
        (['--cutoff', '30000'], 1, 'outside the audio'),
        (['--gap', '0.2:9'], 1, 'outside the audio'),
        (['--gap', '0.2:0.1'], 1, 'end after'),
    ],
)
def test_wrong_options_end_in_one_sentence(tmp_path, fake_model, arguments, code, message):
    result = run(make(tmp_path / 'in.wav'), '-o', tmp_path / 'out.wav', *arguments)
    assert result.exit_code == code and message in result.stderr and 'Traceback' not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.wav']


def test_the_input_is_never_overwritten(tmp_path, fake_model):
    source = make(tmp_path / 'in.wav')
    before = source.read_bytes()
    (tmp_path / 'link.wav').symlink_to(source)
    for target in (source, tmp_path / 'link.wav'):
        result = run(source, '-o', target, '--cutoff', 6000, '--overwrite')
        assert result.exit_code == 1 and 'is the input' in result.stderr
    assert source.read_bytes() == before


@pytest.mark.parametrize('name', ['{title}.wav', '../{stem}.wav', '{stem', ''])
def test_unusable_names_are_refused(tmp_path, fake_model, name):
    make(tmp_path / 'in' / 'a.wav')
    result = run(tmp_path / 'in', '-o', tmp_path / 'out', '--cutoff', 6000, '--name', name)
    assert result.exit_code == 2 and '--name' in result.stderr


def test_two_inputs_never_share_an_output(tmp_path, fake_model):
    make(tmp_path / 'in' / 'a.wav')
    make(tmp_path / 'in' / 'a.flac')
    result = run(tmp_path / 'in', '-o', tmp_path / 'out', '--cutoff', 6000)
    assert result.exit_code == 2 and '{suffix}' in result.stderr


def test_integer_output_that_clips_is_announced(tmp_path, fake_model):
    source = tmp_path / 'in.wav'
    soundfile.write(source, noise_audio(0.3, rms=0.5).T, 44100, 'FLOAT')
    clipped = run(source, '-o', tmp_path / 'a.wav', '--cutoff', 6000, '--bits', '16')
    assert clipped.exit_code == 0 and 'are clipped' in clipped.stderr
    scaled = run(source, '-o', tmp_path / 'b.wav', '--cutoff', 6000, '--bits', '16', '--clip', 'rescale')
    assert scaled.exit_code == 0 and 'turned down' in scaled.stderr
    assert np.abs(soundfile.read(tmp_path / 'b.wav')[0]).max() <= 1


def test_steps_and_batch_size_reach_the_sampler(tmp_path, fake_model):
    source = make(tmp_path / 'in.wav', channels=2)
    run(source, '-o', tmp_path / 'a.wav', '--cutoff', 6000)
    tiles = fake_model.network.tiles
    run(source, '-o', tmp_path / 'b.wav', '--cutoff', 6000, '--steps', 6, '--batch-size', 8)
    assert fake_model.network.tiles == 4 * tiles  # 2 steps, then 6 more
    assert fake_model.network.largest == 8


def test_precision_compilation_and_automatic_batches_reach_the_engine(tmp_path, fake_model, monkeypatch):
    source, asked = make(tmp_path / 'in.wav'), []
    restore = fake_model.restore

    def recorded(*files, settings, **options):
        asked.append(settings)
        return restore(*files, settings=settings, **options)

    monkeypatch.setattr(fake_model, 'restore', recorded)
    monkeypatch.setattr(torch, 'compile', lambda network: network)
    options = ('--precision', 'bf16', '--compile', '--batch-size', 'auto', '--cutoff', 6000)
    result = run(source, '-o', tmp_path / 'a.wav', *options)
    assert result.exit_code == 0, result.stderr
    assert (asked[0].precision, asked[0].compile, asked[0].batch_size) == ('bf16', True, 'auto')
    settings = json.loads((tmp_path / 'a.restored.json').read_text())['settings']
    assert (settings['precision'], settings['compile'], settings['batch_size']) == ('bf16', True, 'auto')
    run(source, '-o', tmp_path / 'b.wav', '--cutoff', 6000)
    assert asked[1] == fake_model.sampler


def test_stereo_and_resume_reach_the_engine(tmp_path, fake_model, monkeypatch):
    source, asked = make(tmp_path / 'in.wav', channels=2), []
    restore = fake_model.restore

    def recorded(*files, **options):
        asked.append(options)
        return restore(*files, **options)

    monkeypatch.setattr(fake_model, 'restore', recorded)
    result = run(source, '-o', tmp_path / 'a.wav', '--cutoff', 6000, '--stereo', 'mid-side', '--no-resume', '--json')
    assert result.exit_code == 0, result.stderr
    assert (asked[0]['stereo'], asked[0]['resume']) == ('mid-side', False)
    assert json.loads(result.stdout)['files'][0]['stereo'] == 'mid-side'
    wrong = run(source, '-o', tmp_path / 'b.wav', '--cutoff', 6000, '--stereo', 'wide')
    assert wrong.exit_code == 2 and 'choose from auto, shared, mid-side, independent' in wrong.stderr


def test_a_full_band_file_is_left_alone_with_a_message(tmp_path, fake_model):
    source = make(tmp_path / 'in.wav')
    result = run(source, '-o', tmp_path / 'out.wav')
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / 'out.wav')
    assert 'no bandwidth is added' in result.stderr and 'nothing was generated' in result.stderr
    np.testing.assert_array_equal(soundfile.read(source)[0], soundfile.read(tmp_path / 'out.wav')[0])


def test_label_tracks_regions_and_detected_gaps_reach_the_engine(tmp_path, fake_model):
    source = make(tmp_path / 'in.wav', 0.6)
    audio, rate = soundfile.read(source, dtype='float32')
    audio[20000:20500] = 0
    soundfile.write(source, audio, rate, 'FLOAT')
    labels = tmp_path / 'labels.txt'
    labels.write_text('0.1\t0.11\tclick\n0.2\t0.21\tcough\n\\\t1000\t4000\n')
    options = ('--gaps', labels, '--region', '0.3:0.31,5000:6000', '--detect-gaps', '--json', '--no-sidecar')
    result = run(source, '-o', tmp_path / 'out.wav', *options)
    assert result.exit_code == 0, result.stderr
    (file,) = json.loads(result.stdout)['files']
    assert file['status'] == 'restored' and file['cutoff_hz'] is None
    assert file['gaps'][0] == [0.1, 0.11] and len(file['gaps']) == 2
    assert file['regions'] == [[0.2, 0.21, 1000, 4000], [0.3, 0.31, 5000, 6000]]
    assert [gap['kind'] for gap in file['detected_gaps']] == ['silence']


def test_a_label_track_is_refused_for_several_files(tmp_path, fake_model):
    make(tmp_path / 'in' / 'a.wav')
    (tmp_path / 'labels.txt').write_text('0.1\t0.2\n')
    result = run(tmp_path / 'in', '-o', tmp_path / 'out', '--gaps', tmp_path / 'labels.txt')
    assert result.exit_code == 2 and 'belongs to one recording' in result.stderr


def test_the_command_knows_the_stereo_modes_of_the_engine():
    from nemo_audio_restore.restoration import stereo

    assert commands_restore.STEREO_MODES == stereo.STEREO_MODES
