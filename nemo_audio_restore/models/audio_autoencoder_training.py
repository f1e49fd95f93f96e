"""Training of a stereo autoencoder under Lightning."""

from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from nemo_audio_restore._nemo import uncounted_steps
from nemo_audio_restore.evaluation.metrics import si_sdr
from nemo_audio_restore.evaluation.reconstruction import mel_distance, stft_distance
from nemo_audio_restore.losses.stereo_spectral import StereoSpectralLoss
from nemo_audio_restore.models.audio_autoencoder_losses import (
    AutoencoderLossSettings,
    AutoencoderTrainingSettings,
    autoencoder_loss,
    discriminator_loss,
)
from nemo_audio_restore.models.blocks import build
from nemo_audio_restore.models.data_loading import derived_seed
from nemo_audio_restore.models.speech_codec_log import log_decoded
from nemo_audio_restore.models.two_optimizers import TwoOptimizersMixin
from nemo_audio_restore.networks.latent_autoencoder import Reconstruction
from nemo_audio_restore.networks.vae_bottleneck import latent_posterior

_QUIETEST_RMS = 1e-3
_LOGGED_SAMPLES = 262144


class AutoencoderTrainingMixin(TwoOptimizersMixin):
    """Training and validation of a ModelPT with a ``network`` that is a :class:`LatentAutoencoder`.

    The discriminators and the losses come into being when a trainer starts, stay in training checkpoints, and are in
    no ``.nemo`` file.
    """

    training_config_blocks: ClassVar[tuple[str, ...]] = ('discriminator', 'discriminator_optim', 'loss', 'training')
    training_blocks: ClassVar[tuple[str, ...]] = training_config_blocks
    training_modules: ClassVar[tuple[str, ...]] = ('discriminator', 'losses')
    generator_modules: ClassVar[tuple[str, ...]] = ('network',)

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        loss_settings = build(cfg.get('loss'), where='loss', default=AutoencoderLossSettings)
        training_settings = build(cfg.get('training'), where='training', default=AutoencoderTrainingSettings)
        super().__init__(cfg=cfg, trainer=trainer)
        self.loss_settings = loss_settings
        self.training_settings = training_settings
        self.losses: StereoSpectralLoss | None = None

    def configure_model(self) -> None:
        """Builds what only training needs; Lightning calls it before it reads a checkpoint and makes optimizers."""
        if self.losses is None:
            self.losses = StereoSpectralLoss(
                sample_rate=self.sample_rate,
                window_lengths=self.loss_settings.window_lengths,
                a_weighted=self.loss_settings.a_weighted,
            )
        self._make_discriminator(needed=self.loss_settings.needs_discriminator)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """One update of the discriminators, when it is their turn, and one of the autoencoder; counts as one step."""
        optimizers = self.optimizers()
        own_optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        settings, step, size = self.training_settings, self.global_step, len(batch['audio'])
        audio = self._whole_latents(batch['audio'])
        decoder_only = settings.decoder_only_from_step is not None and step >= settings.decoder_only_from_step
        reconstruction = self._reconstruct(audio, step=step, decoder_only=decoder_only)
        taking_part = step - settings.discriminator_start_step
        discriminator = self.discriminator if taking_part >= 0 else None
        if discriminator is not None and taking_part % settings.discriminator_update_period == 0:
            discriminator.requires_grad_(True)
            loss = discriminator_loss(discriminator, audio, reconstruction.audio)
            with uncounted_steps(optimizers[1]):
                self._update(optimizers[1], loss, 'discriminator')
            self.log('train_discriminator', loss.detach(), batch_size=size)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        loss, parts = autoencoder_loss(discriminator, self.losses, self.loss_settings, audio, reconstruction)
        self._update(own_optimizer, loss, 'autoencoder')
        self._step_schedules('step', step)
        self.log('train_loss', loss.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f'train_{name}': value for name, value in parts.items()}, batch_size=size)
        self.log('learning_rate', own_optimizer.param_groups[0]['lr'], batch_size=size)
        return {'loss': loss.detach()}

    def validation_step(self, batch: dict[str, Tensor], batch_index: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """What becomes of recordings, decoded from the means of their latents; the first is shown in the log."""
        size, length = len(batch['audio']), batch['audio'].shape[-1]
        audio = self._whole_latents(batch['audio'])
        posterior = latent_posterior(self.network.encoder(audio))
        decoded = self.network.decoder(posterior.mean.to(audio.dtype))
        output = {'val_loss': (self.losses(audio, decoded).cpu(), size), 'val_kl': (posterior.kl().cpu(), size)}
        output['val_latent_rms'] = (posterior.mean.square().mean().sqrt().cpu(), size)
        distances = []
        for one, other in zip(batch['audio'].float().cpu(), decoded[..., :length].float().cpu(), strict=True):
            if one.square().mean().sqrt() < _QUIETEST_RMS:
                continue
            sides = [si_sdr(a, b) for a, b in zip(one, other, strict=True) if a.abs().max() > 0]
            distances.append((stft_distance(one, other), mel_distance(one, other, self.sample_rate), max(sides)))
        if distances:
            means = torch.tensor(distances).mean(dim=0)
            for name, value in zip(('val_stft', 'val_mel', 'val_si_sdr'), means, strict=True):
                output[name] = (value, len(distances))
        if batch_index == 0 and self.global_rank == 0 and self.trainer.loggers:
            pair = (signal[0, :, :_LOGGED_SAMPLES].mean(dim=0) for signal in (audio, decoded))
            log_decoded(self.trainer.loggers, *pair, self.sample_rate, step=self.global_step)
        self._collect(output, dataloader_idx)
        return output

    def _reconstruct(self, audio: Tensor, *, step: int, decoder_only: bool) -> Reconstruction:
        """A pass with noise of its own for each step and process, so that a resumed run draws what it would have."""
        generator = torch.Generator().manual_seed(derived_seed(self.training_settings.seed, step, self.global_rank))
        shape = len(audio), self.network.latent_channels, audio.shape[-1] // self.network.ratio
        noise = torch.randn(shape, generator=generator).to(audio.device)
        if not decoder_only:
            return self.network(audio, noise)
        with torch.no_grad():
            posterior = latent_posterior(self.network.encoder(audio))
        return Reconstruction(self.network.decoder(posterior.sample(noise).to(audio.dtype)), posterior)

    def _whole_latents(self, audio: Tensor) -> Tensor:
        return functional.pad(audio, (0, -audio.shape[-1] % self.network.ratio))
