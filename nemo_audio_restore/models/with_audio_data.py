"""Data loaders of clean audio for NeMo models: Lhotse manifests, resumable."""

from omegaconf import DictConfig
from torch.utils.data import DataLoader

from nemo_audio_restore.models.data_loading import audio_dataset, lhotse_loader


class AudioDataMixin:
    """``train_ds`` and ``validation_ds`` blocks of a ModelPT that has a ``sample_rate``."""

    sample_rate: int

    def setup_training_data(self, train_data_config: DictConfig) -> None:
        """Builds the training loader; :meth:`train_dataloader` builds it anew where step or process have changed.

        Args:
            train_data_config: the ``train_ds`` block, see :func:`lhotse_loader`.
        """
        self._train_config = train_data_config
        self._train_place = 0, self.global_rank
        self._train_dl = self._loader(train_data_config, where='train_ds', step=0)

    def setup_validation_data(self, val_data_config: DictConfig) -> None:
        """Builds one validation loader.

        Args:
            val_data_config: the ``validation_ds`` block, see :func:`lhotse_loader`.
        """
        self._validation_dl = self._loader(val_data_config, where='validation_ds', step=0)

    def train_dataloader(self) -> DataLoader | None:
        """The training loader; a resumed run replays nothing that it has seen, and forked processes share none."""
        step = self._trainer.global_step if self._trainer is not None else 0
        place = step, self.global_rank
        if self._train_dl is not None and place != self._train_place:
            self._train_dl = self._loader(self._train_config, where='train_ds', step=step)
            self._train_place = place
        return self._train_dl

    def _loader(self, config: DictConfig, *, where: str, step: int) -> DataLoader:
        place = {'where': where, 'sample_rate': self.sample_rate, 'global_rank': self.global_rank, 'step': step}
        return lhotse_loader(config, audio_dataset(config, **place), world_size=self.world_size or 1, **place)
