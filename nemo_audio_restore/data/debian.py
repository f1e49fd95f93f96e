"""Music that Debian packages ship, with the licence of every track: a reproducible corpus without a data provider.

The table ``debian_music.csv`` beside this file names each full-band track, its licence (from the package's copyright
file, track by track), its split, whether weights trained on it may be shipped under that licence policy
(CC-BY, CC-BY-SA, CC0, MIT, BSD or public domain), and the SHA-256 of its bytes.
"""

import csv
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from nemo_audio_restore.data.corpus import Candidate, Rejected
from nemo_audio_restore.files.audio import read_audio
from nemo_audio_restore.files.writer import write_audio

_TABLE = Path(__file__).with_name('debian_music.csv')


@dataclass(frozen=True)
class DebianTrack:
    """A row of the table.

    Attributes:
        package: Debian package.
        version: the package version that the table was made from.
        members: paths in the package; several are stems to be summed; ``archive!member`` lies in a zip archive.
        licence: short name.
        artist: as the copyright file names the owner; may be empty.
        split: train, validation or test.
        shipped_weights: whether weights that ship may be trained on it.
        sha256: of each member.
    """

    package: str
    version: str
    members: tuple[str, ...]
    licence: str
    artist: str
    split: str
    shipped_weights: bool
    sha256: tuple[str, ...]

    @property
    def group(self) -> str:
        """What must not be torn apart by a split: package and artist."""
        return f'{self.package}/{self.artist}' if self.artist else self.package

    @property
    def file_name(self) -> str:
        """Name in the corpus, unique within the package."""
        last = Path(self.members[-1].split('!')[-1])
        if len(self.members) > 1:
            return f'{last.parent.name}.flac'.replace(' ', '_')
        return last.name if last.suffix else f'{last.name}.ogg'


def debian_tracks(packages: list[str] | None = None) -> list[DebianTrack]:
    """Reads the table.

    Args:
        packages: names to keep; None keeps all.

    Returns:
        One entry for each track.

    Raises:
        ValueError: a package is not in the table.
    """
    with _TABLE.open(newline='', encoding='utf-8') as file:
        rows = [
            DebianTrack(
                package=row['package'],
                version=row['version'],
                members=tuple(row['path'].split('+')),
                licence=row['licence'],
                artist=row['artist'],
                split=row['split'],
                shipped_weights=row['shipped_weights'] == 'yes',
                sha256=tuple(row['sha256'].split('+')),
            )
            for row in csv.DictReader(file)
        ]
    known = sorted({row.package for row in rows})
    unknown = sorted(set(packages or ()) - set(known))
    if unknown:
        raise ValueError(f'no tracks are listed for {", ".join(unknown)}; known packages: {", ".join(known)}')
    return [row for row in rows if packages is None or row.package in packages]


def fetch_package(package: str, folder: Path) -> Path:
    """Downloads a package with ``apt-get download`` unless the folder already holds it.

    Args:
        package: Debian package name.
        folder: for the ``.deb`` file; created when missing.

    Returns:
        The ``.deb`` file.

    Raises:
        RuntimeError: apt-get is missing or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(folder.glob(f'{package}_*.deb'))
    if present:
        return present[-1]
    hint = f'Fetch {package} from https://packages.debian.org and name its folder with --deb-folder.'
    try:
        subprocess.run(['apt-get', 'download', package], cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f'apt-get is not installed here. {hint}') from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f'apt-get download {package} failed: {error.stderr.strip()}. {hint}') from error
    return sorted(folder.glob(f'{package}_*.deb'))[-1]


def extract_tracks(deb: Path, tracks: list[DebianTrack], folder: Path) -> tuple[list[Candidate], list[Rejected]]:
    """Takes the listed tracks of one package out of its ``.deb`` file into ``folder/<package>/``.

    Stems are summed (and scaled down if the sum exceeds full scale) into a 24-bit FLAC file; all else keeps its bytes.

    Args:
        deb: the package file.
        tracks: rows of this package.
        folder: the corpus' audio folder.

    Returns:
        Files ready to be checked, and the listed tracks that are missing or differ from the table.
    """
    wanted = {member: digest for track in tracks for member, digest in zip(track.members, track.sha256, strict=True)}
    target = folder / tracks[0].package
    target.mkdir(parents=True, exist_ok=True)
    stems: dict[str, bytes] = {}
    found: set[str] = set()
    wrong: set[str] = set()
    plain = {track.members[0]: track for track in tracks if len(track.members) == 1}
    for name, content in _read_members(deb, set(wanted)):
        if hashlib.sha256(content).hexdigest() != wanted[name]:
            wrong.add(name)
            continue
        found.add(name)
        if name in plain:
            (target / plain[name].file_name).write_bytes(content)
        else:
            stems[name] = content
    accepted, rejected = [], []
    for track in tracks:
        path = target / track.file_name
        if any(member in wrong for member in track.members):
            rejected.append(Rejected(path, f'{deb.name} holds other bytes than the table (version {track.version})'))
        elif not all(member in found for member in track.members):
            rejected.append(Rejected(path, f'{deb.name} does not hold {" + ".join(track.members)}'))
        else:
            if len(track.members) > 1:
                _write_sum([stems[member] for member in track.members], path)
            accepted.append(Candidate(path, track.group, track.licence, track.split))
    return accepted, rejected


def _read_members(deb: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Streams the package once; an archive named before a ``!`` passes through a temporary file."""
    archives: dict[str, set[str]] = {}
    for name in names:
        if '!' in name:
            archives.setdefault(name.split('!')[0], set()).add(name)
    with subprocess.Popen(['dpkg-deb', '--fsys-tarfile', str(deb)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode='r|') as tar:
            for member in tar:
                name = member.name.removeprefix('./')
                if not member.isfile() or not (name in names or name in archives):
                    continue
                if name in names:
                    yield name, tar.extractfile(member).read()
                else:
                    yield from _read_archive(tar.extractfile(member), archives[name])
        process.stdout.close()
        if process.wait() not in (0, -13):
            raise RuntimeError(f'dpkg-deb cannot read {deb}')


def _read_archive(stream: IO[bytes], names: set[str]) -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file)
        with zipfile.ZipFile(file) as archive:
            present = set(archive.namelist())
            for name in sorted(names):
                if name.split('!')[1] in present:
                    yield name, archive.read(name.split('!')[1])


def _write_sum(stems: list[bytes], path: Path) -> None:
    decoded = []
    with tempfile.TemporaryDirectory() as folder:
        for index, stem in enumerate(stems):
            part = Path(folder) / f'stem{index}.ogg'
            part.write_bytes(stem)
            decoded.append(read_audio(part))
    if len({(audio.shape[0], rate) for audio, rate in decoded}) > 1:
        raise ValueError(f'the stems of {path.name} differ in sample rate or channels')
    total = np.zeros((decoded[0][0].shape[0], max(audio.shape[1] for audio, _ in decoded)), np.float32)
    for audio, _ in decoded:
        total[:, : audio.shape[1]] += audio
    total /= max(1.0, float(np.abs(total).max()))
    write_audio(path, total, decoded[0][1], bits='24', overwrite=True)
