"""Classical restoration methods, made as well as they can be, to compare a model with.

Bandwidth extension adds to the recording and leaves the known band as it is. Both methods need the level that the
missing band should have; two estimates of it are given. :func:`straight_line` is what one knows about music in
general: the spectrum falls. :func:`average_spectrum` is what a corpus of coded music looks like on average, so it also
knows the codecs' roll-off above 16 kHz, which is half of the battle when LSD is measured up to 22 kHz. The constants
of both were fitted to the training music (`examples/prepare_music.py`), never to the held-out recordings.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_N_FFT = 2048
_HOP = 512
_EDGE_HZ = 1000.0
_FLOOR_DB = -140.0
# The mean of the logarithm of |complex normal|^2 lies 2.51 dB below the logarithm of its mean (Euler's constant).
_LOG_MEAN_DB = 10 / np.log(10) * np.euler_gamma

# Decibels per kHz of the mean log spectrum above each cutoff, least squares over 99 clips of training music.
_SLOPE_CUTOFFS_HZ = (2000.0, 4000.0, 8000.0, 12000.0)
_SLOPES_DB_PER_KHZ = (-3.67, -3.67, -4.63, -6.89)
# Mean log spectrum of the same clips in dB.
_AVERAGE_HZ = (
    170, 520, 860, 1200, 1550, 2240, 3270, 4310, 6030, 8100, 10160, 12230, 13950, 15330, 16360, 17050, 17740, 18430,
    19120, 19810, 20500, 21190, 21880,
)  # fmt: skip
_AVERAGE_DB = (25, 18, 14, 10, 8, 6, 1, -1, -4, -7, -10, -13, -15, -19, -23, -29, -41, -50, -60, -77, -88, -98, -104)

Envelope = Callable[[Tensor, np.ndarray, float], Tensor]


def straight_line(level_db: Tensor, frequency_hz: np.ndarray, cutoff_hz: float) -> Tensor:
    """Level of the missing band when it falls by a constant number of decibels per kHz.

    Args:
        level_db: mean log level (N,) of the kilohertz below the cutoff, in dB.
        frequency_hz: frequencies (K,) of the missing bins.
        cutoff_hz: where the known band ends.

    Returns:
        (K, N) mean log level in dB.
    """
    slope = np.interp(cutoff_hz, _SLOPE_CUTOFFS_HZ, _SLOPES_DB_PER_KHZ)
    distance_khz = (frequency_hz - (cutoff_hz - _EDGE_HZ / 2)) / 1000
    return level_db[None, :] + torch.from_numpy(slope * distance_khz)[:, None]


def average_spectrum(level_db: Tensor, frequency_hz: np.ndarray, cutoff_hz: float) -> Tensor:
    """Level of the missing band when it follows the average spectrum of the training music.

    Args:
        level_db: mean log level (N,) of the kilohertz below the cutoff, in dB.
        frequency_hz: frequencies (K,) of the missing bins.
        cutoff_hz: where the known band ends.

    Returns:
        (K, N) mean log level in dB.
    """
    expected = np.interp(frequency_hz, _AVERAGE_HZ, _AVERAGE_DB)
    at_edge = np.interp(cutoff_hz - _EDGE_HZ / 2, _AVERAGE_HZ, _AVERAGE_DB)
    return level_db[None, :] + torch.from_numpy(expected - at_edge)[:, None]


def own_slope(audio: np.ndarray, sample_rate: int, cutoff_hz: float) -> Envelope:
    """Fits the envelope to the recording alone: its fall per octave below the cutoff goes on above it.

    Args:
        audio: band-limited samples (T,) or (C, T).
        sample_rate: in Hz.
        cutoff_hz: where the known band ends; above 1 kHz.

    Returns:
        An envelope for :func:`shaped_noise` and :func:`spectral_band_replication`; unlike the others it has learned
        nothing from other music.
    """
    channels = torch.from_numpy(np.atleast_2d(np.asarray(audio, dtype=np.float64)))
    spectrum = torch.stack([_level_db(_stft(channel)).mean(dim=1) for channel in channels]).mean(dim=0).numpy()
    frequency = np.arange(len(spectrum)) * sample_rate / _N_FFT
    known = (frequency >= 500) & (frequency < cutoff_hz - 100)
    slope, _ = np.polyfit(np.log2(frequency[known]), spectrum[known], 1)

    def envelope(level_db: Tensor, frequency_hz: np.ndarray, cutoff_hz: float) -> Tensor:
        octaves = np.log2(frequency_hz / (cutoff_hz - _EDGE_HZ / 2))
        return level_db[None, :] + torch.from_numpy(slope * octaves)[:, None]

    return envelope


def nothing(audio: np.ndarray) -> np.ndarray:
    """Returns a copy: the score that every other method has to beat; for gaps this is silence.

    Args:
        audio: degraded samples (T,) or (C, T).

    Returns:
        The same samples.
    """
    return np.array(audio)


def shaped_noise(
    audio: np.ndarray,
    sample_rate: int,
    cutoff_hz: float,
    *,
    envelope: Envelope = straight_line,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Fills the band above the cutoff with noise that follows the level below the cutoff, frame by frame.

    Args:
        audio: band-limited samples (T,) or (C, T).
        sample_rate: in Hz.
        cutoff_hz: where the known band ends.
        envelope: estimate of the missing level.
        generator: source of the noise; a new one with seed 0 by default.

    Returns:
        The audio plus the generated band, same shape, float64.

    Raises:
        ValueError: the cutoff leaves no known kilohertz or no missing bin, or the audio is too short.
    """
    generator = generator or torch.Generator().manual_seed(0)

    def fill(spectrum: Tensor, first_bin: int) -> Tensor:
        # Noise is made in time: bins drawn one by one contradict each other and lose 6 dB in the inverse transform.
        noise = torch.randn(_HOP * (spectrum.shape[1] - 1), generator=generator, dtype=torch.float64)
        return _stft(noise)[first_bin:] / _window().square().sum().sqrt()

    return _extend(audio, sample_rate, cutoff_hz, envelope, fill)


def spectral_band_replication(
    audio: np.ndarray, sample_rate: int, cutoff_hz: float, *, envelope: Envelope = straight_line
) -> np.ndarray:
    """Copies the octave below the cutoff upwards as often as it takes, flattened and given the estimated level.

    Args:
        audio: band-limited samples (T,) or (C, T).
        sample_rate: in Hz.
        cutoff_hz: where the known band ends.
        envelope: estimate of the missing level.

    Returns:
        The audio plus the generated band, same shape, float64.

    Raises:
        ValueError: the cutoff leaves no known kilohertz or no missing bin, or the audio is too short.
    """

    def fill(spectrum: Tensor, first_bin: int) -> Tensor:
        num_bins, num_frames = spectrum.shape
        # Two bins of room: the filter's edge and the window's main lobe must not be copied.
        source_end, source_start = first_bin - 3, first_bin // 2
        target = torch.arange(first_bin, num_bins)
        source = source_start + (target - first_bin) % (source_end - source_start)
        # A shift by m bins is a modulation, which also turns the phase from frame to frame.
        frames = torch.arange(num_frames, dtype=torch.float64)
        turns = (target - source)[:, None] * frames[None, :] * _HOP / _N_FFT
        shifted = spectrum[source] * torch.exp(2j * torch.pi * turns)
        local_db = _smooth_over_bins(_level_db(spectrum), width=17)[source] + _LOG_MEAN_DB
        return shifted * 10 ** (-local_db / 20)

    return _extend(audio, sample_rate, cutoff_hz, envelope, fill)


def _extend(
    audio: np.ndarray,
    sample_rate: int,
    cutoff_hz: float,
    envelope: Envelope,
    fill: Callable[[Tensor, int], Tensor],
) -> np.ndarray:
    """Adds to each channel what ``fill(spectrum, first_bin)``, of unit power, sounds like at the right level."""
    first_bin = int(np.ceil(cutoff_hz / sample_rate * _N_FFT))
    edge_start = int(np.ceil((cutoff_hz - _EDGE_HZ) / sample_rate * _N_FFT))
    if edge_start < 1 or first_bin > _N_FFT // 2:
        raise ValueError(f'cutoff_hz must lie between {_EDGE_HZ:.0f} and {sample_rate / 2:.0f} Hz; got {cutoff_hz}')
    channels = torch.from_numpy(np.atleast_2d(np.asarray(audio, dtype=np.float64)))
    if channels.shape[1] <= _N_FFT // 2:
        raise ValueError(f'bandwidth extension needs more than {_N_FFT // 2} samples; got {channels.shape[1]}')
    frequency_hz = np.arange(first_bin, _N_FFT // 2 + 1) * sample_rate / _N_FFT
    extended = channels.clone()
    for index, channel in enumerate(channels):
        spectrum = _stft(channel)
        # The last two bins before the cutoff are already weakened by the filter that made it.
        level_db = _level_db(spectrum[edge_start : first_bin - 2]).mean(dim=0)
        wanted_db = envelope(level_db, frequency_hz, cutoff_hz) + _LOG_MEAN_DB
        generated = torch.zeros_like(spectrum)
        generated[first_bin:] = fill(spectrum, first_bin) * 10 ** (wanted_db / 20)
        extended[index] += torch.istft(generated, _N_FFT, _HOP, window=_window(), length=channels.shape[1])
    return extended.numpy().reshape(np.shape(audio))


def _window() -> Tensor:
    return torch.hann_window(_N_FFT, dtype=torch.float64)


def _stft(samples: Tensor) -> Tensor:
    return torch.stft(samples, _N_FFT, _HOP, window=_window(), return_complex=True)


def _level_db(spectrum: Tensor) -> Tensor:
    return (20 * torch.log10(spectrum.abs().clamp_min(1e-12))).clamp_min(_FLOOR_DB)


def _smooth_over_bins(level_db: Tensor, *, width: int) -> Tensor:
    padded = torch.nn.functional.pad(level_db.T[:, None], (width // 2, width // 2), mode='replicate')
    return torch.nn.functional.avg_pool1d(padded, width, stride=1)[:, 0].T
