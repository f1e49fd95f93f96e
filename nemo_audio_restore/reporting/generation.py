"""The record of a generated clip: what was asked for and with what it was made; for the file beside it."""

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nemo_audio_restore.generation.protocol import GeneratedClip
from nemo_audio_restore.reporting.documents import write_whole
from nemo_audio_restore.reporting.environment import versions
from nemo_audio_restore.reporting.provenance import FORMAT, FORMAT_VERSION, ModelIdentity, as_json, file_identity


def clip_provenance(
    clip: GeneratedClip, target: str | Path, *, model: ModelIdentity | None = None, sources: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """Everything needed to check a generated file and to make it again.

    Args:
        clip: that was written.
        target: the file.
        model: that made it.
        sources: files that it was made from: varied, in-painted or continued.

    Returns:
        Plain values for JSON: prompt, seed, settings, hashes of inputs, output and model, versions, time.

    Raises:
        OSError: a file is gone.
    """
    spans = clip.spans or ((0.0, clip.duration_s),)
    record: dict[str, Any] = {
        'format': FORMAT,
        'format_version': FORMAT_VERSION,
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'summary': f'{clip.task}: "{clip.prompt}", seed {clip.seed}',
        'contains_generated_audio': clip.strength != 0,
        'generated': [{'kind': clip.task, 'start_s': start, 'end_s': end} for start, end in spans],
        'inputs': [file_identity(Path(source)) for source in sources],
        'output': file_identity(Path(target)),
    }
    if model is not None:
        record['model'] = model.facts
    return {**record, 'clip': clip.as_dict(), 'versions': versions()}


def write_clip_provenance(
    clip: GeneratedClip, target: str | Path, *, model: ModelIdentity | None = None, sources: Sequence[str | Path] = ()
) -> Path:
    """Writes the record beside the clip: ``drums-0.generated.json`` for ``drums-0.wav``; an older one is replaced.

    Args:
        clip: that was written.
        target: the file.
        model: that made it.
        sources: files that it was made from.

    Returns:
        Where it is.

    Raises:
        OSError: it cannot be written, or a file is gone.
    """
    record = clip_provenance(clip, target, model=model, sources=sources)
    path = Path(target).with_name(f'{Path(target).stem}.generated.json')
    return write_whole(path, as_json(record).encode('utf-8', 'backslashreplace'))
