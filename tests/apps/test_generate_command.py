"""``audio-restore generate`` as a user meets it, with a model in closed form."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.apps.clip_targets import slug

sys.path.insert(0, str(Path(__file__).parents[1] / 'generation'))
RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, ['generate', *map(str, arguments)])


@pytest.fixture
def models(monkeypatch, tmp_path):
    """What ``--model`` loads in these tests; notes every load."""
    from stand_in_generator import GaussianGenerator

    from nemo_audio_restore.apps import loading
    from nemo_audio_restore.reporting import ModelIdentity

    loaded = []

    def load(name, device, *, text_encoder=None):
        loaded.append(GaussianGenerator(steps=3))
        loaded[-1].asked = (name, device, text_encoder)
        return loaded[-1]

    (tmp_path / 'model.nemo').write_bytes(b'weights')
    monkeypatch.setattr(loading, 'load_generator', load)
    monkeypatch.setattr(
        loading, 'identify_generator', lambda name, device: ModelIdentity(name, tmp_path / 'model.nemo', device)
    )
    return loaded


def make(path, seconds=0.4):
    from stand_in_generator import RATE, recording

    soundfile.write(path, recording(seconds).T, RATE, 'FLOAT')
    return path


def test_a_prompt_becomes_a_file_with_its_record(tmp_path, models):
    result = run('heavy rain', '-o', tmp_path / 'rain.wav', '--seconds', 0.25, '--seed', 5, '--negative', 'birds')
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / 'rain.wav')
    assert 'steps of dpmpp_2m' in result.stderr and '0.25 s in' in result.stderr
    info = soundfile.info(tmp_path / 'rain.wav')
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (2000, 8000, 2, 'FLOAT')
    assert np.abs(soundfile.read(tmp_path / 'rain.wav')[0]).max() <= 1.0
    record = json.loads((tmp_path / 'rain.generated.json').read_text())
    assert record['clip']['prompt'] == 'heavy rain' and record['clip']['seed'] == 5
    assert record['clip']['negative'] == 'birds' and record['clip']['settings']['steps'] == 3
    assert record['contains_generated_audio'] and record['versions']['nemo-audio-restore']
    assert len(record['output']['sha256']) == len(record['model']['sha256']) == 64
    assert models[0].asked == ('stable_audio_44k_small', 'auto', None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model.nemo', 'rain.generated.json', 'rain.wav']


def test_prompts_and_seeds_fill_a_folder_and_are_made_once(tmp_path, models):
    (tmp_path / 'list.txt').write_text('# effects\n\nDog barking!\n')
    out = tmp_path / 'out'
    options = ('--prompts-file', tmp_path / 'list.txt', '--seeds', 2, '--batch-size', 3, '--seconds', 0.1)
    result = run('rain', *options, '-o', out, '--json', '--no-sidecar', '--format', 'flac', '--bits', 16)
    assert result.exit_code == 0, result.stderr
    clips = json.loads(result.stdout)['clips']
    names = ['rain-0.flac', 'rain-1.flac', 'dog-barking-0.flac', 'dog-barking-1.flac']
    assert [Path(clip['target']).name for clip in clips] == names
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert soundfile.info(out / names[0]).subtype == 'PCM_16' and set(models[0].batches) == {3, 1}
    (out / names[1]).unlink()
    again = run('rain', *options, '-o', out, '--no-sidecar', '--format', 'flac')
    assert again.exit_code == 0 and again.stderr.count('skipped') == 3 and again.stdout.count('.flac') == 1
    named = run('rain', *options, '-o', out, '--name', '{index}.{seed}.{ext}', '--dry-run')
    assert named.exit_code == 0 and named.stdout.split()[-1].endswith('2.1.wav') and len(models) == 2


def test_seeds_of_one_file_stand_in_its_name_and_give_what_each_gives_alone(tmp_path, models):
    both = run('rain', '-o', tmp_path / 'a.wav', '--seeds', 2, '--clip', 'none', '-q', '--no-sidecar')
    alone = run('rain', '-o', tmp_path / 'b.wav', '--seed', 1, '--clip', 'none', '-q', '--no-sidecar')
    assert both.exit_code == alone.exit_code == 0 and both.stderr == ''
    first, second, single = (soundfile.read(tmp_path / name)[0] for name in ('a.seed0.wav', 'a.seed1.wav', 'b.wav'))
    np.testing.assert_allclose(second, single, atol=1e-6)
    assert np.abs(first - second).max() > 0.1


def test_one_loud_moment_does_not_turn_the_whole_clip_down(tmp_path, models, monkeypatch):
    from stand_in_generator import GaussianGenerator

    decode = GaussianGenerator.decode

    def with_a_click(self, *arguments, **more):
        audio = 0.1 * decode(self, *arguments, **more)
        audio[:, 0, 1000] = -4.0
        return audio

    monkeypatch.setattr(GaussianGenerator, 'decode', with_a_click)
    written = {}
    for policy in ('limit', 'rescale', 'none'):
        options = () if policy == 'limit' else ('--clip', policy)
        result = run('rain', '-o', tmp_path / f'{policy}.wav', '--seconds', 0.25, *options)
        assert result.exit_code == 0, result.stderr
        written[policy], _ = soundfile.read(tmp_path / f'{policy}.wav', dtype='float32')
    assert 0.9 < np.abs(written['limit']).max() < 1.0
    np.testing.assert_array_equal(written['limit'][:900], written['none'][:900])
    assert np.abs(written['rescale'][:900]).max() < 0.3 * np.abs(written['limit'][:900]).max()
    record = json.loads(next(tmp_path.glob('limit*.json')).read_text())
    assert record['clip']['limited_db'] == pytest.approx(-12.3, abs=0.2)


def test_a_prompt_that_is_too_long_is_cut_with_one_plain_line(tmp_path, models, monkeypatch):
    from stand_in_generator import GaussianGenerator

    from nemo_audio_restore.networks.conditioners import TextCutWarning

    condition = GaussianGenerator.condition

    def reads_little(self, prompts, **more):
        warnings.warn('"rain" has 9 tokens, the model reads the first 8', TextCutWarning, stacklevel=1)
        return condition(self, prompts, **more)

    monkeypatch.setattr(GaussianGenerator, 'condition', reads_little)
    result = run('rain', '-o', tmp_path / 'clips', '--seconds', 0.25, '--seeds', 3, '--batch-size', 1)
    assert result.exit_code == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if 'tokens' in line]
    assert said == ['warning: "rain" has 9 tokens, the model reads the first 8']


def test_in_painting_keeps_the_rest_of_the_file(tmp_path, models):
    source = make(tmp_path / 'in.wav')
    result = run('rain', '--inpaint', source, '--span', '0.1:0.2', '-o', tmp_path / 'out.wav', '--resamples', 4)
    assert result.exit_code == 0, result.stderr
    before, after = soundfile.read(source)[0], soundfile.read(tmp_path / 'out.wav')[0]
    assert np.array_equal(before[:560], after[:560]) and np.array_equal(before[1840:], after[1840:])
    record = json.loads((tmp_path / 'out.generated.json').read_text())
    assert record['generated'] == [{'kind': 'in-painting', 'start_s': 0.1, 'end_s': 0.2}]
    assert record['inputs'][0]['file'] == str(source) and record['clip']['settings']['resamples'] == 4


def test_a_recording_goes_on_and_a_clip_is_varied(tmp_path, models):
    source = make(tmp_path / 'in.wav', 0.2)
    longer = run('rain', '--continue', source, '--seconds', 0.1, '-o', tmp_path / 'longer.wav', '--sampler', 'v-ddim')
    assert longer.exit_code == 0 and soundfile.info(tmp_path / 'longer.wav').frames == 2400, longer.stderr
    settings = json.loads((tmp_path / 'longer.generated.json').read_text())['clip']['settings']
    assert (settings['sampler'], settings['spacing']) == ('ddim', 'linear')
    same = run('rain', '--init-audio', source, '--strength', 0, '-o', tmp_path / 'same.wav', '--clip', 'none')
    assert same.exit_code == 0
    assert np.array_equal(soundfile.read(source)[0], soundfile.read(tmp_path / 'same.wav')[0])
    assert json.loads((tmp_path / 'same.generated.json').read_text())['contains_generated_audio'] is False
    varied = run('rain', '--init-audio', source, '-o', tmp_path / 'varied.wav', '--loudness', -20, '--json')
    (clip,) = json.loads(varied.stdout)['clips']
    assert clip['strength'] == 0.5 and clip['duration_s'] == 0.2
    assert clip['loudness_lufs'] + clip['gain_db'] == pytest.approx(-20) or clip['peak'] == pytest.approx(
        0.89, abs=0.01
    )


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'say what is to be heard'),
        ([''], 'the prompt is empty'),
        (['a' * 10000], 'has 10000 characters; at most 2000'),
        (['rain', '--seconds', '0'], 'seconds must be a number above 0; got 0'),
        (['rain', '--seconds', '-3'], 'got -3'),
        (['rain', '--seconds', 'nan'], 'got nan'),
        (['rain', '--sampler', 'euler_a'], 'choose from ddim, dpmpp_2m'),
        (['rain', '--guidance', '-1'], 'guidance must be 0 or more'),
        (['rain', '--negative', ''], 'the negative prompt is empty'),
        (['rain', '--strength', '0.5'], 'give that too'),
        (['rain', '--init-audio', 'in.wav', '--strength', '2'], 'got 2'),
        (['rain', '--init-audio', 'none.wav'], 'none.wav does not exist'),
        (['rain', '--init-audio', 'letter.txt'], 'not an audio file'),
        (['rain', '--init-audio', 'in.wav', '--continue', 'in.wav'], 'exclude each other'),
        (['rain', '--span', '1:2'], 'give that too'),
        (['rain', '--inpaint', 'in.wav'], 'at least one --span'),
        (['rain', '--inpaint', 'in.wav', '--span', '1-2'], 'START:END in seconds, like 2.5:4; got 1-2'),
        (['rain', '--inpaint', 'in.wav', '--span', '2:1'], 'got 2 to 1'),
        (['rain', '--inpaint', 'in.wav', '--span', '0.1:0.2', '--loudness', '-16'], 'leave it out'),
        (['rain', '--loudness', '3'], '-60 to -5 LUFS; got 3'),
        (['rain', '--bits', '20'], 'choose from 16, 24, float'),
        (['rain', '--clip', 'squash'], 'choose from none, limit, clamp, rescale'),
        (['rain', '--prompts-file', 'none.txt'], 'none.txt cannot be read'),
        (['--prompts-file', 'empty.txt'], 'holds no prompts'),
        (['rain', '-o', 'a.mp3'], 'must end in .wav or .flac'),
        (['rain', 'wind'], 'give a folder'),
        (['rain', '--format', 'flac'], 'contradicts'),
        (['rain', '-o', 'a.flac', '--bits', 'float'], 'not possible in FLAC'),
        (['rain', '--name', '{seed}.wav'], 'leave one of them out'),
        (['rain', '-o', 'out', '--name', '../{slug}.{ext}'], 'without folders'),
        (['rain', '-o', 'out', '--name', '{slug}'], 'must end in'),
        (['rain', '-o', 'out', '--name', '{stem}.{ext}'], '{slug}, {index}, {seed}, {ext}'),
        (['rain', '-o', 'out', '--name', '{slug}.{ext}', '--seeds', '2'], 'use {seed} in --name'),
        (['rain', 'Rain!', '-o', 'out'], 'use {index} in --name'),
    ],
)
def test_wrong_options_end_in_one_sentence_before_the_model_is_loaded(
    tmp_path, models, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    make(Path('in.wav'))
    Path('letter.txt').write_text('dear archive')
    Path('empty.txt').write_text('# nothing\n')
    before = sorted(path.name for path in tmp_path.iterdir())
    result = run(*([] if '-o' in arguments else ['-o', 'out.wav']), *arguments)
    assert result.exit_code == 2 and message in result.stderr, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and models == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--seconds', '9'], 'at most 0.50, the model'),
        (['--inpaint', 'in.wav', '--span', '0.3:0.9'], 'outside the audio of 0.40 s'),
        (['--inpaint', 'in.wav', '--span', '0.1:0.2', '--seconds', '1'], 'keeps the length'),
    ],
)
def test_what_only_the_model_knows_is_a_sentence_too(tmp_path, models, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    make(Path('in.wav'))
    result = run('rain', '-o', 'out.wav', *arguments)
    assert result.exit_code == 2 and message in result.stderr and 'Traceback' not in result.stderr
    assert not Path('out.wav').exists()


def test_the_input_is_never_written_over(tmp_path, models):
    source = make(tmp_path / 'in.wav')
    result = run('rain', '--init-audio', source, '-o', source, '--overwrite')
    assert result.exit_code == 2 and 'is the input' in result.stderr and models == []


def test_a_missing_text_encoder_ends_in_one_sentence(tmp_path, models, monkeypatch):
    from stand_in_generator import GaussianGenerator

    def missing(self, prompts, *, seconds, negative):
        raise FileNotFoundError('give a local folder with --text-encoder FOLDER')

    monkeypatch.setattr(GaussianGenerator, 'condition', missing)
    result = run('rain', 'wind', '-o', tmp_path / 'out', '--json')
    assert result.exit_code == 1 and 'error: give a local folder with --text-encoder FOLDER' in result.stderr
    assert [clip['status'] for clip in json.loads(result.stdout)['clips']] == ['failed', 'failed']
    assert 'Traceback' not in result.stderr and '2 of 2 clips failed' in result.stderr


def test_what_was_finished_before_an_error_stays_and_nothing_is_half_written(tmp_path, models, monkeypatch):
    from stand_in_generator import GaussianGenerator

    decode = GaussianGenerator.decode

    def once(self, latents, *, length):
        if self.decoded_lengths:
            raise RuntimeError('no memory')
        return decode(self, latents, length=length)

    monkeypatch.setattr(GaussianGenerator, 'decode', once)
    result = run('rain', '-o', tmp_path / 'out', '--seeds', 3, '--batch-size', 1, '-v')
    assert result.exit_code == 1 and 'RuntimeError: no memory' in result.stderr and 'Traceback' in result.stderr
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['rain-0.generated.json', 'rain-0.wav']


def test_ctrl_c_leaves_nothing_half_written(tmp_path, models, monkeypatch):
    from stand_in_generator import GaussianGenerator

    def interrupt(self, latents, *, length):
        raise KeyboardInterrupt

    monkeypatch.setattr(GaussianGenerator, 'decode', interrupt)
    result = run('rain', '-o', tmp_path / 'out.wav')
    assert result.exit_code == 130 and not (tmp_path / 'out.wav').exists()


@pytest.mark.parametrize(
    ('prompt', 'expected'),
    [
        ('Dog barking!', 'dog-barking'),
        ('a slow, warm bass line with brushed drums and a flute', 'a-slow-warm-bass-line-with-brushed-drums'),
        ('!!!', 'clip'),
        ('x' * 60, 'x' * 40),
        ('../../etc/passwd', 'etc-passwd'),
        ('Дождь по крыше', 'дождь-по-крыше'),
    ],
)
def test_slugs_are_file_names(prompt, expected):
    assert slug(prompt) == expected
