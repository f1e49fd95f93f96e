"""A causal language model in two parts: what text alone determines, and what may hear.

Below the first block of cross-attention hidden states depend on the text alone. Where the same texts come again and
again, they are computed once; and logits are needed for answers only.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nemo_audio_restore.networks.gated_cross_attention import decoder_layers


@dataclass(frozen=True)
class SplitDecoder:
    """Both parts; they share their weights with the model that they were made of, and its hooks."""

    lower: nn.Module
    upper: nn.Module
    head: nn.Module

    @torch.no_grad()
    def texts(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Hidden states in front of the upper part, without gradients.

        Args:
            input_ids: (B, S) numbers of tokens.
            attention_mask: (B, S), 0 for padding; or (B, 1, S, S) bool, what each token attends to.
            position_ids: (B, S) places of the tokens, where they are not 0, 1, 2 ...

        Returns:
            (B, S, D).
        """
        how = {'attention_mask': attention_mask, 'position_ids': position_ids, 'use_cache': False}
        return self.lower(input_ids=input_ids, **how).last_hidden_state

    def states(
        self, hidden: Tensor, attention_mask: Tensor, wanted: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """What the head sees of some of the tokens.

        Args:
            hidden: (B, S, D) of :meth:`texts`.
            attention_mask: as for :meth:`texts`.
            wanted: (B, S) bool, the tokens whose successors are asked for; A of them.
            position_ids: as for :meth:`texts`.

        Returns:
            (A, D), row after row.
        """
        how = {'attention_mask': attention_mask, 'position_ids': position_ids, 'use_cache': False}
        return self.upper(inputs_embeds=hidden, **how).last_hidden_state[wanted]

    def logits(
        self, hidden: Tensor, attention_mask: Tensor, wanted: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """What follows some of the tokens.

        Args:
            hidden: (B, S, D) of :meth:`texts`.
            attention_mask: as for :meth:`texts`.
            wanted: (B, S) bool, the tokens whose successors are asked for; A of them.
            position_ids: as for :meth:`texts`.

        Returns:
            (A, V), row after row.
        """
        return self.head(self.states(hidden, attention_mask, wanted, position_ids))


def split_decoder(language_model: nn.Module, layer: int) -> SplitDecoder:
    """Takes a language model apart in front of a layer.

    Args:
        language_model: a causal language model of `transformers`, such as Llama or Qwen2, that scales nothing between
            embedding and first layer.
        layer: number of the first layer of the upper part, from 1.

    Returns:
        Both parts, in the mode of the model.

    Raises:
        ValueError: no such layer.
    """
    layers = decoder_layers(language_model)
    if not 0 < layer < len(layers):
        raise ValueError(f'layer must be 1 to {len(layers) - 1}; got {layer}')
    decoder = language_model.get_decoder()
    return SplitDecoder(
        lower=_with(decoder, layers=layers[:layer], norm=nn.Identity()),
        upper=_with(decoder, layers=layers[layer:]),
        head=language_model.get_output_embeddings(),
    )


def _with(module: nn.Module, **replaced: Any) -> nn.Module:
    """The same module with other children; nothing is copied."""
    made = copy.copy(module)
    made.__dict__['_modules'] = {**module.__dict__['_modules'], **replaced}
    return made
