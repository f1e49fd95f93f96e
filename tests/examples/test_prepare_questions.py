"""The preparation of questions: what it reads is there, or a sentence says what is missing."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment


@pytest.fixture
def script(repository: Path):
    spec = importlib.util.spec_from_file_location('prepare_questions', repository / 'examples/prepare_questions.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def folder_of_clips(folder, kind, split):
    """A folder as prepare_captions.py writes it, with one sound."""
    folder.mkdir()
    soundfile.write(folder / f'{kind}.wav', 0.3 * np.random.default_rng(0).uniform(-1, 1, 8000), 16000)
    recording = Recording.from_file(folder / f'{kind}.wav')
    custom = {'class': kind, 'group': '0ad-data', 'task': 'effect', 'licence': 'CC0', 'tags': {'Count': 'one'}}
    segment = SupervisionSegment(kind, kind, 0.0, 0.5, text=kind)
    cut = MonoCut(kind, 0.0, 0.5, 0, [segment], recording=recording, custom=custom)
    CutSet.from_cuts([cut]).to_file(folder / f'{split}.jsonl.gz')
    return folder


def options(script, tmp_path, captions, sounds):
    named = ['--captions', str(captions), '--speech', str(tmp_path), '--out', str(tmp_path / 'out')]
    return script.parse_arguments([*named, '--sounds', str(sounds)])


def test_additional_sounds_keep_their_split(script, tmp_path, monkeypatch):
    captions = folder_of_clips(tmp_path / 'captions', 'bird', 'test')
    for split in ('train', 'validation'):
        (captions / f'{split}.jsonl.gz').write_bytes((captions / 'test.jsonl.gz').read_bytes())
    sounds = folder_of_clips(tmp_path / 'sounds', 'fire', 'test')
    (sounds / 'train.jsonl.gz').write_bytes((sounds / 'test.jsonl.gz').read_bytes())
    for name in ('music_recordings', 'speech_recordings', 'instrument_recordings', 'chord_recordings'):
        monkeypatch.setattr(script, name, lambda *parts, **how: [])
    for name in ('counted_recordings', 'ordered_recordings'):
        monkeypatch.setattr(script, name, lambda *parts, **how: [])
    monkeypatch.setattr(script, 'soundfont', lambda font, options: tmp_path)
    found = script.gather(options(script, tmp_path, captions, sounds), tmp_path / 'out')
    assert {known.split for known in found if known.facts[0].label == 'fire'} == {'train', 'test'}
    assert {known.split for known in found if known.facts[0].label == 'bird'} == {'train', 'validation', 'test'}


def test_a_folder_without_more_sounds_is_told(script, tmp_path, capsys):
    captions = folder_of_clips(tmp_path / 'captions', 'bird', 'train')
    for split in ('validation', 'test'):
        (captions / f'{split}.jsonl.gz').write_bytes((captions / 'train.jsonl.gz').read_bytes())
    named = ['--captions', str(captions), '--speech', str(tmp_path), '--out', str(tmp_path / 'out')]
    assert script.main([*named, '--sounds', str(tmp_path / 'nowhere')]) == 1
    assert 'nowhere holds no manifest' in capsys.readouterr().err
