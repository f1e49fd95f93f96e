"""Gated cross-attention: how a frozen language model comes to hear, without a change to its own weights.

Blocks are hung in front of decoder layers of any causal language model of `transformers` by hooks on that one
instance. Between ``with layers.hearing(audio, mask):`` and its end the language model hears; otherwise it is what it
was. Keys and values of the audio are computed once, so generation with a cache costs no more than without audio.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class GatedCrossAttention(nn.Module):
    """Text attends to audio, then passes a position-wise network; both behind gates that begin closed.

    Args:
        dim: D of the text's hidden states.
        audio_dim: of the audio tokens.
        num_heads: attention heads.
        head_dim: width of a head; the published ones do not depend on ``dim``.
        ff_mult: width of the position-wise network, in multiples of ``dim``, also fractions.

    Source: Flamingo (arXiv 2204.14198), section 2.2 and figure 4.
    """

    def __init__(self, *, dim: int, audio_dim: int, num_heads: int = 8, head_dim: int = 64, ff_mult: float = 4):
        super().__init__()
        self.num_heads = num_heads
        inner, wide = num_heads * head_dim, round(ff_mult * dim)
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, inner, bias=False)
        self.key_value = nn.Linear(audio_dim, 2 * inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, wide, bias=False),
            nn.GELU(),
            nn.Linear(wide, dim, bias=False),
        )
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def keys_and_values(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """What the text attends to.

        Args:
            audio: (B, M, audio_dim).

        Returns:
            Two of (B, H, M, head_dim).
        """
        key, value = self.key_value(audio).chunk(2, dim=-1)
        return self._heads(key), self._heads(value)

    def attend(self, hidden: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The attention alone, before its gate.

        Args:
            hidden: (B, S, D) of the text.
            key: (B, H, M, head_dim).
            value: (B, H, M, head_dim).
            mask: (B, M) bool, False for audio that is not there.

        Returns:
            (B, S, D).
        """
        query = self._heads(self.query(self.norm(hidden)))
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        return self.out(heard.transpose(1, 2).flatten(2))

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Hidden states that have heard the audio; arguments and result as for :meth:`attend`."""
        # arXiv 2204.14198, figure 4
        hidden = hidden + self.attention_gate.tanh() * self.attend(hidden, key, value, mask)
        return hidden + self.feed_forward_gate.tanh() * self.feed_forward(hidden)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class _Heard:
    """Audio of a batch: keys and values for each block, and which tokens are there."""

    def __init__(self, keys_and_values: dict[int, tuple[Tensor, Tensor]], mask: Tensor):
        self.keys_and_values, self.mask = keys_and_values, mask
        self._repeated: tuple[int, _Heard] = (1, self)

    def of(self, index: int, texts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and mask of a block for a number of texts: each recording is repeated for texts in a row."""
        times, rest = divmod(texts, len(self.mask))
        if rest or not times:
            raise ValueError(f'{texts} texts cannot hear {len(self.mask)} recordings: it must be a multiple')
        if self._repeated[0] != times:
            pairs = {
                number: (key.repeat_interleave(times, dim=0), value.repeat_interleave(times, dim=0))
                for number, (key, value) in self.keys_and_values.items()
            }
            self._repeated = times, _Heard(pairs, self.mask.repeat_interleave(times, dim=0))
        heard = self if times == 1 else self._repeated[1]
        return *heard.keys_and_values[index], heard.mask

    def keep(self, rows: Tensor) -> None:
        """Drops all recordings but some, block by block: no moment holds everything twice."""
        self._repeated = (1, self)
        for index, (key, value) in list(self.keys_and_values.items()):
            self.keys_and_values[index] = key[rows], value[rows]
        self.mask = self.mask[rows]


class CrossAttentionLayers(nn.Module):
    """Gated blocks in front of layers of a causal language model. The language model is no part of this module.

    Args:
        dim: D of the language model's hidden states.
        audio_dim: of the audio tokens.
        layers: numbers of the decoder layers that get a block, from 0.
        num_heads: attention heads of a block.
        head_dim: width of a head.
        ff_mult: width of the position-wise networks, in multiples of ``dim``.

    Raises:
        ValueError: no layer, or one named twice.
    """

    def __init__(
        self,
        *,
        dim: int,
        audio_dim: int,
        layers: Sequence[int],
        num_heads: int = 8,
        head_dim: int = 64,
        ff_mult: float = 4,
    ):
        super().__init__()
        if not layers or len(set(layers)) != len(layers) or min(layers) < 0:
            raise ValueError(f'layers must name decoder layers, each once, from 0; got {list(layers)}')
        self.audio_dim = audio_dim
        self.blocks = nn.ModuleDict(
            {
                str(index): GatedCrossAttention(
                    dim=dim, audio_dim=audio_dim, num_heads=num_heads, head_dim=head_dim, ff_mult=ff_mult
                )
                for index in sorted(layers)
            }
        )
        self._heard: _Heard | None = None

    def attach(self, language_model: nn.Module) -> None:
        """Hangs the blocks in front of the layers of a language model; they act inside :meth:`hearing` alone.

        Args:
            language_model: a causal language model of `transformers` with a list of decoder layers.

        Raises:
            ValueError: it has no such list, or too few layers.
        """
        layers = decoder_layers(language_model)
        if max(map(int, self.blocks)) >= len(layers):
            raise ValueError(
                f'cross-attention is asked for at layer {max(map(int, self.blocks))}, '
                f'but the language model has the layers 0 to {len(layers) - 1}'
            )
        for index in map(int, self.blocks):
            layers[index].register_forward_pre_hook(partial(self._before_layer, index), with_kwargs=True)

    @contextmanager
    def hearing(self, audio: Tensor, mask: Tensor) -> Iterator[None]:
        """Lets the language model hear, for the time of a block.

        Args:
            audio: (B, M, audio_dim).
            mask: (B, M) bool, False for tokens that are not there.

        Yields:
            Nothing. Texts in a batch of B, or of a multiple of it with the texts of one recording in a row, hear. A
            single text is asked of all B recordings: it becomes B of them where it first hears, so the layers below
            are computed once.

        Raises:
            ValueError: an item of the batch has no audio at all.
        """
        mask = mask.bool()
        silent = (~mask.any(dim=1)).nonzero().flatten().tolist()
        if silent:
            raise ValueError(f'item {silent[0]} of the batch has no audio: every window of it is masked')
        pairs = {int(index): block.keys_and_values(audio) for index, block in self.blocks.items()}
        before, self._heard = self._heard, _Heard(pairs, mask)
        try:
            yield
        finally:
            self._heard = before

    def keep(self, rows: Tensor) -> None:
        """Goes on with some of the recordings alone, until :meth:`hearing` ends: texts of the others are complete.

        Args:
            rows: (R,) numbers of the recordings, as they stand now, in the order of the texts that follow.

        Raises:
            RuntimeError: nothing is heard.
        """
        if self._heard is None:
            raise RuntimeError('recordings can be kept inside hearing() alone')
        self._heard.keep(rows)

    def _before_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._heard is None:
            return None
        hidden = args[0] if args else kwargs['hidden_states']
        if len(hidden) == 1:
            hidden = hidden.expand(len(self._heard.mask), -1, -1)
        hidden = self.blocks[str(index)](hidden, *self._heard.of(index, len(hidden)))
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, 'hidden_states': hidden})


def decoder_layers(language_model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a causal language model of `transformers`.

    Args:
        language_model: for instance Qwen2 or Llama.

    Returns:
        Its layers, from the first.

    Raises:
        ValueError: it has no list of layers.
    """
    decoder = language_model.get_decoder() if hasattr(language_model, 'get_decoder') else None
    layers = getattr(decoder, 'layers', None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(
            f'{type(language_model).__name__} has no list of decoder layers; a causal language model like Qwen2 or '
            'Llama is needed'
        )
    return layers
