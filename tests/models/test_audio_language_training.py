"""Claims about training an audio-language model with NeMo's trainer: data, averages, and the published stages."""

import sys
from pathlib import Path

import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lightning.pytorch import Trainer
from nemo.utils.exp_manager import exp_manager
from omegaconf import OmegaConf

from nemo_audio_restore._nemo import SafeCheckpointIO
from nemo_audio_restore.models.audio_language import AudioLanguageModel
from nemo_audio_restore.models.blocks import ConfigError

sys.path.insert(0, str(Path(__file__).parent))
from audio_language_stand_in import RATE, config_of, made, tone  # noqa: E402

CONF = Path(__file__).parents[2] / 'conf'


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return made(tmp_path_factory.mktemp('flamingo'))


@pytest.fixture
def data(tmp_path):
    """The block of a data set: two tones with a question each."""
    cuts = []
    for name, hz in (('dog', 300.0), ('cat', 900.0)):
        path = tmp_path / f'{name}.wav'
        soundfile.write(path, tone(0.5, hz), RATE)
        text = SupervisionSegment(name, name, 0.0, 0.5, text=f'a {name}', custom={'question': 'what is it'})
        cuts.append(MonoCut(name, 0.0, 0.5, 0, supervisions=[text], recording=Recording.from_file(path)))
    CutSet.from_cuts(cuts).to_file(tmp_path / 'cuts.jsonl')
    return {'cuts_path': str(tmp_path / 'cuts.jsonl'), 'batch_size': 2, 'shuffle': False, 'num_workers': 0}


def trainer_of(**settings):
    return Trainer(
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        plugins=[SafeCheckpointIO()],
        **settings,
    )


def test_training_averages_and_optimizes_what_learns_and_keeps_the_rest(plain, data, tmp_path):
    trainer = trainer_of(max_steps=3, val_check_interval=3)
    manager = {
        'exp_dir': str(tmp_path / 'runs'),
        'name': 'run',
        'create_tensorboard_logger': False,
        'create_checkpoint_callback': True,
        'checkpoint_callback_params': {'monitor': 'step', 'mode': 'max', 'save_top_k': 1},
        'ema': {'enable': True, 'decay': 0.5},
    }
    exp_manager(trainer, OmegaConf.create(manager))
    changes = {
        'training': {'trained': ['cross_attention']},
        'train_ds': data,
        'validation_ds': data,
        'optim': {'name': 'adamw', 'lr': 1e-3},
    }
    model = AudioLanguageModel(config_of(plain, **changes), trainer)
    model.load_state_dict(plain.state_dict())
    trainer.fit(model)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    averages = trainer.optimizers[0].ema_params
    assert {name.split('.')[0] for name in learning} == {'cross_attention'}
    assert len(averages) == len(learning) == len(trainer.optimizers[0].param_groups[0]['params'])
    assert trainer.callback_metrics['val_loss'] > 0 and 0 <= trainer.callback_metrics['val_exact_answers'] <= 1
    (path,) = (tmp_path / 'runs').rglob('*.nemo')
    restored = AudioLanguageModel.restore_from(path).state_dict()
    before = plain.state_dict()
    assert all(torch.equal(restored[name], before[name]) for name in before if name not in learning)
    for name, average in zip(learning, averages, strict=True):
        assert torch.equal(restored[name], average)
    assert not torch.equal(restored[learning[-1]], model.state_dict()[learning[-1]])


def test_data_blocks_have_no_dataset_of_their_own(plain, data):
    with pytest.raises(ConfigError, match='the blocks listening and question say all'):
        AudioLanguageModel(config_of(plain, train_ds={**data, 'dataset': {'flips': True}}), trainer_of())


@pytest.mark.parametrize(
    ('name', 'trained', 'windows', 'lr'),
    [
        ('audio_flamingo2_3b', ['audio_transform', 'cross_attention'], 3, 1e-4),
        ('audio_flamingo2_3b_stage2', ['audio_tower', 'audio_transform', 'cross_attention'], 9, 2e-5),
        ('audio_flamingo2_3b_stage3', ['audio_transform', 'cross_attention'], 30, 2e-5),
    ],
)
def test_stages_train_the_published_parts_on_the_published_lengths(name, trained, windows, lr):
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(name)
    assert list(config.model.training.trained) == trained
    assert (config.model.listening.max_windows, config.model.optim.lr) == (windows, lr)
    assert config.exp_manager.ema.enable
