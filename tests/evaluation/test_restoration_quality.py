"""The held-out benchmark on two tracks that are made up here."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'restoration_quality.py'


@pytest.fixture(scope='module')
def benchmark():
    pytest.importorskip('zimtohrli')
    specification = importlib.util.spec_from_file_location('restoration_quality', SCRIPT)
    module = importlib.util.module_from_spec(specification)
    # Dataclasses look their module up while it is being executed.
    sys.modules['restoration_quality'] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for index in range(2):
        audio = np.random.default_rng(index).normal(0, 0.1, 44100 * 10)
        soundfile.write(tmp_path / f'track{index}.flac', audio, 44100)
        source = {'type': 'file', 'channels': [0], 'source': f'track{index}.flac'}
        custom = {'group': f'package{index}/author', 'bandwidth_hz': 12000.0}
        lines.append({'recording': {'sources': [source]}, 'custom': custom})
    path = tmp_path / 'test.jsonl'
    path.write_text('\n'.join(json.dumps(line) for line in lines))
    return path


def test_low_pass_is_sharp_aligned_and_deep(benchmark):
    time = np.arange(44100) / 44100
    kept, removed = (np.sin(2 * np.pi * hz * time).astype(np.float32) for hz in (3900, 4100))
    inside = slice(8000, -8000)
    np.testing.assert_allclose(benchmark.low_pass(kept, 4000.0)[inside], kept[inside], atol=1e-4)
    assert np.abs(benchmark.low_pass(removed, 4000.0)[inside]).max() < 3e-5


def test_gaps_are_silenced_and_nothing_else(benchmark):
    audio = np.ones(3 * 44100, np.float32)
    damage = next(task for task in benchmark.tasks(3.0) if task.name == 'gap 100 ms')
    assert (damage.apply(audio) == 0).sum() == 4410
    assert (audio == 1).all()


def test_one_command_scores_baselines_and_a_function_of_the_caller(
    benchmark, manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    folder = manifest.parent
    (folder / 'mine.py').write_text('def louder(audio, rate, *, cutoff_hz, gaps, steps):\n    return steps * audio\n')
    monkeypatch.chdir(folder)
    command = ['restoration_quality.py', '--manifest', str(manifest), '--clips', '1', '--seconds', '3']
    command += ['--task', 'cutoff 8', '--function', 'mine:louder', '--steps', '1', '10']
    command += ['--cache', str(folder / 'cache.jsonl'), '--output', str(folder / 'table')]
    monkeypatch.setattr(sys, 'argv', command)
    benchmark.main()
    rows = list(csv.DictReader((folder / 'table.csv').open()))
    lsd = {row['method']: float(row['LSD high to 16k']) for row in rows if row['package'] == 'package0'}
    assert lsd['mine:louder, 1 steps'] == pytest.approx(lsd['nothing'])
    assert lsd['mine:louder, 10 steps'] == pytest.approx(lsd['nothing'] - 2, abs=0.1)
    assert lsd['shaped noise'] < lsd['nothing'] / 2
    markdown = (folder / 'table.md').read_text()
    assert markdown == capsys.readouterr().out.removesuffix('\n')
    assert '### cutoff 8 kHz' in markdown and 'CPUs' in markdown and '--steps 1 10' in markdown

    def fail(*_args: object) -> None:
        raise AssertionError('baselines must come from the cache')

    monkeypatch.setattr(benchmark, 'baselines', lambda damage: dict.fromkeys(('nothing', 'shaped noise'), fail))
    benchmark.main()


def test_scores_of_a_model_are_kept_by_its_samples(benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    audio = np.random.default_rng(0).normal(0, 0.1, 44100 * 3).astype(np.float32)
    clip, damage = benchmark.Clip('track#0', 'package', audio, 12000.0), benchmark.tasks(3.0)[0]
    arguments = {'cache': benchmark.Cache(tmp_path / 'cache.jsonl'), 'name': None, 'visqol': False}
    first, _ = benchmark.scored(clip, damage, lambda degraded, damage: degraded, **arguments)
    arguments['cache'] = benchmark.Cache(tmp_path / 'cache.jsonl')
    monkeypatch.setattr(benchmark.metrics, 'lsd', lambda *_args, **_options: -1.0)
    again, _ = benchmark.scored(clip, damage, lambda degraded, damage: degraded, **arguments)
    other, _ = benchmark.scored(clip, damage, lambda degraded, damage: 0.9 * degraded, **arguments)
    assert again == first and other['LSD'] == -1.0


def test_lsd_to_the_end_of_the_track_ignores_what_lies_above(benchmark):
    audio = np.random.default_rng(0).normal(0, 0.1, 44100 * 3).astype(np.float32)
    clip, damage = benchmark.Clip('track#0', 'package', audio, 12000.0), benchmark.tasks(3.0)[0]
    scores = benchmark.measures(clip, benchmark.low_pass(audio, 12200.0), damage, visqol=False)
    assert scores['LSD high to own end']() < 0.05 < 1 < scores['LSD high to 16k']() < scores['LSD high']()


def test_tracks_too_short_for_their_clips_are_refused(benchmark, manifest: Path):
    with pytest.raises(ValueError, match='last more than 24'):
        list(benchmark.clips(manifest, count=2, seconds=6.0, limit=None))
    with pytest.raises(ValueError, match='at least 3 s'):
        benchmark.tasks(2.0)
    assert len(list(benchmark.clips(manifest, count=2, seconds=1.0, limit=1))) == 2
