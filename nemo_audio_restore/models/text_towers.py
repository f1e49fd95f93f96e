"""The text side of text-audio models: a frozen sentence encoder with a learned projection, or CLAP's own RoBERTa."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.checkpoints.text_encoders import load_packaged_text_conditioner, load_text_conditioner
from nemo_audio_restore.networks.conditioners import TextConditioner, TokenFeatures, warn_of_cut_texts

_CLAP_TOKENS = 77


class SentenceTextTower(nn.Module):
    """A frozen sentence encoder and a learned projection of its sentences.

    The encoder is read when the first text comes, and is neither saved nor trained.

    Args:
        embedding_dim: E.
        encoder: name of a text encoder on the hub; None for all-MiniLM-L6-v2 from its package.
        encoder_dim: width D of its features.
        max_length: tokens of a text; longer ones are cut.
        dropout: of the sentences, in training.
    """

    def __init__(
        self,
        *,
        embedding_dim: int = 256,
        encoder: str | None = None,
        encoder_dim: int = 384,
        max_length: int = 48,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.encoder, self.max_length = encoder, max_length
        self.encoder_dim = encoder_dim
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(encoder_dim, embedding_dim)
        # Not a submodule: frozen weights that others passed on belong into no file of ours.
        self.__dict__['_conditioner'] = None

    @property
    def conditioner(self) -> TextConditioner:
        """The encoder as a conditioner, on the device of the projection.

        Raises:
            TextEncoderNotInstalledError: the package is missing; install the `generate` extra.
            FileNotFoundError: the hub cannot be reached, or has no such encoder.
            ValueError: its features are not ``encoder_dim`` wide.
        """
        if self._conditioner is None:
            if self.encoder is None:
                made = load_packaged_text_conditioner(max_length=self.max_length)
            else:
                made = load_text_conditioner(self.encoder, max_length=self.max_length)
            if made.dim != self.encoder_dim:
                raise ValueError(f'encoder_dim is {self.encoder_dim}, but the encoder gives {made.dim} features')
            self.__dict__['_conditioner'] = made
        return self._conditioner.to(self.projection.weight.device)

    def tokens(self, prompts: Sequence[str]) -> TokenFeatures:
        """Features of the tokens of each prompt, for conditioning: (B, ``max_length``, D), padding zero, and mask."""
        return self.conditioner.encode(prompts)

    def sentences(self, prompts: Sequence[str]) -> Tensor:
        """What is projected, to be computed once and kept: the mean of the tokens, of unit length (B, D)."""
        conditioner = self.conditioner
        # Padded to the longest only: three times as fast as the fixed length that conditioning needs.
        words = conditioner.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.max_length, return_tensors='pt'
        )
        warn_of_cut_texts(conditioner.tokenizer, prompts, words['attention_mask'], self.max_length)
        device = self.projection.weight.device
        tokens = conditioner(words['input_ids'].to(device), words['attention_mask'].to(device))
        count = tokens.mask.sum(dim=1, keepdim=True)
        return functional.normalize(tokens.features.sum(dim=1) / count, dim=-1)

    def embed_sentences(self, sentences: Tensor) -> Tensor:
        """Embeddings (B, E), not normalised, of :meth:`sentences` (B, D)."""
        return self.projection(self.dropout(sentences))

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, E) of prompts, not normalised."""
        return self.embed_sentences(self.sentences(prompts))


class ClapTextTower(nn.Module):
    """The text side of CLAP, all of it trained: RoBERTa with a projection of its pooled output.

    Args:
        config: sizes of transformers' ``ClapTextConfig`` that differ from its defaults, those of RoBERTa base.
        tokenizer: name of the tokenizer on the hub, or a folder; read when the first text comes.
        max_length: tokens of a text; longer ones are cut, shorter ones padded.

    Source: CLAP (arXiv 2211.06687), section 3.1.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, Any] | None = None,
        tokenizer: str = 'roberta-base',
        max_length: int = _CLAP_TOKENS,
    ):
        super().__init__()
        from transformers import ClapTextConfig, ClapTextModelWithProjection

        self.tokenizer, self.max_length = tokenizer, max_length
        self.network = ClapTextModelWithProjection(ClapTextConfig(**dict(config or {})))
        self.__dict__['_words'] = None

    def tokens(self, prompts: Sequence[str]) -> TokenFeatures:
        """Features of the tokens of each prompt, for conditioning.

        Args:
            prompts: B texts.

        Returns:
            Hidden states of the last layer but one (B, ``max_length``, D), those of padding included, and the mask.

        Source: Stable Audio (arXiv 2402.04825), section 3.2 (features of the next-to-last hidden layer).
        """
        ids, mask = self._numbers(prompts)
        with torch.no_grad():
            states = self.network.text_model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return TokenFeatures(states.hidden_states[-2].float(), mask)

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, E) of prompts, not normalised."""
        ids, mask = self._numbers(prompts)
        return self.network(input_ids=ids, attention_mask=mask).text_embeds

    def _numbers(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        words = self._tokenizer()(
            list(prompts), padding='max_length', truncation=True, max_length=self.max_length, return_tensors='pt'
        )
        warn_of_cut_texts(self._tokenizer(), prompts, words['attention_mask'], self.max_length)
        device = next(self.network.parameters()).device
        return words['input_ids'].to(device), words['attention_mask'].to(device)

    def _tokenizer(self) -> Any:
        if self._words is None:
            from transformers import AutoTokenizer

            try:
                self.__dict__['_words'] = AutoTokenizer.from_pretrained(self.tokenizer)
            except (OSError, ValueError) as error:
                raise FileNotFoundError(
                    f'no tokenizer can be loaded from {self.tokenizer}: {str(error).splitlines()[0]} '
                    'Give text_tower.tokenizer the name of one on the hub, or a folder with its files.'
                ) from error
        return self._words
