"""AudioLanguageModel: a language model that hears, after Audio Flamingo 2, as a NeMo model. Wiring only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from typing_extensions import Self

from nemo_audio_restore.checkpoints.packaged_language import PACKAGED
from nemo_audio_restore.data.listening import Listening
from nemo_audio_restore.data.question_text import QuestionFormat, QuestionTokenizer
from nemo_audio_restore.models.audio_language_answers import AnsweringMixin
from nemo_audio_restore.models.audio_language_lora import LanguageLoraMixin
from nemo_audio_restore.models.audio_language_memory import InPlaceMixin
from nemo_audio_restore.models.audio_language_release import read_release
from nemo_audio_restore.models.audio_language_training import PARTS, QuestionTrainingMixin, QuestionTrainingSettings
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import ConfigError, build, check_keys
from nemo_audio_restore.models.language_models import LanguageModel, read_tokenizer
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.low_rank import LowRankSettings
from nemo_audio_restore.networks.window_towers import HtsatTower

_WINDOWS_AT_ONCE = 8


class AudioLanguageModel(AnsweringMixin, LanguageLoraMixin, QuestionTrainingMixin, InPlaceMixin, BaseModel):
    """Answers questions about recordings of up to minutes: audio tower, transform, and a language model that hears.

    Config blocks, each named like the attribute that it builds:

    - ``audio_tower``: arguments of :class:`HtsatTower`, or ``_target_`` and arguments of another tower
    - ``listening``: arguments of :class:`Listening`, how recordings are prepared
    - ``audio_transform``: arguments of :class:`AudioTransform`; its ``dim`` is the tower's
    - ``cross_attention``: arguments of :class:`CrossAttentionLayers`; without ``layers`` there is a block in front of
      every layer of the language model
    - ``language_model``: arguments of :class:`LanguageModel`
    - ``tokenizer``: ``file`` (``tokenizer.json`` with the special tokens, or ``packaged:smollm2-135m-instruct``) and
      ``eos_token``; without it the model takes numbers of tokens only
    - ``lora``: fields of :class:`LowRankSettings`, for a language model with adapters
    - ``question``: arguments of :class:`QuestionFormat`, how questions and answers are written
    - for training: ``training`` (:class:`QuestionTrainingSettings`), ``optim``, ``train_ds``, ``validation_ds``,
      ``card``

    Source: Audio Flamingo 2 (arXiv 2503.03983).
    """

    config_blocks: ClassVar[tuple[str, ...]] = (
        'audio_tower',
        'listening',
        'audio_transform',
        'cross_attention',
        'language_model',
        'lora',
        'tokenizer',
        'question',
        'training',
    )
    training_blocks: ClassVar[tuple[str, ...]] = ('training',)
    pipeline_tag: ClassVar[str] = 'audio-text-to-text'
    tags: ClassVar[tuple[str, ...]] = ('audio', 'music', 'audio-question-answering', 'audio-captioning')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        # NeMo builds the data loaders inside its constructor, and they need these.
        self.listening: Listening = build(cfg.get('listening'), where='listening', default=Listening)
        self.sample_rate = self.listening.sample_rate
        self.question_format: QuestionFormat = build(cfg.get('question'), where='question', default=QuestionFormat)
        self.training_settings: QuestionTrainingSettings = build(
            cfg.get('training'), where='training', default=QuestionTrainingSettings
        )
        block = cfg.get('tokenizer') or {}
        check_keys(block, ('file', 'eos_token'), where='tokenizer')
        file = block.get('file')
        self._questions = None if file is None or str(file).startswith('nemo:') else self._tokenizer(file, block)
        tower = build(cfg.get('audio_tower'), where='audio_tower', default=HtsatTower)
        transform = _build_with(cfg.get('audio_transform'), 'audio_transform', AudioTransform, dim=tower.feature_dim)
        language = build(cfg.get('language_model'), where='language_model', default=LanguageModel)
        layers = OmegaConf.select(cfg, 'cross_attention.layers')
        cross_attention = _build_with(
            cfg.get('cross_attention'),
            'cross_attention',
            CrossAttentionLayers,
            dim=language.width,
            audio_dim=tower.feature_dim,
            layers=list(range(language.num_layers) if layers is None else layers),
        )
        if tower.sample_rate != self.sample_rate:
            raise ConfigError(
                f'listening.sample_rate is {self.sample_rate}, but the audio tower works at {tower.sample_rate} Hz'
            )
        super().__init__(cfg=cfg, trainer=trainer)
        self.audio_tower = tower
        self.audio_transform = transform
        self.cross_attention = cross_attention
        self.language = language
        cross_attention.attach(language.model)
        if file is not None and file != PACKAGED:
            path = self.register_artifact('tokenizer.file', str(file))
            self._questions = self._questions or self._tokenizer(path, block)
        self._freeze()
        if self.has_lora:
            self._inject(build(self.cfg.lora, where='lora', default=LowRankSettings))

    @classmethod
    def from_audio_flamingo2(
        cls,
        folder: str | Path,
        *,
        language_model: str | Path,
        dtype: torch.dtype = torch.float32,
        max_windows: int = 12,
    ) -> Self:
        """Makes a model from a released checkpoint of Audio Flamingo 2.

        The files are read tensor by tensor: memory holds the model and little else.

        Args:
            folder: with ``metadata.json`` and ``model_chunk_N.safetensors``, or one level above.
            language_model: folder or hub name of Qwen2.5 of the same size; its configuration and tokenizer are
                used, not its weights.
            dtype: of the weights; ``torch.bfloat16`` takes half of the memory.
            max_windows: windows of 10 s that the model hears: 12 as in the released program; 30 are the five minutes
                of its third stage of training.

        Returns:
            The model in evaluation mode, on the CPU; it prepares audio with the published numerics.

        Raises:
            CheckpointError: tensors are missing, left over, of another shape or inconsistent; they are named.
            FileNotFoundError: a file is missing.
        """
        return read_release(cls, folder, language_model=language_model, dtype=dtype, max_windows=max_windows)

    @property
    def language_model(self) -> nn.Module:
        """The causal language model of `transformers`; it hears inside :meth:`hearing` alone."""
        return self.language.model

    @property
    def questions(self) -> QuestionTokenizer:
        """Questions to numbers, and back.

        Raises:
            ConfigError: the model has no tokenizer.
        """
        if self._questions is None:
            raise ConfigError(
                'this model has no tokenizer, so it takes numbers of tokens only: set tokenizer.file in its config'
            )
        return self._questions

    def encode_audio(self, windows: Tensor, window_mask: Tensor) -> Tensor:
        """Features of recordings; windows that only fill up the batch are not computed.

        Args:
            windows: (B, W, T) samples in [-1, 1], as :class:`Listening` prepares them.
            window_mask: (B, W), 0 for windows that are not there.

        Returns:
            (B, W, N, D), zero for windows that are not there.
        """
        there = window_mask.bool()
        features = torch.cat([self.audio_tower(some) for some in windows[there].split(_WINDOWS_AT_ONCE)])
        encoded = features.new_zeros(*there.shape, *features.shape[1:])
        encoded[there] = features
        return encoded

    @contextmanager
    def hearing(self, audio_features: Tensor, window_mask: Tensor) -> Iterator[None]:
        """Lets the language model hear recordings, for the time of a block.

        Args:
            audio_features: (B, W, N, D) from :meth:`encode_audio`.
            window_mask: (B, W), 0 for windows that are not there; what is in their place has no effect.

        Yields:
            Nothing.

        Raises:
            ValueError: features of another shape, or an item without audio.
        """
        if audio_features.ndim != 4 or audio_features.shape[:2] != window_mask.shape:
            raise ValueError(
                'audio_features must be (B, W, N, D) and window_mask (B, W); got '
                f'{tuple(audio_features.shape)} and {tuple(window_mask.shape)}'
            )
        mask = window_mask.bool().repeat_interleave(audio_features.shape[2], dim=1)
        # What is in the place of missing windows may be anything, also NaN: no weight of zero would remove that.
        tokens = audio_features.flatten(1, 2).to(self.audio_transform.norm.weight.dtype)
        tokens = self.audio_transform(tokens.masked_fill(~mask[..., None], 0.0), mask)
        with self.cross_attention.hearing(tokens, mask):
            yield

    def forward(
        self, audio_features: Tensor, window_mask: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """What follows each token of texts about recordings.

        Args:
            audio_features: (B, W, N, D) from :meth:`encode_audio`.
            window_mask: (B, W), 0 for windows that are not there.
            input_ids: (B, S) numbers of tokens.
            attention_mask: (B, S), 0 for padding.

        Returns:
            Logits (B, S, V).
        """
        with self.hearing(audio_features, window_mask):
            return self.language_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; frozen parts stay in evaluation mode, or their statistics would drift."""
        super().train(mode)
        for name in PARTS:
            if name not in self.training_settings.trained:
                self.part(name).eval()
        if self.has_lora:
            self._train_adapters(mode)
        return self

    def part(self, name: str) -> nn.Module:
        """A part of the model by the name that ``training.trained`` has for it."""
        return self.language_model if name == 'language_model' else getattr(self, name)

    def facts(self) -> Sequence[str]:
        """Lines of the model card about inputs, outputs and size."""
        outside = '' if self.language.stored else ', and a language model that is loaded from elsewhere'
        first, *rest = super().facts()
        return (
            first + outside,
            *rest,
            f'hears {self.listening.max_windows} windows of {self.listening.window_s:g} s at {self.sample_rate} Hz',
            f'cross-attention in front of {len(self.cross_attention.blocks)} of {self.language.num_layers} layers',
        )

    def _tokenizer(self, file: str | Path, block: Mapping[str, Any]) -> QuestionTokenizer:
        eos_token = block.get('eos_token')
        if not eos_token:
            raise ConfigError('the tokenizer block lacks eos_token, the token that ends a text')
        return QuestionTokenizer(read_tokenizer(file, eos_token=eos_token), self.question_format)

    def _freeze(self) -> None:
        if 'language_model' in self.training_settings.trained and not self.language.stored:
            raise ConfigError(
                'training.trained names language_model, but language_model.weights keeps it out of saved models: what '
                'it learns would be lost. Leave one of them out'
            )
        for name in PARTS:
            learns = name in self.training_settings.trained
            self.part(name).requires_grad_(learns)
            # Trainers keep the modes that they find: a new module is in training mode, and statistics would drift.
            self.part(name).train(learns and self.training)


def _build_with(block: Mapping[str, Any] | None, where: str, default: Callable[..., Any], **given: Any) -> Any:
    arguments = OmegaConf.to_container(block, resolve=True) if OmegaConf.is_config(block) else dict(block or {})
    return build({**arguments, **given}, where=where, default=default)
