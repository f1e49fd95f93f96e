"""AudioAutoencoderModel: stereo audio to a few smooth numbers and back, as a NeMo model. Wiring only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import Self

from nemo_audio_restore.checkpoints.stable_audio_vae import read_stable_audio_autoencoder
from nemo_audio_restore.data.stereo_dataset import StereoDataset
from nemo_audio_restore.models.audio_autoencoder_training import AutoencoderTrainingMixin
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.data_loading import built_dataset, lhotse_loader
from nemo_audio_restore.models.with_audio_data import AudioDataMixin
from nemo_audio_restore.networks.latent_autoencoder import LatentAutoencoder
from nemo_audio_restore.networks.waveform_autoencoder import WaveformAutoencoder
from nemo_audio_restore.networks.waveform_coder import WaveformDecoder, WaveformEncoder

_PUBLISHED_CARD = {
    'license': 'other',
    'license_name': 'that of the published weights',
    'summary': 'Autoencoder of the Stable Audio family, converted to this package.',
}


class AudioAutoencoderModel(AutoencoderTrainingMixin, AudioDataMixin, BaseModel):
    """Turns audio into the latents in which :class:`LatentDiffusionModel` generates, and back.

    Config blocks, each named like the attribute that it builds:

    - ``sample_rate`` in Hz
    - ``network``: ``_target_`` and arguments of a :class:`LatentAutoencoder`
    - for training, of stereo audio: ``discriminator`` (``_target_`` and arguments; built only when training begins),
      ``loss`` (:class:`AutoencoderLossSettings`), ``training`` (:class:`AutoencoderTrainingSettings`), ``optim``,
      ``discriminator_optim`` (without it, ``optim``), ``train_ds``, ``validation_ds``, ``card``

    Source: Stable Audio (arXiv 2402.04825), section 3.1; Stable Audio Open (arXiv 2407.14358), section 3.1.
    """

    config_blocks: ClassVar[tuple[str, ...]] = (
        'sample_rate',
        'network',
        *AutoencoderTrainingMixin.training_config_blocks,
    )
    tags: ClassVar[tuple[str, ...]] = ('audio-codec', 'variational-autoencoder', 'stereo', 'music')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        if not isinstance(cfg.get('sample_rate'), int) or cfg.sample_rate < 1:
            raise ConfigError(
                f'the model config needs sample_rate: a positive integer; got {cfg.get("sample_rate")!r}'
            )
        network = build(cfg.get('network'), where='network')
        if not isinstance(network, LatentAutoencoder):
            raise ConfigError(f'network must be an autoencoder of latents; {type(network).__name__} is none')
        # NeMo builds the data loaders inside its constructor, and they need the rate.
        self.sample_rate = cfg.sample_rate
        super().__init__(cfg=cfg, trainer=trainer)
        self.network = network

    @classmethod
    def from_stable_audio(
        cls, weights: str | Path, model_config: str | Path | Mapping[str, Any] | None = None
    ) -> Self:
        """Builds a model from published files of the Stable Audio family.

        Args:
            weights: ``.safetensors`` or ``.ckpt`` of an autoencoder or of a whole model; or a folder in the layout of
                diffusers: of an ``AutoencoderOobleck``, or one that holds it as ``vae``.
            model_config: ``model_config.json`` that belongs to a file, or its content; a folder has its own.

        Returns:
            The model in evaluation mode.

        Raises:
            CheckpointError: it is another kind of checkpoint, or a tensor is missing, left over or of another shape.
            FileNotFoundError: a file does not exist.
            ValueError: a file without configuration, or a folder with one.
        """
        loaded = read_stable_audio_autoencoder(weights, model_config)
        coders = {'encoder': WaveformEncoder, 'decoder': WaveformDecoder}
        blocks = {name: {'_target_': _path(coder), **loaded.arguments[name]} for name, coder in coders.items()}
        config = OmegaConf.create(
            {
                'sample_rate': loaded.sample_rate,
                'network': {
                    '_target_': _path(WaveformAutoencoder),
                    **blocks,
                    'latent_scale': loaded.network.latent_scale,
                },
                'card': _PUBLISHED_CARD,
            }
        )
        # The tensors exist already: no need to fill half a gigabyte with random numbers first.
        with torch.device('meta'):
            model = cls(config)
        model.network = loaded.network
        return model.eval()

    @property
    def audio_channels(self) -> int:
        """C of the audio."""
        return self.network.audio_channels

    @property
    def latent_channels(self) -> int:
        """D of the latents."""
        return self.network.latent_channels

    @property
    def ratio(self) -> int:
        """Samples of a latent."""
        return self.network.ratio

    @property
    def compression(self) -> float:
        """Numbers of the audio for each number of the latents."""
        return self.ratio * self.audio_channels / self.latent_channels

    @torch.no_grad()
    def encode(self, audio: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Latents of audio of any length, in chunks; silence is added up to a whole latent.

        Args:
            audio: (B, C, T) samples in [-1, 1].
            sample: draw from the posterior, as the published programs do, instead of taking its mean.
            generator: for the draw.

        Returns:
            (B, D, L), L = ceil(T / ratio), of about unit deviation.

        Raises:
            ValueError: audio of another shape, or a draw without a generator.
        """
        noise = None
        if sample:
            if generator is None:
                raise ValueError('to sample latents, give a torch.Generator; without sample=True they are the means')
            shape = audio.shape[0], self.latent_channels, -(-audio.shape[-1] // self.ratio)
            noise = torch.randn(shape, generator=generator, device=generator.device).to(audio)
        return self.network.encode(audio, noise=noise)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, length: int | None = None) -> Tensor:
        """Audio of latents, in chunks.

        Args:
            latents: (B, D, L), as :meth:`encode` gives them.
            length: samples wanted, 1..L * ratio; the latents behind them are not decoded. None for all.

        Returns:
            (B, C, length).

        Raises:
            ValueError: latents of another shape, or a length that they do not hold.
        """
        return self.network.decode(latents, length=length)

    def forward(self, audio: Tensor) -> Tensor:
        """Encodes to the means of the latents and decodes: (B, C, T) samples to the same shape."""
        return self.network.decode(self.network.encode(audio), length=audio.shape[-1])

    def facts(self) -> Sequence[str]:
        """Lines of the model card about inputs, outputs and size."""
        return (
            *super().facts(),
            f'{self.audio_channels} channels at {self.sample_rate} Hz',
            f'{self.latent_channels} numbers for {self.ratio} samples, {self.sample_rate / self.ratio:.2f} times a '
            f'second: {self.compression:g} times fewer numbers than the audio has',
        )

    def _loader(self, config: DictConfig, *, where: str, step: int) -> DataLoader:
        place = {'where': where, 'sample_rate': self.sample_rate, 'global_rank': self.global_rank, 'step': step}
        dataset = built_dataset(config, StereoDataset, **place)
        return lhotse_loader(config, dataset, world_size=self.world_size or 1, **place)


def _path(chosen: type) -> str:
    return f'{chosen.__module__}.{chosen.__qualname__}'
