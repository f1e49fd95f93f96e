"""Adversarial training of a codec under Lightning: two optimizers, one count of steps."""

import copy
from collections import Counter
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig
from torch import Tensor, nn

from nemo_audio_restore._nemo import logging, uncounted_steps
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.speech_codec_log import log_decoded
from nemo_audio_restore.models.speech_codec_training import (
    CodecLosses,
    CodecLossSettings,
    CodecTrainingSettings,
    codec_loss,
    discriminator_loss,
    limited_gradient,
)

_CODEC_MODULES = ('audio_encoder', 'vector_quantizer', 'audio_decoder')
_MAX_SKIPPED_IN_A_ROW = 20


class AdversarialTrainingMixin:
    """Training and validation of a ModelPT with an encoder, a quantiser and a decoder.

    The discriminators and the losses come into being when a trainer starts, stay in training checkpoints, and are in
    no ``.nemo`` file.
    """

    training_config_blocks: ClassVar[tuple[str, ...]] = ('discriminator', 'discriminator_optim', 'loss', 'training')
    training_blocks: ClassVar[tuple[str, ...]] = ('discriminator', 'discriminator_optim')
    training_modules: ClassVar[tuple[str, ...]] = ('discriminator', 'losses')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        loss_settings = build(cfg.get('loss'), where='loss', default=CodecLossSettings)
        training_settings = build(cfg.get('training'), where='training', default=CodecTrainingSettings)
        super().__init__(cfg=cfg, trainer=trainer)
        self.loss_settings = loss_settings
        self.training_settings = training_settings
        self.discriminator: nn.Module | None = None
        self.losses: CodecLosses | None = None
        # Lightning steps one optimizer; here two take turns.
        self.automatic_optimization = False
        self._skipped: Counter[str] = Counter()

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
        # NeMo writes the config of the optimizer that it makes into cfg.optim; the codec's is made last.
        config = copy.deepcopy(self.cfg.optim)
        made = []
        if self.discriminator is not None:
            self._optimized = ('discriminator',)
            made.append(self.setup_optimization(self.cfg.get('discriminator_optim') or copy.deepcopy(config)))
        self._optimized = _CODEC_MODULES
        made.insert(0, self.setup_optimization(config))
        schedules = [schedule for _, schedule in made if schedule is not None]
        # Lightning forgets these under manual optimization.
        self._intervals = [schedule['interval'] for schedule in schedules]
        return [optimizer for optimizer, _ in made], schedules

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
        self._step_schedules('step', step)
        self.log('train_loss', loss.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f'train_{name}': value for name, value in parts.items()}, batch_size=size)
        self.log('learning_rate', codec_optimizer.param_groups[0]['lr'], batch_size=size)
        return {'loss': loss.detach()}

    def on_train_epoch_end(self) -> None:
        """Steps the schedules that count epochs, like NeMo's ``ExponentialLR``."""
        super().on_train_epoch_end()
        self._step_schedules('epoch', self.global_step)

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

    def _step_schedules(self, interval: str, step: int) -> None:
        """Moves on the schedules of one kind; that of the discriminators, with its warm-up, begins when they do."""
        schedules = self.lr_schedulers()
        schedules = schedules if isinstance(schedules, list) else [schedules] if schedules is not None else []
        begun = 1 if step < self.training_settings.discriminator_start_step else 2
        for schedule, kind in list(zip(schedules, self._intervals, strict=True))[:begun]:
            if kind == interval:
                schedule.step()
