"""Restoring an audio-language model with billions of weights: the file's pages become the weights.

The unpacked file keeps its place on the disk until the process ends, though it has no name any more.
"""

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from typing_extensions import Self

from nemo_audio_restore.checkpoints.audio_flamingo2 import complete


class InPlaceMixin:
    """A model with its own ``language_model`` is restored without a second copy of its weights."""

    @classmethod
    def without_memory(cls, config: DictConfig, trainer: Trainer | None = None) -> Self | None:
        """Builds a model whose weights are still undefined; see :meth:`BaseModel.without_memory`.

        Args:
            config: of the model.
            trainer: for the model.

        Returns:
            The model, or None if its language model is loaded from elsewhere, or if a part computes constants that
            would be undefined too.
        """
        if OmegaConf.select(config, 'language_model.weights') is not None:
            return None
        with torch.device('meta'):
            model = cls._class_for(config)(cfg=config, trainer=trainer)
        complete(model.language_model)
        stored = model.state_dict()
        if any(buffer.is_meta and name not in stored for name, buffer in model.named_buffers()):
            return None
        # Memory that nobody has touched is promised, not taken.
        return model._apply(_promised)

    def after_restoring_in_place(self) -> None:
        """Ties the embeddings again: they came as two tensors."""
        complete(self.language_model)


def _promised(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device='cpu') if tensor.is_meta else tensor
