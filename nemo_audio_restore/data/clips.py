"""Captioned clips: short audio files, each with a caption, tags, a class, a licence and a split."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut

from nemo_audio_restore.data.corpus import SPLITS
from nemo_audio_restore.files.audio import probe
from nemo_audio_restore.files.writer import write_audio

SAMPLE_RATE = 44100
TASKS = ('instrument', 'groove', 'effect', 'music')
# Clips keep their level between these peaks: nothing clips, and nothing is lost under the noise of 16 bits.
_PEAKS = (0.25, 0.95)
_FADE_S = 0.01


@dataclass(frozen=True)
class Clip:
    """What is known about a clip.

    Attributes:
        name: file name without suffix, unique in the corpus.
        split: train, validation or test.
        task: instrument, groove, effect or music.
        kind: the class that a listener should name, such as ``bossa nova``.
        caption: a natural sentence or phrase.
        tags: metadata by type, such as ``{'Instruments': 'piano, drums'}``, for prompts made from metadata.
        licence: short name of the source's licence.
        group: the source: package, kit or soundfont.
    """

    name: str
    split: str
    task: str
    kind: str
    caption: str
    licence: str
    group: str
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.split not in SPLITS or self.task not in TASKS or not self.caption.strip():
            raise ValueError(
                f'a clip needs a split of {SPLITS}, a task of {TASKS} and a caption; '
                f'got {self.split!r}, {self.task!r}, {self.caption!r}'
            )


def stable_hash(*parts: object) -> int:
    """A number of 32 bits that depends on nothing but the arguments' text."""
    return int.from_bytes(hashlib.sha256('/'.join(map(str, parts)).encode()).digest()[:4], 'big')


def prepare_audio(audio: np.ndarray, sample_rate: int, *, seconds: float | None = None) -> np.ndarray:
    """Brings a clip to 44.1 kHz, at most two channels, a peak in [0.25, 0.95] and an end without a click.

    Args:
        audio: (C, T) samples.
        sample_rate: in Hz.
        seconds: exact length to cut or zero-pad to; None keeps the length.

    Returns:
        (C, T') float32 samples, C = 1 or 2. Channels that are equal become one.

    Raises:
        ValueError: the clip is silent.
    """
    audio = np.asarray(audio, np.float32)[:2]
    if sample_rate != SAMPLE_RATE:
        audio = soxr.resample(audio.T, sample_rate, SAMPLE_RATE, quality='VHQ').T
    if audio.shape[0] == 2 and np.abs(audio[0] - audio[1]).max() < 1e-4:
        audio = audio[:1]
    if seconds is not None:
        length = round(seconds * SAMPLE_RATE)
        audio = audio[:, :length]
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < 1e-4:
        raise ValueError('the clip is silent')
    audio = audio * np.float32(np.clip(peak, *_PEAKS) / peak)
    fade = min(round(_FADE_S * SAMPLE_RATE), audio.shape[1])
    audio[:, audio.shape[1] - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    if seconds is not None:
        audio = np.pad(audio, ((0, 0), (0, length - audio.shape[1])))
    return audio


def save_clip(clip: Clip, audio: np.ndarray, folder: Path) -> Path:
    """Writes what :func:`prepare_audio` returned as ``folder/<name>.flac`` (16 bits)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = clip_path(clip, folder)
    write_audio(path, audio, SAMPLE_RATE, bits='16', overwrite=True)
    return path


def clip_path(clip: Clip, folder: Path) -> Path:
    """Where a clip's audio lies."""
    return folder / f'{clip.name}.flac'


def write_clip_manifests(clips: Iterable[Clip], audio_folder: Path, folder: Path) -> dict[str, Path]:
    """Writes ``<split>.jsonl.gz``: Lhotse cuts with the caption as text of their one supervision.

    Args:
        clips: those whose file exists.
        audio_folder: of the clips' files.
        folder: for the manifests; paths in them are relative to it.

    Returns:
        Split name to manifest, for the splits that have clips.

    Raises:
        ValueError: no clip, or a name appears twice.
    """
    clips = sorted(clips, key=lambda clip: clip.name)
    if not clips:
        raise ValueError('no clip was made; see the messages above')
    names = {clip.name for clip in clips}
    if len(names) < len(clips):
        raise ValueError(f'{len(clips) - len(names)} clips share the name of another one')
    folder.mkdir(parents=True, exist_ok=True)
    relative = audio_folder.resolve().relative_to(folder.resolve())
    manifests = {}
    for split in SPLITS:
        members = [_cut(clip, clip_path(clip, audio_folder), relative) for clip in clips if clip.split == split]
        if members:
            manifests[split] = folder / f'{split}.jsonl.gz'
            CutSet.from_cuts(members).to_file(manifests[split])
    return manifests


def _cut(clip: Clip, path: Path, relative: Path) -> Cut:
    info = probe(path)
    recording = Recording(
        id=clip.name,
        sources=[
            AudioSource(type='file', channels=list(range(info.channels)), source=(relative / path.name).as_posix())
        ],
        sampling_rate=info.sample_rate,
        num_samples=info.num_samples,
        duration=info.duration_s,
    )
    cut = recording.to_cut()
    cut.custom = {
        'task': clip.task,
        'class': clip.kind,
        'tags': dict(clip.tags),
        'licence': clip.licence,
        'group': clip.group,
    }
    cut.supervisions.append(
        SupervisionSegment(
            id=clip.name, recording_id=clip.name, start=0.0, duration=info.duration_s, text=clip.caption, language='en'
        )
    )
    return cut
