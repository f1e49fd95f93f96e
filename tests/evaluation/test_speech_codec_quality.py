"""The comparison of speech codecs on clips that are made up here, without any codec's program."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.evaluation.classical_codecs import CLASSICAL_CODECS

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'speech_codec_quality.py'
RATE = 22050
NO_PROGRAMS = [codec.name for codec in CLASSICAL_CODECS]


@pytest.fixture(scope='module')
def benchmark():
    specification = importlib.util.spec_from_file_location('speech_codec_quality', SCRIPT)
    module = importlib.util.module_from_spec(specification)
    # Dataclasses look their module up while it is being executed.
    sys.modules['speech_codec_quality'] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def manifests(tmp_path):
    """A manifest of clips without transcripts and one of sentences."""
    lines = {'clips': [], 'sentences': []}
    for index in range(3):
        noise = np.random.default_rng(index).normal(0, 0.1, RATE)
        soundfile.write(tmp_path / f'{index}.flac', noise * (np.sin(20 * np.arange(RATE) / RATE) > 0), RATE)
        cut = {'id': f'clip{index}', 'duration': 1.0 if index else 0.2, 'custom': {'group': 'made/up'}}
        cut['recording'] = {'sources': [{'source': f'{index}.flac'}]}
        lines['clips'].append(cut | {'supervisions': [{'language': 'da'}]})
        lines['sentences'].append(cut | {'supervisions': [{'language': 'ru', 'text': 'Один два.'}]})
    for name, cuts in lines.items():
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, cuts)))
    return tmp_path


@pytest.fixture
def light_score(benchmark, monkeypatch):
    """Only the metrics that need no optional package."""
    for name, value in (('estoi', 0.5), ('pesq_wb', 2.0)):
        monkeypatch.setattr(benchmark.speech, name, lambda *_args, value=value: value)
    monkeypatch.setattr(benchmark.speech, 'dnsmos', lambda *_args: benchmark.speech.DnsMos(3.0, 3.0, 3.0))


def run(benchmark, folder, capsys, transcriber, *, skip=NO_PROGRAMS, clips=5):
    command = ['--manifest', str(folder / 'clips.jsonl'), '--sentences', str(folder / 'sentences.jsonl')]
    command += ['--clips', str(clips), '--output', str(folder / 'out'), '--skip', *skip]
    benchmark.main(command, transcriber=transcriber)
    return capsys.readouterr().out


def test_one_command_makes_the_table_and_a_second_run_computes_nothing(
    benchmark, manifests, light_score, capsys, monkeypatch
):
    windows = []

    def transcriber(language):
        assert language == 'ru'
        return lambda recordings: windows.extend(recordings) or ['один два один три']

    text = run(benchmark, manifests, capsys, transcriber)
    # Two sentences of a second and their pauses in one window, for each of two codecs; 'три' costs 3 of 17.
    assert [len(window) for window in windows] == [3 * 16000] * 2 and f'{3 / 17:.3f} ± 0.000' in text
    # The clip of 0.2 s is left out.
    assert '### made: 2 clips' in text and '| original at 8 kHz |' in text and 'codec2' not in text.split('###')[1]
    rows = {(row['codec'], row['clip']): row for row in csv.DictReader((manifests / 'out.csv').open())}
    narrow, whole = rows['original at 8 kHz', 'clip1'], rows['original', 'clip1']
    assert float(whole['mel']) == float(whole['STFT 0-4k']) == 0
    assert float(narrow['STFT']) > 3 * float(narrow['STFT 0-4k']) > 0
    # Every third clip is judged by DNSMOS.
    assert whole['DNSMOS'] == '3.0' and rows['original', 'clip2']['DNSMOS'] == 'nan'
    assert (manifests / 'out.md').read_text('utf-8') == text.removesuffix('\n')

    def fail(*_args, **_named):
        raise AssertionError('everything must come from the output folder')

    monkeypatch.setattr(benchmark, 'score', fail)
    monkeypatch.setattr(benchmark, 'narrow_band', fail)
    assert run(benchmark, manifests, capsys, fail).split('###')[1:] == text.split('###')[1:]


def test_clips_are_spread_evenly(benchmark, manifests):
    assert [clip.name for clip in benchmark.read_clips(manifests / 'clips.jsonl', count=1)] == ['clip1']
    (first, second) = benchmark.read_clips(manifests / 'sentences.jsonl', count=2)
    assert (first.name, second.name, second.language, second.text) == ('clip1', 'clip2', 'ru', 'Один два.')


def test_windows_hold_one_language_and_28_seconds(benchmark):
    def clip(name, collection, seconds):
        return benchmark.Clip(name, collection, '', 'text' if name != 'mute' else '', np.zeros(int(seconds * RATE)))

    clips = [clip('a', 'x', 20), clip('b', 'x', 7), clip('c', 'x', 1), clip('mute', 'x', 1), clip('d', 'y', 1)]
    assert [[one.name for one in window] for window in benchmark.windows(clips)] == [['a', 'b'], ['c'], ['d']]


def test_a_missing_program_is_asked_for_before_anything_is_computed(benchmark, manifests, capsys, monkeypatch):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(SystemExit):
        run(benchmark, manifests, capsys, None, skip=['Opus'])
    assert 'apt-get install codec2 speex`' in capsys.readouterr().err
