"""The frozen autoencoder inside a latent diffusion model: audio to latents and back."""

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from typing_extensions import Self

from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.locate import locate_named_model
from nemo_audio_restore.networks.latent_autoencoder import LatentAutoencoder


class FrozenAutoencoder(nn.Module):
    """An autoencoder network that is used, but not trained.

    Args:
        sample_rate: of the audio, in Hz.
        network: a :class:`LatentAutoencoder`.
        is_trained: whether its weights come from a training; loading a state makes it so.
    """

    def __init__(self, *, sample_rate: int, network: nn.Module, is_trained: bool = False):
        super().__init__()
        if sample_rate < 1:
            raise ValueError(f'sample_rate must be positive; got {sample_rate}')
        self.sample_rate = sample_rate
        self.network = network.eval().requires_grad_(False)
        self.is_trained = is_trained
        self.register_load_state_dict_post_hook(_note_loading)

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

    @torch.no_grad()
    def encode(self, audio: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Latents of audio of any length; silence is added up to a whole latent.

        Args:
            audio: (B, C, T) samples in [-1, 1].
            sample: draw from the posterior, as the published programs do, instead of taking its mean.
            generator: for the draw.

        Returns:
            (B, D, L), L = ceil(T / ratio).
        """
        noise = None
        if sample:
            shape = audio.shape[0], self.latent_channels, -(-audio.shape[-1] // self.ratio)
            device = audio.device if generator is None else generator.device
            noise = torch.randn(shape, generator=generator, device=device).to(audio)
        return self.network.encode(audio, noise=noise)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, length: int | None = None) -> Tensor:
        """Audio of latents.

        Args:
            latents: (B, D, L), as :meth:`encode` gives them.
            length: samples wanted, 1..L * ratio; None for all.

        Returns:
            (B, C, length).
        """
        return self.network.decode(latents, length=length)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)


def with_its_own_block(cfg: DictConfig) -> FrozenAutoencoder:
    """Builds the autoencoder of a model's config, and makes the config independent of the file it was taken from.

    Args:
        cfg: of the model; with ``autoencoder.model``, a name or path, the block is replaced by that of this model.

    Returns:
        The autoencoder, trained if it was taken from a model.

    Raises:
        ConfigError: there is no block.
        TypeError: ``autoencoder.model`` is a model of another kind.
    """
    block = cfg.get('autoencoder')
    if not block:
        raise ConfigError('the model config needs an autoencoder block: {model: NAME_OR_PATH}, or its networks')
    arguments = OmegaConf.to_container(block, resolve=True)
    source = arguments.pop('model', None)
    if 'is_trained' in arguments:
        raise ConfigError('autoencoder.is_trained is no key of a config: weights are loaded, not promised')
    if source is None:
        cfg.autoencoder = OmegaConf.create(arguments)
        return build(arguments, where='autoencoder', default=FrozenAutoencoder)
    taken = BaseModel.restore_from(locate_named_model(source))
    inside = getattr(taken, 'autoencoder', None)
    if isinstance(inside, FrozenAutoencoder):
        cfg.autoencoder = taken.cfg.autoencoder
        return inside
    network = getattr(taken, 'network', None)
    if not isinstance(network, LatentAutoencoder):
        raise TypeError(f'autoencoder.model: {source} is a {type(taken).__name__} and holds no autoencoder of latents')
    cfg.autoencoder = OmegaConf.create({'sample_rate': taken.sample_rate, 'network': taken.cfg.network})
    return FrozenAutoencoder(sample_rate=taken.sample_rate, network=network, is_trained=True)


def _note_loading(module: FrozenAutoencoder, incompatible: Any) -> None:
    """A state that lacks weights of the autoencoder does not make it a trained one."""
    own = set(module.state_dict())
    missing = (name.rpartition('autoencoder.')[2] for name in incompatible.missing_keys)
    if not any(name in own for name in missing):
        module.is_trained = True
