"""``audio-restore evaluate --generation`` with a network that hears loudness only."""

import importlib.util
import json

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from nemo_audio_restore.apps import generation_metrics
from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.evaluation.embedders import WindowNetwork
from nemo_audio_restore.evaluation.generation import GenerationMetrics

RATE = 16000


def run(*arguments):
    return CliRunner().invoke(app, ['evaluate', *map(str, arguments), '-q'])


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name, ends in (('real', (0.1, 0.9)), ('made', (0.9, 0.8))):
        (tmp_path / name).mkdir()
        for index in range(2):
            samples = np.linspace(*ends, 4 * RATE) * rng.uniform(-1, 1, 4 * RATE)
            soundfile.write(tmp_path / name / f'{index}.wav', samples, RATE)
    (tmp_path / 'asked.csv').write_text('file,caption\n0,loud\n1.wav,quiet\n')
    return tmp_path


@pytest.fixture
def loudness(monkeypatch):
    """Replaces the networks; says which were asked for."""
    asked = []

    def metrics(embedders, text_model):
        asked.append((tuple(embedders), text_model))
        network = WindowNetwork('loudness', RATE, 1000, 1000, lambda audio: audio.square().mean(dim=1, keepdim=True))
        tags = WindowNetwork(
            'tags', RATE, 1000, 1000, lambda audio: torch.stack([audio.mean(1), audio.amax(1)], dim=1)
        )
        score = None if text_model is None else lambda audio, rate, text: len(text) / 10
        return GenerationMetrics([network], tags, score, 'length')

    monkeypatch.setattr(generation_metrics, '_metrics', metrics)
    return asked


def test_scores_bear_the_names_of_their_networks(folders, loudness):
    found = run(folders / 'real', folders / 'made', '--generation', '--captions', folders / 'asked.csv', '--json')
    assert found.exit_code == 0, found.output
    scores = json.loads(found.stdout)['scores']
    assert scores['FD (loudness)'] > 0
    assert scores['KL (tags)'] > 0
    assert scores['text-audio score (length)'] == pytest.approx(0.45)
    assert loudness == [(('musicnn',), 'text_audio_small')]


def test_statistics_stand_for_the_folder(folders, loudness):
    kept = folders / 'real.npz'
    first = run(folders / 'real', folders / 'made', '--generation', '--save-statistics', kept, '--json')
    again = run(kept, folders / 'made', '--generation', '--embedder', 'whisper', '--json')
    assert json.loads(first.stdout)['scores'] == json.loads(again.stdout)['scores']
    assert loudness == [(('musicnn',), None), (('whisper',), None)]


@pytest.mark.parametrize(('suffix', 'line'), [('.csv', '(all),'), ('.md', '| FD (loudness) |')])
def test_reports_are_written(folders, loudness, suffix, line):
    output = folders / f'scores{suffix}'
    assert run(folders / 'real', folders / 'made', '--generation', '-o', output).exit_code == 0
    assert line in output.read_text()


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (('--generation', '--embedder', 'openl3'), 2, 'must be one of musicnn, whisper, text-audio; got openl3'),
        (('--generation', '--save-statistics', 'real.txt'), 2, 'must end in .npz'),
        (('--captions', 'asked.csv'), 2, 'belong to --generation'),
    ],
)
def test_wrong_options_are_refused(folders, arguments, code, message):
    found = run(folders / 'real', folders / 'made', *arguments)
    assert found.exit_code == code
    assert message in ' '.join(found.output.split())


def test_an_empty_folder_is_named(folders, loudness):
    (folders / 'empty').mkdir()
    found = run(folders / 'real', folders / 'empty', '--generation')
    assert found.exit_code == 1
    assert 'no folder with audio' in ' '.join(found.output.split())


@pytest.mark.skipif(importlib.util.find_spec('musicnn') is None, reason='needs pip install --no-deps musicnn==0.1.0')
def test_musicnn_finds_a_folder_equal_to_itself_and_says_how_few_it_heard(folders):
    found = run(folders / 'real', folders / 'real', '--generation', '--json')
    report = json.loads(found.stdout)
    assert report['scores']['FD (MusiCNN)'] == pytest.approx(0.0, abs=1e-4)
    assert report['scores']['KL (MusiCNN tags)'] == 0.0
    assert any('so few raise the distance' in note for note in report['notes'])
    assert any('nothing above 8 kHz' in note for note in report['notes'])
