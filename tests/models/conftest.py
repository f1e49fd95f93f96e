"""A NeMo model as small as one can be, for tests of what all our models share."""

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
