"""What the user says about the damage: cutoff, gaps, boxes, label tracks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nemo_audio_restore.apps.inputs import UsageError, parse_span

Span = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Damage:
    """What is to be generated in every file.

    Attributes:
        cutoff_hz: in Hz, 'auto', or None where the user says nothing.
        gaps: (start, end) in seconds.
        regions: (start, end, low, high) in seconds and Hz.
        detect_gaps: whether to look for more gaps.
        force: whether stretches longer than the model sees at once are allowed.
    """

    cutoff_hz: float | Literal['auto'] | None
    gaps: tuple[Span, ...]
    regions: tuple[Box, ...]
    detect_gaps: bool
    force: bool


def parse_damage(
    *,
    cutoff: str | None,
    gaps: list[str],
    labels: Path | None,
    regions: list[str],
    detect_gaps: bool,
    force: bool,
    several_inputs: bool,
) -> Damage:
    """Reads the options as typed.

    Args:
        cutoff: of ``--cutoff``.
        gaps: of ``--gap``.
        labels: of ``--gaps``; labels with a spectral selection are regions.
        regions: of ``--region``.
        detect_gaps: of ``--detect-gaps``.
        force: of ``--force``.
        several_inputs: whether more than one file may be meant; a label track belongs to one.

    Returns:
        The damage.

    Raises:
        UsageError: with the form that is expected.
    """
    spans = [parse_span(text, option='--gap', example='12.3:12.8') for text in gaps]
    boxes = [parse_region(text) for text in regions]
    if labels is not None:
        from nemo_audio_restore.files.audio import AudioFileError
        from nemo_audio_restore.files.labels import read_labels

        if several_inputs:
            raise UsageError(f'the label track {labels} belongs to one recording: restore its file alone')
        try:
            marks = read_labels(labels)
        except AudioFileError as error:
            raise UsageError(str(error)) from error
        for mark in marks:
            if mark.low_hz is None or mark.high_hz is None:
                spans.append((mark.start_s, mark.end_s))
            else:
                boxes.append((mark.start_s, mark.end_s, mark.low_hz, mark.high_hz))
    return Damage(None if cutoff is None else parse_cutoff(cutoff), tuple(spans), tuple(boxes), detect_gaps, force)


def parse_cutoff(text: str) -> float | Literal['auto']:
    """Reads ``HZ`` or ``auto``.

    Args:
        text: like ``4000``.

    Returns:
        The frequency, or 'auto'.

    Raises:
        UsageError: with the form that is expected.
    """
    if text == 'auto':
        return 'auto'
    try:
        return float(text)
    except ValueError:
        raise UsageError(f'--cutoff must be a frequency in Hz, like 4000, or auto; got {text}') from None


def parse_region(text: str) -> Box:
    """Reads ``START:END,LOW:HIGH`` in seconds and Hz.

    Args:
        text: like ``12.3:12.8,4000:9000``.

    Returns:
        (start, end, low, high).

    Raises:
        UsageError: with the form that is expected.
    """
    times, _, frequencies = text.partition(',')
    try:
        start, end, low, high = (float(part) for pair in (times, frequencies) for part in pair.split(':'))
    except ValueError:
        raise UsageError(
            f'--region must be START:END,LOW:HIGH in seconds and Hz, like 12.3:12.8,4000:9000; got {text}'
        ) from None
    return start, end, low, high
