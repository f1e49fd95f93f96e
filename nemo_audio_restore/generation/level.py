"""The level of a clip: as loud as asked for, never louder than full scale allows."""

import math
from dataclasses import replace

import numpy as np

from nemo_audio_restore.evaluation.loudness import integrated_loudness, true_peak
from nemo_audio_restore.generation.given import Continuation, Given, Inpainting
from nemo_audio_restore.generation.protocol import GeneratedClip
from nemo_audio_restore.generation.settings import GenerationError

LOUDNESS_RANGE = (-60.0, -5.0)
PEAK_LIMIT_DB = -1.0


def at_loudness(clip: GeneratedClip, loudness_lufs: float) -> GeneratedClip:
    """The clip with another level.

    Args:
        clip: any.
        loudness_lufs: integrated loudness that it shall have.

    Returns:
        The clip with a gain; quieter where its true peak would exceed ``PEAK_LIMIT_DB``, unchanged if silent.

    Raises:
        ImportError: pyloudnorm is not installed.
    """
    measured = integrated_loudness(clip.audio, clip.sample_rate)
    if not math.isfinite(measured):
        return replace(clip, loudness_lufs=measured)
    room_db = PEAK_LIMIT_DB - 20 * math.log10(true_peak(clip.audio))
    gain_db = min(loudness_lufs - measured, room_db)
    audio = clip.audio * np.float32(10 ** (gain_db / 20))
    return replace(clip, audio=audio, loudness_lufs=measured, gain_db=gain_db)


def check_loudness(loudness_lufs: float | None, given: Given | None) -> None:
    """Raises GenerationError if clips cannot be given that loudness."""
    if loudness_lufs is None:
        return
    low, high = LOUDNESS_RANGE
    if not low <= loudness_lufs <= high:
        raise GenerationError(f'loudness must be {low:g} to {high:g} LUFS; got {loudness_lufs:g}')
    if isinstance(given, Inpainting | Continuation):
        raise GenerationError('a new loudness would change the audio that is to stay: leave it out')
