"""Loading models of the Stable Audio family: complete, wrong and foreign files."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.stable_audio import (
    load_stable_audio,
    load_stable_audio_autoencoder,
    load_stable_audio_folder,
)
from nemo_audio_restore.checkpoints.stable_audio_autoencoder import (
    autoencoder_arguments,
    autoencoder_file_name,
    build_autoencoder,
)
from nemo_audio_restore.checkpoints.stable_audio_config import read_config
from nemo_audio_restore.checkpoints.stable_audio_networks import network_arguments, network_class
from nemo_audio_restore.checkpoints.text_encoders import load_clap_text
from nemo_audio_restore.networks.conditioners import NumberConditioner
from nemo_audio_restore.networks.latent_transformer import LatentTransformer
from nemo_audio_restore.networks.latent_unet import LatentUNet
from nemo_audio_restore.processes.diffusion import RectifiedFlow, VDiffusion

FIXTURES = Path(__file__).resolve().parent.parent / 'fixtures' / 'stable_audio'
AUTOENCODER = {
    'encoder': {
        'type': 'oobleck',
        'config': {
            'in_channels': 2,
            'channels': 2,
            'c_mults': [1, 2],
            'strides': [2, 4],
            'latent_dim': 4,
            'use_snake': True,
        },
    },
    'decoder': {
        'type': 'oobleck',
        'config': {
            'out_channels': 2,
            'channels': 2,
            'c_mults': [1, 2],
            'strides': [2, 4],
            'latent_dim': 2,
            'use_snake': True,
            'final_tanh': False,
        },
    },
    'bottleneck': {'type': 'vae'},
    'latent_dim': 2,
    'downsampling_ratio': 8,
    'io_channels': 2,
}
CONFIG = {
    'model_type': 'diffusion_cond',
    'sample_size': 4096,
    'sample_rate': 44100,
    'audio_channels': 2,
    'model': {
        'pretransform': {'type': 'autoencoder', 'scale': 0.5, 'config': AUTOENCODER},
        'conditioning': {
            'configs': [
                {'id': 'prompt', 'type': 't5', 'config': {'t5_model_name': 't5-base', 'max_length': 7}},
                {'id': 'seconds_total', 'type': 'number', 'config': {'min_val': 0, 'max_val': 256}},
            ],
            'cond_dim': 32,
        },
        'diffusion': {
            'type': 'dit',
            'diffusion_objective': 'rf_denoiser',
            'cross_attention_cond_ids': ['prompt', 'seconds_total'],
            'global_cond_ids': ['seconds_total'],
            'config': {
                'io_channels': 2,
                'embed_dim': 32,
                'depth': 1,
                'num_heads': 1,
                'cond_token_dim': 32,
                'global_cond_dim': 32,
                'transformer_type': 'continuous_transformer',
            },
        },
        'io_channels': 2,
    },
    'training': {'learning_rate': 1e-4},
}


def changed(**path_values):
    """The configuration with values at paths such as model__diffusion__type; None removes the key."""
    config = copy.deepcopy(CONFIG)
    for path, value in path_values.items():
        *parents, last = path.split('__')
        section = config
        for name in parents:
            section = section[name]
        if value is None:
            del section[last]
        else:
            section[last] = value
    return config


def released(seed=0):
    """Tensors of a whole model under the names of a release."""
    generator = torch.Generator().manual_seed(seed)
    diffusion = CONFIG['model']['diffusion']
    parts = {
        'model.model.': (network_class(diffusion)(**network_arguments(diffusion)), str),
        'pretransform.model.': (
            build_autoencoder(autoencoder_arguments(AUTOENCODER), latent_scale=1.0),
            lambda name: autoencoder_file_name(name, dac=False),
        ),
        'conditioner.conditioners.seconds_total.': (NumberConditioner(dim=32, maximum=256), str),
    }
    return {
        prefix + file_name(name): torch.randn(tensor.shape, generator=generator)
        for prefix, (module, file_name) in parts.items()
        for name, tensor in module.state_dict().items()
    }


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'model.safetensors'
    save_file(released(), path)
    return path


def test_whole_model_loads_from_its_release(weights):
    model = load_stable_audio(CONFIG, weights)
    stored = released()
    assert isinstance(model.network, LatentTransformer)
    assert isinstance(model.process, RectifiedFlow)
    assert (model.sample_rate, model.window_samples) == (44100, 4096)
    assert (model.autoencoder.ratio, model.autoencoder.latent_scale) == (8, 0.5)
    assert model.conditions.parts == ('prompt', 'seconds_total')
    assert model.conditions.conditioners['seconds_total'].maximum == 256
    gain = stored['pretransform.model.decoder.layers.0.weight_g']
    assert torch.equal(model.autoencoder.decoder.layers[0].parametrizations.weight.original0, gain)
    qkv = stored['model.model.transformer.layers.0.self_attn.to_qkv.weight']
    assert torch.equal(model.network.transformer.layers[0].self_attn.to_qkv.weight, qkv)
    assert not any(parameter.is_meta for part in (model.network, model.autoencoder) for parameter in part.parameters())
    assert not model.network.training


def test_ckpt_and_training_checkpoint_give_the_same_model(weights, tmp_path):
    stored = released()
    torch.save({'state_dict': stored}, tmp_path / 'model.ckpt')
    averaged = {
        f'diffusion_ema.ema_model.{name[len("model.") :]}': stored[name] for name in stored if name[:6] == 'model.'
    }
    trained = {f'diffusion.{name}': value + 1 if name[:6] == 'model.' else value for name, value in stored.items()}
    extra = {'diffusion_ema.step': torch.tensor(3.0), 'losses.0.window': torch.zeros(4)}
    torch.save({'state_dict': {**trained, **averaged, **extra}, 'epoch': 3}, tmp_path / 'training.ckpt')
    expected = load_stable_audio(CONFIG, weights).network.state_dict()
    for name in ('model.ckpt', 'training.ckpt'):
        found = load_stable_audio(CONFIG, tmp_path / name).network.state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_autoencoder_loads_from_its_own_file_and_from_a_whole_model(weights, tmp_path):
    prefix = 'pretransform.model.'
    alone = {name.removeprefix(prefix): value for name, value in released().items() if name.startswith(prefix)}
    save_file(alone, tmp_path / 'vae.safetensors')
    training = {f'autoencoder.{name}': value for name, value in alone.items()}
    torch.save({'state_dict': {**training, 'discriminator.x': torch.zeros(1)}}, tmp_path / 'training.ckpt')
    config = {'model_type': 'autoencoder', 'sample_rate': 44100, 'model': AUTOENCODER}
    expected = load_stable_audio(CONFIG, weights).autoencoder.state_dict()
    for given, path in (
        (config, weights),
        (config, tmp_path / 'vae.safetensors'),
        (config, tmp_path / 'training.ckpt'),
        (CONFIG, weights),
        (CONFIG, tmp_path / 'vae.safetensors'),
    ):
        found = load_stable_audio_autoencoder(given, path).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda t: t.pop('model.model.preprocess_conv.weight'), r'model\.model\.preprocess_conv\.weight is missing'),
        (
            lambda t: t.update({'pretransform.model.decoder.layers.0.bias': torch.zeros(5)}),
            r'decoder\.layers\.0\.bias has shape \(5,\), expected \(4,\)',
        ),
        (lambda t: t.update({'model.model.more': torch.zeros(1)}), r'model\.model\.more of shape \(1,\) is not part'),
        (lambda t: t.update({'other.thing': torch.zeros(1)}), r'other\.thing and 0 more tensors belong to no known'),
        (
            lambda t: t.update({'conditioner.conditioners.tempo.x': torch.zeros(1)}),
            r'tempo\.x belongs to no conditioner',
        ),
        (
            lambda t: t.update({'conditioner.conditioners.prompt.proj_out.bias': torch.zeros(32)}),
            'holds a projection for prompt: give its text encoder',
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith('pretransform.')],
            'does not hold the autoencoder',
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith('conditioner.')],
            'does not hold the conditioner seconds_total',
        ),
    ],
)
def test_tensors_that_are_missing_or_wrong_are_named(tmp_path, edit, message):
    tensors = released()
    edit(tensors)
    save_file(tensors, tmp_path / 'model.safetensors')
    with pytest.raises(CheckpointError, match=message):
        load_stable_audio(CONFIG, tmp_path / 'model.safetensors')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model_type': 'autoencoder'}, 'model_type of a model that generates must be diffusion_cond'),
        ({'model__pretransform': None}, "no section 'pretransform'"),
        ({'model__diffusion__type': 'lm'}, 'type must be one of adp_cfg_1d, dit'),
        ({'model__diffusion__diffusion_objective': 'x0'}, 'diffusion_objective must be one of v'),
        ({'model__diffusion__config__patch_size': 2}, 'patch_size of the diffusion network must be 1'),
        ({'model__diffusion__config__conformer': True}, 'not supported: conformer=True'),
        ({'model__diffusion__config__attn_kwargs': {'qk_norm': 'l2'}}, 'qk_norm must be none or ln'),
        ({'model__diffusion__config__global_cond_type': 'sum'}, 'global_cond_type must be prepend or adaLN'),
        ({'model__diffusion__input_concat_ids': ['mask']}, 'input_concat_ids must be'),
        ({'model__pretransform__config__bottleneck': {'type': 'rvq'}}, 'bottleneck must be of type vae'),
        ({'model__pretransform__config__encoder__type': 'seanet'}, 'encoder: type must be one of dac, oobleck'),
        ({'model__conditioning__configs': [{'id': 'bpm', 'type': 'list'}]}, "conditioner bpm is of type 'list'"),
    ],
)
def test_configurations_of_another_kind_are_refused(weights, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_stable_audio(changed(**change), weights)


def test_files_that_are_not_what_they_should_be_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no configuration at'):
        read_config(tmp_path / 'none.json')
    (tmp_path / 'list.json').write_text('[1]')
    with pytest.raises(CheckpointError, match='holds a list'):
        read_config(tmp_path / 'list.json')
    (tmp_path / 'broken.json').write_text('{')
    with pytest.raises(CheckpointError, match='is no JSON file'):
        read_config(tmp_path / 'broken.json')
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        load_stable_audio(CONFIG, tmp_path / 'none.safetensors')
    (tmp_path / 'broken.safetensors').write_bytes(b'1234567890')
    with pytest.raises(CheckpointError, match='not a safetensors file'):
        load_stable_audio(CONFIG, tmp_path / 'broken.safetensors')
    torch.save({'state_dict': {}, 'run': print}, tmp_path / 'unsafe.ckpt')
    with pytest.raises(CheckpointError, match='is refused'):
        load_stable_audio(CONFIG, tmp_path / 'unsafe.ckpt')
    torch.save({'epoch': 1}, tmp_path / 'empty.ckpt')
    with pytest.raises(CheckpointError, match='holds no tensors by name'):
        load_stable_audio(CONFIG, tmp_path / 'empty.ckpt')
    with pytest.raises(CheckpointError, match='holds no text side of CLAP'):
        torch.save({'state_dict': {'x': torch.zeros(1)}}, tmp_path / 'clap.ckpt')
        load_clap_text(tmp_path / 'clap.ckpt')


def test_u_net_of_a_configuration_without_a_size_is_refused():
    section = {'type': 'adp_cfg_1d', 'config': {'in_channels': 64}}
    assert network_class(section) is LatentUNet
    with pytest.raises(CheckpointError, match='lacks channels, multipliers'):
        network_arguments(section)


def word_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({'<pad>': 0, '<unk>': 1, 'soft': 2, 'rain': 3}, unk_token='<unk>'))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token='<pad>', unk_token='<unk>').save_pretrained(folder)


def tiny_t5(folder):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=8, d_model=32, d_ff=16, d_kv=8, num_layers=1, num_heads=2, dropout_rate=0.0)
    T5EncoderModel(config).save_pretrained(folder)


def test_text_encoder_from_a_folder_makes_prompts_of_words(weights, tmp_path):
    tiny_t5(tmp_path / 't5')
    with pytest.raises(FileNotFoundError, match='no text encoder can be loaded'):
        load_stable_audio(CONFIG, weights, text_encoder=tmp_path / 'nothing')
    word_tokenizer(tmp_path / 't5')
    model = load_stable_audio(CONFIG, weights, text_encoder=tmp_path / 't5')
    condition = model.conditions({'prompt': ['soft rain', 'rain'], 'seconds_total': [3.0, 4.0]})
    assert condition.tokens.shape == (2, 7 + 1, 32)
    assert condition.tokens_mask.tolist() == [[1, 1, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 1]]
    assert condition.tokens[1, 1:7].abs().sum() == 0


FOLDER_CONFIGS = {
    'transformer': {
        '_class_name': 'StableAudioDiTModel',
        'attention_head_dim': 64,
        'cross_attention_dim': 64,
        'cross_attention_input_dim': 64,
        'global_states_input_dim': 48,
        'in_channels': 8,
        'num_attention_heads': 2,
        'num_key_value_attention_heads': 1,
        'num_layers': 1,
        'out_channels': 8,
        'sample_size': 16,
    },
    'vae': {
        '_class_name': 'AutoencoderOobleck',
        'audio_channels': 2,
        'channel_multiples': [1, 2],
        'decoder_channels': 4,
        'decoder_input_channels': 3,
        'downsampling_ratios': [2, 4],
        'encoder_hidden_size': 6,
        'sampling_rate': 44100,
    },
    'projection_model': {
        '_class_name': 'StableAudioProjectionModel',
        'conditioning_dim': 64,
        'max_value': 512,
        'min_value': 0,
        'text_encoder_dim': 64,
    },
}


def diffusers_folder(folder):
    """A folder with the names and shapes that the diffusers library writes, and random values."""
    shapes = json.loads((FIXTURES / 'diffusers_shapes.json').read_text())
    generator = torch.Generator().manual_seed(0)
    written = {}
    for part, config in FOLDER_CONFIGS.items():
        (folder / part).mkdir(parents=True)
        (folder / part / 'config.json').write_text(json.dumps(config))
        written[part] = {name: torch.randn(shape, generator=generator) for name, shape in shapes[part].items()}
        save_file(written[part], folder / part / 'diffusion_pytorch_model.safetensors')
    return written


def test_folder_of_the_diffusers_library_loads(tmp_path):
    written = diffusers_folder(tmp_path)
    model = load_stable_audio_folder(tmp_path)
    assert (model.sample_rate, model.window_samples, model.autoencoder.ratio) == (44100, 128, 8)
    assert isinstance(model.process, VDiffusion)
    layer, stored = model.network.transformer.layers[0], written['transformer']
    block = 'transformer_blocks.0'
    joined = torch.cat([stored[f'{block}.attn1.to_{part}.weight'] for part in 'qkv'])
    assert torch.equal(layer.self_attn.to_qkv.weight, joined)
    joined = torch.cat([stored[f'{block}.attn2.to_{part}.weight'] for part in 'kv'])
    assert torch.equal(layer.cross_attn.to_kv.weight, joined)
    assert torch.equal(layer.cross_attend_norm.beta, stored[f'{block}.norm2.bias'])
    rotation = LatentTransformer(dim=64, depth=1, num_heads=1, token_dim=None).transformer.rotary_pos_emb.inv_freq
    assert torch.equal(model.network.transformer.rotary_pos_emb.inv_freq, rotation)
    unit = model.autoencoder.decoder.layers[1].layers[3].layers[2]
    assert torch.equal(unit.beta, written['vae']['decoder.block.0.res_unit2.snake2.beta'].flatten())
    total = model.conditions.conditioners['seconds_total'].embedder.embedding[1].bias
    assert torch.equal(total, written['projection_model']['end_number_conditioner.time_positional_embedding.1.bias'])


def test_incomplete_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='lacks transformer'):
        load_stable_audio_folder(tmp_path / 'empty')
    diffusers_folder(tmp_path / 'other')
    config = {**FOLDER_CONFIGS['vae'], '_class_name': 'AutoencoderKL'}
    (tmp_path / 'other' / 'vae' / 'config.json').write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match='_class_name must be AutoencoderOobleck'):
        load_stable_audio_folder(tmp_path / 'other')
