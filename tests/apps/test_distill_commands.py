"""``audio-restore distill`` and ``separate`` with a prior whose answer is known."""

import json
import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.distillation.analytic_priors import ModesPrior
from nemo_audio_restore.distillation.renderers import FMSynthesizer
from nemo_audio_restore.signal.level import at_level

RUNNER = CliRunner()
RATE, LENGTH = 8000, 4000


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


def tone(hz):
    t = torch.arange(LENGTH) / RATE
    # At the level where the tasks bring every sound.
    return at_level(torch.sin(2 * math.pi * hz * t)[None] * torch.exp(-3 * t), RATE, -16.0)


SOUNDS = {'low': tone(200.0), 'high': tone(1700.0)}


@pytest.fixture
def priors(monkeypatch):
    """What ``--model`` loads in these tests; notes every load."""
    from nemo_audio_restore.apps import loading

    loads = []

    def load(name, device, *, text_encoder=None):
        loads.append(name)
        return ModesPrior(SOUNDS, std=0.02, sample_rate=RATE)

    monkeypatch.setattr(loading, 'load_prior', load)
    return loads


def test_fm_writes_a_sound_and_the_patch_that_makes_it(tmp_path, priors):
    result = run(
        'distill', 'fm', '--prompt', 'low', '--seconds', 0.5, '-o', tmp_path / 'a.wav', '--iterations', 3, '--draws', 1
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(tmp_path / 'a.wav'), str(tmp_path / 'a.json')]
    audio, rate = soundfile.read(tmp_path / 'a.wav', dtype='float32')
    synthesizer = FMSynthesizer.from_patch(json.loads((tmp_path / 'a.json').read_text()))
    expected = synthesizer(LENGTH)[0].detach().numpy()
    np.testing.assert_allclose(audio, expected / max(1.0, np.abs(expected).max()), atol=2e-3)
    again = run(
        'distill', 'fm', '--prompt', 'low', '--seconds', 0.5, '-o', tmp_path / 'b.wav', '--start', tmp_path / 'a.json',
        '--patch', tmp_path / 'c.json', '--iterations', 1, '--draws', 1, '--json',
    )  # fmt: skip
    assert again.exit_code == 0 and json.loads(again.stdout)['files'][1] == str(tmp_path / 'c.json')
    moved = json.loads((tmp_path / 'c.json').read_text())['frequency_hz']
    np.testing.assert_allclose(moved, synthesizer.patch_values()['frequency_hz'], rtol=0.2)


def test_impact_writes_a_patch_of_its_kind(tmp_path, priors):
    options = ('--seconds', 0.5, '--iterations', 1, '--draws', 1, '-q')
    result = run('distill', 'impact', '--prompt', 'high', '-o', tmp_path / 'a.flac', *options)
    assert result.exit_code == 0 and result.stderr == '', result.stderr
    assert json.loads((tmp_path / 'a.json').read_text())['renderer'] == 'impact'
    wrong = run('distill', 'fm', '--prompt', 'low', '-o', tmp_path / 'b.wav', '--start', tmp_path / 'a.json')
    assert wrong.exit_code == 2 and 'a patch of the impact synthesizer, not of fm' in wrong.stderr


def test_separated_sounds_add_up_to_the_mixture_and_are_what_their_prompts_say(tmp_path, priors):
    mixture = SOUNDS['low'] + SOUNDS['high']
    soundfile.write(tmp_path / 'mix.wav', mixture[0].numpy(), RATE, 'FLOAT')
    result = run(
        'separate', tmp_path / 'mix.wav', '--prompt', 'low', '--prompt', 'high', '-o', tmp_path / 'stems',
        '--iterations', 40, '--draws', 2, '--guidance', 1.5, '--gamma', 3.0, '--learning-rate', 0.02,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    names = ['mix.1-low.wav', 'mix.2-high.wav']
    assert sorted(path.name for path in (tmp_path / 'stems').iterdir()) == names
    stems = [soundfile.read(tmp_path / 'stems' / name, dtype='float32')[0] for name in names]
    np.testing.assert_allclose(sum(stems), mixture[0].numpy(), atol=1e-4)
    for stem, sound in zip(stems, SOUNDS.values(), strict=True):
        error = np.square(stem - sound[0].numpy()).sum() / sound.square().sum().item()
        assert error < 0.05


def test_enhanced_audio_comes_nearer_to_the_prompt(tmp_path, priors):
    clean = SOUNDS['low'][0].numpy()
    noisy = clean + 0.05 * np.random.default_rng(0).standard_normal(LENGTH).astype(np.float32)
    soundfile.write(tmp_path / 'noisy.wav', noisy, RATE, 'FLOAT')
    options = ('--iterations', 30, '--draws', 2, '--guidance', 1.0, '--gamma', 10.0, '--learning-rate', 0.005)
    result = run('distill', 'enhance', tmp_path / 'noisy.wav', '--prompt', 'low', '-o', tmp_path / 'out.wav', *options)
    assert result.exit_code == 0, result.stderr
    after, _ = soundfile.read(tmp_path / 'out.wav', dtype='float32')
    assert np.square(after - clean).mean() < 0.5 * np.square(noisy - clean).mean()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['distill', 'fm', '--prompt', 'low', '-o', 'a.mp3'], 'must end in .wav or .flac'),
        (['distill', 'fm', '--prompt', 'low', '-o', 'a.wav', '--seconds', '-1'], '--seconds must be above 0; got -1'),
        (['distill', 'fm', '--prompt', 'low', '-o', 'a.wav', '--guidance', '0'], 'guidance must be above 0'),
        (['distill', 'fm', '--prompt', 'low', '-o', 'a.wav', '--start', 'none.json'], 'cannot be used'),
        (['distill', 'fm', '--prompt', 'low', '-o', 'in.wav'], 'exists'),
        (['distill', 'enhance', 'none.wav', '--prompt', 'low', '-o', 'a.wav'], 'none.wav does not exist'),
        (['distill', 'enhance', 'in.wav', '--prompt', 'low', '-o', 'in.wav', '--overwrite'], 'is the input'),
        (['separate', 'in.wav', '--prompt', 'low', '-o', 'stems'], 'at least two sounds; got 1'),
    ],
)
def test_wrong_options_end_in_one_sentence_before_the_model_is_loaded(
    tmp_path, priors, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    soundfile.write('in.wav', np.zeros(LENGTH), RATE)
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.stderr and priors == [], result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.wav']


class Listener:
    """Hears both tones, if it is asked."""

    def __init__(self):
        self.files = []

    def ask(self, audio, question, options=None):
        self.files.append(audio.name)
        scores = None if options is None else {option: float(option != 'organ') for option in options}
        return SimpleNamespace(text='Low and high.', probabilities=scores)


@pytest.fixture
def mix(tmp_path):
    """A file with both tones."""
    soundfile.write(tmp_path / 'mix.wav', (SOUNDS['low'] + SOUNDS['high'])[0].numpy(), RATE, 'FLOAT')
    return tmp_path / 'mix.wav'


@pytest.mark.parametrize('options', [(), ('--candidate', 'organ', '--candidate', 'low', '--candidate', 'high')])
def test_without_prompts_a_model_listens_and_names_the_sounds(tmp_path, priors, mix, monkeypatch, options):
    from nemo_audio_restore.apps import loading

    listener, names = Listener(), []
    monkeypatch.setattr(loading, 'load_listener', lambda name, device: names.append(name) or listener)
    result = run('separate', mix, '-o', tmp_path / 'stems', '--iterations', 1, '--draws', 1, *options)
    assert result.exit_code == 0, result.stderr
    assert 'heard: low, high' in result.stderr
    assert sorted(path.name for path in (tmp_path / 'stems').iterdir()) == ['mix.1-low.wav', 'mix.2-high.wav']
    assert names == ['audio_flamingo2_small'] and listener.files == ['mix.wav']
    three = run('separate', mix, '-o', tmp_path / 'three', '--sources', 3, '--iterations', 1)
    assert three.exit_code == 1 and three.stderr.startswith('heard: ') and three.stderr.count(',') >= 2
    few = run('separate', mix, '-o', tmp_path / 'three', '--candidate', 'low')
    assert few.exit_code == 2 and 'give more --candidate' in few.stderr


def test_without_prompts_and_without_a_listener_one_sentence_says_what_to_do(tmp_path, priors, mix):
    result = run('separate', mix, '-o', tmp_path / 'stems', '--listener', 'no_such_model')
    assert result.exit_code == 2 and priors == []
    assert 'a model must listen to mix.wav' in result.stderr and 'no_such_model' in result.stderr
    assert result.stderr.strip().endswith('give --prompt for each sound')


def test_a_long_mixture_is_divided_in_pieces(tmp_path, monkeypatch):
    from nemo_audio_restore.apps import loading

    def steady(hz, samples):
        return 0.4 * torch.sin(2 * math.pi * hz * torch.arange(samples) / RATE)[None]

    # The prior knows sounds of 0.6 s: a whole second and a half does not fit its shape.
    prior = ModesPrior({'low': steady(200.0, 4800), 'high': steady(1700.0, 4800)}, std=0.02, sample_rate=RATE)
    monkeypatch.setattr(loading, 'load_prior', lambda name, device, *, text_encoder=None: prior)
    mixture = (steady(200.0, 12000) + steady(1700.0, 12000))[0].numpy()
    soundfile.write(tmp_path / 'long.wav', mixture, RATE, 'FLOAT')
    options = ('--prompt', 'low', '--prompt', 'high', '-o', tmp_path / 'stems', '--iterations', 1, '--draws', 1)
    assert run('separate', tmp_path / 'long.wav', *options).exit_code == 1
    wrong = run('separate', tmp_path / 'long.wav', *options, '--segment', 0.4)
    assert wrong.exit_code == 2 and '--segment: segments must be longer than 0.5 s' in wrong.stderr
    result = run('separate', tmp_path / 'long.wav', *options, '--segment', 0.6)
    assert result.exit_code == 0, result.stderr
    stems = [soundfile.read(path, dtype='float32')[0] for path in (tmp_path / 'stems').iterdir()]
    np.testing.assert_allclose(sum(stems), mixture, atol=1e-4)


def test_an_interrupted_fit_goes_on_from_its_checkpoint(tmp_path, priors, monkeypatch):
    from nemo_audio_restore.apps import console

    options = ('--prompt', 'low', '--seconds', 0.5, '--iterations', 101, '--draws', 1, '-q')
    whole = run('distill', 'fm', *options, '-o', tmp_path / 'whole.wav')
    assert whole.exit_code == 0, whole.stderr
    plain = console.progress

    @contextmanager
    def interrupted(source, *, quiet):
        def bar(done, total):
            if done == 101:
                raise KeyboardInterrupt

        yield bar

    monkeypatch.setattr(console, 'progress', interrupted)
    stopped = run('distill', 'fm', *options, '-o', tmp_path / 'a.wav', '--checkpoint', tmp_path / 'run.pt')
    assert stopped.exit_code == 130 and 'the same command goes on from here' in stopped.stderr
    monkeypatch.setattr(console, 'progress', plain)
    again = run('distill', 'fm', *options, '-o', tmp_path / 'a.wav', '--checkpoint', tmp_path / 'run.pt')
    assert again.exit_code == 0 and not (tmp_path / 'run.pt').exists()
    assert (tmp_path / 'a.json').read_text() == (tmp_path / 'whole.json').read_text()


def test_a_patch_of_another_rate_than_the_models_is_refused(tmp_path, priors):
    FMSynthesizer.random(sample_rate=16000, generator=torch.Generator()).save_patch(tmp_path / 'a.json')
    result = run('distill', 'fm', '--prompt', 'low', '-o', tmp_path / 'b.wav', '--start', tmp_path / 'a.json')
    assert result.exit_code == 2 and 'a patch at 16000 Hz, stable_audio_44k_small works at 8000 Hz' in result.stderr


def test_a_prompt_that_the_prior_does_not_know_is_one_sentence(tmp_path, priors):
    result = run('distill', 'fm', '--prompt', 'rain', '--seconds', 0.5, '-o', tmp_path / 'a.wav')
    assert result.exit_code == 1 and 'this prior knows the sounds' in result.stderr
    assert 'Traceback' not in result.stderr and not list(tmp_path.iterdir())
