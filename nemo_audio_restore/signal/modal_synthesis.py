"""Struck objects and rooms: decaying modes, decaying bands of noise, and their convolution, all differentiable."""

import math

import torch
from torch import Tensor

BLOCK = 512


def modal_impulse(
    *, frequency_hz: Tensor, decay_s: Tensor, amplitude: Tensor, num_samples: int, sample_rate: int
) -> Tensor:
    """Response of an object to a blow: sum_n a_n exp(-t / decay_n) sin(2 pi f_n t).

    With t = t_block + t_inside the exponentials factorise, so the sum is one complex matrix product and no array of
    M x T values is ever made.

    Args:
        frequency_hz: (M,).
        decay_s: (M,), time in which a mode falls to 1/e, in seconds.
        amplitude: (M,).
        num_samples: T.
        sample_rate: in Hz.

    Returns:
        (T,), of the amplitude's dtype.

    Source: Audio-SDS (arXiv 2505.04621), section 4; modal synthesis after van den Doel and Pai (1998).
    """
    blocks = -(-num_samples // BLOCK)
    inside = torch.arange(BLOCK, device=frequency_hz.device, dtype=torch.float64) / sample_rate
    starts = torch.arange(blocks, device=frequency_hz.device, dtype=torch.float64) * BLOCK / sample_rate
    # Double precision for the exponents only: f * t loses its phase in single precision after seconds.
    exponent = torch.complex(-1 / decay_s.double(), 2 * math.pi * frequency_hz.double())
    single = torch.complex64 if amplitude.dtype == torch.float32 else torch.complex128
    by_block = torch.exp(starts[:, None] * exponent).to(single)
    by_sample = torch.exp(exponent[:, None] * inside).to(single)
    return ((by_block * amplitude) @ by_sample).imag.reshape(-1)[:num_samples]


def noise_band_impulse(
    *,
    noise: Tensor,
    centre_hz: Tensor,
    width_octaves: Tensor,
    decay_s: Tensor,
    amplitude: Tensor,
    sample_rate: int,
) -> Tensor:
    """Response of a room: bands of white noise, each with a level and a decay of its own.

    Args:
        noise: (T,), standard normal; fixed, so that the room does not change from call to call.
        centre_hz: (N,), centres of the bands.
        width_octaves: (N,), standard deviation of a band's Gaussian, on a logarithmic frequency axis.
        decay_s: (N,), time in which a band falls to 1/e, in seconds.
        amplitude: (N,).
        sample_rate: in Hz.

    Returns:
        (T,).

    Source: Audio-SDS (arXiv 2505.04621), section 4.
    """
    num_samples = len(noise)
    bands = torch.fft.irfft(
        torch.fft.rfft(noise) * octave_bands(centre_hz, width_octaves, num_samples, sample_rate), n=num_samples
    )
    time = torch.arange(num_samples, device=noise.device, dtype=noise.dtype) / sample_rate
    return amplitude @ (bands * torch.exp(-time / decay_s[:, None]))


def octave_bands(centre_hz: Tensor, width_octaves: Tensor, num_samples: int, sample_rate: int) -> Tensor:
    """Gaussian bands on a logarithmic frequency axis, 1 at their centre and 0 at 0 Hz.

    Args:
        centre_hz: (N,).
        width_octaves: (N,), standard deviation.
        num_samples: of the signal whose spectrum is filtered.
        sample_rate: in Hz.

    Returns:
        (N, num_samples // 2 + 1).
    """
    frequency = torch.fft.rfftfreq(num_samples, 1 / sample_rate, device=centre_hz.device).to(centre_hz.dtype)
    octaves = torch.log2(frequency.clamp_min(1e-3)) - torch.log2(centre_hz)[:, None]
    return torch.exp(-0.5 * (octaves / width_octaves[:, None]).square())


def fft_convolve(signal: Tensor, impulse: Tensor, num_samples: int) -> Tensor:
    """First ``num_samples`` of the convolution of two signals.

    Args:
        signal: (..., T).
        impulse: (..., S), leading axes broadcast.
        num_samples: of the result, at most T + S - 1.

    Returns:
        (..., num_samples).
    """
    size = signal.shape[-1] + impulse.shape[-1] - 1
    spectrum = torch.fft.rfft(signal, n=size) * torch.fft.rfft(impulse, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :num_samples]
