"""The trainer without NeMo, and the way from its checkpoint to a .nemo file."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

CONFIG = {
    'model': {
        'representation': {'sample_rate': 8000, 'n_fft': 128, 'hop_length': 32, 'magnitude_power': 0.125},
        'process': {'beta_max': 1.0},
        'network': {
            '_target_': 'nemo_audio_restore.networks.folded_unet.FoldedUNet',
            'num_bins': 64,
            'fold_bins': 4,
            'fold_frames': 2,
            'channels': [16, 32],
            'num_blocks': [1, 1],
            'embedding_channels': 16,
        },
        'sampler': {'steps': 2, 'tile_frames': 32, 'tile_hop_frames': 16},
        'corruption': {'cutoff_range_hz': [500, 2000], 'gap_range_s': [0.02, 0.05]},
        'loss': {'channel_weights': [2.6, 0.2, 0.2], 'time_power': 0.5},
        'plain_training': {
            'seed': 1,
            'batch_size': 4,
            'micro_batches': 2,
            'crop_frames': 32,
            'lr': 3e-3,
            'weight_decay': 1e-4,
            'gradient_clip': 1.0,
            'ema_decay': 0.9,
            'level_rms': 0.1,
            'level_jitter_db': 3.0,
        },
    }
}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Config, two tracks of coloured noise and their cut manifest."""
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(CONFIG))
    rng = np.random.default_rng(0)
    with gzip.open(tmp_path / 'cuts.jsonl.gz', 'wt') as lines:
        for name in ('one', 'two'):
            noise = np.cumsum(rng.normal(size=(16000, 2)), axis=0) * 0.01
            soundfile.write(tmp_path / f'{name}.wav', noise - noise.mean(axis=0), 8000, subtype='FLOAT')
            recording = {'sampling_rate': 8000, 'sources': [{'source': f'{name}.wav'}]}
            lines.write(json.dumps({'id': name, 'recording': recording}) + '\n')
    return tmp_path


def train(repository: Path, folder: Path, *, steps: int, processes: int = 1) -> list[dict]:
    """Runs the script up to a number of steps; returns its log."""
    command = [sys.executable, repository / 'examples/train_plain.py', '--config', folder / 'config.yaml']
    command += ['--cuts', folder / 'cuts.jsonl.gz', '--out', folder / 'run', '--max-steps', str(steps)]
    command += ['--processes', str(processes), '--port', '29731', '--minutes', '30']
    subprocess.run(command, check=True, cwd=repository)
    return [json.loads(line) for line in (folder / 'run/log.jsonl').read_text().splitlines()]


def test_loss_falls_and_a_second_call_goes_on_where_the_first_stopped(repository: Path, run_folder: Path):
    first = train(repository, run_folder, steps=40)
    stopped = torch.load(run_folder / 'run/last.pt', weights_only=True)
    log = train(repository, run_folder, steps=120)
    state = torch.load(run_folder / 'run/last.pt', weights_only=True)
    assert [row['step'] for row in log] == [20, 40, 60, 80, 100, 120]
    assert log[: len(first)] == first
    assert (stopped['step'], state['step']) == (40, 120)
    assert state['seconds'] > stopped['seconds']
    assert log[-1]['loss'][0] < 0.8 * log[0]['loss'][0]
    assert not torch.equal(state['network']['input.weight'], state['averaged']['input.weight'])


def test_two_processes_share_the_work_and_keep_one_set_of_weights(repository: Path, run_folder: Path):
    log = train(repository, run_folder, steps=20, processes=2)
    assert log[-1]['step'] == 20
    assert np.isfinite(log[-1]['loss']).all()


def test_checkpoint_becomes_a_nemo_file_with_the_averaged_weights(repository: Path, run_folder: Path):
    train(repository, run_folder, steps=20)
    script = repository / 'examples/export_plain.py'
    options = ['--config', run_folder / 'config.yaml', '--checkpoint', run_folder / 'run/last.pt']
    subprocess.run([sys.executable, script, *options, '--out', run_folder / 'small.nemo'], check=True, cwd=repository)

    from nemo_audio_restore import AudioRestoreModel

    model = AudioRestoreModel.restore_from(run_folder / 'small.nemo')
    averaged = torch.load(run_folder / 'run/last.pt', weights_only=True)['averaged']
    for name, value in model.network.state_dict().items():
        expected = averaged[name].half().float() if averaged[name].ndim > 1 else averaged[name]
        assert torch.equal(value, expected), name
    assert model.sampler.steps == 2
    restored = model.restore(np.random.default_rng(0).normal(size=8000) * 0.1, sample_rate=8000, gaps=[(0.4, 0.45)])
    assert np.isfinite(restored).all()
