"""Training of an audio-language model: which parts learn, and the loss on answers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from nemo_audio_restore.data.question_dataset import QuestionDataset
from nemo_audio_restore.losses.answers import IGNORED, answer_loss
from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.data_loading import lhotse_loader

PARTS = ('audio_tower', 'audio_transform', 'cross_attention', 'language_model')
"""What can be trained or frozen."""


@dataclass(frozen=True)
class QuestionTrainingSettings:
    """How a model is trained.

    Attributes:
        trained: the parts that learn; the others are frozen and stay in evaluation mode. The published stages train
            transform and cross-attention (1 and 3), and the audio tower with them (2).
    """

    trained: Sequence[str] = ('audio_transform', 'cross_attention')

    def __post_init__(self):
        unknown = [name for name in self.trained if name not in PARTS]
        if unknown or not self.trained or isinstance(self.trained, str):
            raise ValueError(f'trained must name parts among {", ".join(PARTS)}; got {self.trained!r}')


class QuestionTrainingMixin:
    """Data, loss and metrics of a model that answers questions."""

    def setup_training_data(self, train_data_config: DictConfig) -> None:
        """Builds the training loader; :meth:`train_dataloader` builds it anew where step or process have changed.

        Args:
            train_data_config: the ``train_ds`` block, see :func:`lhotse_loader`.
        """
        self._train_config = train_data_config
        self._train_place = 0, self.global_rank
        self._train_dl = self._question_loader(train_data_config, where='train_ds', step=0)

    def setup_validation_data(self, val_data_config: DictConfig) -> None:
        """Builds one validation loader.

        Args:
            val_data_config: the ``validation_ds`` block, see :func:`lhotse_loader`.
        """
        self._validation_dl = self._question_loader(val_data_config, where='validation_ds', step=0)

    def train_dataloader(self) -> DataLoader | None:
        """The training loader; a resumed run replays nothing that it has seen."""
        step = self._trainer.global_step if self._trainer is not None else 0
        place = step, self.global_rank
        if self._train_dl is not None and place != self._train_place:
            self._train_dl = self._question_loader(self._train_config, where='train_ds', step=step)
            self._train_place = place
        return self._train_dl

    def setup_optimizer_param_groups(self) -> None:
        """Gives NeMo what learns, so that neither optimizer nor EMA hold anything for frozen parts."""
        self._optimizer_param_groups = [{'params': [p for p in self.parameters() if p.requires_grad]}]

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch of :class:`QuestionDataset`."""
        loss = answer_loss(self._logits(batch), batch['labels'])
        self.log('train_loss', loss, on_step=True, prog_bar=True)
        return loss

    def validation_step(
        self, batch: Mapping[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, tuple[Tensor, int]]:
        """Loss, and the share of answers of which every token is the likeliest."""
        logits, labels = self._logits(batch), batch['labels']
        learned = labels[:, 1:] != IGNORED
        right = ((logits[:, :-1].argmax(dim=-1) == labels[:, 1:]) | ~learned).all(dim=1) & learned.any(dim=1)
        output = {
            'val_loss': (answer_loss(logits, labels), len(labels)),
            'val_exact_answers': (right.float().mean(), len(labels)),
        }
        self._collect(output, dataloader_idx)
        return output

    def _logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and 'audio_tower' in self.training_settings.trained):
            features = self.encode_audio(batch['windows'], batch['window_mask'])
        return self(features, batch['window_mask'], batch['input_ids'], batch['attention_mask'])

    def _question_loader(self, config: DictConfig, *, where: str, step: int) -> DataLoader:
        if config.get('dataset'):
            raise ConfigError(f'{where}.dataset is not known here: the blocks listening and question say all')
        return lhotse_loader(
            config,
            QuestionDataset(self.listening, self.questions),
            where=where,
            sample_rate=self.sample_rate,
            global_rank=self.global_rank,
            world_size=self.world_size or 1,
            step=step,
        )
