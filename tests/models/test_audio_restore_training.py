"""Claims about training the restoration model with Lightning and NeMo on a tiny corpus."""

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lightning.pytorch import Trainer
from nemo.utils.exp_manager import exp_manager
from omegaconf import OmegaConf

from nemo_audio_restore import AudioRestoreModel
from nemo_audio_restore._nemo import SafeCheckpointIO
from nemo_audio_restore.models.validation import ValidationSettings, low_passed, spectrogram_picture

SAMPLE_RATE = 16000


@pytest.fixture
def corpus(tmp_path):
    """Manifest of four half-second files of noise and tones."""
    random = np.random.default_rng(0)
    cuts = []
    for index in range(4):
        time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        tone = 0.1 * np.sin(2 * np.pi * 440 * (index + 1) * time) + 0.02 * random.standard_normal(len(time))
        path = tmp_path / f'{index}.wav'
        soundfile.write(path, tone, SAMPLE_RATE)
        cuts.append(Recording.from_file(path, recording_id=str(index)).to_cut())
    CutSet.from_cuts(cuts).to_file(tmp_path / 'cuts.jsonl.gz')
    return tmp_path / 'cuts.jsonl.gz'


def _config(corpus):
    data = {'cuts_path': str(corpus), 'batch_size': 2, 'truncate_duration': 0.51, 'num_workers': 0}
    return OmegaConf.create(
        {
            'representation': {'sample_rate': SAMPLE_RATE, 'n_fft': 128, 'hop_length': 32},
            'network': {
                '_target_': 'nemo_audio_restore.networks.folded_unet.FoldedUNet',
                'num_bins': 64,
                'channels': [16, 16],
                'num_blocks': [1, 1],
                'attention_levels': [],
                'embedding_channels': 16,
            },
            'sampler': {'steps': 1, 'tile_frames': 128, 'tile_hop_frames': 128},
            'corruption': {'cutoff_range_hz': [2000, 6000], 'gap_range_s': [0.05, 0.1]},
            'validation': {'cutoffs_hz': [4000], 'gaps_s': [0.1]},
            'optim': {'_target_': 'torch.optim.RAdam', 'lr': 3e-3, 'decoupled_weight_decay': True},
            'train_ds': {**data, 'shuffle': True},
            'validation_ds': {**data, 'shuffle': False, 'truncate_offset_type': 'middle'},
        }
    )


def _fit(config, folder, *, max_steps):
    trainer = Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accelerator='cpu',
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        val_check_interval=1,
        check_val_every_n_epoch=1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        plugins=[SafeCheckpointIO()],
    )
    settings = {
        'exp_dir': str(folder),
        'name': 'run',
        'create_tensorboard_logger': True,
        'create_checkpoint_callback': True,
        'checkpoint_callback_params': {'monitor': 'val_loss', 'mode': 'min', 'save_top_k': 1},
        'resume_if_exists': True,
        'resume_ignore_no_checkpoint': True,
        'ema': {'enable': True, 'decay': 0.9},
    }
    exp_manager(trainer, OmegaConf.create(settings))
    torch.manual_seed(0)
    seen = []
    model = AudioRestoreModel(config, trainer)
    original = model._loss

    def recording(batch, seed):
        if model.training:
            seen.append(batch['audio'].sum().item())
        return original(batch, seed)

    model._loss = recording
    trainer.fit(model)
    return model, trainer, seen


def test_training_validates_by_damage_logs_sound_and_resumes_with_other_data(corpus, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, first_trainer, first = _fit(_config(corpus), tmp_path, max_steps=2)
    expected = {'val_loss', 'val_lsd_4000hz', 'val_sispec_4000hz', 'val_lsd_100ms', 'val_sispec_100ms', 'train_loss'}
    assert expected <= set(first_trainer.callback_metrics)
    (events,) = tmp_path.rglob('events.out.tfevents.*')
    log = EventAccumulator(str(events))
    log.Reload()
    assert expected <= set(log.Tags()['scalars'])
    assert '4000hz/restored' in log.Tags()['audio'] and '100ms/clean_damaged_restored' in log.Tags()['images']

    model, second_trainer, second = _fit(_config(corpus), tmp_path, max_steps=4)
    assert second_trainer.global_step == 4 and len(second) == 2
    assert not set(first) & set(second)
    (path,) = tmp_path.rglob('*.nemo')
    average = second_trainer.optimizers[0].ema_params[0]
    assert torch.equal(next(AudioRestoreModel.restore_from(path).parameters()), average)


def test_training_on_one_batch_learns_to_restore_it(corpus):
    config = _config(corpus)
    torch.manual_seed(0)
    model = AudioRestoreModel(config)
    batch = next(iter(model.train_dataloader()))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model._loss(batch, seed=0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_low_passed_audio_keeps_what_is_below_and_has_nothing_above(corpus):
    model = AudioRestoreModel(_config(corpus))
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    low, high = (torch.sin(2 * torch.pi * frequency * time)[None] for frequency in (1000, 6000))
    result = low_passed(low + high, 4000.0, model.representation)
    inner = slice(200, -200)
    assert (result - low)[:, inner].abs().max() < 0.01


def test_picture_shows_a_full_scale_tone_white_and_silence_black(corpus):
    model = AudioRestoreModel(_config(corpus))
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    picture = spectrogram_picture(torch.sin(2 * torch.pi * 1000 * time), model.representation)
    rows = picture[0, :, 100]
    assert rows.argmax() == 64 - 8 and rows.max() > 0.99 and rows[:20].max() == 0.0


@pytest.mark.parametrize('wrong', [{'cutoffs_hz': [0]}, {'gaps_s': [-1]}, {'batches': -1}])
def test_impossible_validation_settings_are_refused(wrong):
    with pytest.raises(ValueError, match='must be'):
        ValidationSettings(**wrong)
