"""``audio-restore distill`` and ``separate`` with a prior whose answer is known."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.distillation.analytic_priors import ModesPrior
from nemo_audio_restore.distillation.renderers import FMSynthesizer

RUNNER = CliRunner()
RATE, LENGTH = 8000, 4000


def run(*arguments):
    return RUNNER.invoke(app, list(map(str, arguments)))


def tone(hz):
    t = torch.arange(LENGTH) / RATE
    return 0.4 * torch.sin(2 * math.pi * hz * t)[None] * torch.exp(-3 * t)


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
        '--iterations', 40, '--draws', 2, '--guidance', 1.5, '--gamma', 1.0,
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
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(LENGTH).astype(np.float32)
    soundfile.write(tmp_path / 'noisy.wav', noisy, RATE, 'FLOAT')
    options = ('--iterations', 30, '--draws', 2, '--guidance', 1.0, '--gamma', 5.0, '--learning-rate', 0.02)
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


def test_a_prompt_that_the_prior_does_not_know_is_one_sentence(tmp_path, priors):
    result = run('distill', 'fm', '--prompt', 'rain', '--seconds', 0.5, '-o', tmp_path / 'a.wav')
    assert result.exit_code == 1 and 'this prior knows the sounds' in result.stderr
    assert 'Traceback' not in result.stderr and not list(tmp_path.iterdir())
