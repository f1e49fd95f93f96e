"""Magnitude-phase spectrograms: the representation that the restoration bridge works on."""

import torch
from torch import Tensor, nn

_COMPRESSION_EPS = 1e-9


def compress(magnitude: Tensor, power: float) -> Tensor:
    """Raises to ``power`` and keeps the sign, so that the map also has an inverse for predictions below zero.

    Args:
        magnitude: any shape, any sign.
        power: exponent; ``compress(compress(x, p), 1 / p)`` returns x up to the guard against 0/0.

    Returns:
        ``x * |x|**power / (|x| + 1e-9)``, same shape.

    Source: A2SB (arXiv 2501.11311), section 3; the guard is the published model's.
    """
    absolute = magnitude.abs()
    return magnitude * absolute.pow(power) / (absolute + _COMPRESSION_EPS)


class MagnitudePhaseSpectrogram(nn.Module):
    """STFT as three real channels: compressed magnitude, cosine and sine of the phase; the DC row is dropped.

    Args:
        sample_rate: of the audio, in Hz.
        n_fft: transform and window length in samples (periodic Hann, centred frames, reflected edges).
        hop_length: samples between frames.
        magnitude_power: exponent of the magnitude channel. Small exponents come close to a logarithm: equal errors of
            the channel are then equal errors in decibels, in loud and in quiet bins.
        magnitude_scale: factor on the compressed magnitude; sets its spread against the bridge's noise.

    Source: A2SB (arXiv 2501.11311), section 3.
    """

    channels = 3

    def __init__(
        self,
        *,
        sample_rate: int = 44100,
        n_fft: int = 2048,
        hop_length: int = 512,
        magnitude_power: float = 0.25,
        magnitude_scale: float = 1.0,
    ):
        super().__init__()
        if n_fft % 2 or not 0 < hop_length <= n_fft // 2:
            raise ValueError(f'n_fft must be even and 0 < hop_length <= n_fft / 2; got {n_fft} and {hop_length}')
        if not 0.0 < magnitude_power <= 1.0:
            raise ValueError(f'magnitude_power must lie in (0, 1]; got {magnitude_power}')
        self.sample_rate = sample_rate
        if magnitude_scale <= 0.0:
            raise ValueError(f'magnitude_scale must be positive; got {magnitude_scale}')
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.magnitude_power = magnitude_power
        self.magnitude_scale = magnitude_scale
        self.register_buffer('window', torch.hann_window(n_fft), persistent=False)

    @property
    def num_bins(self) -> int:
        """Rows F of the spectrogram; row i is STFT bin i + 1."""
        return self.n_fft // 2

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def bin_width_hz(self) -> float:
        """Distance between two rows in Hz."""
        return self.sample_rate / self.n_fft

    def num_frames(self, num_samples: int) -> int:
        """Frames N that ``encode`` returns for ``num_samples`` samples."""
        return 1 + num_samples // self.hop_length

    def stft(self, audio: Tensor) -> Tensor:
        """Complex spectrum with the DC row.

        Args:
            audio: (B, T) samples.

        Returns:
            Complex (B, F + 1, N).

        Raises:
            ValueError: the audio is not (B, T), or too short to be reflected at its edges.
        """
        if audio.ndim != 2:
            raise ValueError(f'audio must be (B, T); got shape {tuple(audio.shape)}')
        if audio.shape[1] <= self.n_fft // 2:
            raise ValueError(f'audio must be longer than {self.n_fft // 2} samples; got {audio.shape[1]}')
        window = self.window.to(audio.device)
        return torch.stft(
            audio.float(),
            self.n_fft,
            self.hop_length,
            window=window,
            center=True,
            pad_mode='reflect',
            return_complex=True,
        )

    def istft(self, spectrum: Tensor, *, length: int | None = None) -> Tensor:
        """Inverse of :meth:`stft`.

        Args:
            spectrum: complex STFT (B, F + 1, N) with the DC row.
            length: samples to return; without it ``hop_length * (N - 1)``.

        Returns:
            (B, length) samples.
        """
        window = self.window.to(spectrum.device)
        return torch.istft(spectrum, self.n_fft, self.hop_length, window=window, center=True, length=length)

    def encode(self, audio: Tensor) -> Tensor:
        """Turns audio (B, T) into the three channels (B, 3, F, N), float32; N = 1 + T // hop_length."""
        return self.from_complex(self.stft(audio)[:, 1:])

    def decode(self, spectrogram: Tensor, *, length: int | None = None) -> Tensor:
        """Turns the three channels back into audio.

        Args:
            spectrogram: (B, 3, F, N); need not be consistent: a negative magnitude flips the phase, and (cos, sin) is
                projected onto the unit circle.
            length: samples to return; without it ``hop_length * (N - 1)``, which may drop up to a hop.

        Returns:
            Audio (B, length).
        """
        spectrum = self.to_complex(spectrogram)
        return self.istft(nn.functional.pad(spectrum, (0, 0, 1, 0)), length=length)

    def from_complex(self, spectrum: Tensor) -> Tensor:
        """Complex (B, F, N) without the DC row to (B, 3, F, N); an exact zero has phase (1, 0)."""
        magnitude = spectrum.abs()
        unit = spectrum / magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny)
        cosine = torch.where(magnitude > 0, unit.real, torch.ones_like(magnitude))
        compressed = self.magnitude_scale * compress(magnitude, self.magnitude_power)
        return torch.stack([compressed, cosine, unit.imag], dim=1)

    def to_complex(self, spectrogram: Tensor) -> Tensor:
        """(B, 3, F, N) to complex (B, F, N) without the DC row."""
        if spectrogram.ndim != 4 or spectrogram.shape[1:3] != (self.channels, self.num_bins):
            raise ValueError(
                f'spectrogram must be (B, {self.channels}, {self.num_bins}, N); got shape {tuple(spectrogram.shape)}'
            )
        compressed, cosine, sine = spectrogram.float().unbind(1)
        magnitude = compress(compressed / self.magnitude_scale, 1.0 / self.magnitude_power)
        # The nearest point on the unit circle; A2SB finds the same one by an SVD of a 2x2 matrix at 20 times the cost.
        norm = torch.hypot(cosine, sine)
        safe = norm.clamp_min(torch.finfo(norm.dtype).tiny)
        cosine = torch.where(norm > 0, cosine / safe, torch.ones_like(norm))
        return torch.complex(magnitude * cosine, magnitude * sine / safe)
