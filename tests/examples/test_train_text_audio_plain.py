"""The plain trainer of text-audio models: what it makes of captions, and that it learns and resumes."""

import argparse
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

RATE = 8000
NAMES = ('low', 'high')


@pytest.fixture(scope='module')
def script(repository: Path):
    spec = importlib.util.spec_from_file_location('plain', repository / 'examples/train_text_audio_plain.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_folder(tmp_path, script):
    """A corpus of tones with a tiny config; the sentences are given, so that no text encoder is needed."""
    tower = {
        '_target_': 'nemo_audio_restore.networks.audio_tower.ConvolutionalAudioTower',
        'embedding_dim': 8,
        'sample_rate': RATE,
        'window_frames': 32,
        'num_mels': 32,
        'widths': [4, 4, 8, 8],
        'depths': [1, 1, 1, 1],
    }
    text = {
        '_target_': 'nemo_audio_restore.models.text_towers.SentenceTextTower',
        'embedding_dim': 8,
        'encoder_dim': 4,
    }
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump({'model': {'audio_tower': tower, 'text_tower': text}}))
    rng = np.random.default_rng(0)
    times = np.arange(RATE) / RATE
    for split in ('train', 'validation'):
        with gzip.open(tmp_path / f'{split}.jsonl.gz', 'wt') as lines:
            for index in range(8):
                name = NAMES[index % 2]
                tone = 0.3 * np.sin(2 * np.pi * (200 + 2000 * (index % 2)) * times) + 0.01 * rng.normal(size=RATE)
                soundfile.write(tmp_path / f'{split}{index}.wav', tone, RATE)
                cut = {
                    'id': f'{split}{index}',
                    'start': 0.0,
                    'duration': 1.0,
                    'supervisions': [{'text': f'a {name} tone'}],
                    'custom': {'class': name, 'task': 'instrument', 'tags': {'Pitch': f'{name}, pure', 'BPM': '90'}},
                    'recording': {'sampling_rate': RATE, 'sources': [{'source': f'{split}{index}.wav'}]},
                }
                lines.write(json.dumps(cut) + '\n')
    return tmp_path


def train(script, folder, *, steps):
    options = argparse.Namespace(
        config=folder / 'config.yaml',
        data=folder,
        out=folder / 'run',
        minutes=30.0,
        max_steps=steps,
        batch_size=4,
        lr=3e-3,
        variants=0,
        templates=['{}'],
        ema_decay=0.9,
        threads=torch.get_num_threads(),
        validation_minutes=30.0,
    )
    options.out.mkdir(exist_ok=True)
    for split in ('train', 'validation'):
        words = ['a low tone', 'a high tone', *NAMES]
        np.savez(options.out / f'sentences_{split}.npz', words=np.array(words), vectors=np.eye(4)[[0, 1, 0, 1]])
    with torch.random.fork_rng():
        script.train(options)
    return [json.loads(line) for line in (options.out / 'log.jsonl').read_text().splitlines()]


def test_training_learns_resumes_and_reads_each_file_once(script, run_folder):
    train(script, run_folder, steps=2)
    for path in run_folder.glob('*.wav'):
        path.unlink()
    log = train(script, run_folder, steps=60)
    assert [row['step'] for row in log] == [2, 60]
    assert log[1]['r@1'] == 1.0
    assert log[1]['instrument of 2'] == 1.0


def test_a_text_is_true_of_all_recordings_that_have_its_tags(script):
    def clip(caption, **tags):
        cut = {'custom': {'class': 'piano', 'tags': tags}, 'supervisions': [{'text': caption}]}
        return script.Clip(np.zeros((1, 1), np.uint8), caption, 'piano', 'instrument', script.facts_of(cut))

    clips = [clip('slow piano', Pace='slow', Mood='sad, calm'), clip('piano', Pace='slow', Mood='calm')]
    texts = [
        script.Text('slow piano', frozenset({('caption', 'slow piano')})),
        script.Text('Mood: calm', frozenset({('Mood', 'calm')})),
    ]
    assert script.alike(texts, clips).tolist() == [[True, True], [False, True]]


def test_prompts_of_tags_say_what_can_be_heard(script):
    cut = {
        'custom': {'class': 'rock', 'tags': {'BPM': '123', 'Key': 'C major', 'Instruments': 'drums, guitar'}},
        'supervisions': [{'text': 'fast rock'}],
    }
    clip = script.Clip(np.zeros((1, 1), np.uint8), 'fast rock', 'rock', 'groove', script.facts_of(cut))
    texts = script.prepared_texts(clip, 50, np.random.default_rng(0))
    words = {text.words for text in texts}
    assert not any('123' in word or 'major' in word or 'fast' in word for word in words)
    assert any('|' in word for word in words)
    assert any('|' not in word and ', ' in word for word in words)
    assert {fact for text in texts for fact in text.facts} == {
        ('class', 'rock'),
        ('Instruments', 'drums'),
        ('Instruments', 'guitar'),
    }


def test_short_recordings_are_repeated_as_the_model_does(script):
    levels = np.array([[1, 2, 3]], np.uint8)
    found = script.window(levels, 8, np.random.default_rng(0))
    assert found.tolist() == [[1, 2, 3, 1, 2, 3, 0, 0]]
