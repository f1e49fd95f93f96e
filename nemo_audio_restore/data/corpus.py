"""Corpus preparation: audio files -> checked facts -> Lhotse cut manifests, one for each split.

Everything that can make a file useless for training is found here, once, and written down with its reason.
A split is decided for a whole group (an artist, a package, a folder), never for a crop of a track.
"""

import csv
import hashlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut

from nemo_audio_restore.files.audio import READABLE_SUFFIXES, AudioFileError, probe
from nemo_audio_restore.files.excerpts import read_excerpts
from nemo_audio_restore.signal.bandwidth import bandwidth_hz, long_term_spectrum

SPLITS = ('train', 'validation', 'test')


@dataclass(frozen=True)
class Candidate:
    """A file that may enter the corpus.

    Attributes:
        path: the audio file.
        group: artist, package or folder; a group never spans two splits.
        licence: short name, as its owner states it.
        split: train, validation, test, or None to have it chosen by group.
        language: of speech, as a tag such as ``da``.
        text: what is said.
    """

    path: Path
    group: str
    licence: str
    split: str | None = None
    language: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Track:
    """A checked file: what was measured, and where it goes."""

    path: Path
    group: str
    licence: str
    split: str | None
    sample_rate: int
    num_samples: int
    num_channels: int
    bandwidth_hz: float
    peak: float
    rms: float
    sha256: str
    language: str | None = None
    text: str | None = None

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True)
class Rejected:
    """A file that stays out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Limits:
    """What a file must satisfy.

    Attributes:
        min_duration_s: shorter files are left out; the default is a little more than one training crop.
        min_bandwidth_hz: narrower files are left out; 0 keeps all (training masks what lies above the bandwidth).
        min_peak: files that never reach this level (of full scale 1) in the excerpts that are read count as silent.
    """

    min_duration_s: float = 3.0
    min_bandwidth_hz: float = 0.0
    min_peak: float = 1e-3


def find_audio(folder: Path, *, licence: str = 'unknown') -> list[Candidate]:
    """Lists the audio files below a folder; the group is the first folder below it, or the file's own name.

    Args:
        folder: searched through.
        licence: of all files in it.

    Returns:
        The files in the order of their paths.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: it holds no audio file.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'no such folder: {folder}')
    found = []
    for path in sorted(folder.rglob('*')):
        if path.suffix.lower() in READABLE_SUFFIXES and path.is_file():
            parts = path.relative_to(folder).parts
            found.append(Candidate(path, parts[0] if len(parts) > 1 else path.stem, licence))
    if not found:
        raise ValueError(f'{folder} holds no audio file ({", ".join(READABLE_SUFFIXES)})')
    return found


def check_track(candidate: Candidate, limits: Limits) -> Track | Rejected:
    """Reads excerpts spread over a file (both ends included), measures it, and accepts or rejects it.

    Args:
        candidate: the file.
        limits: what it must satisfy.

    Returns:
        The measured track, or the reason why the file stays out: unreadable, truncated, not finite, too short,
        silent or too narrow.
    """
    path = candidate.path
    try:
        info = probe(path)
        if info.duration_s < limits.min_duration_s:
            return Rejected(
                path, f'too short: {info.duration_s:.2f} s; at least {limits.min_duration_s:g} s are needed'
            )
        power, peak, energy, seen, length = torch.zeros(()), 0.0, 0.0, 0, info.num_samples
        for excerpt, missing in read_excerpts(path):
            if not np.isfinite(excerpt).all():
                return Rejected(path, 'holds NaN or infinite samples')
            power = power + long_term_spectrum(torch.from_numpy(excerpt))
            peak = max(peak, float(np.abs(excerpt).max()))
            energy += float(np.square(excerpt, dtype=np.float64).sum())
            seen += excerpt.size
            length -= missing
    except AudioFileError as error:
        return Rejected(path, f'unreadable: {error}')
    if peak < limits.min_peak:
        return Rejected(path, f'silent: the peak is {peak:.2g}')
    bandwidth = bandwidth_hz(power, info.sample_rate)
    if bandwidth < limits.min_bandwidth_hz:
        return Rejected(path, f'too narrow: {bandwidth:.0f} Hz; at least {limits.min_bandwidth_hz:.0f} Hz are needed')
    return Track(
        path=path,
        group=candidate.group,
        licence=candidate.licence,
        split=candidate.split,
        sample_rate=info.sample_rate,
        num_samples=length,
        num_channels=info.channels,
        bandwidth_hz=round(bandwidth, 1),
        peak=round(peak, 4),
        rms=round(math.sqrt(energy / seen), 5),
        sha256=file_sha256(path),
        language=candidate.language,
        text=candidate.text,
    )


def check_tracks(
    candidates: Iterable[Candidate], limits: Limits, *, on_track: Callable[[Track | Rejected], None] | None = None
) -> tuple[list[Track], list[Rejected]]:
    """Checks files one by one; a file with the same bytes as an earlier one is left out.

    Args:
        candidates: the files.
        limits: what they must satisfy.
        on_track: called with each result, for progress.

    Returns:
        The accepted tracks and the rejected files, both in the order given.
    """
    tracks: list[Track] = []
    rejected: list[Rejected] = []
    seen: dict[str, Path] = {}
    for candidate in candidates:
        result = check_track(candidate, limits)
        if isinstance(result, Track) and result.sha256 in seen:
            result = Rejected(result.path, f'same bytes as {seen[result.sha256]}')
        if isinstance(result, Track):
            seen[result.sha256] = result.path
            tracks.append(result)
        else:
            rejected.append(result)
        if on_track is not None:
            on_track(result)
    return tracks, rejected


def choose_splits(tracks: list[Track], *, validation_share: float = 0.05, test_share: float = 0.05) -> dict[str, str]:
    """Gives whole groups to validation and test until their share of the duration is reached.

    The order is by a hash of the group's name: the same folder gives the same split on every machine, and adding a
    group moves few others.

    Args:
        tracks: those without a split of their own are used.
        validation_share: wanted share of the duration, in [0, 1).
        test_share: as above.

    Returns:
        Group name to split name. A share above zero receives at least one group when three or more exist.

    Raises:
        ValueError: the shares leave nothing for training.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise ValueError(f'shares must be >= 0 and sum to less than 1; got {validation_share} and {test_share}')
    durations: dict[str, float] = {}
    for track in tracks:
        if track.split is None:
            durations[track.group] = durations.get(track.group, 0.0) + track.duration_s
    total = sum(durations.values())
    groups = sorted(durations, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    splits = {}
    for split, share in (('test', test_share), ('validation', validation_share)):
        taken = 0.0
        left_for_others = 2 if split == 'test' and validation_share > 0 else 1
        while taken < share * total and len(groups) > left_for_others:
            group = groups.pop(0)
            splits[group] = split
            taken += durations[group]
    splits.update(dict.fromkeys(groups, 'train'))
    return splits


def write_manifests(
    tracks: list[Track],
    rejected: list[Rejected],
    folder: Path,
    *,
    validation_share: float = 0.05,
    test_share: float = 0.05,
) -> dict[str, Path]:
    """Writes ``<split>.jsonl.gz`` (Lhotse cuts, paths relative to the manifest), ``tracks.csv`` and ``rejected.csv``.

    Each cut carries ``bandwidth_hz``, ``rms``, ``licence``, ``group`` and ``sha256`` in its custom fields, and the
    language and text of speech in a supervision.

    Args:
        tracks: what :func:`check_tracks` accepted.
        rejected: what it rejected.
        folder: for the manifests; created when missing.
        validation_share: for tracks without a split of their own, see :func:`choose_splits`.
        test_share: as above.

    Returns:
        Split name to manifest, for the splits that have tracks.

    Raises:
        ValueError: no track is left.
    """
    if not tracks:
        reasons = '; '.join(f'{item.path.name}: {item.reason}' for item in rejected[:3])
        raise ValueError(f'no usable track among {len(rejected)} files; first reasons: {reasons}')
    folder.mkdir(parents=True, exist_ok=True)
    chosen = choose_splits(tracks, validation_share=validation_share, test_share=test_share)
    by_split: dict[str, list[Track]] = {split: [] for split in SPLITS}
    for track in tracks:
        by_split[track.split or chosen[track.group]].append(track)
    manifests = {}
    for split, members in by_split.items():
        if members:
            manifests[split] = folder / f'{split}.jsonl.gz'
            CutSet.from_cuts(_cut(track, folder) for track in members).to_file(manifests[split])
    _write_csv(
        folder / 'tracks.csv',
        'split path group licence duration_s sample_rate channels bandwidth_hz peak rms sha256'.split(),
        (
            (split, _relative(track.path, folder), track.group, track.licence, f'{track.duration_s:.2f}')
            + (track.sample_rate, track.num_channels, track.bandwidth_hz, track.peak, track.rms, track.sha256)
            for split, members in by_split.items()
            for track in members
        ),
    )
    _write_csv(folder / 'rejected.csv', ['path', 'reason'], ((_relative(i.path, folder), i.reason) for i in rejected))
    return manifests


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _cut(track: Track, folder: Path) -> Cut:

    name = _relative(track.path, folder)
    channels = list(range(track.num_channels))
    recording = Recording(
        id=f'{Path(name).stem}-{track.sha256[:12]}',
        sources=[AudioSource(type='file', channels=channels, source=name)],
        sampling_rate=track.sample_rate,
        num_samples=track.num_samples,
        duration=track.duration_s,
    )
    cut = recording.to_cut()
    cut.custom = {
        'bandwidth_hz': track.bandwidth_hz,
        'rms': track.rms,
        'licence': track.licence,
        'group': track.group,
        'sha256': track.sha256,
    }
    if track.language is not None or track.text is not None:
        cut.supervisions.append(
            SupervisionSegment(
                id=recording.id,
                recording_id=recording.id,
                start=0.0,
                duration=recording.duration,
                text=track.text,
                language=track.language,
            )
        )
    return cut


def _write_csv(path: Path, header: list[str], rows: Iterable[tuple]) -> None:
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(header)
        writer.writerows(rows)
