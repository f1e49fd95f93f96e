"""Training of AudioRestoreModel with NeMo's experiment manager, on generated music and with a tiny network."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lightning.pytorch import Callback, Trainer
from nemo.utils.exp_manager import exp_manager
from omegaconf import OmegaConf

from nemo_audio_restore._nemo import SafeCheckpointIO
from nemo_audio_restore.models.audio_restore import AudioRestoreModel
from nemo_audio_restore.models.blocks import ConfigError

ROOT = Path(__file__).parents[2]
RATE = 8000
CROP_S = 32 * 32 / RATE + 0.02


@pytest.fixture(scope='module')
def cuts_path(tmp_path_factory):
    """Chords with all their harmonics: what is above a cutoff follows from what is below it."""
    folder = tmp_path_factory.mktemp('chords')
    rng = np.random.default_rng(0)
    cuts = []
    for index in range(8):
        time = np.arange(2 * RATE) / RATE
        notes = rng.uniform(80, 300, 3)
        audio = sum(np.sin(2 * np.pi * note * k * time) / k for note in notes for k in range(1, int(3800 / note)))
        path = folder / f'{index}.wav'
        soundfile.write(path, 0.1 * audio, RATE, subtype='FLOAT')
        cuts.append(Recording.from_file(path).to_cut())
    CutSet.from_cuts(cuts).to_file(folder / 'cuts.jsonl.gz')
    return str(folder / 'cuts.jsonl.gz')


@pytest.fixture
def config(cuts_path):
    """The sections of a training config: a network of 20,000 parameters, 32 bins x 32 frames."""
    data = {'cuts_path': cuts_path, 'batch_size': 4, 'truncate_duration': CROP_S}
    return OmegaConf.create(
        {
            'name': 'tiny',
            'seed': 0,
            'model': {
                'representation': {'sample_rate': RATE, 'n_fft': 64, 'hop_length': 32},
                'network': {
                    '_target_': 'nemo_audio_restore.networks.folded_unet.FoldedUNet',
                    'num_bins': 32,
                    'fold_bins': 4,
                    'fold_frames': 4,
                    'channels': [16, 16],
                    'num_blocks': [1, 1],
                    'attention_levels': [1],
                    'num_heads': 2,
                    'embedding_channels': 16,
                },
                'corruption': {'cutoff_range_hz': [1000, 3000], 'gap_range_s': [0.02, 0.1]},
                'sampler': {'steps': 2, 'tile_frames': 32, 'tile_hop_frames': 16},
                'validation': {'cutoffs_hz': [2000], 'gaps_s': [0.1]},
                'train_ds': {**data, 'shuffle': True},
                'validation_ds': {
                    **data,
                    'shuffle': False,
                    'truncate_duration': 1.0,
                    'truncate_offset_type': 'middle',
                },
                'optim': {'name': 'adamw', 'lr': 3e-3},
            },
            'trainer': {
                'accelerator': 'cpu',
                'devices': 1,
                'max_steps': 4,
                'max_epochs': -1,
                'limit_val_batches': 1,
                'num_sanity_val_steps': 0,
                'val_check_interval': 2,
                'check_val_every_n_epoch': None,
                'use_distributed_sampler': False,
                'logger': False,
                'enable_checkpointing': False,
                'enable_progress_bar': False,
                'enable_model_summary': False,
            },
            'exp_manager': {
                'name': 'tiny',
                'create_tensorboard_logger': True,
                'create_checkpoint_callback': True,
                'checkpoint_callback_params': {'monitor': 'val_loss', 'mode': 'min', 'save_top_k': 1},
                'resume_if_exists': True,
                'resume_ignore_no_checkpoint': True,
                'ema': {'enable': True, 'decay': 0.9},
            },
        }
    )


class Recorder(Callback):
    """Keeps the first sample of every training crop, the losses, and the metrics of the last validation."""

    def __init__(self):
        self.crops, self.losses, self.metrics = [], [], {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.crops.append(tuple(batch['audio'][:, 0].tolist()))
        self.losses.append(float(outputs['loss']))

    def on_validation_end(self, trainer, pl_module):
        self.metrics = dict(trainer.callback_metrics)


def fit(config, folder, *, without_manager=False, **trainer_settings):
    recorder = Recorder()
    torch.manual_seed(0)
    trainer = Trainer(plugins=[SafeCheckpointIO()], callbacks=[recorder], **{**config.trainer, **trainer_settings})
    if not without_manager:
        exp_manager(trainer, OmegaConf.merge(config.exp_manager, {'exp_dir': str(folder)}))
    model = AudioRestoreModel(config.model, trainer)
    trainer.fit(model)
    return model, trainer, recorder


def test_training_learns_what_an_untrained_network_does_not_know(config, tmp_path):
    # The fixed baseline is the loss of predicting zero, as the network does before training: the same batches and the
    # same random numbers, with a learning rate of zero.
    still = OmegaConf.merge(config, {'model': {'optim': {'lr': 0.0}}})
    steps = {'max_steps': 120, 'limit_val_batches': 0, 'without_manager': True}
    _, _, baseline = fit(still, tmp_path, **steps)
    _, _, trained = fit(config, tmp_path, **steps)
    assert trained.crops == baseline.crops
    assert trained.losses[0] == pytest.approx(baseline.losses[0])
    assert np.mean(trained.losses[-40:]) < 0.7 * np.mean(baseline.losses[-40:])


def test_training_runs_in_bfloat16(config, tmp_path):
    _, _, recorder = fit(config, tmp_path, precision='bf16-mixed', without_manager=True, limit_val_batches=0)
    _, _, exact = fit(config, tmp_path, without_manager=True, limit_val_batches=0)
    assert np.isfinite(recorder.losses).all()
    assert recorder.losses != exact.losses
    np.testing.assert_allclose(recorder.losses, exact.losses, rtol=0.2)


def test_file_damage_changes_what_is_trained(config, tmp_path):
    damage = {'_target_': 'nemo_audio_restore.data.degradation.FileDamage', 'cutoff_range_hz': [1500, 3000]}
    damaged = OmegaConf.merge(config, {'model': {'train_ds': {'dataset': {'degradation': damage}}}})
    _, _, plain = fit(config, tmp_path, without_manager=True, limit_val_batches=0)
    _, _, recorder = fit(damaged, tmp_path, without_manager=True, limit_val_batches=0)
    assert recorder.crops == plain.crops and recorder.losses != plain.losses


# Runs examples/train.py and writes down what each process is given.
WATCHED = """
import importlib.util, os
from nemo_audio_restore.models.audio_restore import AudioRestoreModel
step = AudioRestoreModel.training_step
def watched_step(self, batch, batch_index):
    with open(os.path.join({folder!r}, f'rank{{self.global_rank}}.txt'), 'a') as file:
        print(*batch['audio'][:, 0].tolist(), sep='\\n', file=file)
    return step(self, batch, batch_index)
AudioRestoreModel.training_step = watched_step
spec = importlib.util.spec_from_file_location('train', {script!r})
train = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)
train.main()
"""


def run_script(config, folder, *overrides):
    """Runs examples/train.py on a config, in its own process; the crops of rank 0 go to ``rank0.txt``, and so on."""
    folder.mkdir(exist_ok=True)
    OmegaConf.save(config, folder / 'tiny.yaml')
    script = folder / 'watched_train.py'
    script.write_text(WATCHED.format(folder=str(folder), script=str(ROOT / 'examples' / 'train.py')))
    return subprocess.run(
        [sys.executable, str(script), f'--config-path={folder}', '--config-name=tiny', *overrides],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        cwd=folder,
        timeout=900,
    )


@pytest.mark.slow
def test_script_trains_on_two_processes_that_see_different_data(config, tmp_path):
    options = [
        'trainer.devices=2',
        '++trainer.strategy=ddp',
        'trainer.max_steps=2',
        f'++exp_manager.exp_dir={tmp_path}',
    ]
    done = run_script(config, tmp_path, *options, 'model.train_ds.batch_size=2')
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [(tmp_path / f'rank{rank}.txt').read_text().split() for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == 4
    assert not set(ranks[0]) & set(ranks[1])
    (path,) = tmp_path.rglob('*.nemo')
    assert AudioRestoreModel.restore_from(path).sample_rate == RATE


def test_script_refuses_a_key_that_nobody_reads(config, tmp_path):
    done = run_script(config, tmp_path, '+modle.loss.time_power=2', f'++exp_manager.exp_dir={tmp_path}')
    assert done.returncode != 0
    assert "'modle'" in done.stderr and "'model'" in done.stderr


def test_keys_that_nobody_reads_are_refused_at_every_level(config, tmp_path):
    for block, key in (('los', 'time_power'), ('loss', 'time_powr'), ('train_ds', 'batch_sise')):
        wrong = OmegaConf.merge(config.model, {block: {key: 2}})
        with pytest.raises(ConfigError, match='Did you mean'):
            AudioRestoreModel(wrong, Trainer(**config.trainer))
