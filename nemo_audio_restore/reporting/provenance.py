"""The record of a restoration: what went in, what was generated, with what; for the file beside the output."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_audio_restore.reporting.environment import versions
from nemo_audio_restore.restoration.generated import generated_parts, in_words
from nemo_audio_restore.restoration.protocol import RestorationReport, SamplerSettings

FORMAT = 'nemo-audio-restore provenance'
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelIdentity:
    """Which model was used.

    Attributes:
        name: what the user called it.
        file: the ``.nemo`` file or unpacked folder, or None for a model that only lives in memory.
        device: where it ran, such as ``cpu``.
    """

    name: str
    file: str | Path | None = None
    device: str = ''

    @cached_property
    def facts(self) -> dict[str, str | int]:
        """Name, device and, for a file, path, size and hash; a large file is read once."""
        hashed = {} if self.file is None or Path(self.file).is_dir() else file_identity(Path(self.file))
        return {'name': self.name, **hashed, 'device': self.device}


def provenance(
    report: RestorationReport, *, model: ModelIdentity | None = None, settings: SamplerSettings | None = None
) -> dict[str, Any]:
    """Everything needed to check a restored file and to make it again.

    Args:
        report: of a restored file.
        model: that was used.
        settings: of the sampler.

    Returns:
        Plain values for JSON: hashes of input, output and model, generated parts, settings, versions, time.

    Raises:
        ValueError: the report is of an array.
        OSError: a file is gone.
    """
    if report.source is None or report.target is None:
        raise ValueError('an array has no file beside it; restore a file to get its provenance')
    parts = generated_parts(report)
    record: dict[str, Any] = {
        'format': FORMAT,
        'format_version': FORMAT_VERSION,
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'summary': in_words(report),
        'contains_generated_audio': bool(parts),
        'generated': parts,
        'input': file_identity(Path(report.source)),
        'output': file_identity(Path(report.target)),
    }
    if model is not None:
        record['model'] = model.facts
    if settings is not None:
        record['settings'] = asdict(settings)
    return {**record, 'report': report.as_dict(), 'versions': versions()}


def as_json(record: Mapping[str, Any]) -> str:
    """The record as text; numbers that JSON does not have become null.

    Args:
        record: from :func:`provenance`.

    Returns:
        Indented JSON with a final line break.
    """
    return json.dumps(_finite(record), indent=2, ensure_ascii=False, allow_nan=False, default=str) + '\n'


def file_sha256(path: str | Path) -> str:
    """Hash of a file's bytes, as ``sha256sum`` prints it.

    Args:
        path: any file.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_identity(path: Path) -> dict[str, str | int]:
    """Path, size and hash of a file.

    Args:
        path: of the file.

    Returns:
        ``file``, ``bytes`` and ``sha256``.

    Raises:
        OSError: it cannot be read.
    """
    return {'file': str(path), 'bytes': path.stat().st_size, 'sha256': file_sha256(path)}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
