"""Distances of decoded music from the original, as Stable Audio Open reports them for its autoencoder, and panning.

STFT and MEL are the defaults of auraloss; SI-SDR is :func:`nemo_audio_restore.evaluation.metrics.si_sdr`. What to know
before reading a table: both distances take the logarithm of magnitudes down to 1e-4, far below what anyone hears, so
silence and the band above a lossy source's cutoff count as much as the music; and SI-SDR asks for the waveform itself,
which an autoencoder of few numbers a second does not keep.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# Transform length, hop and window length, in samples.
_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
_MEL_RESOLUTION = (1024, 256, 1024)
_MEL_CHANNELS = 128
_POWER_FLOOR = 1e-8
_PANNING_WINDOW = 2048
_PANNING_LIMITS_HZ = (300, 800, 2000, 5000, 10000)
_QUIET_POWER, _MOST_DIFFERENCE = 1e-5, 1e-6


def stft_distance(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor) -> float:
    """Spectral convergence plus log-magnitude distance, averaged over three resolutions; 0 is perfect.

    Args:
        reference: original samples (C, T).
        estimate: decoded samples (C, T).

    Returns:
        The distance: relative error plus nepers, averaged over channels.

    Raises:
        ValueError: the shapes differ, are not (C, T), or hold less than 1025 samples.

    Source: auraloss (Steinmetz and Reiss, DMRN+15, 2020), ``MultiResolutionSTFTLoss`` with its defaults; Stable Audio
        Open (arXiv 2407.14358), section 4.3.
    """
    original, decoded = _pair(reference, estimate)
    return float(np.mean([_distance(_magnitude(original, *r), _magnitude(decoded, *r)) for r in _RESOLUTIONS]))


def mel_distance(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """Spectral convergence plus log-magnitude distance of 128 mel channels; 0 is perfect.

    Args:
        reference: original samples (C, T).
        estimate: decoded samples (C, T).
        sample_rate: of both, in Hz.

    Returns:
        The distance: relative error plus nepers, averaged over channels.

    Raises:
        ValueError: the shapes differ, are not (C, T), or hold less than 1025 samples.

    Source: auraloss, ``MelSTFTLoss`` with its defaults; Stable Audio Open (arXiv 2407.14358), section 4.3.
    """
    bank = _mel_bank(sample_rate)
    original, decoded = (bank @ _magnitude(x, *_MEL_RESOLUTION) for x in _pair(reference, estimate))
    return _distance(original, decoded)


def panning_distance(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """How far sounds have moved between left and right, in dB of level difference.

    Half-overlapping windows of about 46 ms, six bands; cells more than 50 dB below the loudest one do not count, and a
    channel counts as at most 60 dB below the other.

    Args:
        reference: original samples (2, T).
        estimate: decoded samples (2, T).
        sample_rate: in Hz.

    Returns:
        Mean absolute change; NaN for silence.

    Raises:
        ValueError: the shapes differ, are not (2, T), or hold less than 1025 samples.
    """
    original, decoded = (_band_energies(x, sample_rate) for x in _pair(reference, estimate))
    if len(original) != 2:
        raise ValueError(f'panning needs two channels; got {len(original)}')
    together = original.sum(dim=0)
    counts = (together > together.amax() * _QUIET_POWER) & (together > 0)
    change = _difference_db(original) - _difference_db(decoded)
    return float(change.abs()[counts].mean())


def _pair(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    original, decoded = (torch.as_tensor(x, dtype=torch.float32) for x in (reference, estimate))
    if original.ndim != 2 or original.shape != decoded.shape or original.shape[1] <= 1024:
        raise ValueError(
            'reference and estimate must be (channels, samples) of one shape with more than 1024 samples; got '
            f'{tuple(original.shape)} and {tuple(decoded.shape)}'
        )
    return original, decoded


def _magnitude(audio: Tensor, size: int, hop_length: int, window_length: int) -> Tensor:
    """(C, T) to (C, F, N)."""
    window = torch.hann_window(window_length)
    spectrum = torch.stft(audio, size, hop_length, window_length, window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp_min(_POWER_FLOOR).sqrt()


def _distance(original: Tensor, decoded: Tensor) -> float:
    convergence = (original - decoded).norm(dim=(-1, -2)) / original.norm(dim=(-1, -2))
    return float(convergence.mean() + (original.log() - decoded.log()).abs().mean())


@lru_cache(maxsize=4)
def _mel_bank(sample_rate: int) -> Tensor:
    """(channels, F)."""
    # librosa takes a second to import.
    from librosa.filters import mel

    return torch.from_numpy(mel(sr=sample_rate, n_fft=_MEL_RESOLUTION[0], n_mels=_MEL_CHANNELS))


def _band_energies(audio: Tensor, sample_rate: int) -> Tensor:
    """(C, T) to (C, K, N)."""
    window = torch.hann_window(_PANNING_WINDOW)
    spectrum = torch.stft(audio, _PANNING_WINDOW, _PANNING_WINDOW // 2, window=window, return_complex=True)
    limits = [round(hz * _PANNING_WINDOW / sample_rate) for hz in _PANNING_LIMITS_HZ]
    return torch.stack([part.sum(dim=1) for part in spectrum.abs().square().tensor_split(limits, dim=1)], dim=1)


def _difference_db(energies: Tensor) -> Tensor:
    """(2, ...) to the level of the first channel over that of the second."""
    energies = torch.maximum(energies, energies.amax(dim=0) * _MOST_DIFFERENCE).clamp_min(1e-20)
    return 10 * (energies[0].log10() - energies[1].log10())
