"""Training of latent diffusion models: from captions, from encoded latents, of adapters alone."""

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from lhotse import CutSet, Recording, SupervisionSegment
from lightning.pytorch import Callback, Trainer
from nemo.utils.exp_manager import exp_manager
from omegaconf import OmegaConf

from nemo_audio_restore._nemo import SafeCheckpointIO
from nemo_audio_restore.data.latents import encode_cuts
from nemo_audio_restore.data.stereo_dataset import stereo_audio
from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
from nemo_audio_restore.processes.training_schedules import ema_decay
from nemo_audio_restore.signal.level import at_level

RATE = 8000


@pytest.fixture
def cuts(tmp_path):
    """Four stereo clips of half a second to two, with captions."""
    rng = np.random.default_rng(0)
    made = []
    for index, seconds in enumerate((0.5, 1.0, 1.25, 2.0)):
        path = tmp_path / f'{index}.wav'
        soundfile.write(path, 0.2 * rng.standard_normal((round(seconds * RATE), 2)), RATE, subtype='FLOAT')
        cut = Recording.from_file(path).to_cut()
        text = ('soft rain', 'rain')[index % 2]
        cut.supervisions = [SupervisionSegment(f's{index}', cut.recording_id, 0, cut.duration, text=text)]
        made.append(cut)
    return made


@pytest.fixture
def config(latent_diffusion_config, text_encoder_folder, cuts, tmp_path):
    torch.manual_seed(0)
    LatentDiffusionModel(latent_diffusion_config).save_to(tmp_path / 'start.nemo')
    CutSet.from_cuts(cuts).to_file(tmp_path / 'cuts.jsonl.gz')
    data = {'cuts_path': str(tmp_path / 'cuts.jsonl.gz'), 'batch_size': 2}
    latent_diffusion_config.conditions.conditioners.prompt.source = str(text_encoder_folder)
    return OmegaConf.merge(
        latent_diffusion_config,
        {
            'autoencoder': {'model': str(tmp_path / 'start.nemo')},
            'train_ds': {**data, 'shuffle': True},
            'validation_ds': {**data, 'shuffle': False, 'truncate_duration': 1.0, 'truncate_offset_type': 'start'},
            'training': {'log_steps': 2, 'log_clips': 1},
            'optim': {'name': 'adamw', 'lr': 1e-3, 'sched': {'name': 'InverseLR', 'inv_gamma': 10, 'warmup': 0.5}},
        },
    )


class Recorder(Callback):
    def __init__(self):
        self.steps, self.metrics = [], {}

    def on_train_start(self, trainer, pl_module):
        self.before = {name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_validation_end(self, trainer, pl_module):
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def changed(self, model):
        return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, self.before[name])}


def trainer_of(recorder, *, max_steps=3, **settings):
    quiet = dict.fromkeys(('logger', 'enable_checkpointing', 'enable_progress_bar', 'enable_model_summary'), False)
    return Trainer(
        accelerator='cpu',
        devices=1,
        max_epochs=-1,
        max_steps=max_steps,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
        plugins=[SafeCheckpointIO()],
        callbacks=[recorder],
        **{**quiet, 'limit_val_batches': 0, **settings},
    )


def fit(config, start=None, **settings):
    recorder = Recorder()
    trainer = trainer_of(recorder, **settings)
    model = LatentDiffusionModel(config, trainer)
    if start is not None:
        model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({'init_from_nemo_model': str(start)}))
    trainer.fit(model)
    return model, trainer, recorder


def test_training_changes_network_and_conditioners_and_never_the_autoencoder(config):
    _, _, first = fit(config, max_steps=2)
    model, _, second = fit(config, max_steps=2, limit_val_batches=1, val_check_interval=2)
    assert len(second.steps) == 2
    changed = {name.split('.')[0] for name in second.changed(model)}
    assert changed == {'network', 'conditions'}
    assert set(second.metrics) >= {'val_loss'} and second.metrics['val_loss'] > 0
    assert second.steps[1]['learning_rate'] == pytest.approx(1e-3 * 0.75 / 1.1)
    assert first.steps[0]['train_loss'] != second.steps[1]['train_loss']


def test_untrained_autoencoder_is_refused(config):
    config.autoencoder.model = None
    with pytest.raises(ConfigError, match='autoencoder of this model is untrained'):
        fit(config)


def test_average_of_the_weights_starts_without_memory_and_is_what_the_file_holds(config, tmp_path):
    recorder = Recorder()
    trainer = trainer_of(recorder, max_steps=4)
    manager = {
        'exp_dir': str(tmp_path / 'runs'),
        'name': 'run',
        'create_tensorboard_logger': False,
        'create_checkpoint_callback': True,
        'checkpoint_callback_params': {'monitor': 'step', 'mode': 'max', 'save_top_k': 1},
        'ema': {'enable': True, 'decay': 0.9},
    }
    exp_manager(trainer, OmegaConf.create(manager))
    model = LatentDiffusionModel(config, trainer)
    trainer.fit(model)
    assert trainer.optimizers[0].decay == pytest.approx(ema_decay(4, highest=0.9))
    (path,) = (tmp_path / 'runs').rglob('*.nemo')
    restored = LatentDiffusionModel.restore_from(path)
    name = 'network.transformer.project_in.weight'
    index = [n for n, p in model.named_parameters() if p.requires_grad].index(name)
    assert torch.equal(restored.state_dict()[name], trainer.optimizers[0].ema_params[index])
    assert not torch.equal(restored.state_dict()[name], model.state_dict()[name])


def test_encoded_latents_are_those_of_the_audio_and_end_in_silence(config, cuts, tmp_path):
    config.validation_ds.batch_size = 4
    config.training.sample_latents = False
    model = LatentDiffusionModel(config, trainer_of(Recorder()))
    encode = model.autoencoder.encode
    encoded = encode_cuts(cuts, encode, tmp_path / 'latents', sample_rate=RATE, ratio=16)
    CutSet.from_cuts(encoded).to_file(tmp_path / 'latents.jsonl.gz')
    generator = torch.Generator()
    audio_batch = next(iter(model.val_dataloader()))
    expected, _ = model.batch_latents(audio_batch, generator)
    assert expected.shape == (4, 2, 500)
    config.validation_ds.cuts_path = str(tmp_path / 'latents.jsonl.gz')
    config.validation_ds.dataset = {'latents': True}
    model.setup_validation_data(config.validation_ds)
    batch = next(iter(model.val_dataloader()))
    assert batch['latents_lens'].tolist() == [250, 500, 500, 500]
    for key in ('captions', 'seconds_total', 'seconds_start'):
        assert list(batch[key]) == list(audio_batch[key]), key
    found, _ = model.batch_latents(batch, generator)
    # A crop's last latents depend on what comes after it in the recording.
    torch.testing.assert_close(found[..., :480], expected[..., :480], atol=5e-3 * expected.abs().max().item(), rtol=0)


def test_recordings_get_their_level_when_they_are_encoded(config, cuts, tmp_path):
    model = LatentDiffusionModel(config, trainer_of(Recorder()))
    options = {'sample_rate': RATE, 'ratio': 16, 'level_db': -12.0}
    (cut,) = encode_cuts(cuts[:1], model.autoencoder.encode, tmp_path / 'latents', **options)
    audio = at_level(torch.from_numpy(stereo_audio(cuts[0], RATE)), RATE, -12.0)
    expected = model.autoencoder.encode(audio[None])[0]
    found = torch.from_numpy(cut.load_custom('latents').astype(np.float32))[:, : expected.shape[1] - 20]
    torch.testing.assert_close(found, expected[:, :-20], atol=5e-3 * expected.abs().max().item(), rtol=0)
    CutSet.from_cuts([cut]).to_file(tmp_path / 'latents.jsonl.gz')
    config.validation_ds.cuts_path = str(tmp_path / 'latents.jsonl.gz')
    config.validation_ds.dataset = {'latents': True, 'level_db': -12.0}  # done already, and no error
    model.setup_validation_data(config.validation_ds)
    assert len(next(iter(model.val_dataloader()))['captions']) == 1


def test_crops_of_latents_are_timed_by_where_they_begin(config, cuts, tmp_path):
    model = LatentDiffusionModel(config, trainer_of(Recorder()))
    encoded = encode_cuts(cuts[-1:], model.autoencoder.encode, tmp_path / 'l', sample_rate=RATE, ratio=16)
    CutSet.from_cuts(encoded).to_file(tmp_path / 'latents.jsonl.gz')
    config.train_ds.cuts_path = str(tmp_path / 'latents.jsonl.gz')
    config.train_ds.dataset = {'latents': True, 'whole_seconds': False}
    model.setup_training_data(config.train_ds)
    whole = model.autoencoder.encode(torch.from_numpy(cuts[-1].load_audio())[None])[0]
    starts = set()
    for _ in range(3):
        batch = next(iter(model._train_dl))
        start = float(batch['seconds_start'][0])
        starts.add(start)
        first = round(start * RATE / 16)
        crop = whole[:, first : first + 500]
        torch.testing.assert_close(batch['latents'][0], crop, atol=2e-3 * whole.abs().max().item(), rtol=0)
    assert len(starts) > 1 and batch['seconds_total'].tolist() == [2.0]


def test_window_of_the_batch_and_padding_without_weight(config):
    model = LatentDiffusionModel(config, trainer_of(Recorder()))
    batch = {'audio': torch.zeros(2, 2, 8000), 'audio_lens': torch.tensor([1600, 3199])}
    latents, weight = model.batch_latents(batch, torch.Generator())
    assert latents.shape[-1] == 500 and weight is None
    config.training.full_window = False
    config.loss = {'ignore_padding': True}
    model = LatentDiffusionModel(config, trainer_of(Recorder()))
    latents, weight = model.batch_latents(batch, torch.Generator())
    assert latents.shape[-1] == 200 and weight.sum(dim=1).tolist() == [100, 200]
    with pytest.raises(ConfigError, match='more than the window of 500'):
        model.batch_latents({'audio': torch.zeros(1, 2, 9000), 'audio_lens': torch.tensor([9000])}, torch.Generator())
    with pytest.raises(ConfigError, match='the data lacks seconds_total'):
        model.batch_condition({'captions': ['rain']})


def test_adapters_are_trained_beside_the_weights_of_a_file(config, tmp_path):
    pytest.importorskip('peft', reason='LoRA needs peft (extra `generate`)')
    config.lora = {'rank': 2}
    config.autoencoder.model = None
    model, _, recorder = fit(config, start=tmp_path / 'start.nemo', max_steps=2)
    changed = recorder.changed(model)
    assert changed and all('.lora_' in name for name in changed)
    start = LatentDiffusionModel.restore_from(tmp_path / 'start.nemo')
    weight = model.network.transformer.layers[0].self_attn.to_qkv.base_layer.weight
    assert torch.equal(weight, start.network.transformer.layers[0].self_attn.to_qkv.weight)


def test_clips_of_the_first_captions_are_logged(config):
    class Writer:
        sounds = {}

        def add_audio(self, name, sound, step, *, sample_rate):
            self.sounds[name] = (sound, sample_rate)

    class Logger:
        experiment = Writer()

    model = LatentDiffusionModel(config, trainer_of(Recorder()))
    model.trainer._loggers = [Logger(), object()]
    model.log_clips({'captions': ['soft rain', 'rain'], 'seconds_total': torch.tensor([0.5, 1.0])})
    assert list(Writer.sounds) == ['generated/0: soft rain']
    sound, rate = Writer.sounds['generated/0: soft rain']
    assert sound.shape == (1, 4000) and rate == RATE and sound.abs().max() > 0


TINY_AUTOENCODER = {
    'sample_rate': RATE,
    'network': {
        'encoder': {'latent_channels': 2, 'widths': [2, 2, 4], 'strides': [4, 4], 'activation': 'snake_beta'},
        'decoder': {'latent_channels': 2, 'widths': [4, 2, 2], 'strides': [4, 4], 'activation': 'snake_beta'},
    },
}
TINY_NETWORKS = {
    'stable_audio_44k': {
        'channels': 32,
        'multipliers': [1] * 5,
        'blocks': [1] * 4,
        'attentions': [0, 1, 0, 0, 1],
        'num_heads': 2,
        'token_dim': 32,
        'max_tokens': 8,
    },
    'stable_audio_open_44k': {'dim': 32, 'depth': 1, 'num_heads': 1, 'token_dim': 32, 'summary_dim': 64},
    'stable_audio_open_small_44k': {'dim': 32, 'depth': 1, 'num_heads': 1, 'token_dim': 32, 'summary_dim': 32},
}


@pytest.mark.parametrize('name', TINY_NETWORKS)
def test_published_recipe_trains_at_a_tiny_size(name, config, text_encoder_folder, repository):
    with initialize_config_dir(str(repository / 'conf'), version_base=None):
        recipe = compose(name)
    conditioners = {
        'prompt': {
            '_target_': 'nemo_audio_restore.models.latent_diffusion_text.TransformersText',
            'source': str(text_encoder_folder),
            'max_length': 6,
            'feature_dim': 32,
        }
    }
    for part, block in recipe.model.conditions.conditioners.items():
        if part != 'prompt' and block is not None:
            conditioners[part] = {'dim': 32}
    changes = {
        'autoencoder': {**TINY_AUTOENCODER, 'model': config.autoencoder.model},
        'conditions': {'conditioners': conditioners},
        'network': {'latent_channels': 2, **TINY_NETWORKS[name]},
        'window_latents': 512,
        'train_ds': {'cuts_path': config.train_ds.cuts_path, 'batch_size': 2, 'num_workers': 0},
        'validation_ds': None,
    }
    tiny = OmegaConf.merge(OmegaConf.to_container(recipe.model), changes)
    model, _, recorder = fit(tiny, max_steps=2, gradient_clip_val=recipe.trainer.gradient_clip_val)
    assert len(recorder.steps) == 2 and all(np.isfinite(step['train_loss']) for step in recorder.steps)
    assert {part.split('.')[0] for part in recorder.changed(model)} == {'network', 'conditions'}
