"""What is found in the audio before anything is generated: where its band ends, and where it has holes."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nemo_audio_restore.restoration.mix import blanked
from nemo_audio_restore.restoration.request import NO_LIMIT, Request
from nemo_audio_restore.signal.cutoff import CutoffDetector, CutoffEstimate
from nemo_audio_restore.signal.gap_detection import Gap, GapDetector

if TYPE_CHECKING:
    from nemo_audio_restore.restoration.engine import AudioSource


@dataclass(frozen=True)
class Findings:
    """What was detected.

    Attributes:
        cutoff: None where nobody asked.
        gaps: found by the detector, none where nobody asked.
        notes: sentences for the user.
        warnings: the same, about what may be wrong.
    """

    cutoff: CutoffEstimate | None
    gaps: tuple[Gap, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def analysed(request: Request, source: 'AudioSource') -> tuple[Request, Findings]:
    """Reads the audio once if something has to be detected.

    Args:
        request: what was asked.
        source: the audio.

    Returns:
        The request with a cutoff, or without one for a full-band recording, and with the gaps; and what was found.
    """
    if not (request.auto_cutoff or request.detect_gaps):
        return request, Findings(None, (), (), ())
    size = source.channels, source.sample_rate
    cutoffs = CutoffDetector(*size) if request.auto_cutoff else None
    holes = GapDetector(*size) if request.detect_gaps else None
    for block in blanked(source.blocks(), request.spans(source.sample_rate, NO_LIMIT)):
        for detector in (cutoffs, holes):
            if detector is not None:
                detector.add(block)
    notes: list[str] = []
    warnings: list[str] = []
    found = tuple(gap for gap in holes.gaps() if not _is_given(gap, request)) if holes is not None else ()
    if holes is not None:
        kinds = [gap.kind for gap in found]
        counts = ', '.join(f'{kinds.count(kind)} {kind}' for kind in sorted(set(kinds)))
        notes.append(f'damage found: {counts}' if found else 'no damage found: nothing breaks off suddenly')
        gaps = _union([*request.gaps, *((gap.start_s, gap.end_s) for gap in found)])
        request = replace(request, gaps=gaps)
    estimate = cutoffs.estimate() if cutoffs is not None else None
    if estimate is not None:
        request = replace(request, cutoff_hz=estimate.wall_hz)
        _tell(estimate, notes, warnings)
    return request, Findings(estimate, found, tuple(notes), tuple(warnings))


def _tell(estimate: CutoffEstimate, notes: list[str], warnings: list[str]) -> None:
    sure = f'confidence {estimate.confidence:.2f}'
    if estimate.cutoff_hz is None:
        notes.append(f'no cutoff found ({sure}), no bandwidth is added: {estimate.reason}')
    else:
        notes.append(
            f'cutoff found at {estimate.cutoff_hz:.0f} Hz ({sure}), everything above {estimate.wall_hz:.0f} Hz '
            f'is generated: {estimate.reason}'
        )
    if not estimate.is_sure:
        warnings.append(
            f'the detection of the cutoff is uncertain ({sure}): look at the spectrogram and give the cutoff in Hz'
        )


def _is_given(gap: Gap, request: Request) -> bool:
    """Whether a gap that was found is one that the user has named."""
    return any(start < gap.end_s and gap.start_s < end for start, end in request.gaps)


def _union(spans: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)
