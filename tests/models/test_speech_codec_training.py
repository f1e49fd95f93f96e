"""Claims about adversarial training of the codec: what is updated when, what is saved, how it goes on."""

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lightning.pytorch import Callback, Trainer
from nemo.utils.exp_manager import exp_manager
from omegaconf import OmegaConf

from nemo_audio_restore._nemo import SafeCheckpointIO
from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.speech_codec import SpeechCodecModel
from nemo_audio_restore.models.speech_codec_log import log_decoded
from nemo_audio_restore.models.speech_codec_training import CodecLosses, CodecLossSettings
from nemo_audio_restore.models.two_optimizers import limited_gradient

RATE = 8000


@pytest.fixture(scope='module')
def cuts_path(tmp_path_factory):
    """Hums with harmonics, two seconds each."""
    folder = tmp_path_factory.mktemp('hums')
    rng = np.random.default_rng(0)
    cuts = []
    for index in range(6):
        time = np.arange(2 * RATE) / RATE
        pitch = rng.uniform(80, 200)
        audio = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 15))
        path = folder / f'{index}.wav'
        soundfile.write(path, 0.2 * audio, RATE, subtype='FLOAT')
        cuts.append(Recording.from_file(path).to_cut())
    CutSet.from_cuts(cuts).to_file(folder / 'cuts.jsonl.gz')
    return str(folder / 'cuts.jsonl.gz')


@pytest.fixture
def config(cuts_path, tiny):
    data = {'cuts_path': cuts_path, 'batch_size': 2, 'truncate_duration': 0.256}
    return OmegaConf.create(
        {
            **tiny.networks,
            'discriminator': {**tiny.discriminator, 'discriminators': tiny.discriminator['discriminators'][:2]},
            'loss': tiny.loss,
            'train_ds': {**data, 'shuffle': True},
            'validation_ds': {**data, 'shuffle': False, 'truncate_duration': 0.5, 'truncate_offset_type': 'middle'},
            'optim': {'name': 'adamw', 'lr': 2e-3, 'betas': [0.8, 0.99]},
        }
    )


class Recorder(Callback):
    """What each step did: the logged losses, and which of the modules changed."""

    def __init__(self):
        self.started_with, self.steps, self.changed, self.metrics = {}, [], [], {}

    def on_train_start(self, trainer, pl_module):
        self.started_with = {
            'step': trainer.global_step,
            'weights': weights_of(pl_module),
            'states': [len(optimizer.state_dict()['state']) for optimizer in raw(trainer.optimizers)],
        }
        self._before = weights_of(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        after = weights_of(pl_module)
        names = {n.split('.')[0] for n, t in after.items() if not torch.equal(t, self._before[n])}
        self.changed.append(names - {'losses'})
        self._before = after
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_validation_end(self, trainer, pl_module):
        self.metrics = dict(trainer.callback_metrics)


def raw(optimizers):
    return [getattr(optimizer, 'optimizer', optimizer) for optimizer in optimizers]


def weights_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def fit(config, folder=None, *, max_steps=4, ema=False, **settings):
    recorder = Recorder()
    torch.manual_seed(0)
    defaults = {
        'accelerator': 'cpu',
        'devices': 1,
        'max_epochs': -1,
        'limit_val_batches': 0,
        'num_sanity_val_steps': 0,
        'check_val_every_n_epoch': None,
        'use_distributed_sampler': False,
        'logger': False,
        'enable_checkpointing': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
    }
    trainer = Trainer(
        plugins=[SafeCheckpointIO()], callbacks=[recorder], max_steps=max_steps, **{**defaults, **settings}
    )
    if folder is not None:
        manager = {
            'exp_dir': str(folder),
            'name': 'codec',
            'create_tensorboard_logger': False,
            'create_checkpoint_callback': True,
            'checkpoint_callback_params': {'monitor': 'step', 'mode': 'max', 'save_top_k': 1},
            'resume_if_exists': True,
            'resume_ignore_no_checkpoint': True,
            'ema': {'enable': ema, 'decay': 0.5},
        }
        exp_manager(trainer, OmegaConf.create(manager))
    model = SpeechCodecModel(config, trainer)
    trainer.fit(model)
    return model, trainer, recorder


def test_every_batch_is_one_step_and_the_discriminators_learn_from_every_second_one_after_their_start(config):
    config.training = {'discriminator_start_step': 1, 'discriminator_update_period': 2}
    _, trainer, recorder = fit(config, max_steps=5)
    assert trainer.global_step == len(recorder.steps) == 5
    codec = {'audio_encoder', 'audio_decoder'}
    both = {*codec, 'discriminator'}
    assert recorder.changed == [codec, both, codec, both, codec]
    assert 'train_adversarial' not in recorder.steps[0] and 'train_feature' in recorder.steps[1]


def test_weights_of_zero_train_without_discriminators(config):
    config.loss.update({'adversarial_weight': 0.0, 'feature_weight': 0.0, 'stft_weight': 0.0})
    del config.discriminator
    model, trainer, recorder = fit(config, max_steps=2)
    assert model.discriminator is None and len(trainer.optimizers) == 1
    assert recorder.steps[-1]['train_loss'] == pytest.approx(recorder.steps[-1]['train_mel'])
    assert 'train_stft' not in recorder.steps[-1]


def test_training_lowers_the_distances(config):
    config.training = {'gradient_clip': 1.0, 'discriminator_start_step': 15}
    _, _, recorder = fit(config, max_steps=30)
    mel = [step['train_mel'] for step in recorder.steps]
    assert np.mean(mel[-5:]) < 0.8 * np.mean(mel[:5])


def test_discriminators_may_have_an_optimizer_of_their_own(config):
    config.discriminator_optim = {'name': 'adam', 'lr': 5e-4}
    _, trainer, _ = fit(config, max_steps=1)
    assert [group['lr'] for optimizer in trainer.optimizers for group in optimizer.param_groups] == [2e-3, 5e-4]


def test_schedule_runs_with_the_batches(config):
    config.optim.sched = {'name': 'CosineAnnealing', 'warmup_steps': 0, 'min_lr': 0.0}
    config.training = {'discriminator_start_step': 2}
    _, trainer, recorder = fit(config, max_steps=4)
    rates = [step['learning_rate'] for step in recorder.steps]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.2 * rates[0]
    # Two batches with the discriminators: their schedule is half way.
    assert trainer.optimizers[1].param_groups[0]['lr'] == pytest.approx(rates[1], rel=1e-3)


def test_schedule_of_epochs_waits_for_their_end(config):
    config.optim.sched = {'name': 'ExponentialLR', 'gamma': 0.5}
    # Six recordings are three batches.
    _, _, recorder = fit(config, max_steps=5)
    assert [step['learning_rate'] for step in recorder.steps] == pytest.approx([2e-3] * 3 + [1e-3] * 2)


def test_checkpoint_keeps_everything_but_the_speech_model_and_resumes_there(config, tiny, tmp_path):
    config.discriminator = tiny.discriminator
    config.training = {'discriminator_update_period': 1}
    first, trainer, _ = fit(config, tmp_path, max_steps=2, ema=True)
    averages = [[average.clone() for average in optimizer.ema_params] for optimizer in trainer.optimizers]
    (path,) = tmp_path.rglob('*-last.ckpt')
    names = {name.split('.')[0] for name in torch.load(path, weights_only=True)['state_dict']}
    assert names == {'audio_encoder', 'audio_decoder', 'vector_quantizer', 'discriminator', 'losses'}
    assert not any('speech_model' in name for name in weights_of(first))

    second, trainer, recorder = fit(config, tmp_path, max_steps=3, ema=True)
    started = recorder.started_with
    assert started['step'] == 2 and len(recorder.steps) == 1
    for name, tensor in weights_of(first).items():
        assert torch.equal(started['weights'][name], tensor), name
    assert all(count > 0 for count in started['states'])
    for optimizer, before in zip(trainer.optimizers, averages, strict=True):
        for average, old, weight in zip(optimizer.ema_params, before, optimizer.all_parameters(), strict=True):
            torch.testing.assert_close(average, 0.5 * old + 0.5 * weight)


def test_file_at_the_end_of_training_holds_averaged_inference_weights_only(config, tmp_path):
    model, trainer, _ = fit(config, tmp_path, max_steps=2, ema=True)
    (path,) = tmp_path.rglob('*.nemo')
    restored = SpeechCodecModel.restore_from(path)
    assert not any(name.startswith(('discriminator', 'losses')) for name in restored.state_dict())
    assert torch.equal(next(restored.audio_encoder.parameters()), trainer.optimizers[0].ema_params[0])
    assert str(config.train_ds.cuts_path) not in OmegaConf.to_yaml(restored.cfg)
    loaded = SpeechCodecModel.load_from_checkpoint(next(tmp_path.rglob('*-last-EMA.ckpt')))
    for name, tensor in restored.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert model.discriminator is not None and loaded.discriminator is None


def test_restored_file_cannot_train_adversarially_without_its_discriminators(config, tmp_path):
    SpeechCodecModel(config).save_to(tmp_path / 'a.nemo')
    trainer = Trainer(accelerator='cpu', logger=False, enable_checkpointing=False, max_steps=1)
    model = SpeechCodecModel.restore_from(tmp_path / 'a.nemo', trainer=trainer)
    model.setup_training_data(config.train_ds)
    with pytest.raises(ConfigError, match='init_from_nemo_model'):
        trainer.fit(model)


def test_training_starts_from_the_weights_of_a_file(config, tmp_path):
    SpeechCodecModel(config).save_to(tmp_path / 'a.nemo')
    model = SpeechCodecModel(config, Trainer(accelerator='cpu', logger=False, enable_checkpointing=False))
    stored = SpeechCodecModel.restore_from(tmp_path / 'a.nemo')
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({'init_from_nemo_model': str(tmp_path / 'a.nemo')}))
    for name, tensor in stored.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_validation_measures_distances_on_the_averaged_weights(config, tmp_path):
    _, _, recorder = fit(config, max_steps=2, limit_val_batches=2, val_check_interval=2)
    metrics = {name: float(value) for name, value in recorder.metrics.items() if name.startswith('val_')}
    assert set(metrics) == {'val_loss', 'val_mel', 'val_stft', 'val_si_sdr'}
    assert metrics['val_loss'] == pytest.approx(metrics['val_mel'] + 20 * metrics['val_stft'], rel=1e-4)


def test_bfloat16_stays_near_single_precision_and_half_precision_is_refused(config):
    _, _, exact = fit(config, max_steps=3)
    _, _, rounded = fit(config, max_steps=3, precision='bf16-mixed')
    losses = [[step['train_loss'] for step in recorder.steps] for recorder in (exact, rounded)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)
    with pytest.raises(ConfigError, match='bf16-mixed'):
        fit(config, max_steps=1, precision='16-true')


def test_batch_whose_gradient_is_not_finite_is_left_out(config, monkeypatch):
    forward, calls = SpeechCodecModel.forward, []

    def sometimes_broken(self, audio, audio_len):
        decoded, decoded_len = forward(self, audio, audio_len)
        calls.append(None)
        return (decoded * float('nan') if len(calls) == 2 else decoded), decoded_len

    monkeypatch.setattr(SpeechCodecModel, 'forward', sometimes_broken)
    _, trainer, recorder = fit(config, max_steps=3)
    assert trainer.global_step == 3 and len(recorder.steps) == 4
    assert recorder.changed[1] == set()
    assert all(np.isfinite(step['train_loss']) for step in recorder.steps[2:])


class Rank(Callback):
    """Writes down what this process saw and ended with."""

    def __init__(self, folder):
        self.folder, self.first = folder, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.first += batch['audio'][:, 0].tolist()

    def on_train_end(self, trainer, pl_module):
        path = self.folder / f'rank{trainer.global_rank}.pt'
        torch.save({'first': torch.tensor(self.first), 'weights': weights_of(pl_module)}, path)


@pytest.mark.slow
def test_two_processes_see_different_data_and_stay_equal(config, tmp_path):
    config.training = {'discriminator_start_step': 1, 'discriminator_update_period': 2}
    trainer = Trainer(
        accelerator='cpu',
        devices=2,
        strategy='ddp_fork_find_unused_parameters_true',
        max_steps=3,
        limit_val_batches=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[Rank(tmp_path)],
    )
    trainer.fit(SpeechCodecModel(config, trainer))
    ranks = [torch.load(tmp_path / f'rank{rank}.pt', weights_only=True) for rank in (0, 1)]
    assert not set(ranks[0]['first'].tolist()) & set(ranks[1]['first'].tolist())
    for name, tensor in ranks[0]['weights'].items():
        torch.testing.assert_close(tensor, ranks[1]['weights'][name])


def test_limit_scales_the_gradient_down_and_none_leaves_it():
    weight = torch.nn.Parameter(torch.ones(4))
    for limit, norm in ((1.0, 1.0), (None, 6.0), (10.0, 6.0)):
        weight.grad = torch.full((4,), 3.0)
        assert limited_gradient([weight], limit) == pytest.approx(6.0)
        assert weight.grad.norm() == pytest.approx(norm)


def test_equal_audio_has_no_distance_and_quiet_parts_count_more_with_a_small_guard(tiny):
    audio = 0.01 * torch.randn(1, 1024, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([1024])
    plain = CodecLosses(CodecLossSettings(**tiny.loss), sample_rate=RATE)
    assert all(value == 0 for value in plain.distances(audio, audio, lengths).values())
    careful = CodecLosses(CodecLossSettings(**tiny.loss, mel_log_guard=1e-3, stft_log_guard=1e-3), sample_rate=RATE)
    for name in ('mel', 'stft'):
        distances = [losses.distances(audio, 0.5 * audio, lengths)[name] for losses in (plain, careful)]
        assert distances[1] > 2 * distances[0] > 0
    assert plain.si_sdr(audio, audio, lengths) > 40


@pytest.mark.parametrize(
    ('settings', 'reason'),
    [
        ({'loss': {'mel_dims': [8]}}, 'mel_dims'),
        ({'loss': {'mel_weight': -1.0}}, 'at least 0'),
        ({'loss': {'stft_log_guard': 0.0}}, 'positive'),
        ({'training': {'discriminator_update_period': 0}}, 'discriminator_update_period'),
        ({'training': {'gradient_clip': 0.0}}, 'gradient_clip'),
        ({'training': {'gradiant_clip': 1.0}}, 'Did you mean'),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny, settings, reason):
    with pytest.raises(ConfigError, match=reason):
        SpeechCodecModel(OmegaConf.create({**tiny.networks, **settings}))


def test_tensorboard_gets_sound_and_picture_and_other_loggers_are_left_alone():
    class Writer:
        def __init__(self):
            self.sounds, self.pictures = {}, {}

        def add_audio(self, name, sound, step, *, sample_rate):
            self.sounds[name] = (sound, step, sample_rate)

        def add_image(self, name, picture, step):
            self.pictures[name] = picture

    class Logger:
        experiment = Writer()

    audio, decoded = torch.rand(4000), torch.rand(4000)
    log_decoded([Logger(), object()], audio, decoded, RATE, step=7)
    sound, step, rate = Logger.experiment.sounds['codec/decoded']
    assert torch.equal(sound[0], decoded) and (step, rate) == (7, RATE)
    assert Logger.experiment.pictures['codec/recording_decoded'].shape[1] == 2 * 512
