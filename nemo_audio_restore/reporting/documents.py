"""Writes what is kept beside a restored file."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from nemo_audio_restore.evaluation.levels import file_levels
from nemo_audio_restore.reporting.page import page
from nemo_audio_restore.reporting.places import choose_places, cut_places, picture_bytes
from nemo_audio_restore.reporting.provenance import ModelIdentity, as_json, provenance
from nemo_audio_restore.restoration.protocol import RestorationReport, SamplerSettings


@dataclass(frozen=True)
class Documents:
    """Files that were written; None for those that were not asked for.

    Attributes:
        sidecar: provenance as JSON.
        picture: spectrograms before and after, as PNG.
        page: the report as one HTML file.
    """

    sidecar: Path | None = None
    picture: Path | None = None
    page: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Those that exist."""
        return [path for path in (self.sidecar, self.picture, self.page) if path is not None]


def write_documents(
    report: RestorationReport,
    *,
    sidecar: bool = True,
    picture: bool = False,
    html: bool = False,
    model: ModelIdentity | None = None,
    settings: SamplerSettings | None = None,
) -> Documents:
    """Writes documents about a restored file beside it; existing ones of the same name are replaced.

    Memory does not grow with the length of the recording.

    Args:
        report: of a restored file, as ``restore`` returns it.
        sidecar: write ``<stem>.restored.json``: hashes, settings, versions, what was generated.
        picture: write ``<stem>.restored.png``: the spectrograms before and after.
        html: write ``<stem>.restored.html``: all of this on one page, with excerpts to listen to.
        model: that was used.
        settings: of the sampler.

    Returns:
        Where they are.

    Raises:
        ValueError: the report is of an array.
        AudioFileError: input or output can no longer be read.
        OSError: a document cannot be written.
    """
    record = provenance(report, model=model, settings=settings)
    target = Path(report.target)
    written = {}
    if sidecar:
        written['sidecar'] = write_whole(
            document_path(target, '.json'), as_json(record).encode('utf-8', 'backslashreplace')
        )
    if picture or html:
        levels = {'before': file_levels(report.source), 'after': file_levels(report.target)}
        overview = picture_bytes(levels, report)
        if picture:
            written['picture'] = write_whole(document_path(target, '.png'), overview)
        if html:
            places = cut_places(report, choose_places(report, levels['before']))
            text = page(record, overview=overview, places=places)
            written['page'] = write_whole(document_path(target, '.html'), text.encode('utf-8', 'backslashreplace'))
    return Documents(**written)


def document_path(target: Path, suffix: str) -> Path:
    """Where a document about a restored file lies; its name says that it is not about the original.

    Args:
        target: the restored file.
        suffix: of the document, with its dot.

    Returns:
        ``tape.restored.json`` for ``tape.wav`` and for ``tape.restored.wav``, ``restored.json`` for ``restored.wav``.
    """
    stem = target.stem if 'restored' in target.stem else f'{target.stem}.restored'
    return target.with_name(stem + suffix)


def write_whole(path: Path, content: bytes) -> Path:
    """Writes a file that is there completely or not at all.

    Args:
        path: an existing file is replaced.
        content: its bytes.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.part')
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
