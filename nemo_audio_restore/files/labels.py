"""Label tracks as Audacity exports them: where the user has marked damage."""

import math
from dataclasses import dataclass
from pathlib import Path

from nemo_audio_restore.files.audio import AudioFileError


@dataclass(frozen=True)
class Label:
    """One label.

    Attributes:
        start_s: in seconds.
        end_s: in seconds, after ``start_s``.
        text: what the user wrote, may be empty.
        low_hz: lower end of a spectral selection, else None.
        high_hz: its upper end, else None.
    """

    start_s: float
    end_s: float
    text: str
    low_hz: float | None = None
    high_hz: float | None = None


def read_labels(path: str | Path) -> list[Label]:
    r"""Reads a label track: a line ``start TAB end TAB text`` for each label, seconds with a point or a comma.

    A spectral selection follows on a line of its own: ``\ TAB low TAB high`` in Hz.

    Args:
        path: a text file in UTF-8.

    Returns:
        The labels in the order of the file.

    Raises:
        AudioFileError: the file cannot be read, or a line is not a label; the message names the line.
    """
    path = Path(path)
    try:
        text = path.read_text('utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise AudioFileError(f'{path} cannot be read as a label track: {error}') from error
    labels: list[Label] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f'{path}, line {number}'
        if line.startswith('\\'):
            if not labels:
                raise AudioFileError(f'{where}: a frequency range must follow its label')
            low, high = _numbers(line.split('\t')[1:], where, 'a frequency range must be \\ TAB low TAB high in Hz')
            last = labels[-1]
            # Audacity writes -1 for an end that is not set.
            labels[-1] = Label(last.start_s, last.end_s, last.text, max(low, 0.0), high if high > 0 else math.inf)
            if labels[-1].low_hz >= labels[-1].high_hz:
                raise AudioFileError(f'{where}: the frequency range {low:g} to {high:g} Hz holds nothing')
            continue
        fields = line.split('\t')
        start, end = _numbers(fields, where, 'a label must be start TAB end TAB text, in seconds')
        if start < 0:
            raise AudioFileError(f'{where}: the label starts before the recording, at {start:g} s')
        if end <= start:
            raise AudioFileError(
                f'{where}: the label from {start:g} to {end:g} s has no length; drag it over what is to be generated'
            )
        labels.append(Label(start, end, '\t'.join(fields[2:]).strip()))
    if not labels:
        raise AudioFileError(f'{path} holds no labels')
    return labels


def _numbers(fields: list[str], where: str, form: str) -> tuple[float, float]:
    """The first two fields as finite numbers."""
    try:
        first, second = (float(field.strip().replace(',', '.')) for field in fields[:2])
    except ValueError:
        first = second = math.nan
    if not (math.isfinite(first) and math.isfinite(second)):
        raise AudioFileError(f'{where}: {form}; got {" ".join(fields) or "nothing"}')
    return first, second
