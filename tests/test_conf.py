"""Claims about the configs that ship."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_audio_restore.models.audio_restore import AudioRestoreModel

CONF = Path(__file__).parents[1] / 'conf'
NAMES = ['a2sb_44k', 'a2sb_44k_tfinetune', 'a2sb_44k_small']
OTHER_NAMES = [
    'speech_codec_22k',
    'speech_codec_22k_small',
    'text_audio',
    'text_audio_small',
    'stable_audio_44k',
    'stable_audio_open_44k',
    'stable_audio_open_small_44k',
    'audio_flamingo2_small',
    'audio_flamingo2_0.5b',
    'audio_flamingo2_1.5b',
    'audio_flamingo2_3b',
    'audio_flamingo2_3b_stage2',
    'audio_flamingo2_3b_stage3',
]


def load(name):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(name)


def build(config):
    data = {'train_ds': None, 'validation_ds': None}
    with torch.device('meta'):
        return AudioRestoreModel(OmegaConf.merge(config.model, data))


@pytest.mark.parametrize('name', ['a2sb_44k', 'a2sb_44k_tfinetune'])
def test_a2sb_has_the_published_size(name):
    assert sum(parameter.numel() for parameter in build(load(name)).parameters()) == 565_544_851


def test_small_model_fits_in_16_megabytes_of_half_precision():
    model = build(load('a2sb_44k_small'))
    assert 2 * sum(parameter.numel() for parameter in model.parameters()) < 16 * 2**20


@pytest.mark.parametrize('name', NAMES)
def test_crops_are_whole_windows_of_the_network(name):
    config = load(name)
    model = build(config)
    samples = round(config.model.train_ds.truncate_duration * model.representation.sample_rate)
    frames = model.representation.num_frames(samples)
    assert frames % model.network.frames_multiple == 0
    assert frames == (128 if name == 'a2sb_44k_small' else 256)
    assert config.model.train_ds.min_duration == config.model.train_ds.truncate_duration


def test_global_batch_of_the_published_runs():
    for name, wanted in (('a2sb_44k', 320), ('a2sb_44k_tfinetune', 64)):
        config = load(name)
        trainer = config.trainer
        devices = trainer.num_nodes * trainer.devices * trainer.accumulate_grad_batches
        assert devices * config.model.train_ds.batch_size == wanted


@pytest.mark.parametrize('name', [*NAMES, *OTHER_NAMES])
def test_file_ends_with_what_a_run_must_reach(name):
    comments = [line for line in (CONF / f'{name}.yaml').read_text().strip().splitlines()[-6:] if line.startswith('#')]
    assert any('must reach' in line for line in comments)


def test_finetuning_asks_for_the_weights_it_starts_from():
    assert OmegaConf.missing_keys(load('a2sb_44k_tfinetune')) == {'init_from_nemo_model'}


def test_each_time_range_has_a_run_of_its_own():
    with initialize_config_dir(str(CONF), version_base=None):
        configs = [compose('a2sb_44k_tfinetune', [f'model.loss.time_range={r}']) for r in ('[0.0,0.5]', '[0.5,1.0]')]
    assert [config.exp_manager.name for config in configs] == [
        'a2sb_44k_tfinetune_0.0_0.5',
        'a2sb_44k_tfinetune_0.5_1.0',
    ]
