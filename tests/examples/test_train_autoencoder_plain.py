"""The autoencoder's trainer without NeMo, and the way from its checkpoint to a .nemo file."""

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel

RATE = 16000
SMALL = {'latent_channels': 4, 'samples_per_latent': 512, 'hop_length': 128, 'num_bands': 24, 'channels': 16}
SMALL |= {'num_blocks': 1, 'frame_channels': 16, 'num_frame_blocks': 1}
NETWORKS = 'nemo_audio_restore.networks.spectral_autoencoder'
CONFIG = {
    'model': {
        'target': 'nemo_audio_restore.models.audio_autoencoder.AudioAutoencoderModel',
        'sample_rate': RATE,
        'network': {
            '_target_': f'{NETWORKS}.SpectralAutoencoder',
            'encoder': {'_target_': f'{NETWORKS}.StereoSpectralEncoder', **SMALL, 'num_short_bands': 6},
            'decoder': {'_target_': f'{NETWORKS}.StereoSpectralDecoder', **SMALL},
        },
    }
}


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config, and manifests of bursts of noise on one side and the other."""
    folder = tmp_path_factory.mktemp('autoencoder')
    (folder / 'config.yaml').write_text(yaml.safe_dump(CONFIG))
    rng = np.random.default_rng(0)
    for split, seconds in (('train', 3), ('more', 7), ('validation', 7)):
        bursts = 0.02 + 0.3 * (np.sin(np.arange(seconds * RATE) / 900) > 0)
        audio = np.stack([bursts, bursts[::-1]], axis=1) * rng.normal(size=(seconds * RATE, 1))
        soundfile.write(folder / f'{split}.wav', audio[:, :1] if split == 'more' else audio, RATE, subtype='FLOAT')
        recording = {'sampling_rate': RATE, 'sources': [{'source': f'{split}.wav'}]}
        cut = {'id': split, 'start': 0.0, 'duration': float(seconds), 'recording': recording}
        with gzip.open(folder / f'{split}.jsonl.gz', 'wt') as lines:
            lines.write(json.dumps(cut) + '\n')
    return folder


def train(repository: Path, folder: Path, *, steps: int) -> list[dict]:
    """Runs the script up to a number of steps; returns its log."""
    command = [sys.executable, repository / 'examples/train_autoencoder_plain.py', '--config', folder / 'config.yaml']
    command += ['--data', folder / 'train.jsonl.gz', '--data', folder / 'more.jsonl.gz']
    command += ['--validation', folder / 'validation.jsonl.gz', '--out', folder / 'run']
    command += ['--max-steps', str(steps), '--minutes', '30', '--batch-size', '2', '--crop-latents', '10']
    subprocess.run(command, check=True, cwd=repository)
    return [json.loads(line) for line in (folder / 'run/log.jsonl').read_text().splitlines()]


def module_of(repository: Path, name: str):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, repository / f'examples/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_resumes_and_its_average_becomes_a_nemo_file(repository: Path, run_folder: Path):
    train(repository, run_folder, steps=1)
    log = train(repository, run_folder, steps=12)
    assert [row['step'] for row in log] == [1, 12]
    assert log[1]['stft'] < log[0]['stft'] + 0.02
    out = run_folder / 'small.nemo'
    model = module_of(repository, 'export_plain').export(run_folder / 'config.yaml', run_folder / 'run/last.pt', out)
    state = torch.load(run_folder / 'run/last.pt', weights_only=True)
    trained = state['averaged']['decoder.input.weight'] * state['latent_std']
    assert torch.allclose(model.network.decoder.input.weight, trained, atol=1e-3)
    audio, _ = soundfile.read(run_folder / 'train.wav', dtype='float32')
    latents = AudioAutoencoderModel.restore_from(out).encode(torch.from_numpy(audio.T)[None])
    assert 0.3 < float(latents.std()) < 3


def test_every_manifest_has_its_share_of_each_batch(repository: Path, run_folder: Path):
    trainer = module_of(repository, 'train_autoencoder_plain')
    rng = np.random.default_rng(0)
    stores = [
        trainer.StereoStore(run_folder / f'{name}.jsonl.gz', RATE, minutes=1, rng=rng) for name in ('train', 'more')
    ]
    batch = trainer.batch_of(stores, 6, 4000, rng)
    mono = [bool((row[0] == row[1]).all()) for row in batch]
    assert sum(mono) == 3 and batch.abs().max() <= 0.98


def test_memory_holds_excerpts_of_the_asked_length(repository: Path, run_folder: Path):
    trainer = module_of(repository, 'train_autoencoder_plain')
    store = trainer.StereoStore(run_folder / 'more.jsonl.gz', RATE, minutes=2 / 60, rng=np.random.default_rng(0))
    assert [clip.shape for clip in store.clips] == [(2, 2 * RATE)]
