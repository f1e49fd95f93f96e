"""What a prompt consists of, as tokens: seconds and text. Parameter names are those of the published checkpoints."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Self

from nemo_audio_restore.networks.fourier_features import NumberFeatures

_FEATURES = 256
_SHOWN = 40


class TextCutWarning(UserWarning):
    """A text has more tokens than the model reads."""


@dataclass(frozen=True)
class TokenFeatures:
    """Tokens of a batch."""

    features: Tensor
    """(B, S, E)."""
    mask: Tensor
    """(B, S), 1 for tokens that count and 0 for padding."""


def warn_of_cut_texts(
    tokenizer: Callable[..., dict[str, Sequence[int]]], texts: Sequence[str], mask: Tensor, max_length: int
) -> None:
    """Gives a :class:`TextCutWarning` for every text of which the tokenizer left something out.

    Args:
        tokenizer: of transformers.
        texts: B, as they were given.
        mask: (B, S) of the tokens that the tokenizer kept, 0 for padding.
        max_length: of the tokens of a text.
    """
    for text, kept in zip(texts, mask.sum(dim=1).tolist(), strict=True):
        if kept < max_length:
            continue
        count = len(tokenizer(text, truncation=False, verbose=False)['input_ids'])
        if count > max_length:
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + '...'
            message = f'"{shown}" has {count} tokens, the model reads the first {max_length}: say it shorter'
            warnings.warn(message, TextCutWarning, stacklevel=3)


class NumberConditioner(nn.Module):
    """A number of a range, as one token that changes continuously; timing since Stable Audio 2.0.

    Args:
        dim: E of the token.
        minimum: smaller numbers count as this one.
        maximum: greater numbers count as this one.

    Source: Stable Audio (arXiv 2402.04825), section 3.2; the continuous form is that of its successors.
    """

    def __init__(self, *, dim: int, minimum: float = 0.0, maximum: float = 512.0):
        super().__init__()
        _check_range(minimum, maximum)
        self.minimum, self.maximum = minimum, maximum
        self.embedder = _Embedder(dim)

    def forward(self, numbers: Tensor) -> TokenFeatures:
        """One token (B, 1, E) for every number (B,)."""
        share = (numbers.float().clamp(self.minimum, self.maximum) - self.minimum) / (self.maximum - self.minimum)
        return _one_token(self.embedder.embedding(share))


class _Embedder(nn.Module):
    """The container that the published names count."""

    def __init__(self, dim: int):
        super().__init__()
        self.embedding = nn.Sequential(NumberFeatures(_FEATURES), nn.Linear(_FEATURES + 1, dim))


class IntegerConditioner(nn.Module):
    """A whole number of a range, as one learned token; timing of Stable Audio 1.0.

    Args:
        dim: E of the token.
        minimum: smaller numbers count as this one.
        maximum: greater numbers count as this one.

    Source: Stable Audio (arXiv 2402.04825), section 3.2.
    """

    def __init__(self, *, dim: int, minimum: int = 0, maximum: int = 512):
        super().__init__()
        _check_range(minimum, maximum)
        self.minimum, self.maximum = minimum, maximum
        self.int_embedder = nn.Embedding(maximum - minimum + 1, dim)

    def forward(self, numbers: Tensor) -> TokenFeatures:
        """One token (B, 1, E) for every number (B,), rounded to a whole one."""
        index = numbers.double().round().long().clamp(self.minimum, self.maximum) - self.minimum
        return _one_token(self.int_embedder(index))


class TextConditioner(nn.Module):
    """Features of a frozen text encoder, one for each token of the text.

    The encoder is no part of the state: it moves with this module, but is neither saved nor trained.

    Args:
        encoder: a transformers text encoder (T5, the text side of CLAP, a sentence encoder).
        tokenizer: of transformers; None if only token numbers will be given.
        max_length: tokens of a text; longer ones are cut, with a :class:`TextCutWarning`, shorter ones padded.
        layer: which hidden states are taken: -1 for the encoder's output, -2 for the layer before (CLAP).
        zero_padding: set the features of padding to zero.
        dim: E of the features after a learned projection; None for the encoder's own width, without projection.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        tokenizer: Callable[..., dict[str, Tensor]] | None = None,
        max_length: int = 128,
        layer: int = -1,
        zero_padding: bool = True,
        dim: int | None = None,
    ):
        super().__init__()
        # Around nn.Module.__setattr__, which would make it a submodule.
        self.__dict__['encoder'] = encoder.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length, self.layer, self.zero_padding = max_length, layer, zero_padding
        self.proj_out = nn.Identity() if dim is None else nn.Linear(encoder.config.hidden_size, dim)

    @property
    def dim(self) -> int:
        """E of the features."""
        return (
            self.encoder.config.hidden_size if isinstance(self.proj_out, nn.Identity) else self.proj_out.out_features
        )

    def encode(self, texts: Sequence[str]) -> TokenFeatures:
        """Features of texts.

        Args:
            texts: B prompts.

        Returns:
            (B, max_length, E) and the mask of their tokens.

        Raises:
            ValueError: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError('this conditioner has no tokenizer: give one, or pass token numbers')
        tokens = self.tokenizer(
            list(texts), padding='max_length', truncation=True, max_length=self.max_length, return_tensors='pt'
        )
        warn_of_cut_texts(self.tokenizer, texts, tokens['attention_mask'], self.max_length)
        device = next(self.encoder.parameters()).device
        return self(tokens['input_ids'].to(device), tokens['attention_mask'].to(device))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> TokenFeatures:
        """Features of tokens.

        Args:
            input_ids: (B, S) numbers of tokens.
            attention_mask: (B, S), 0 for padding.

        Returns:
            (B, S, E) float32 and the mask.
        """
        with torch.no_grad():
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        features = states.last_hidden_state if self.layer == -1 else states.hidden_states[self.layer]
        features = self.proj_out(features.float())
        if self.zero_padding:
            features = features * attention_mask[..., None].to(features.dtype)
        return TokenFeatures(features, attention_mask)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .to('cuda') and friends arrive here.
        self.encoder._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _one_token(features: Tensor) -> TokenFeatures:
    return TokenFeatures(features[:, None], torch.ones(features.shape[0], 1, device=features.device))


def _check_range(minimum: float, maximum: float) -> None:
    if not minimum < maximum:
        raise ValueError(f'minimum must be below maximum; got {minimum} and {maximum}')
