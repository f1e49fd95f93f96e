"""Captioned excerpts of the music that Debian packages ship: what the game is about, and what can be measured.

Few tracks say their genre. So a caption joins what the package's music is for (known), the genre of the few that say
it, and measured facts: tempo where there is a clear pulse, level and brightness. Nothing else is claimed.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import soxr
from lhotse import CutSet

from nemo_audio_restore.data.clips import Clip, clip_path, prepare_audio, save_clip, stable_hash
from nemo_audio_restore.files.audio import probe
from nemo_audio_restore.files.excerpts import read_excerpts

# Licences that allow training of weights that ship.
PERMISSIVE = re.compile(r'CC-BY|CC0|MIT|BSD|PD|public', re.IGNORECASE)
# What each package's music is, as its copyright file, tags and game say.
_PACKAGES = {
    '0ad-data': ('historical game music', 'ancient world historical game soundtrack'),
    'blobwars-data': ('video game music', 'retro platform video game music'),
    'freecol': ('adventure game music', 'seafaring adventure game music'),
    'fretsonfire-songs-muldjord': ('metal song', 'heavy metal guitar song'),
    'fretsonfire-songs-sectoid': ('metal song', 'guitar rock song'),
    'hyperrogue-music': ('video game music', 'fantasy video game music'),
    'marsshooter-data': ('metal song', 'gothic metal band'),
    'megaglest-data': ('fantasy game music', 'fantasy strategy game music'),
    'naev-data': ('space game music', 'outer space game soundtrack'),
    'singularity-music': ('science fiction game music', 'electronic science fiction soundtrack'),
    'supertuxkart-data': ('racing game music', 'cheerful kart racing game music'),
    'ufoai-music': ('science fiction game music', 'tense alien invasion game soundtrack'),
}
_COUNT, _EXCERPT_S = 6, 9.0
_CLEAR_PULSE = 0.35
_ANALYSIS_HZ = 22050


@dataclass(frozen=True)
class Measured:
    """Facts of an excerpt.

    Attributes:
        level_db: root mean square relative to full scale.
        centroid_hz: centre of the magnitude spectrum.
        tempo: beats per minute; None without a clear pulse.
    """

    level_db: float
    centroid_hz: float
    tempo: int | None

    @property
    def words(self) -> tuple[str, str, str]:
        """Energy, tone and rhythm in words; empty where neither extreme applies."""
        energy = 'loud and energetic' if self.level_db > -15 else 'quiet and calm' if self.level_db < -25 else ''
        tone = 'bright' if self.centroid_hz > 3500 else 'dark' if self.centroid_hz < 1300 else ''
        rhythm = 'without a clear beat' if self.tempo is None else f'with a beat of {self.tempo} BPM'
        return energy, tone, rhythm


def measure(audio: np.ndarray, sample_rate: int) -> Measured:
    """Measures an excerpt.

    Args:
        audio: (C, T) samples at their level in the track.
        sample_rate: in Hz.

    Returns:
        Its level, brightness and tempo.
    """
    mono = audio.mean(axis=0, dtype=np.float32)
    level = 10 * np.log10(max(float(np.mean(np.square(audio, dtype=np.float64))), 1e-12))
    mono = soxr.resample(mono, sample_rate, _ANALYSIS_HZ, quality='HQ')
    centroid = float(np.median(librosa.feature.spectral_centroid(y=mono, sr=_ANALYSIS_HZ)))
    onsets = librosa.onset.onset_strength(y=mono, sr=_ANALYSIS_HZ)
    onsets = onsets - onsets.mean()
    pulse = librosa.autocorrelate(onsets)
    pulse = pulse / max(float(pulse[0]), 1e-12)
    # Lags of 60 to 180 beats per minute in frames of 512 samples.
    frames_per_minute = 60 * _ANALYSIS_HZ / 512
    lags = np.arange(int(frames_per_minute / 180), min(int(frames_per_minute / 60), len(pulse) - 1) + 1)
    if not len(lags) or pulse[lags].max() < _CLEAR_PULSE:
        return Measured(level, centroid, None)
    return Measured(level, centroid, round(frames_per_minute / int(lags[np.argmax(pulse[lags])])))


def excerpt_music(manifests: dict[str, Path], folder: Path) -> Iterable[Clip]:
    """Cuts captioned excerpts out of tracks that ``examples/prepare_music.py`` prepared.

    Args:
        manifests: Lhotse cuts by split; their custom fields tell licence and group.
        folder: for the clips; those on disk are kept.

    Yields:
        The clips, of tracks with a permissive licence and of packages that are known; four of each track.
    """
    for split, manifest in manifests.items():
        for cut in CutSet.from_file(manifest):
            path = manifest.parent / cut.recording.sources[0].source
            package, licence = cut.custom['group'].split('/')[0], cut.custom['licence']
            if package not in _PACKAGES or not PERMISSIVE.search(licence):
                continue
            rate = probe(path).sample_rate
            # The first and the last are mostly fades.
            middle = [audio for audio, _ in read_excerpts(path, count=_COUNT, excerpt_s=_EXCERPT_S)][1:-1]
            for index, audio in enumerate(middle):
                try:
                    ready = prepare_audio(audio, rate)
                except ValueError:
                    continue
                clip = _clip(path, package, licence, split, index, measure(audio, rate))
                if not clip_path(clip, folder).exists():
                    save_clip(clip, ready, folder)
                yield clip


def _clip(path: Path, package: str, licence: str, split: str, index: int, measured: Measured) -> Clip:
    name = re.sub(r'\W+', '-', f'music-{package}-{path.stem}-{index}').lower()
    generator = random.Random(stable_hash(name))
    kind, description = _PACKAGES[package]
    energy, tone, rhythm = measured.words
    adjectives = ', '.join(word for word in (energy, tone) if word)
    what = generator.choice((kind, description))
    caption = f'{adjectives} {what} {rhythm}'.strip() if generator.random() < 0.7 else f'{what} {rhythm}'
    tags = {'Genre': kind, 'Description': description, 'Rhythm': rhythm}
    if adjectives:
        tags['Mood'] = adjectives
    if measured.tempo is not None:
        tags['BPM'] = str(measured.tempo)
    return Clip(
        name=name,
        split=split,
        task='music',
        kind=kind,
        caption=caption,
        licence=licence,
        group=package,
        tags=tags,
    )
