"""Fine-tuning of a latent diffusion model with low-rank adapters: train, set the strength, merge, pass on."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.tensor_files import read_tensors
from nemo_audio_restore.models.blocks import build
from nemo_audio_restore.networks.low_rank import (
    LowRankSettings,
    adapter_state,
    add_adapters,
    merge_adapters,
    set_adapter_strength,
    with_adapter_names,
)

_SETTINGS = 'lora'


class LoraMixin:
    """Adapters of a ModelPT's ``network``; its config block ``lora`` holds fields of :class:`LowRankSettings`."""

    @property
    def has_lora(self) -> bool:
        """Whether the network has adapters."""
        return bool(self.cfg.get('lora'))

    def add_lora(
        self, *, rank: int = 16, alpha: float | None = None, dropout: float = 0.0, feed_forward: bool = False
    ) -> None:
        """Freezes the model and adds adapters to its network, to be trained by ``trainer.fit`` or by hand.

        Args:
            rank: of each adapter.
            alpha: the adapters' output is scaled by alpha / rank; None for no scaling.
            dropout: of their input, in training.
            feed_forward: adapt the feed-forward layers too, not the attention alone.

        Raises:
            ImportError: peft is missing; says how to install it.
            ValueError: there are adapters already, or a size makes no sense.
        """
        if self.has_lora:
            raise ValueError('the model has adapters already; merge_lora() makes them part of the weights')
        settings = LowRankSettings(rank=rank, alpha=alpha, dropout=dropout, feed_forward=feed_forward)
        self._inject(settings)
        self._set_lora_block(asdict(settings))

    def set_lora_strength(self, strength: float) -> None:
        """Scales what the adapters add.

        Args:
            strength: 0 is the model without them, 1 as they were trained; more exaggerates, less than 0 avoids.
        """
        set_adapter_strength(self.network, strength)

    def merge_lora(self) -> None:
        """Makes the adapters, at their present strength, part of the weights."""
        merge_adapters(self.network)
        self.conditions.requires_grad_(True)
        self._set_lora_block(None)

    def save_lora(self, path: str | Path) -> None:
        """Writes the adapters alone, a small file.

        Args:
            path: of the ``.safetensors`` file.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_state(self.network).items()}
        if not tensors:
            raise ValueError('there are no adapters to save: add them with add_lora first')
        settings = OmegaConf.to_container(self.cfg.lora, resolve=True)
        save_file(tensors, path, metadata={_SETTINGS: json.dumps(settings)})

    def load_lora(self, path: str | Path) -> None:
        """Adds adapters from a file of :meth:`save_lora`.

        Args:
            path: of the ``.safetensors`` file.

        Raises:
            CheckpointError: the file is of another kind, or belongs to another network; names what does not fit.
        """
        tensors = read_tensors(path)
        with safe_open(str(path), framework='pt') as file:
            text = (file.metadata() or {}).get(_SETTINGS)
        if text is None:
            raise CheckpointError(f'{path} holds no adapters that this package wrote')
        settings = build(json.loads(text), where=str(path), default=LowRankSettings)
        self.add_lora(**asdict(settings))
        wanted = adapter_state(self.network)
        wrong = sorted(
            name
            for name in {*wanted, *tensors}
            if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape
        )
        if wrong:
            self.merge_lora()  # untrained, so this takes them away
            raise CheckpointError(
                f'{path} belongs to another network: {wrong[0]} and {len(wrong) - 1} more tensors do not fit'
            )
        self.network.load_state_dict(tensors, strict=False)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Lightning's; a model with adapters also takes the weights of one without."""
        renamed = with_adapter_names(self.network, dict(state_dict), prefix='network.')
        return super().load_state_dict(renamed, strict=strict, assign=assign)

    def _inject(self, settings: LowRankSettings) -> None:
        add_adapters(self.network, settings)
        self.conditions.requires_grad_(False)

    def _set_lora_block(self, block: dict[str, Any] | None) -> None:
        config = OmegaConf.to_container(self.cfg, resolve=True)
        self.cfg = OmegaConf.create({**config, 'lora': block})
