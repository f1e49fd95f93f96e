"""Models as small as they can be: a line, for what all our models share, and codecs of NeMo's topology."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from nemo_audio_restore._nemo import allow_targets
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import build

allow_targets(f'{__name__}.')


class Line(nn.Module):
    def __init__(self, *, width: int, bias: bool = True):
        super().__init__()
        self.layer = nn.Linear(width, width, bias=bias)


class Toy(BaseModel):
    config_blocks = ('line', 'notes_file')

    def __init__(self, cfg, trainer=None):
        line = build(cfg.get('line'), where='line', default=Line)
        super().__init__(cfg, trainer)
        self.line = line
        if cfg.get('notes_file'):
            self.notes = open(self.register_artifact('notes_file', cfg.notes_file)).read()

    def training_step(self, batch, batch_index):
        return self.line.layer(batch).square().mean()

    def setup_training_data(self, train_data_config):
        data = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        self._train_dl = torch.utils.data.DataLoader(data, batch_size=32)

    def setup_validation_data(self, val_data_config):
        self._validation_dl = []


class OtherToy(Toy):
    """A sibling in the eyes of Unrelated, a subclass in the eyes of Toy."""


class Unrelated(BaseModel):
    config_blocks = ('line',)

    def setup_training_data(self, train_data_config): ...

    def setup_validation_data(self, val_data_config): ...


@pytest.fixture
def toy_classes():
    return {cls.__name__: cls for cls in (Toy, OtherToy, Unrelated, Line)}


@pytest.fixture
def toy_class():
    return Toy


@pytest.fixture
def toy_config():
    return OmegaConf.create(
        {
            'line': {'_target_': f'{__name__}.Line', 'width': 4},
            'optim': {'_target_': 'torch.optim.RAdam', 'lr': 0.1, 'decoupled_weight_decay': True},
        }
    )


@pytest.fixture
def toy(toy_config):
    torch.manual_seed(1)
    return Toy(toy_config)


# Codecs of NeMo's topology with a few channels, 64 samples a frame.
_NEMO_MODULES = 'nemo.collections.tts.modules.audio_codec_modules.'
_OUR_MODULES = 'nemo_audio_restore.'

RATE = 8000

NETWORKS = {
    'sample_rate': RATE,
    'samples_per_frame': 64,
    'audio_encoder': {
        '_target_': f'{_NEMO_MODULES}HiFiGANEncoder',
        'encoded_dim': 8,
        'down_sample_rates': [2, 4, 8],
        'base_channels': 4,
        'resblock_dilation_sizes': [1],
    },
    'vector_quantizer': {
        '_target_': f'{_NEMO_MODULES}GroupFiniteScalarQuantizer',
        'num_groups': 2,
        'num_levels_per_group': [8, 7, 6, 6],
    },
    'audio_decoder': {
        '_target_': f'{_NEMO_MODULES}HiFiGANDecoder',
        'input_dim': 8,
        'up_sample_rates': [8, 4, 2],
        'base_channels': 16,
    },
}

WAVLM = {
    'model_type': 'wavlm',
    'hidden_size': 16,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 16,
    'conv_dim': [8, 8],
    'conv_kernel': [10, 8],
    'conv_stride': [5, 8],
    'num_conv_pos_embeddings': 8,
    'num_conv_pos_embedding_groups': 2,
    'vocab_size': 4,
}

# One second at most: 50 positions of two frames of 10 ms.
WHISPER = {
    'model_type': 'whisper',
    'd_model': 16,
    'encoder_layers': 2,
    'encoder_attention_heads': 2,
    'encoder_ffn_dim': 16,
    'decoder_layers': 1,
    'decoder_attention_heads': 2,
    'decoder_ffn_dim': 16,
    'num_mel_bins': 20,
    'max_source_positions': 50,
    'vocab_size': 8,
    'pad_token_id': 0,
    'bos_token_id': 1,
    'eos_token_id': 2,
    'decoder_start_token_id': 1,
}

DISCRIMINATOR = {
    '_target_': f'{_NEMO_MODULES}Discriminator',
    'discriminators': [
        {
            '_target_': f'{_OUR_MODULES}networks.waveform_discriminators.LightStftDiscriminator',
            'channels': 4,
            'resolutions': [[64, 16, 64]],
        },
        {
            '_target_': f'{_OUR_MODULES}networks.waveform_discriminators.LightPeriodDiscriminator',
            'periods': [2, 3],
            'channels': [4, 8],
        },
        {
            '_target_': f'{_OUR_MODULES}models.speech_discriminator.SpeechModelDiscriminator',
            'sample_rate': RATE,
            'channels': 4,
            'speech_model': {'_target_': f'{_OUR_MODULES}models.speech_models.RandomSpeechModel', 'config': WAVLM},
        },
    ],
}

LOSS = {'resolutions': [[64, 16, 64], [128, 32, 128]], 'mel_dims': [8, 16]}


@pytest.fixture(scope='session')
def tiny():
    """Configs of tiny codecs and of what trains them."""
    return SimpleNamespace(
        rate=RATE, networks=NETWORKS, discriminator=DISCRIMINATOR, loss=LOSS, wavlm=WAVLM, whisper=WHISPER
    )


# A latent diffusion model of 16 samples a latent; without a text encoder, so prompts are given as features.
_NETWORKS = 'nemo_audio_restore.networks.'

LATENT_DIFFUSION = {
    'autoencoder': {
        'sample_rate': RATE,
        'network': {
            '_target_': f'{_NETWORKS}waveform_autoencoder.WaveformAutoencoder',
            'encoder': {
                '_target_': f'{_NETWORKS}waveform_coder.WaveformEncoder',
                'latent_channels': 2,
                'widths': [2, 2, 4],
                'strides': [4, 4],
            },
            'decoder': {
                '_target_': f'{_NETWORKS}waveform_coder.WaveformDecoder',
                'latent_channels': 2,
                'widths': [4, 2, 2],
                'strides': [4, 4],
            },
        },
    },
    'conditions': {
        'conditioners': {
            'prompt': {
                '_target_': 'nemo_audio_restore.models.latent_diffusion_text.TransformersText',
                'max_length': 6,
                'feature_dim': 32,
            },
            'seconds_total': {
                '_target_': f'{_NETWORKS}conditioners.NumberConditioner',
                'dim': 32,
                'maximum': 8.0,
            },
        },
        'cross_attention': ['prompt', 'seconds_total'],
        'summary': ['seconds_total'],
    },
    'network': {
        '_target_': f'{_NETWORKS}latent_transformer.LatentTransformer',
        'latent_channels': 2,
        'dim': 32,
        'depth': 1,
        'num_heads': 1,
        'token_dim': 32,
        'summary_dim': 32,
    },
    'objective': 'v',
    'window_latents': 500,
    'sampler': {'sampler': 'dpmpp_3m_sde', 'steps': 3, 'guidance': 2.0},
}


@pytest.fixture
def latent_diffusion_config():
    """Of a tiny LatentDiffusionModel, to be changed at will."""
    return OmegaConf.create(LATENT_DIFFUSION)


@pytest.fixture
def text_encoder_folder(tmp_path):
    """A T5 of 32 features whose tokenizer knows two words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path / 'text_encoder'
    words = Tokenizer(models.WordLevel({'<pad>': 0, '<unk>': 1, 'soft': 2, 'rain': 3}, unk_token='<unk>'))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token='<pad>', unk_token='<unk>').save_pretrained(folder)
    config = T5Config(vocab_size=8, d_model=32, d_ff=16, d_kv=8, num_layers=1, num_heads=2, dropout_rate=0.0)
    T5EncoderModel(config).save_pretrained(folder)
    return folder
