"""Fine-tuning of a part of a model with low-rank adapters: train, set the strength, merge, pass on."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

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
    """Adapters of one part of a ModelPT; its config block ``lora`` holds fields of :class:`LowRankSettings`.

    A model names the part in ``adapted`` and freezes what else must not learn in ``_inject``.
    """

    # The part in the names of the model's state, with the dot.
    adapted_prefix: ClassVar[str] = 'network.'

    @property
    def adapted(self) -> nn.Module:
        """The part that has, or gets, adapters."""
        return self.network

    @property
    def has_lora(self) -> bool:
        """Whether there are adapters."""
        return bool(self.cfg.get('lora'))

    def add_lora(
        self, *, rank: int = 16, alpha: float | None = None, dropout: float = 0.0, feed_forward: bool = False
    ) -> None:
        """Freezes the adapted part and adds adapters to it, to be trained by ``trainer.fit`` or by hand.

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
        set_adapter_strength(self.adapted, strength)

    def merge_lora(self) -> None:
        """Makes the adapters, at their present strength, part of the weights."""
        merge_adapters(self.adapted)
        self._after_merge()
        self._set_lora_block(None)

    def save_lora(self, path: str | Path) -> None:
        """Writes the adapters alone, a small file.

        Args:
            path: of the ``.safetensors`` file.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_state(self.adapted).items()}
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
        wanted = adapter_state(self.adapted)
        wrong = sorted(
            name
            for name in {*wanted, *tensors}
            if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape
        )
        if wrong:
            merge_adapters(self.adapted)  # untrained, so this takes them away
            self._after_merge()
            self._set_lora_block(None)
            raise CheckpointError(
                f'{path} belongs to another network: {wrong[0]} and {len(wrong) - 1} more tensors do not fit'
            )
        self.adapted.load_state_dict(tensors, strict=False)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Lightning's; a model with adapters also takes the weights of one without."""
        return super().load_state_dict(self._with_adapters(dict(state_dict)), strict=strict, assign=assign)

    def _with_adapters(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state under the names of this model; adapters that it lacks stay as they are."""
        return with_adapter_names(self.adapted, state, prefix=self.adapted_prefix)

    def _inject(self, settings: LowRankSettings) -> None:
        """Adds untrained adapters; everything else of the part is frozen."""
        add_adapters(self.adapted, settings)

    def _after_merge(self) -> None:
        """Lets learn again what learned before there were adapters."""

    def _set_lora_block(self, block: dict[str, Any] | None) -> None:
        config = OmegaConf.to_container(self.cfg, resolve=True)
        self.cfg = OmegaConf.create({**config, 'lora': block})
