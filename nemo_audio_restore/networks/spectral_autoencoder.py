"""An autoencoder of stereo audio that never computes at sample rate: spectrum in, spectrum out.

The published autoencoders convolve waveforms and need about 200 billion operations for a second of audio. Here the
fastest layers run once for each hop of a window and the wide ones once a latent: a laptop trains it in an hour.

Levels of the two channels are coded as their mean and half their difference, both in the logarithm: a sound in the
middle has no difference, a panned one a constant one, and what both channels share is coded once. Phases likewise: a
common one and half a difference, which begins at zero, so that the middle stays sharp. The last latent channels may
be the panning of wide bands, measured instead of learned (:class:`BandPanning`).

Every layer sees a fixed number of neighbours and normalises within one position, so audio may be coded in chunks.

Source: the head is that of Vocos (arXiv 2306.00814, section 3); level and phase differences are those of parametric
stereo (Breebaart et al. 2005, "Parametric coding of stereo audio", section 2), for each bin.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.networks.band_panning import BandPanning
from nemo_audio_restore.networks.frequency_bands import band_averages, band_interpolation
from nemo_audio_restore.networks.latent_autoencoder import LatentAutoencoder
from nemo_audio_restore.networks.overlapping_windows import at_least_single, overlap_add, spectra
from nemo_audio_restore.networks.spectral_codec import FrameStack

# Quieter than this counts as silence: about -100 dB of a full-scale sinusoid in a window of 1024 samples.
_MIN_MAGNITUDE = 0.004
# Bring log magnitudes of music to about zero mean and unit deviation.
_SCALE, _SHIFT = 0.4, 1.0
_MAX_LOG_MAGNITUDE = 8.0
# Spread of the posterior before training, as the softplus has it.
_INITIAL_SPREAD = math.log(math.expm1(0.1))


class StereoSpectralEncoder(nn.Module):
    """Stereo audio to the means and spreads of its latents, from log magnitudes of two window lengths.

    Args:
        latent_channels: D.
        panning_bands: K of them code the panning of that many bands; the other D - K are learned.
        samples_per_latent: a multiple of the hop.
        hop_length: in samples, a multiple of 16; the long window has four hops, the short one is a hop.
        num_bands: bands of the long window.
        num_short_bands: bands of the short window.
        channels: width at one position a hop.
        num_blocks: blocks at one position a hop.
        frame_channels: width at one position a latent.
        num_frame_blocks: blocks at one position a latent.
        kernel_size: of the blocks at one position a hop, odd.
        frame_kernel_size: of the blocks at one position a latent, odd.
        expansion: of the blocks.

    Raises:
        ValueError: ``samples_per_latent`` is not a multiple of the hop, or the hop not of 16; or as many bands of
            panning as latent channels.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 32,
        panning_bands: int = 0,
        samples_per_latent: int = 2048,
        hop_length: int = 512,
        num_bands: int = 160,
        num_short_bands: int = 24,
        channels: int = 128,
        num_blocks: int = 1,
        frame_channels: int = 256,
        num_frame_blocks: int = 1,
        kernel_size: int = 7,
        frame_kernel_size: int = 3,
        expansion: int = 2,
    ):
        super().__init__()
        self.hops = _hops(samples_per_latent, hop_length)
        self.audio_channels, self.latent_channels = 2, latent_channels
        self.learned_channels = _learned(latent_channels, panning_bands)
        self.samples_per_latent, self.hop_length = samples_per_latent, hop_length
        self.register_buffer('long_window', torch.hann_window(4 * hop_length), persistent=False)
        self.register_buffer('short_window', torch.hann_window(hop_length), persistent=False)
        self.register_buffer('bands', band_averages(2 * hop_length + 1, num_bands), persistent=False)
        self.register_buffer('short_bands', band_averages(hop_length // 2 + 1, num_short_bands), persistent=False)
        self.num_bands = self.bands.shape[1]
        self.input = nn.Linear(3 * self.num_bands + 4 * self.short_bands.shape[1], channels)
        self.input_norm = nn.LayerNorm(channels)
        self.blocks = FrameStack(channels, num_blocks=num_blocks, kernel_size=kernel_size, expansion=expansion)
        self.down = nn.Linear(self.hops * channels, frame_channels)
        self.frame_blocks = FrameStack(
            frame_channels, num_blocks=num_frame_blocks, kernel_size=frame_kernel_size, expansion=expansion
        )
        self.output_norm = nn.LayerNorm(frame_channels)
        self.output = nn.Linear(frame_channels, 2 * self.learned_channels)
        nn.init.constant_(self.output.bias[self.learned_channels :], _INITIAL_SPREAD)
        self.direct = nn.Linear(self.hops * 2 * self.num_bands, self.learned_channels)
        self.panning = _panning(2 * hop_length + 1, panning_bands, self.hops)
        # A window reaches 1.5 hops beyond its hop on either side.
        self.context_latents = math.ceil((self.blocks.reach + 2) / self.hops) + self.frame_blocks.reach

    def forward(self, audio: Tensor) -> Tensor:
        """(B, 2, L * samples_per_latent) to (B, 2 D, L): means, then spreads before the softplus."""
        long = self._long_spectra(audio)
        features = self._features(audio, long)
        x = self.blocks(self.input_norm(self.input(features)), None)
        x = self.down(x.reshape(len(x), -1, self.down.in_features))
        x = self.output(self.output_norm(self.frame_blocks(x, None)))
        mean, spread = x.chunk(2, dim=2)
        parts = [mean + self.direct(self.direct_features(features)), spread]
        if self.panning is not None:
            panning = self.panning.measure(long.abs()).to(x.dtype)
            parts = [parts[0], panning, spread, torch.full_like(panning, _INITIAL_SPREAD)]
        return torch.cat(parts, dim=2).transpose(1, 2)

    def features(self, audio: Tensor) -> Tensor:
        """Log magnitudes of each hop in bands, about zero mean and unit deviation for music.

        Args:
            audio: (B, 2, T), T a multiple of the hop.

        Returns:
            (B, T / hop, 3 K + 4 short K): mean and half difference of the channels' levels, level of L - R over the
            mean, then the mean level of the short windows.
        """
        return self._features(audio, self._long_spectra(audio))

    def _long_spectra(self, audio: Tensor) -> Tensor:
        """(B, 2, T) to (B, 2, T / hop, F)."""
        return spectra(audio.flatten(0, 1), self.long_window, self.hop_length).unflatten(0, (len(audio), 2))

    def _features(self, audio: Tensor, long: Tensor) -> Tensor:
        batch = len(audio)
        mean, difference = _mean_and_difference(_log(long))
        width = _log(long[:, 0] - long[:, 1]) - mean
        short = _log(spectra(audio.flatten(0, 1), self.short_window, self.hop_length // 4)).unflatten(0, (batch, 2))
        onset = (_SCALE * short.mean(dim=1) + _SHIFT) @ self.short_bands
        parts = [_SCALE * mean + _SHIFT, _SCALE * difference, _SCALE * width]
        parts = [part @ self.bands for part in parts]
        return torch.cat([*parts, onset.reshape(batch, long.shape[2], -1)], dim=2).to(audio.dtype)

    def direct_features(self, features: Tensor) -> Tensor:
        """Means and differences of all hops of each latent: (B, L * hops, ...) to (B, L, hops * 2 K)."""
        return features[:, :, : 2 * self.num_bands].reshape(len(features), -1, self.direct.in_features)

    def log_magnitudes(self, direct_features: Tensor) -> Tensor:
        """The logarithms in nepers that :meth:`direct_features` stand for, same shape."""
        means, differences = direct_features.unflatten(-1, (self.hops, 2, self.num_bands)).unbind(dim=-2)
        return torch.stack([(means - _SHIFT) / _SCALE, differences / _SCALE], dim=-2).flatten(-3)


class StereoSpectralDecoder(nn.Module):
    """Latents to stereo audio: levels and phases of overlapping windows, then their sum.

    Args:
        latent_channels: D.
        panning_bands: as the encoder has it.
        samples_per_latent: a multiple of the hop.
        hop_length: in samples, a multiple of 16; windows have four hops.
        num_bands: bands of the straight path from latents to levels.
        channels: width at one position a hop.
        num_blocks: blocks at one position a hop.
        frame_channels: width at one position a latent.
        num_frame_blocks: blocks at one position a latent.
        stereo_channels: width from which the differences of the channels are made.
        kernel_size: of the blocks at one position a hop, odd.
        frame_kernel_size: of the blocks at one position a latent, odd.
        expansion: of the blocks.

    Raises:
        ValueError: ``samples_per_latent`` is not a multiple of the hop, or the hop not of 16; or as many bands of
            panning as latent channels.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 32,
        panning_bands: int = 0,
        samples_per_latent: int = 2048,
        hop_length: int = 512,
        num_bands: int = 160,
        channels: int = 176,
        num_blocks: int = 4,
        frame_channels: int = 256,
        num_frame_blocks: int = 1,
        stereo_channels: int = 32,
        kernel_size: int = 7,
        frame_kernel_size: int = 3,
        expansion: int = 2,
    ):
        super().__init__()
        self.hops = _hops(samples_per_latent, hop_length)
        self.audio_channels, self.latent_channels = 2, latent_channels
        self.learned_channels = _learned(latent_channels, panning_bands)
        self.samples_per_latent, self.hop_length = samples_per_latent, hop_length
        self.num_bins = 2 * hop_length + 1
        self.input = nn.Linear(self.learned_channels, frame_channels)
        self.input_norm = nn.LayerNorm(frame_channels)
        self.frame_blocks = FrameStack(
            frame_channels, num_blocks=num_frame_blocks, kernel_size=frame_kernel_size, expansion=expansion
        )
        self.up = nn.Linear(frame_channels, self.hops * channels)
        self.blocks = FrameStack(channels, num_blocks=num_blocks, kernel_size=kernel_size, expansion=expansion)
        self.output_norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, 2 * self.num_bins)
        self.stereo_input = nn.Linear(channels, stereo_channels)
        self.stereo_output = nn.Linear(stereo_channels, 2 * self.num_bins)
        self.register_buffer('interpolation', band_interpolation(self.num_bins, num_bands), persistent=False)
        self.direct = nn.Linear(self.learned_channels, self.hops * 2 * len(self.interpolation))
        self.panning = _panning(self.num_bins, panning_bands, self.hops)
        # Phases count from the middle of each window, and are those of sinusoids that run through.
        bins, hops = torch.arange(self.num_bins), torch.arange(4)[:, None]
        self.register_buffer('phase_offset', (2 + hops) * bins % 4 * (math.pi / 2), persistent=False)
        # Squares of Hann windows a quarter apart sum to 1.5.
        self.register_buffer('window', torch.hann_window(4 * hop_length) / 1.5, persistent=False)
        self.context_latents = math.ceil((self.blocks.reach + 2) / self.hops) + self.frame_blocks.reach

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D, L) to (B, 2, L * samples_per_latent)."""
        return self.synthesize(*self.spectra(latents))

    def spectra(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Log magnitudes and phases of all windows.

        Args:
            latents: (B, D, L).

        Returns:
            (B, 2, L * hops, F) twice, left and right; phases in radians, from the start of each window.
        """
        latents, panning = latents.transpose(1, 2).tensor_split([self.learned_channels], dim=2)
        x = self.up(self.frame_blocks(self.input_norm(self.input(latents)), None))
        x = self.output_norm(self.blocks(x.reshape(len(x), -1, self.output.in_features), None))
        direct = self.direct(latents).reshape(*x.shape[:2], 2, -1) @ self.interpolation
        correction, turn = self.output(x).split(self.num_bins, dim=2)
        stereo_correction, stereo_turn = self.stereo_output(functional.gelu(self.stereo_input(x))).chunk(2, dim=2)
        level, level_difference = correction + direct[:, :, 0], stereo_correction + direct[:, :, 1]
        # Any angle of the network is a valid phase: no wrapping that would break the gradient.
        phase = turn + self.phase_offset.repeat(x.shape[1] // 4, 1)
        log_magnitude = torch.stack([level + level_difference, level - level_difference], dim=1)
        if self.panning is not None:
            log_magnitude = self.panning.apply(log_magnitude, panning)
        return log_magnitude, torch.stack([phase + stereo_turn, phase - stereo_turn], dim=1)

    def synthesize(self, log_magnitude: Tensor, phase: Tensor) -> Tensor:
        """Audio of windows: (B, 2, M, F) twice to (B, 2, M * hop)."""
        magnitude = at_least_single(log_magnitude).clamp(max=_MAX_LOG_MAGNITUDE).exp()
        spectrum = torch.polar(magnitude, at_least_single(phase)).flatten(0, 1)
        windows = torch.fft.irfft(spectrum, n=len(self.window)) * self.window
        return overlap_add(windows.to(log_magnitude.dtype)).unflatten(0, (-1, 2))


class SpectralAutoencoder(LatentAutoencoder):
    """Encoder, Gaussian bottleneck and decoder, all at the rate of spectra.

    Args:
        encoder: stereo audio to means and spreads.
        decoder: latents to stereo audio, of the encoder's ratio.
        latent_scale: latents are divided by it after encoding and multiplied before decoding, so that a diffusion
            model sees values near 1.

    Raises:
        ValueError: encoder and decoder do not fit.
    """

    def __init__(self, *, encoder: StereoSpectralEncoder, decoder: StereoSpectralDecoder, latent_scale: float = 1.0):
        for name in ('samples_per_latent', 'latent_channels', 'learned_channels'):
            values = getattr(encoder, name), getattr(decoder, name)
            if values[0] != values[1]:
                raise ValueError(f'encoder and decoder must have the same {name}; got {values[0]} and {values[1]}')
        super().__init__(
            encoder=encoder,
            decoder=decoder,
            audio_channels=encoder.audio_channels,
            latent_channels=encoder.latent_channels,
            ratio=encoder.samples_per_latent,
            encoder_context=encoder.context_latents,
            decoder_context=decoder.context_latents,
            latent_scale=latent_scale,
        )


def _log(spectrum: Tensor) -> Tensor:
    return (spectrum.abs() + _MIN_MAGNITUDE).log()


def _mean_and_difference(levels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2, N, F) to the mean and half the difference of the channels."""
    left, right = levels.unbind(dim=1)
    return (left + right) / 2, (left - right) / 2


def _learned(latent_channels: int, panning_bands: int) -> int:
    if not 0 <= panning_bands < latent_channels:
        raise ValueError(f'panning_bands must be 0..{latent_channels - 1}, below latent_channels; got {panning_bands}')
    return latent_channels - panning_bands


def _panning(num_bins: int, panning_bands: int, hops: int) -> BandPanning | None:
    return BandPanning(num_bins=num_bins, num_bands=panning_bands, hops=hops) if panning_bands else None


def _hops(samples_per_latent: int, hop_length: int) -> int:
    if hop_length <= 0 or hop_length % 16:
        raise ValueError(f'hop_length must be a positive multiple of 16; got {hop_length}')
    if samples_per_latent <= 0 or samples_per_latent % (4 * hop_length):
        raise ValueError(
            f'samples_per_latent must be a multiple of four hops of {hop_length} samples; got {samples_per_latent}'
        )
    return samples_per_latent // hop_length
