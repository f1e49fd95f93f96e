"""Short recordings joined to longer ones: every second is drawn equally often, and a crop finds its length.

A loader that draws recordings draws a syllable of half a second as often as a sentence, and pads it. Joined recordings
of one group, at the rate of the model, are also cheaper to read: no decoding of a whole file for a crop.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soxr

from nemo_audio_restore.data.corpus import Candidate, Track
from nemo_audio_restore.files.audio import read_audio
from nemo_audio_restore.files.writer import write_audio

_GAP_S = 0.1
_FADE_S = 0.005


def join_takes(tracks: Iterable[Track], folder: Path, *, sample_rate: int, take_s: float) -> list[Candidate]:
    """Joins recordings of the same group, language and licence, in the order given, into mono FLAC files.

    Between two recordings lie 0.1 s of silence; the ends fade over 5 ms. What is left over from a group is a shorter
    take.

    Args:
        tracks: the recordings.
        folder: for the takes; created when missing. Files of the same name are replaced.
        sample_rate: of the takes, in Hz.
        take_s: a take ends with the recording that makes it at least this long, in seconds.

    Returns:
        The takes, to be checked like any recording.

    Raises:
        ValueError: ``take_s`` is not positive.
    """
    if take_s <= 0:
        raise ValueError(f'take_s must be positive; got {take_s}')
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, str, str | None, str | None], list[Track]] = {}
    for track in tracks:
        groups.setdefault((track.group, track.licence, track.split, track.language), []).append(track)
    takes = []
    for (group, licence, split, language), members in groups.items():
        for samples in _takes(members, sample_rate, take_s):
            # Numbered through: two groups may have the same name once slashes are gone.
            path = folder / f'{group.replace("/", "-")}-{len(takes):05d}.flac'
            write_audio(path, samples[None], sample_rate, bits='16', clip='rescale', overwrite=True)
            takes.append(Candidate(path, group, licence, split, language=language))
    return takes


def _takes(tracks: list[Track], sample_rate: int, take_s: float) -> Iterator[np.ndarray]:
    gap = np.zeros(round(_GAP_S * sample_rate), np.float32)
    parts: list[np.ndarray] = []
    length = 0
    for track in tracks:
        samples = _faded(_mono(track.path, sample_rate), sample_rate)
        parts += [samples, gap]
        length += len(samples) + len(gap)
        if length >= take_s * sample_rate:
            yield np.concatenate(parts[:-1])
            parts, length = [], 0
    if parts:
        yield np.concatenate(parts[:-1])


def _mono(path: Path, sample_rate: int) -> np.ndarray:
    audio, rate = read_audio(path)
    mono = audio.mean(axis=0, dtype=np.float32)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate, quality='VHQ')


def _faded(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    length = min(round(_FADE_S * sample_rate), len(samples) // 2)
    ramp = np.linspace(0, 1, length, endpoint=False, dtype=np.float32)
    faded = samples.copy()
    faded[:length] *= ramp
    faded[len(faded) - length :] *= ramp[::-1]
    return faded
