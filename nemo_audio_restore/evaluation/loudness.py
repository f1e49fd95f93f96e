"""How loud a clip is to a listener, and how far its waveform reaches between the samples."""

import math

import numpy as np
from scipy.signal import resample_poly

from nemo_audio_restore.evaluation.optional import require

_BLOCK_S = 0.4
_OVERSAMPLING = 4
_CHANNELS = 5


def integrated_loudness(audio: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness.

    Args:
        audio: (C, T) samples, 1.0 = full scale; at most five channels.
        sample_rate: in Hz.

    Returns:
        LUFS; -inf for silence. A clip shorter than the 400 ms of a block counts as one block of its own length.

    Raises:
        ImportError: pyloudnorm is not installed.
        ValueError: there are more channels.

    Source: ITU-R BS.1770-4, with gating, as EBU R 128 asks for it; computed by pyloudnorm.
    """
    pyloudnorm = require('pyloudnorm', package='pyloudnorm', extra='generate')
    channels, num_samples = audio.shape
    if channels > _CHANNELS:
        raise ValueError(f'loudness is defined for at most {_CHANNELS} channels; got {channels}')
    if not audio.any():
        return -math.inf
    meter = pyloudnorm.Meter(sample_rate, block_size=min(_BLOCK_S, num_samples / sample_rate))
    return float(meter.integrated_loudness(audio.T.astype(np.float64)))


def true_peak(audio: np.ndarray) -> float:
    """The largest magnitude of the waveform between the samples, estimated at four times the rate.

    Args:
        audio: (C, T) samples, 1.0 = full scale.

    Returns:
        At least the largest sample.

    Source: ITU-R BS.1770-4, annex 2.
    """
    between = resample_poly(audio.astype(np.float64), _OVERSAMPLING, 1, axis=1)
    return float(max(np.abs(between).max(initial=0.0), np.abs(audio).max(initial=0.0)))
