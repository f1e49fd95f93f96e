"""What every variational autoencoder of audio here does, whatever its networks are: chunks, bottleneck, lengths.

Source: Stable Audio (arXiv 2402.04825), section 3.1; Stable Audio Open (arXiv 2407.14358), section 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.networks.vae_bottleneck import LatentPosterior, latent_posterior
from nemo_audio_restore.networks.waveform_chunks import decode_in_chunks, encode_in_chunks

_CHUNK_LATENTS = 128


@dataclass(frozen=True)
class Reconstruction:
    """What a training step needs of one pass."""

    audio: Tensor
    """(B, C, T) decoded."""
    posterior: LatentPosterior
    """Of the encoder, unscaled: what the divergence is taken of."""


class LatentAutoencoder(nn.Module):
    """Encoder, Gaussian bottleneck and decoder.

    Long audio is coded in chunks whose results are those of one pass over everything.

    Args:
        encoder: (B, C, L * ratio) to (B, 2 D, L), means and spreads before the softplus.
        decoder: (B, D, L) to (B, C, L * ratio).
        audio_channels: C of the audio.
        latent_channels: D of the latents.
        ratio: samples of a latent.
        encoder_context: latents' worth of audio, on each side, that a latent depends on.
        decoder_context: latents, on each side, that the samples of one latent depend on.
        latent_scale: latents are divided by it after encoding and multiplied before decoding, so that a diffusion
            model sees values near 1.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        decoder: nn.Module,
        audio_channels: int,
        latent_channels: int,
        ratio: int,
        encoder_context: int,
        decoder_context: int,
        latent_scale: float = 1.0,
    ):
        super().__init__()
        if latent_scale <= 0:
            raise ValueError(f'latent_scale must be positive; got {latent_scale}')
        self.encoder = encoder
        self.decoder = decoder
        self.audio_channels = audio_channels
        self.latent_channels = latent_channels
        self.ratio = ratio
        self.encoder_context = encoder_context
        self.decoder_context = decoder_context
        self.latent_scale = latent_scale

    def forward(self, audio: Tensor, noise: Tensor) -> Reconstruction:
        """Encodes, samples and decodes, all in one piece, for training.

        Args:
            audio: (B, C, L * ratio).
            noise: (B, D, L) standard normal.

        Returns:
            The decoded audio and the posterior.
        """
        posterior = latent_posterior(self.encoder(self._checked(audio)))
        return Reconstruction(self.decoder(posterior.sample(noise).to(audio.dtype)), posterior)

    def encode(self, audio: Tensor, *, noise: Tensor | None = None, chunk_latents: int = _CHUNK_LATENTS) -> Tensor:
        """Latents of audio of any length; silence is added up to a whole latent.

        Args:
            audio: (B, C, T).
            noise: (B, D, L) standard normal for a draw of the posterior, as the published programs make it; None gives
                its mean.
            chunk_latents: latents that are computed at a time; bounds the memory, does not change the result.

        Returns:
            (B, D, L), L = ceil(T / ratio), divided by ``latent_scale``.
        """
        posterior = self.posterior(audio, chunk_latents=chunk_latents)
        latents = posterior.mean if noise is None else posterior.sample(noise)
        return latents / self.latent_scale

    def posterior(self, audio: Tensor, *, chunk_latents: int = _CHUNK_LATENTS) -> LatentPosterior:
        """The Gaussians of :meth:`encode`, before the division by ``latent_scale``.

        Args:
            audio: (B, C, T).
            chunk_latents: latents that are computed at a time.

        Returns:
            Mean and spread, each (B, D, L).
        """
        padding = -self._checked(audio).shape[-1] % self.ratio
        encoded = encode_in_chunks(
            self._encoder_for(audio),
            functional.pad(audio, (0, padding)),
            size=chunk_latents,
            context=self.encoder_context,
            ratio=self.ratio,
        )
        return latent_posterior(encoded)

    def decode(self, latents: Tensor, *, length: int | None = None, chunk_latents: int = _CHUNK_LATENTS) -> Tensor:
        """Audio of latents.

        Args:
            latents: (B, D, L), as :meth:`encode` gives them.
            length: samples wanted, 1..L * ratio; the latents behind them are not decoded. None for all.
            chunk_latents: latents that are computed at a time; bounds the memory, does not change the result.

        Returns:
            (B, C, length).
        """
        if latents.ndim != 3 or latents.shape[1] != self.latent_channels or latents.shape[2] == 0:
            raise ValueError(f'latents must be (B, {self.latent_channels}, L), L > 0; got {tuple(latents.shape)}')
        available = latents.shape[2] * self.ratio
        length = available if length is None else length
        if not 1 <= length <= available:
            raise ValueError(f'{latents.shape[2]} latents hold 1 to {available} samples; asked for {length}')
        decoder = self._decoder_for(latents)
        return decode_in_chunks(
            lambda piece: decoder(piece * self.latent_scale),
            latents,
            size=chunk_latents,
            context=self.decoder_context,
            ratio=self.ratio,
            length=length,
        )

    def _encoder_for(self, audio: Tensor) -> Callable[[Tensor], Tensor]:
        """The encoder, or something that computes the same for this input in less time."""
        return self.encoder

    def _decoder_for(self, latents: Tensor) -> Callable[[Tensor], Tensor]:
        """The decoder, or something that computes the same for this input in less time."""
        return self.decoder

    def _checked(self, audio: Tensor) -> Tensor:
        if audio.ndim != 3 or audio.shape[1] != self.audio_channels or audio.shape[2] == 0:
            raise ValueError(f'audio must be (B, {self.audio_channels}, T), T > 0; got {tuple(audio.shape)}')
        return audio
