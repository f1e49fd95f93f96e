"""The level of a clip: as loud as asked for, never louder than full scale allows."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from nemo_audio_restore.evaluation.loudness import integrated_loudness, true_peak
from nemo_audio_restore.generation.given import Continuation, Given, Inpainting
from nemo_audio_restore.generation.protocol import GeneratedClip
from nemo_audio_restore.generation.settings import GenerationError

LOUDNESS_RANGE = (-60.0, -5.0)
PEAK_LIMIT_DB = -1.0
_LIMITER_S = 0.01
_CEILING = 10 ** (-0.3 / 20)


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


def limited(clip: GeneratedClip) -> GeneratedClip:
    """The clip without samples above full scale: turned down for a hundredth of a second around each, smoothly.

    Small generators make single strokes far too loud; turning the whole clip down would hide everything else.

    Args:
        clip: any.

    Returns:
        The clip as it is where nothing exceeds full scale; otherwise with peaks of at most -0.3 dB, both channels
        turned down alike, and ``limited_db`` set.
    """
    if clip.peak <= 1.0:
        return clip
    audio = torch.from_numpy(clip.audio)
    size = 2 * round(_LIMITER_S / 2 * clip.sample_rate) + 1
    peaks = audio.abs().amax(dim=0)[None, None].double()  # the gain elsewhere is exactly 1 in float32
    # What every sample near a peak needs, then averaged: at the peak itself all that is averaged is low enough.
    highest = functional.max_pool1d(peaks, size, stride=1, padding=size // 2)
    needed = functional.pad(_CEILING / highest.clamp_min(_CEILING), (size // 2, size // 2), mode='replicate')
    window = torch.hann_window(size + 2, periodic=False, dtype=torch.float64)[1:-1]
    gain = functional.conv1d(needed, (window / window.sum())[None, None])[0, 0]
    return replace(clip, audio=(audio * gain.float()).numpy(), limited_db=20 * math.log10(float(gain.min())))


def check_loudness(loudness_lufs: float | None, given: Given | None) -> None:
    """Raises GenerationError if clips cannot be given that loudness."""
    if loudness_lufs is None:
        return
    low, high = LOUDNESS_RANGE
    if not low <= loudness_lufs <= high:
        raise GenerationError(f'loudness must be {low:g} to {high:g} LUFS; got {loudness_lufs:g}')
    if isinstance(given, Inpainting | Continuation):
        raise GenerationError('a new loudness would change the audio that is to stay: leave it out')
