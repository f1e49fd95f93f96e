"""TextAudioModel: texts and recordings in one space, trained by contrast. Wiring only."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soxr
import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional
from typing_extensions import Self

from nemo_audio_restore.checkpoints.clap import load_clap
from nemo_audio_restore.evaluation.retrieval import text_audio_scores, zero_shot_accuracy
from nemo_audio_restore.losses.composition_contrast import CaptionVariants, CompositionContrastLoss
from nemo_audio_restore.losses.contrastive import ContrastiveLoss
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.text_towers import ClapTextTower
from nemo_audio_restore.models.with_audio_data import AudioDataMixin
from nemo_audio_restore.networks.clap_audio import ClapAudioTower
from nemo_audio_restore.signal.windows import filled_windows

_DEFAULT_CROPS = 4


class TextAudioModel(AudioDataMixin, BaseModel):
    """Says how well a text describes a recording; its text side conditions generators.

    Config blocks, each named like the attribute that it builds:

    - ``audio_tower``: ``_target_`` and arguments of a network ``tower(audio=(B, window_samples))`` to ``(B, E)`` with
      ``sample_rate``, ``window_samples``, ``hear`` and ``embed_features``, see :class:`ConvolutionalAudioTower`
    - ``text_tower``: ``_target_`` and arguments of a network ``tower(prompts)`` to ``(B, E)`` with
      ``tokens(prompts)``, see :mod:`nemo_audio_restore.models.text_towers`
    - ``loss``: arguments of :class:`ContrastiveLoss`; or with ``_target_`` those of :class:`CompositionContrastLoss`,
      which learns from the paraphrases and altered captions of ``examples/prepare_contrasts.py``
    - for training: ``optim``, ``train_ds``, ``validation_ds``, ``card``

    Source: CLAP (arXiv 2211.06687); Stable Audio (arXiv 2402.04825), section 3.2.
    """

    config_blocks: ClassVar[tuple[str, ...]] = ('audio_tower', 'text_tower', 'loss')
    pipeline_tag: ClassVar[str] = 'zero-shot-audio-classification'
    tags: ClassVar[tuple[str, ...]] = ('text-audio', 'contrastive', 'retrieval')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        audio_tower = build(cfg.get('audio_tower'), where='audio_tower')
        text_tower = build(cfg.get('text_tower'), where='text_tower')
        loss = build(cfg.get('loss'), where='loss', default=ContrastiveLoss)
        # NeMo builds the data loaders inside its constructor, and they need the rate.
        self.sample_rate = audio_tower.sample_rate
        super().__init__(cfg=cfg, trainer=trainer)
        self.audio_tower, self.text_tower, self.loss = audio_tower, text_tower, loss

    @classmethod
    def from_clap(cls, path: str | Path, *, tokenizer: str = 'roberta-base', num_heads: int | None = None) -> Self:
        """Takes both towers and the temperature from a CLAP file of LAION.

        Args:
            path: ``.pt`` file of LAION, or what :func:`convert_clap` made of it. No code from it is run.
            tokenizer: name of RoBERTa's tokenizer on the hub, or a folder.
            num_heads: attention heads of the text side, which leave no trace in the file; None for heads of 64.

        Returns:
            The model in evaluation mode.

        Raises:
            CheckpointError: the file is refused, is no CLAP file, or has other towers than HTSAT and RoBERTa.
        """
        found = load_clap(path, num_heads=num_heads)
        model = cls(
            OmegaConf.create(
                {
                    'target': f'{cls.__module__}.{cls.__qualname__}',
                    'audio_tower': {
                        '_target_': f'{ClapAudioTower.__module__}.{ClapAudioTower.__qualname__}',
                        'config': found.audio_config,
                    },
                    'text_tower': {
                        '_target_': f'{ClapTextTower.__module__}.{ClapTextTower.__qualname__}',
                        'config': found.text_config,
                        'tokenizer': tokenizer,
                    },
                    'loss': {'temperature': 1 / found.scale, 'max_scale': max(100.0, math.ceil(found.scale))},
                    'card': {
                        'summary': "LAION's CLAP (arXiv 2211.06687), converted.",
                        'license_name': 'see the source of the file',
                    },
                }
            )
        )
        model.audio_tower.network.load_state_dict(found.audio.state_dict())
        model.text_tower.network.load_state_dict(found.text.state_dict())
        return model.eval()

    @property
    def window_samples(self) -> int:
        """Samples that are heard at once."""
        return self.audio_tower.window_samples

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of texts.

        Args:
            prompts: B texts.

        Returns:
            (B, E) of unit length.

        Raises:
            ValueError: no texts, or something else than texts.
            TextEncoderNotInstalledError: the text encoder is missing; the message names the extra to install.
        """
        _check_prompts(prompts)
        with self._evaluating():
            return functional.normalize(self.text_tower(prompts).float(), dim=-1)

    @torch.no_grad()
    def embed_audio(
        self, audio: Tensor, *, sample_rate: int | None = None, num_crops: int = _DEFAULT_CROPS, seed: int = 0
    ) -> Tensor:
        """Embeddings of recordings, the same in every batch.

        A recording shorter than a window is repeated; a longer one is heard in windows at random places, and the mean
        of their embeddings counts.

        Args:
            audio: (B, T) or (B, C, T) samples in [-1, 1]; channels are averaged.
            sample_rate: of the audio, in Hz; without it, the model's.
            num_crops: windows of a long recording.
            seed: of their places.

        Returns:
            (B, E) of unit length.

        Raises:
            ValueError: audio of another shape, empty or not finite.
        """
        mono = _mono(audio)
        if sample_rate is not None and sample_rate != self.sample_rate:
            mono = _resampled(mono, sample_rate, self.sample_rate)
        found = []
        with self._evaluating():
            for row in mono:
                # A generator of its own for each: what stands beside a recording must not matter.
                generator = torch.Generator().manual_seed(seed)
                features = self.audio_tower.hear(row.to(self.device), count=num_crops, generator=generator)
                embeddings = functional.normalize(self.audio_tower.embed_features(features).float(), dim=-1)
                found.append(functional.normalize(embeddings.mean(dim=0), dim=0))
        return torch.stack(found)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What generators are conditioned on: one feature for every token.

        Args:
            prompts: B texts.

        Returns:
            Features (B, N, D) and mask (B, N), 0 for padding.

        Raises:
            ValueError: no texts, or something else than texts.
            TextEncoderNotInstalledError: the text encoder is missing; the message names the extra to install.
        """
        _check_prompts(prompts)
        with self._evaluating():
            tokens = self.text_tower.tokens(prompts)
        return tokens.features, tokens.mask

    def similarity(
        self,
        audio: Tensor,
        prompts: Sequence[str],
        *,
        sample_rate: int | None = None,
        num_crops: int = _DEFAULT_CROPS,
        seed: int = 0,
    ) -> Tensor:
        """Cosines of every recording with every text.

        Args:
            audio: see :meth:`embed_audio`.
            prompts: P texts.
            sample_rate: see :meth:`embed_audio`.
            num_crops: see :meth:`embed_audio`.
            seed: see :meth:`embed_audio`.

        Returns:
            (B, P) in [-1, 1].
        """
        heard = self.embed_audio(audio, sample_rate=sample_rate, num_crops=num_crops, seed=seed)
        return heard @ self.embed_text(prompts).T

    def classify(
        self,
        audio: Tensor,
        labels: Sequence[str],
        *,
        sample_rate: int | None = None,
        template: str = '{}',
        num_crops: int = _DEFAULT_CROPS,
        seed: int = 0,
    ) -> Tensor:
        """Probabilities of labels that need not have been trained.

        Args:
            audio: see :meth:`embed_audio`.
            labels: L words or phrases, two or more.
            sample_rate: see :meth:`embed_audio`.
            template: sentence around a label, with ``{}`` in its place.
            num_crops: see :meth:`embed_audio`.
            seed: see :meth:`embed_audio`.

        Returns:
            (B, L), each row sums to 1.

        Raises:
            ValueError: fewer than two labels, or a template without ``{}``.
        """
        if isinstance(labels, str) or len(labels) < 2:
            raise ValueError(f'classification needs two or more labels; got {labels!r}')
        if '{}' not in template:
            raise ValueError(f'the template needs {{}} in place of the label; got {template!r}')
        prompts = [template.replace('{}', label) for label in labels]
        cosines = self.similarity(audio, prompts, sample_rate=sample_rate, num_crops=num_crops, seed=seed)
        return (self.loss.scale.detach() * cosines).softmax(dim=-1)

    def training_step(self, batch: Mapping[str, Any], batch_index: int) -> Tensor:
        """The contrastive loss of a batch; recordings with equal captions are no negatives of each other."""
        audio, text = self._embedded(batch)
        alike = _alike(batch['captions'], audio.device)
        if isinstance(self.loss, CompositionContrastLoss):
            loss = self.loss(audio, text, alike=alike, variants=self._variants(batch))
        else:
            loss = self.loss(audio, text, alike=alike)
        size = len(audio)
        self.log('train_loss', loss.detach(), prog_bar=True, batch_size=size)
        self.log('temperature', 1 / self.loss.scale.detach(), batch_size=size)
        self.log('learning_rate', self.optimizers().param_groups[0]['lr'], batch_size=size)
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_index: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Embeds a batch; what they are worth together shows at the end of the epoch."""
        audio, text = self._embedded(batch)
        output = {'audio': audio.cpu(), 'text': text.cpu(), 'captions': list(batch['captions'])}
        output['classes'] = list(batch.get('classes') or [])
        if any(batch.get('altered') or ()):
            variants = self._variants(batch)
            wrong = torch.einsum('be,bke->bk', audio, variants.altered).masked_fill(~variants.altered_mask, -torch.inf)
            right = (audio * text).sum(dim=-1) > wrong.amax(dim=1)
            output['told_apart'] = right[variants.altered_mask.any(dim=1)].cpu()
        self._collect(output, dataloader_idx)
        return output

    def multi_validation_epoch_end(
        self, outputs: Sequence[Mapping[str, Any]], dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Retrieval over the whole set, zero-shot classification by its class names, and the loss of all at once.

        ``val_composition`` is the share of recordings that are closer to their caption than to every altered one.
        """
        audio, text = (torch.cat([output[name] for output in outputs]).float() for name in ('audio', 'text'))
        captions = [caption for output in outputs for caption in output['captions']]
        both = audio.to(self.device), text.to(self.device)
        loss = self.loss(*both, alike=_alike(captions, self.device)).detach()
        scores = {'val_loss': loss}
        for name, value in text_audio_scores(audio, text, captions).items():
            scores[f'val_{name}'] = torch.tensor(value)
        classes = [name for output in outputs for name in output['classes']]
        labels = sorted(set(classes))
        if len(classes) == len(audio) and len(labels) > 1:
            similarity = audio @ self.embed_text(labels).cpu().T
            scores['val_zero_shot'] = torch.tensor(zero_shot_accuracy(similarity, labels, classes))
        told_apart = [output['told_apart'] for output in outputs if 'told_apart' in output]
        if told_apart:
            scores['val_composition'] = torch.cat(told_apart).float().mean()
        return {'val_loss': loss, 'log': scores}

    def facts(self) -> Sequence[str]:
        """Lines of the model card about inputs and size."""
        return (
            *super().facts(),
            f'hears {self.window_samples / self.sample_rate:.1f} s at once at {self.sample_rate} Hz, in mono',
        )

    def _embedded(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Embeddings (B, E) of one window of each recording, and of their captions."""
        captions = batch.get('captions')
        if captions is None:
            raise ConfigError('the data have no captions: each cut needs one supervision with a text')
        rows = []
        for row, length in zip(_mono(batch['audio']), batch['audio_lens'].tolist(), strict=True):
            generator = torch.Generator().manual_seed(0)
            rows.append(filled_windows(row[: max(1, length)], self.window_samples, count=1, generator=generator)[0])
        audio = self.audio_tower(torch.stack(rows))
        return functional.normalize(audio, dim=-1), functional.normalize(self.text_tower(captions), dim=-1)

    def _variants(self, batch: Mapping[str, Any]) -> CaptionVariants:
        """Embeddings of paraphrases and of altered captions."""
        rows = [*batch.get('paraphrases', ()), *batch.get('altered', ())]
        texts = [text for row in rows for text in row]
        if not texts:
            raise ConfigError(
                'the loss learns from paraphrases and altered captions, but the data have none: each cut needs the '
                'custom fields paraphrases and altered, lists of texts'
            )
        found = functional.normalize(self.text_tower(texts), dim=-1)
        filled = torch.nn.utils.rnn.pad_sequence(list(found.split([len(row) for row in rows])), batch_first=True)
        counts = torch.tensor([len(row) for row in rows], device=found.device)
        there = torch.arange(filled.shape[1], device=found.device) < counts[:, None]
        half = len(rows) // 2
        return CaptionVariants(filled[:half], there[:half], filled[half:], there[half:])


def _alike(captions: Sequence[str], device: torch.device) -> Tensor:
    numbers = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    rows = torch.tensor([numbers[caption] for caption in captions], device=device)
    return rows[:, None] == rows[None, :]


def _mono(audio: Tensor) -> Tensor:
    if audio.ndim not in (2, 3) or not audio.shape[-1]:
        raise ValueError(f'audio must be (B, T) or (B, C, T) samples, T >= 1; got the shape {tuple(audio.shape)}')
    if not torch.isfinite(audio).all():
        raise ValueError('audio holds NaN or infinity')
    return audio if audio.ndim == 2 else audio.mean(dim=1)


def _resampled(audio: Tensor, from_hz: int, to_hz: int) -> Tensor:
    rows = [soxr.resample(row.cpu().float().numpy(), from_hz, to_hz, quality='HQ') for row in audio]
    return torch.from_numpy(np.stack(rows)).to(audio.device)


def _check_prompts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f'prompts must be a list of one or more texts; got {prompts!r}')
