"""Adversarial training of a codec under Lightning: two optimizers, one count of steps."""

from typing import Any, ClassVar

from lightning.pytorch import Trainer
from omegaconf import DictConfig
from torch import Tensor

from nemo_audio_restore._nemo import uncounted_steps
from nemo_audio_restore.models.blocks import build
from nemo_audio_restore.models.speech_codec_log import log_decoded
from nemo_audio_restore.models.speech_codec_training import (
    CodecLosses,
    CodecLossSettings,
    CodecTrainingSettings,
    codec_loss,
    discriminator_loss,
)
from nemo_audio_restore.models.two_optimizers import TwoOptimizersMixin


class AdversarialTrainingMixin(TwoOptimizersMixin):
    """Training and validation of a ModelPT with an encoder, a quantiser and a decoder.

    The discriminators and the losses come into being when a trainer starts, stay in training checkpoints, and are in
    no ``.nemo`` file.
    """

    training_config_blocks: ClassVar[tuple[str, ...]] = ('discriminator', 'discriminator_optim', 'loss', 'training')
    training_blocks: ClassVar[tuple[str, ...]] = ('discriminator', 'discriminator_optim')
    training_modules: ClassVar[tuple[str, ...]] = ('discriminator', 'losses')
    generator_modules: ClassVar[tuple[str, ...]] = ('audio_encoder', 'vector_quantizer', 'audio_decoder')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        loss_settings = build(cfg.get('loss'), where='loss', default=CodecLossSettings)
        training_settings = build(cfg.get('training'), where='training', default=CodecTrainingSettings)
        super().__init__(cfg=cfg, trainer=trainer)
        self.loss_settings = loss_settings
        self.training_settings = training_settings
        self.losses: CodecLosses | None = None

    def configure_model(self) -> None:
        """Builds what only training needs; Lightning calls it before it reads a checkpoint and makes optimizers."""
        if self.losses is None:
            self.losses = CodecLosses(self.loss_settings, sample_rate=self.sample_rate)
        self._make_discriminator(needed=self.loss_settings.needs_discriminator)

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
        self._step_schedules('step', step)
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
        if batch_index == 0 and self.global_rank == 0 and self.trainer.loggers:
            # No shorter than what a spectrogram needs.
            length = max(1024, int(batch['audio_lens'][0]))
            log_decoded(
                self.trainer.loggers, audio[0, :length], decoded[0, :length], self.sample_rate, step=self.global_step
            )
        self._collect(output, dataloader_idx)
        return output
