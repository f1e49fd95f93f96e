"""Claims about AudioAutoencoderModel: sizes, chunks, files of ours and of others, training."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from lhotse import CutSet, Recording
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf
from safetensors.torch import save_file

from nemo_audio_restore._nemo import SafeCheckpointIO
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.stable_audio_autoencoder import autoencoder_file_name
from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel
from nemo_audio_restore.models.audio_autoencoder_losses import AutoencoderLossSettings, AutoencoderTrainingSettings
from nemo_audio_restore.models.blocks import ConfigError

CONF = Path(__file__).parents[2] / 'conf'
NETWORKS = 'nemo_audio_restore.networks.'
RATE = 8000
TINY = {
    'sample_rate': RATE,
    'network': {
        '_target_': f'{NETWORKS}waveform_autoencoder.WaveformAutoencoder',
        'encoder': {
            '_target_': f'{NETWORKS}waveform_coder.WaveformEncoder',
            'latent_channels': 3,
            'widths': [4, 6, 8],
            'strides': [2, 4],
        },
        'decoder': {
            '_target_': f'{NETWORKS}waveform_coder.WaveformDecoder',
            'latent_channels': 3,
            'widths': [8, 6, 4],
            'strides': [4, 2],
        },
    },
}
TRAINING = {
    'discriminator': {
        '_target_': f'{NETWORKS}stft_discriminators.StftDiscriminators',
        'window_lengths': [64],
        'filters': 2,
    },
    'loss': {'window_lengths': [128, 64]},
    'optim': {'name': 'adamw', 'lr': 1e-3},
}


def noise(*shape, seed=1):
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def load(name):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(name)


def from_conf(name):
    config = load(name).model
    config.train_ds = config.validation_ds = None
    with torch.device('meta'):
        return AudioAutoencoderModel(config)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return AudioAutoencoderModel(OmegaConf.create(TINY)).eval()


@pytest.mark.parametrize(
    ('name', 'size', 'ratio', 'compression'),
    [
        ('audio_autoencoder_44k', 133_431_300, 1024, 32),
        ('audio_autoencoder_44k_open', 156_112_514, 2048, 64),
    ],
)
def test_published_configs_have_the_published_sizes(name, size, ratio, compression):
    model = from_conf(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == size
    assert (model.ratio, model.latent_channels, model.audio_channels) == (ratio, 64, 2)
    assert model.compression == compression
    crop = load(name).model.train_ds.truncate_duration * model.sample_rate
    assert round(crop, 6) == 65536


def test_small_config_fits_in_4_megabytes_of_half_precision():
    model = from_conf('audio_autoencoder_44k_small')
    assert 2 * sum(parameter.numel() for parameter in model.parameters()) < 3.9e6
    assert (model.ratio, model.latent_channels, model.audio_channels, model.compression) == (
        2048,
        36,
        2,
        pytest.approx(113.8, abs=0.1),
    )


@pytest.mark.parametrize(
    'name', ['audio_autoencoder_44k', 'audio_autoencoder_44k_open', 'audio_autoencoder_44k_small']
)
def test_config_ends_with_what_a_run_must_reach(name):
    assert any('must reach' in line for line in (CONF / f'{name}.yaml').read_text().strip().splitlines()[-4:])


def test_means_or_draws_of_the_posterior(model):
    audio = noise(1, 2, 100)
    means = model.encode(audio)
    drawn = [model.encode(audio, sample=True, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert means.shape == (1, 3, 13)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    spread = model.network.posterior(audio).std
    assert ((drawn[0] - means).abs() < 5 * spread).all() and (drawn[0] != means).any()
    with pytest.raises(ValueError, match='torch.Generator'):
        model.encode(audio, sample=True)


def test_forward_gives_back_the_length(model):
    audio = noise(1, 2, 101)
    with torch.no_grad():
        torch.testing.assert_close(model(audio), model.decode(model.encode(audio), length=101))


def test_wrong_shapes_say_what_is_allowed(model):
    with pytest.raises(ValueError, match=r'\(B, 2, T\)'):
        model.encode(noise(2, 100))
    with pytest.raises(ValueError, match=r'\(B, 3, L\)'):
        model.decode(noise(1, 4, 10))
    with pytest.raises(ValueError, match='1 to 80 samples; asked for 81'):
        model.decode(noise(1, 3, 10), length=81)


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match='WaveformEncoder is none'):
        AudioAutoencoderModel(OmegaConf.create({**TINY, 'network': TINY['network']['encoder']}))
    with pytest.raises(ConfigError, match='sample_rate'):
        AudioAutoencoderModel(OmegaConf.create({'network': TINY['network']}))


def test_saved_model_decodes_the_same_and_holds_nothing_of_training(model, tmp_path):
    config = OmegaConf.merge(TINY, TRAINING, {'network': {'latent_scale': 1.5}})
    saved = AudioAutoencoderModel(OmegaConf.create(config))
    saved.network.load_state_dict(model.network.state_dict())
    saved.save_to(tmp_path / 'a.nemo')
    restored = AudioAutoencoderModel.restore_from(tmp_path / 'a.nemo')
    audio = noise(1, 2, 160)
    assert torch.equal(restored.encode(audio), saved.encode(audio))
    torch.testing.assert_close(restored.encode(audio) * 1.5, model.encode(audio))
    assert torch.equal(restored.decode(saved.encode(audio)), saved.decode(saved.encode(audio)))
    assert not set(restored.cfg) & {'discriminator', 'loss', 'training'}


def published_config(**outer):
    encoder = {'in_channels': 2, 'channels': 2, 'c_mults': [1, 2], 'strides': [2, 4], 'latent_dim': 4}
    decoder = {'out_channels': 2, 'channels': 2, 'c_mults': [1, 2], 'strides': [2, 4], 'latent_dim': 2}
    section = {
        'encoder': {'type': 'oobleck', 'config': {**encoder, 'use_snake': True}},
        'decoder': {'type': 'oobleck', 'config': {**decoder, 'use_snake': True, 'final_tanh': False}},
        'bottleneck': {'type': 'vae'},
        'latent_dim': 2,
    }
    return {'model_type': 'autoencoder', 'sample_rate': RATE, 'model': section, **outer}


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """The files of an autoencoder alone, as a release has them."""
    folder = tmp_path_factory.mktemp('published')
    torch.manual_seed(1)
    config = OmegaConf.create(TINY)
    for part, widths in (('encoder', [2, 2, 4]), ('decoder', [4, 2, 2])):
        config.network[part].update({'widths': widths, 'latent_channels': 2})
    model = AudioAutoencoderModel(config).eval()
    tensors = model.network.state_dict().items()
    save_file({autoencoder_file_name(name, dac=False): tensor for name, tensor in tensors}, folder / 'vae.safetensors')
    (folder / 'vae.json').write_text(json.dumps(published_config()))
    return folder, model


def test_published_autoencoder_encodes_and_decodes_the_same_and_can_be_saved(published, tmp_path):
    folder, model = published
    loaded = AudioAutoencoderModel.from_stable_audio(folder / 'vae.safetensors', folder / 'vae.json')
    loaded.save_to(tmp_path / 'a.nemo')
    restored = AudioAutoencoderModel.restore_from(tmp_path / 'a.nemo')
    latents = model.encode(noise(1, 2, 96))
    for copy in (loaded, restored):
        assert copy.sample_rate == RATE and copy.ratio == 8
        torch.testing.assert_close(copy.encode(noise(1, 2, 96)), latents, atol=1e-6, rtol=0)
        torch.testing.assert_close(copy.decode(latents), model.decode(latents), atol=1e-6, rtol=0)
    assert restored.card.license_name == 'that of the published weights'


def test_folder_of_diffusers_gives_the_same_audio(tmp_path):
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=2,
        audio_channels=2,
        sampling_rate=RATE,
    ).eval()
    theirs.save_pretrained(tmp_path / 'whole' / 'vae')
    latents = noise(1, 2, 40)
    with torch.no_grad():
        wanted = theirs.decode(latents).sample
    for folder in (tmp_path / 'whole', tmp_path / 'whole' / 'vae'):
        ours = AudioAutoencoderModel.from_stable_audio(folder)
        torch.testing.assert_close(ours.decode(latents), wanted, atol=1e-5, rtol=0)


def test_files_that_do_not_fit_are_named(published, tmp_path):
    folder, _ = published
    with pytest.raises(ValueError, match=r'needs the model_config\.json'):
        AudioAutoencoderModel.from_stable_audio(folder / 'vae.safetensors')
    with pytest.raises(ValueError, match='leave model_config out'):
        AudioAutoencoderModel.from_stable_audio(folder, folder / 'vae.json')
    with pytest.raises(FileNotFoundError, match=r'config\.json is missing'):
        AudioAutoencoderModel.from_stable_audio(tmp_path)
    with pytest.raises(CheckpointError, match='model_type'):
        AudioAutoencoderModel.from_stable_audio(
            folder / 'vae.safetensors', published_config(model_type='diffusion_uncond')
        )


@pytest.fixture(scope='module')
def cuts_path(tmp_path_factory):
    """Noise that moves from side to side."""
    folder = tmp_path_factory.mktemp('noises')
    rng = np.random.default_rng(0)
    cuts = []
    for index in range(4):
        pan = np.linspace(0, 1, RATE)[:, None]
        audio = 0.2 * rng.standard_normal((RATE, 1)) * np.hstack([pan, 1 - pan])
        soundfile.write(folder / f'{index}.wav', audio, RATE, subtype='FLOAT')
        cuts.append(Recording.from_file(folder / f'{index}.wav').to_cut())
    CutSet.from_cuts(cuts).to_file(folder / 'cuts.jsonl.gz')
    return str(folder / 'cuts.jsonl.gz')


class Recorder(Callback):
    """Which parts each step changed, and what was logged."""

    def __init__(self):
        self.changed, self.metrics, self.before = [], {}, None

    def on_train_start(self, trainer, pl_module):
        self.before = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        after = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
        parts = {'.'.join(name.split('.')[:2]) for name in after if not torch.equal(after[name], self.before[name])}
        self.changed.append({part.removesuffix('.discriminators') for part in parts})
        self.before = after
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_validation_end(self, trainer, pl_module):
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}


def fit(cuts_path, *, max_steps, **blocks):
    data = {'cuts_path': cuts_path, 'batch_size': 2, 'truncate_duration': 0.256}
    config = OmegaConf.merge(TINY, TRAINING, blocks)
    config.train_ds = {**data, 'shuffle': True, 'dataset': {'flips': True}}
    config.validation_ds = {**data, 'truncate_duration': 0.5, 'truncate_offset_type': 'middle'}
    recorder = Recorder()
    trainer = Trainer(
        plugins=[SafeCheckpointIO()],
        callbacks=[recorder],
        max_steps=max_steps,
        accelerator='cpu',
        devices=1,
        max_epochs=-1,
        val_check_interval=max_steps,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(0)
    model = AudioAutoencoderModel(config, trainer)
    trainer.fit(model)
    return model, recorder


def test_training_takes_turns_and_ends_with_the_decoder_alone(cuts_path, tmp_path):
    training = {'discriminator_start_step': 1, 'discriminator_update_period': 2, 'decoder_only_from_step': 3}
    model, recorder = fit(cuts_path, max_steps=5, training=training)
    both = {'network.encoder', 'network.decoder'}
    assert recorder.changed == [
        both,
        both | {'discriminator'},
        both,
        {'network.decoder', 'discriminator'},
        {'network.decoder'},
    ]
    assert {'train_spectral', 'train_kl', 'train_adversarial', 'train_feature'} <= set(recorder.metrics)
    assert {'val_loss', 'val_stft', 'val_mel', 'val_si_sdr', 'val_latent_rms'} <= set(recorder.metrics)
    model.save_to(tmp_path / 'a.nemo')
    restored = AudioAutoencoderModel.restore_from(tmp_path / 'a.nemo')
    assert {name.split('.')[0] for name in restored.state_dict()} == {'network'}


def test_a_heavier_divergence_widens_the_posterior(cuts_path):
    spreads = []
    for weight in (0.0, 1.0):
        loss = {'kl_weight': weight, 'adversarial_weight': 0.0, 'feature_weight': 0.0, 'a_weighted': False}
        model, recorder = fit(cuts_path, max_steps=3, loss=loss)
        spreads.append(float(model.network.posterior(noise(1, 2, 800)).std.detach().mean()))
        assert 'train_feature' not in recorder.metrics
    assert spreads[1] > spreads[0]


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match='one above'):
        AutoencoderLossSettings(spectral_weight=0, adversarial_weight=0, feature_weight=0)
    with pytest.raises(ValueError, match='decoder_only_from_step'):
        AutoencoderTrainingSettings(decoder_only_from_step=-1)
