"""SpeechCodecModel: a low-frame-rate codec with finite scalar quantisation as a NeMo model. Wiring only."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from nemo.collections.tts.modules.audio_codec_modules import GroupFiniteScalarQuantizer
from nemo.collections.tts.parts.utils.tts_dataset_utils import resample_batch
from omegaconf import DictConfig
from torch import Tensor, nn

from nemo_audio_restore._nemo import logging, uncounted_steps
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.codec_context import decoder_context_frames, encoder_context_frames
from nemo_audio_restore.models.speech_codec_training import (
    CodecLosses,
    CodecLossSettings,
    CodecTrainingSettings,
    codec_loss,
    discriminator_loss,
    limited_gradient,
)
from nemo_audio_restore.models.with_audio_data import AudioDataMixin

_MAX_SKIPPED_IN_A_ROW = 20


class SpeechCodecModel(AudioDataMixin, BaseModel):
    """Turns speech into a few integers for each frame, and back.

    Config blocks, each named like the attribute that it builds:

    - ``sample_rate`` in Hz and ``samples_per_frame``
    - ``audio_encoder``: ``_target_`` and arguments of a network ``encoder(audio=(B, T), audio_len=(B,))`` to
      ``(encoded (B, D, N), encoded_len (B,))``
    - ``vector_quantizer``: arguments of NeMo's :class:`GroupFiniteScalarQuantizer`
    - ``audio_decoder``: ``_target_`` and arguments of a network ``decoder(inputs=(B, D, N), input_len=(B,))`` to
      ``(audio (B, T), audio_len (B,))``
    - for training: ``discriminator`` (``_target_`` and arguments; built only when training begins), ``loss``
      (:class:`CodecLossSettings`), ``training`` (:class:`CodecTrainingSettings`), ``optim``, ``discriminator_optim``
      (without it, ``optim``), ``train_ds``, ``validation_ds``, ``card``

    Source: Low Frame-rate Speech Codec (arXiv 2409.12117); FSQ (arXiv 2309.15505).
    """

    config_blocks: ClassVar[tuple[str, ...]] = (
        'sample_rate',
        'samples_per_frame',
        'audio_encoder',
        'vector_quantizer',
        'audio_decoder',
        'discriminator',
        'discriminator_optim',
        'loss',
        'training',
    )
    training_blocks: ClassVar[tuple[str, ...]] = ('discriminator', 'discriminator_optim')
    training_modules: ClassVar[tuple[str, ...]] = ('discriminator', 'losses')
    tags: ClassVar[tuple[str, ...]] = ('speech', 'audio-codec', 'neural-codec', 'finite-scalar-quantization')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        for name in ('sample_rate', 'samples_per_frame'):
            if not isinstance(cfg.get(name), int) or cfg[name] < 1:
                raise ConfigError(f'the model config needs {name}: a positive integer; got {cfg.get(name)!r}')
        encoder = build(cfg.get('audio_encoder'), where='audio_encoder')
        quantizer = build(cfg.get('vector_quantizer'), where='vector_quantizer', default=GroupFiniteScalarQuantizer)
        decoder = build(cfg.get('audio_decoder'), where='audio_decoder')
        self.loss_settings = build(cfg.get('loss'), where='loss', default=CodecLossSettings)
        self.training_settings = build(cfg.get('training'), where='training', default=CodecTrainingSettings)
        # NeMo builds the data loaders inside its constructor, and they need the rate.
        self.sample_rate = cfg.sample_rate
        super().__init__(cfg=cfg, trainer=trainer)
        self.samples_per_frame = cfg.samples_per_frame
        self.audio_encoder = encoder
        self.vector_quantizer = quantizer
        self.audio_decoder = decoder
        self.discriminator: nn.Module | None = None
        self.losses: CodecLosses | None = None
        # Two optimizers take turns.
        self.automatic_optimization = False
        self._skipped: Counter[str] = Counter()

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.samples_per_frame

    @property
    def num_codebooks(self) -> int:
        """Tokens K of a frame."""
        return self.vector_quantizer.num_codebooks

    @property
    def codebook_size(self) -> int:
        """Values that a token can have."""
        return self.vector_quantizer.codebook_size

    @property
    def bitrate(self) -> float:
        """Bits per second, for ideally packed tokens."""
        return self.frame_rate * self.num_codebooks * math.log2(self.codebook_size)

    @property
    def encode_context_frames(self) -> int:
        """Frames on each side that a frame's tokens depend on."""
        return encoder_context_frames(self.audio_encoder, self.samples_per_frame)

    @property
    def decode_context_frames(self) -> int:
        """Frames on each side that a frame's samples depend on."""
        return decoder_context_frames(self.audio_decoder, self.samples_per_frame)

    @torch.no_grad()
    def encode(self, audio: Tensor, audio_len: Tensor, sample_rate: int | None = None) -> tuple[Tensor, Tensor]:
        """Audio to tokens; the last frame is filled up with silence.

        Args:
            audio: (B, T) samples in [-1, 1].
            audio_len: (B,) valid samples.
            sample_rate: of the audio, in Hz; without it, the model's.

        Returns:
            Tokens (B, K, N), int32 in [0, codebook_size), and the frames of each item (B,).
        """
        if sample_rate is not None and sample_rate != self.sample_rate:
            audio, audio_len = resample_batch(
                audio=audio, audio_len=audio_len, input_sample_rate=sample_rate, output_sample_rate=self.sample_rate
            )
        encoded, encoded_len = self._encoded(*self._whole_frames(audio, audio_len))
        with torch.autocast(audio.device.type, enabled=False):
            tokens = self.vector_quantizer.encode(inputs=encoded.float(), input_len=encoded_len)
        return tokens.transpose(0, 1), encoded_len

    @torch.no_grad()
    def decode(self, tokens: Tensor, tokens_len: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens to audio.

        Args:
            tokens: (B, K, N) in [0, codebook_size).
            tokens_len: (B,) valid frames.

        Returns:
            Audio (B, N * samples_per_frame) in [-1, 1], and the samples of each item (B,).
        """
        with torch.autocast(tokens.device.type, enabled=False):
            dequantized = self.vector_quantizer.decode(indices=tokens.transpose(0, 1), input_len=tokens_len)
        return self.audio_decoder(inputs=dequantized.to(self.dtype), input_len=tokens_len)

    def forward(self, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes, quantises and decodes; gradients pass the rounding unchanged.

        Args:
            audio: (B, T) samples in [-1, 1].
            audio_len: (B,) valid samples.

        Returns:
            Audio (B, N * samples_per_frame), and the samples of each item (B,).
        """
        encoded, encoded_len = self._encoded(*self._whole_frames(audio, audio_len))
        # Rounding needs float32: the steps of bfloat16 are coarser than what decides between two codes.
        with torch.autocast(audio.device.type, enabled=False):
            quantized, _ = self.vector_quantizer(inputs=encoded.float(), input_len=encoded_len)
        return self.audio_decoder(inputs=quantized.to(encoded.dtype), input_len=encoded_len)

    def configure_model(self) -> None:
        """Builds what only training needs; Lightning calls it before it reads a checkpoint and makes optimizers."""
        if self.losses is None:
            self.losses = CodecLosses(self.loss_settings, sample_rate=self.sample_rate)
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        if self.trainer.precision in ('16-mixed', '16-true'):
            raise ConfigError(
                f'trainer.precision is {self.trainer.precision}; a codec trains in 32-true or bf16-mixed'
            )
        if self.discriminator is None and self.loss_settings.needs_discriminator:
            if self.cfg.get('discriminator') is None:
                raise ConfigError(
                    'there is no discriminator block, but loss.adversarial_weight or loss.feature_weight is not 0. '
                    'A .nemo file holds no discriminators: train from a YAML file with init_from_nemo_model'
                )
            self.discriminator = build(self.cfg.discriminator, where='discriminator')

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict[str, Any]]]:
        """One optimizer for the codec and one for the discriminators, each with its schedule."""
        made = []
        if self.discriminator is not None:
            self._optimized = ('discriminator',)
            made.append(self.setup_optimization(self.cfg.get('discriminator_optim') or self.cfg.optim))
        self._optimized = ('audio_encoder', 'vector_quantizer', 'audio_decoder')
        made.append(self.setup_optimization(self.cfg.optim))
        made.reverse()
        return [optimizer for optimizer, _ in made], [schedule for _, schedule in made if schedule is not None]

    def setup_optimizer_param_groups(self) -> None:
        """Gives NeMo the parameters of the modules whose optimizer is being made."""
        modules = [getattr(self, name) for name in self._optimized]
        self._optimizer_param_groups = [{'params': [p for module in modules for p in module.parameters()]}]

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """One update of the discriminators, when it is their turn, and one of the codec; counts as one step."""
        optimizers = self.optimizers()
        codec_optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        settings, step, size = self.training_settings, self.global_step, len(batch['audio'])
        audio, audio_len = self._whole_frames(batch['audio'], batch['audio_lens'])
        decoded, _ = self(audio, audio_len)
        taking_part = step - settings.discriminator_start_step
        discriminator = self.discriminator if taking_part >= 0 else None
        if discriminator is not None and taking_part % settings.discriminator_update_period == 0:
            discriminator.requires_grad_(True)
            loss = discriminator_loss(discriminator, self.losses, audio, decoded)
            with uncounted_steps(optimizers[1]):
                self._update(optimizers[1], loss, 'discriminator')
            self.log('train_discriminator', loss.detach(), batch_size=size)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        loss, parts = codec_loss(discriminator, self.losses, audio, decoded, audio_len)
        self._update(codec_optimizer, loss, 'codec')
        # The schedule of the discriminators, with its warm-up, begins when they do.
        for schedule in self._schedules()[: 1 if discriminator is None else 2]:
            schedule.step()
        self.log('train_loss', loss.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f'train_{name}': value for name, value in parts.items()}, batch_size=size)
        self.log('learning_rate', codec_optimizer.param_groups[0]['lr'], batch_size=size)
        return {'loss': loss.detach()}

    def validation_step(self, batch: dict[str, Tensor], batch_index: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Distances between recordings and what becomes of them; the first batch is shown in the log."""
        size = len(batch['audio'])
        audio, audio_len = self._whole_frames(batch['audio'], batch['audio_lens'])
        decoded, _ = self(audio, audio_len)
        distances = self.losses.distances(audio, decoded, audio_len)
        settings = self.loss_settings
        output = {f'val_{name}': (value.cpu(), size) for name, value in distances.items()}
        total = settings.mel_weight * distances['mel'] + settings.stft_weight * distances['stft']
        output['val_loss'] = (total.cpu(), size)
        output['val_si_sdr'] = (self.losses.si_sdr(audio, decoded, audio_len).cpu(), size)
        self._collect(output, dataloader_idx)
        return output

    def facts(self) -> Sequence[str]:
        """Lines of the model card about inputs, outputs and size."""
        return (
            *super().facts(),
            f'works at {self.sample_rate} Hz: {self.frame_rate:.2f} frames a second, of {self.samples_per_frame} samples',
            f'{self.num_codebooks} codebooks of {self.codebook_size} codes: {self.bitrate / 1000:.3f} kbit/s',
        )

    def _whole_frames(self, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        """Fills every item up to whole frames with silence."""
        per_frame = self.samples_per_frame
        padded_len = torch.div(audio_len + per_frame - 1, per_frame, rounding_mode='floor') * per_frame
        return nn.functional.pad(audio, (0, int(padded_len.max()) - audio.shape[1])), padded_len

    def _encoded(self, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        return self.audio_encoder(audio=audio, audio_len=audio_len)

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor, name: str) -> None:
        """Backward pass and step; a batch whose gradient is not finite is left out."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        norm = limited_gradient(parameters, self.training_settings.gradient_clip)
        self.log(f'train_{name}_gradient', norm.detach())
        if torch.isfinite(norm):
            optimizer.step()
            self._skipped[name] = 0
            return
        optimizer.zero_grad()
        self._skipped[name] += 1
        logging.warning(f'the gradient of the {name} is not finite at step {self.global_step}; the batch is left out')
        if self._skipped[name] >= _MAX_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f'{_MAX_SKIPPED_IN_A_ROW} gradients of the {name} in a row were not finite; lower the learning rate'
            )

    def _schedules(self) -> list[Any]:
        schedules = self.lr_schedulers()
        return schedules if isinstance(schedules, list) else [schedules] if schedules is not None else []
