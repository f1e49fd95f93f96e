"""Renderers whose parameters are sound itself: samples, or latents of the prior that add up to a mixture."""

import torch
from torch import Tensor, nn

from nemo_audio_restore.distillation.prior import AudioPrior
from nemo_audio_restore.distillation.renderers import Renderer


class WaveformBuffer(Renderer):
    """Samples, each of them a parameter.

    Args:
        audio: (C, T), where they start.
        sample_rate: in Hz.
    """

    kind = 'waveform'

    def __init__(self, audio: Tensor, *, sample_rate: int):
        super().__init__()
        self.sample_rate = sample_rate
        self.audio = nn.Parameter(audio.clone())

    def forward(self, num_samples: int) -> Tensor:
        """The samples (C, num_samples), cut or filled with silence."""
        return nn.functional.pad(self.audio, (0, num_samples - self.audio.shape[-1]))


class LatentSources(Renderer):
    """K sounds, each the decoding of latents that are free to move.

    Args:
        prior: whose decoder renders; it stays frozen, the gradient runs through it.
        latents: (K, ...), where they start.

    Source: Audio-SDS (arXiv 2505.04621), equations 11-13.
    """

    kind = 'latents'

    def __init__(self, prior: AudioPrior, latents: Tensor):
        super().__init__()
        self.sample_rate = prior.sample_rate
        self._decode = prior.decode
        self.latents = nn.Parameter(latents.clone())

    @classmethod
    @torch.no_grad()
    def from_mixture(
        cls, prior: AudioPrior, mixture: Tensor, sources: int, *, spread: float, generator: torch.Generator
    ) -> 'LatentSources':
        """Starts every source at an equal share of the mixture, plus noise that tells the sources apart.

        Args:
            prior: whose encoder and decoder are used.
            mixture: (C, T).
            sources: K.
            spread: standard deviation of the noise, in units of the latents' own.
            generator: of the noise.

        Returns:
            The renderer.
        """
        latents = prior.encode(mixture[None] / sources).repeat_interleave(sources, dim=0)
        noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)
        return cls(prior, latents + spread * latents.std() * noise)

    def sources(self, num_samples: int) -> Tensor:
        """Each source alone, (K, C, num_samples)."""
        return self._decode(self.latents, num_samples=num_samples)

    def forward(self, num_samples: int) -> Tensor:
        """The sum of the sources, (C, num_samples)."""
        return self.sources(num_samples).sum(0)


def share_mixture(sources: Tensor, mixture: Tensor, *, n_fft: int = 2048, exponent: float = 2.0) -> Tensor:
    """Splits a mixture among estimated sources by soft masks, so that the parts add up to the mixture again.

    What a decoder cannot render (fine phase, transients) is thereby taken from the recording itself.

    Args:
        sources: (K, C, T), estimates.
        mixture: (C, T).
        n_fft: window of the masks' STFT, in samples.
        exponent: of the magnitudes that are compared; 2 is the Wiener filter.

    Returns:
        (K, C, T); the sum over K equals the mixture within 1e-5 of its peak.

    Source: Liutkus and Badeau, Generalized Wiener Filtering with Fractional Power Spectrograms (2015).
    """
    window = torch.hann_window(n_fft, device=mixture.device)
    settings = {'n_fft': n_fft, 'hop_length': n_fft // 4, 'window': window}
    spectrum = torch.stft(mixture, **settings, pad_mode='constant', return_complex=True)
    weights = torch.stack(
        [torch.stft(source, **settings, pad_mode='constant', return_complex=True).abs() for source in sources]
    ).pow(exponent)
    masks = (weights + 1e-10) / (weights + 1e-10).sum(0)
    return torch.stack([torch.istft(mask * spectrum, **settings, length=mixture.shape[-1]) for mask in masks])


def turned_down(recording: Tensor, coded: Tensor, estimate: Tensor, *, n_fft: int = 2048) -> Tensor:
    """A recording, turned down wherever an estimate is quieter than the recording as the same decoder renders it.

    What the decoder gets wrong is wrong in both and cancels; nothing is turned up, nothing is added.

    Args:
        recording: (C, T).
        coded: (C, T), the recording encoded and decoded.
        estimate: (C, T), decoded from other latents.
        n_fft: window of the STFT, in samples.

    Returns:
        (C, T).
    """
    window = torch.hann_window(n_fft, device=recording.device)
    settings = {'n_fft': n_fft, 'hop_length': n_fft // 4, 'window': window}
    before, after, spectrum = (
        torch.stft(audio, **settings, pad_mode='constant', return_complex=True)
        for audio in (coded, estimate, recording)
    )
    gain = ((after.abs() + 1e-5) / (before.abs() + 1e-5)).clamp(max=1.0)
    return torch.istft(gain * spectrum, **settings, length=recording.shape[-1])
