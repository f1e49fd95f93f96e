"""Which parts of a restored recording were generated: as data for programs, as words for people."""

from nemo_audio_restore import __version__
from nemo_audio_restore.restoration.protocol import RestorationReport


def generated_parts(report: RestorationReport) -> list[dict[str, float | str]]:
    """Every part of the output that is not the recording.

    Args:
        report: of the restoration.

    Returns:
        One dictionary for each part, with ``start_s``, ``end_s``, ``low_hz`` and ``high_hz``; ``kind`` is
        ``bandwidth``, ``gap`` or ``region``. Below ``low_hz`` of the bandwidth the generated part fades out over
        ``fade_hz``, around a gap or region over ``fade_s``.
    """
    nyquist = report.output_rate / 2
    parts: list[dict[str, float | str]] = []
    if report.cutoff_hz is not None:
        parts.append(
            {
                'kind': 'bandwidth',
                'start_s': 0.0,
                'end_s': report.duration_s,
                'low_hz': report.cutoff_hz,
                'high_hz': nyquist,
                'fade_hz': report.transition_hz,
            }
        )
    for start, end in report.gaps:
        parts.append(
            {
                'kind': 'gap',
                'start_s': start,
                'end_s': end,
                'low_hz': 0.0,
                'high_hz': nyquist,
                'fade_s': report.crossfade_s,
            }
        )
    for start, end, low, high in report.regions:
        parts.append(
            {
                'kind': 'region',
                'start_s': start,
                'end_s': end,
                'low_hz': low,
                'high_hz': min(high, nyquist),
                'fade_s': report.crossfade_s,
            }
        )
    return parts


def in_words(report: RestorationReport) -> str:
    """One sentence about what was generated, for the tags of the output.

    Args:
        report: of the restoration.

    Returns:
        Such as ``nemo-audio-restore 0.1.0 generated everything above 4000 Hz and 12.3-12.8 s; seed 0``.
    """
    parts = [] if report.cutoff_hz is None else [f'everything above {report.cutoff_hz:g} Hz']
    shown = [f'{start:g}-{end:g} s' for start, end in report.gaps[:8]]
    hidden = len(report.gaps) - len(shown)
    parts += [', '.join(shown) + (f' and {hidden} more gaps' if hidden else '')] if shown else []
    parts += [f'{start:g}-{end:g} s from {low:g} to {high:g} Hz' for start, end, low, high in report.regions[:8]]
    what = f'generated {" and ".join(parts)}' if parts else 'generated nothing'
    return f'nemo-audio-restore {__version__} {what}; seed {report.seed}'
