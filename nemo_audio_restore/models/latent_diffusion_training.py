"""Training and validation of a latent diffusion model under Lightning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from nemo_audio_restore._nemo import EMA, EMAOptimizer
from nemo_audio_restore.models import inverse_lr  # noqa: F401 - gives its schedule a name
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.data_loading import derived_seed
from nemo_audio_restore.models.latent_diffusion_loss import (
    LatentLossSettings,
    TrainingTimes,
    drop_conditions,
    latent_diffusion_loss,
)
from nemo_audio_restore.networks.condition_builder import ConditionPart
from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.processes.item_noise import item_generators, noise_from_each
from nemo_audio_restore.processes.training_schedules import ema_decay

# Latents of silence that are encoded for one in the middle, out of reach of both ends.
_SILENCE_LATENTS = 33


@dataclass(frozen=True)
class LatentTrainingSettings:
    """The ``training`` block of a latent diffusion model's config.

    Attributes:
        full_window: pad every item with silence to the window of the model; otherwise to the longest of the batch, for
            a model that generates clips of their own length.
        sample_latents: draw latents of audio from the autoencoder's posterior, instead of taking its mean.
        ema_power: the averaged weights (``exp_manager.ema``) begin without memory and approach the decay as this power
            of the step; None for the full decay from the first step.
        log_clips: clips of each validation that are generated from its first captions and logged.
        log_steps: sampler steps for them.
    """

    full_window: bool = True
    sample_latents: bool = True
    ema_power: float | None = 0.75
    log_clips: int = 2
    log_steps: int = 50

    def __post_init__(self):
        if self.ema_power is not None and not 0.0 < self.ema_power <= 1.0:
            raise ValueError(f'ema_power must lie in (0, 1], or be null; got {self.ema_power}')
        if self.log_clips < 0 or self.log_steps < 1:
            raise ValueError(
                f'log_clips must be at least 0 and log_steps at least 1; got {self.log_clips}, {self.log_steps}'
            )


class LatentDiffusionTrainingMixin:
    """Training and validation of a ModelPT with ``autoencoder``, ``conditions``, ``network`` and ``process``.

    A batch holds ``audio`` (B, C, T) or ``latents`` (B, D, L), ``captions`` (B texts), ``seconds_start`` and
    ``seconds_total`` (B,), and ``audio_lens`` or ``latents_lens`` and ``latents_stored`` (B,), see the datasets.
    """

    training_config_blocks: ClassVar[tuple[str, ...]] = ('loss', 'training')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        loss_settings = build(cfg.get('loss'), where='loss', default=LatentLossSettings)
        training_settings = build(cfg.get('training'), where='training', default=LatentTrainingSettings)
        super().__init__(cfg=cfg, trainer=trainer)
        self.loss_settings = loss_settings
        self.training_settings = training_settings

    def on_fit_start(self) -> None:
        """Refuses to learn latents that mean nothing."""
        super().on_fit_start()
        if not self.autoencoder.is_trained:
            raise ConfigError(
                'the autoencoder of this model is untrained: its latents mean nothing. Take a trained one with '
                'autoencoder: {model: NAME_OR_PATH}, or start from a whole model with init_from_nemo_model'
            )

    def on_train_start(self) -> None:
        """Gives this run and this process times of their own."""
        super().on_train_start()
        seed = derived_seed(self.loss_settings.seed, 'times', self.global_step, self.global_rank)
        self._times = TrainingTimes(self.loss_settings, seed=seed)

    def setup_optimizer_param_groups(self) -> None:
        """Gives NeMo what is trained: the network and the conditioners, or the adapters alone."""
        self._optimizer_param_groups = [{'params': [p for p in self.parameters() if p.requires_grad]}]

    def training_step(self, batch: Mapping[str, Any], batch_index: int) -> Tensor:
        """Loss of one batch; its random numbers depend on seed, step and process, so a resumed run has new ones."""
        settings = self.loss_settings
        generator = torch.Generator().manual_seed(
            derived_seed(settings.seed, self.global_step, batch_index, self.global_rank)
        )
        latents, weight = self.batch_latents(batch, generator)
        condition = self.batch_condition(batch)
        condition = drop_conditions(self.network, condition, settings.condition_dropout, generator)
        t = self._times.draw(len(latents), generator)
        losses = self._losses(latents, condition, t, generator, weight)
        loss = losses.mean()
        self.log('train_loss', loss.detach(), prog_bar=True, batch_size=len(latents))
        self.log('learning_rate', self._optimizer.param_groups[0]['lr'], batch_size=len(latents))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Mapping[str, Any], batch_index: int) -> None:
        """Lets the average of the weights remember longer."""
        super().on_train_batch_end(outputs, batch, batch_index)
        power = self.training_settings.ema_power
        average = next((callback for callback in self.trainer.callbacks if isinstance(callback, EMA)), None)
        if average is None or power is None:
            return
        for optimizer in self.trainer.optimizers:
            if isinstance(optimizer, EMAOptimizer):
                optimizer.decay = ema_decay(self.global_step, highest=average.decay, power=power)

    def validation_step(
        self, batch: Mapping[str, Any], batch_index: int, dataloader_idx: int = 0
    ) -> dict[str, tuple[Tensor, int]]:
        """Loss at evenly spaced times, the same in every validation; clips from the first captions for the log."""
        generator = torch.Generator().manual_seed(derived_seed('validation', batch_index, self.global_rank))
        latents, weight = self.batch_latents(batch, generator)
        count = len(latents)
        t = (torch.arange(count) + 0.5) / count
        losses = self._losses(latents, self.batch_condition(batch), t, generator, weight)
        output = {'val_loss': (losses.mean().cpu(), count)}
        if batch_index == 0 and self.global_rank == 0 and self.trainer.loggers:
            self.log_clips(batch)
        self._collect(output, dataloader_idx)
        return output

    def batch_latents(self, batch: Mapping[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Latents of one length for every item, and which of them count.

        Args:
            batch: of the loader.
            generator: on the CPU; its state advances.

        Returns:
            (B, D, L), L = ``window_latents`` or what the longest item needs; and (B, L) with 0 for padding, or None if
            all count.

        Raises:
            ConfigError: an item is longer than the window.
        """
        ratio, multiple = self.autoencoder.ratio, self.network.latents_multiple
        name = 'latents' if 'latents' in batch else 'audio'
        lengths = batch[f'{name}_lens']
        ends = lengths if name == 'latents' else -(-lengths // ratio)
        length = int(ends.max())
        if length > self.window_latents:
            raise ConfigError(
                f'an item of the batch has {length} latents, more than the window of {self.window_latents}: set '
                f'truncate_duration to at most {self.window_samples / self.sample_rate:.6f}'
            )
        window = self.window_latents if self.training_settings.full_window else -(-length // multiple) * multiple
        if name == 'latents':
            latents = self._then_silence(batch['latents'][..., :window], batch['latents_stored'], window)
        else:
            audio = batch['audio'].float()[..., : window * ratio]
            with torch.autocast(audio.device.type, enabled=False):
                latents = self.autoencoder.encode(
                    functional.pad(audio, (0, window * ratio - audio.shape[-1])),
                    sample=self.training_settings.sample_latents,
                    generator=generator,
                )
        if not self.loss_settings.ignore_padding:
            return latents, None
        return latents, (torch.arange(window, device=ends.device) < ends[:, None]).to(latents)

    def batch_condition(self, batch: Mapping[str, Any]) -> LatentCondition:
        """What the network is told about a batch.

        Args:
            batch: of the loader.

        Returns:
            The condition.

        Raises:
            ConfigError: the batch lacks something that the model is told.
        """
        return self.conditions(self._parts(batch))

    @torch.no_grad()
    def log_clips(self, batch: Mapping[str, Any]) -> None:
        """Generates from the first captions of a batch and shows the clips to TensorBoard; other loggers get nothing.

        Args:
            batch: of the loader.
        """
        writers = [getattr(logger, 'experiment', None) for logger in self.trainer.loggers]
        writers = [writer for writer in writers if hasattr(writer, 'add_audio')]
        count = min(self.training_settings.log_clips, len(batch['captions']))
        if not writers or count == 0:
            return
        generators = item_generators(range(count))
        like = torch.zeros(count, self.autoencoder.latent_channels, self.window_latents, device=self.device)
        latents = self.sample(
            noise=noise_from_each(generators)(0, like),
            condition={name: part[:count] for name, part in self._parts(batch).items()},
            steps=self.training_settings.log_steps,
            generators=generators,
        )
        for index in range(count):
            seconds = float(batch['seconds_total'][index]) if 'seconds_total' in batch else math.inf
            length = max(1, round(min(seconds * self.sample_rate, self.window_samples)))
            audio = self.autoencoder.decode(latents[index : index + 1], length=length)[0]
            for writer in writers:
                # TensorBoard plays one channel.
                writer.add_audio(
                    f'generated/{index}: {batch["captions"][index]}',
                    audio.mean(dim=0, keepdim=True).float().cpu().clamp(-1, 1),
                    self.global_step,
                    sample_rate=self.sample_rate,
                )

    def _parts(self, batch: Mapping[str, Any]) -> dict[str, ConditionPart]:
        keys = {name: 'captions' if name == 'prompt' else name for name in self.conditions.parts}
        missing = [key for key in keys.values() if key not in batch]
        if missing:
            raise ConfigError(f'the model is told {", ".join(keys)}, but the data lacks {", ".join(missing)}')
        return {name: batch[key] for name, key in keys.items()}

    def _losses(
        self, latents: Tensor, condition: LatentCondition, t: Tensor, generator: torch.Generator, weight: Tensor | None
    ) -> Tensor:
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        t = t.to(latents.device)
        return latent_diffusion_loss(self.network, self.process, latents, condition, t=t, noise=noise, weight=weight)

    @torch.no_grad()
    def _then_silence(self, given: Tensor, stored: Tensor, window: int) -> Tensor:
        """Latents (B, D, window): the first ``stored`` (B,) of each item, then digital silence."""
        if getattr(self, '_silence', None) is None:
            shape = 1, self.autoencoder.audio_channels, _SILENCE_LATENTS * self.autoencoder.ratio
            middle = _SILENCE_LATENTS // 2
            self._silence = self.autoencoder.encode(torch.zeros(shape, device=self.device))[..., middle, None]
        padded = functional.pad(given.float(), (0, window - given.shape[-1]))
        kept = torch.arange(window, device=given.device) < stored[:, None, None]
        return torch.where(kept, padded, self._silence.to(padded))
