"""The stretches of a recording worth a closer look, cut out of both files and drawn."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_audio_restore.evaluation.levels import Levels, stream_levels
from nemo_audio_restore.evaluation.plots import spectrogram_sheet
from nemo_audio_restore.files.audio import probe
from nemo_audio_restore.files.excerpts import flac_bytes, read_spans
from nemo_audio_restore.restoration.generated import generated_parts
from nemo_audio_restore.restoration.protocol import RestorationReport

WHOLE_S = 20.0
"""Recordings up to this length are shown whole."""

_EXCERPT_S = 8.0
_CONTEXT_S = 1.5
_MOST_GAPS = 4
_PAGE_CHANNELS = 2


@dataclass(frozen=True)
class Place:
    """A stretch to listen to and to look at.

    Attributes:
        title: why it is shown.
        start_s: in seconds.
        end_s: in seconds.
        before: FLAC file of the input.
        after: FLAC file of the output.
        picture: PNG file with both spectrograms.
        note: what was done to make it playable, often empty.
    """

    title: str
    start_s: float
    end_s: float
    before: bytes
    after: bytes
    picture: bytes
    note: str


def choose_places(report: RestorationReport, levels: Levels) -> list[tuple[str, float, float]]:
    """Decides what to show.

    Args:
        report: of the restoration.
        levels: of the input.

    Returns:
        (title, start, end) in seconds, sorted: a short recording whole; of a long one the first gaps and regions with
        their surroundings, and the loudest seconds where bandwidth was extended or nothing was generated.
    """
    duration = report.duration_s
    if duration <= WHOLE_S:
        return [('the whole recording', 0.0, duration)]
    places = []
    parts = generated_parts(report)
    for part in [part for part in parts if part['kind'] != 'bandwidth'][:_MOST_GAPS]:
        start, end = part['start_s'], part['end_s']
        around = (max(start - _CONTEXT_S, 0.0), min(end + _CONTEXT_S, duration, start + WHOLE_S))
        places.append((f'{part["kind"]} at {start:g} s', *around))
    if report.cutoff_hz is not None or not parts:
        power = np.mean(10 ** (levels.level_db / 10), axis=0)
        width = max(1, round(_EXCERPT_S / levels.duration_s * len(power)))
        sums = np.convolve(power, np.ones(width), mode='valid')
        start = min(float(np.argmax(sums)) / len(power) * duration, duration - _EXCERPT_S)
        places.append(('the loudest seconds', start, start + _EXCERPT_S))
    return sorted(places, key=lambda place: place[1])


def cut_places(report: RestorationReport, chosen: Sequence[tuple[str, float, float]]) -> list[Place]:
    """Cuts the places out of input and output.

    Args:
        report: of a restored file.
        chosen: from :func:`choose_places`.

    Returns:
        One place for each.

    Raises:
        AudioFileError: a file cannot be read.
    """
    spans = [(start, end) for _, start, end in chosen]
    rates = [probe(path).sample_rate for path in (report.source, report.target)]
    cuts = zip(chosen, read_spans(report.source, spans), read_spans(report.target, spans), strict=True)
    return [_place(title, start, end, (before, after), rates, report) for (title, start, end), before, after in cuts]


def picture_bytes(levels: dict[str, Levels], report: RestorationReport, *, start_s: float = 0.0) -> bytes:
    """A spectrogram sheet as a PNG file, with what was generated marked.

    Args:
        levels: title to levels, all from ``start_s`` on.
        report: of the restoration.
        start_s: where the levels begin in the recording, in seconds.

    Returns:
        The file.
    """
    end_s = start_s + max(level.duration_s for level in levels.values())
    gaps = [(a - start_s, b - start_s) for a, b in report.gaps if a < end_s and b > start_s]
    regions = [
        (a - start_s, b - start_s, low, high) for a, b, low, high in report.regions if a < end_s and b > start_s
    ]
    figure = spectrogram_sheet(levels, 1, cutoff_hz=report.cutoff_hz, gaps=gaps, regions=regions)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    return buffer.getvalue()


def _place(
    title: str,
    start: float,
    end: float,
    audio: tuple[np.ndarray, np.ndarray],
    rates: Sequence[int],
    report: RestorationReport,
) -> Place:
    levels = {
        name: stream_levels([samples], rate, expected_samples=samples.shape[1])
        for name, samples, rate in zip(('before', 'after'), audio, rates, strict=True)
    }
    picture = picture_bytes(levels, report, start_s=start)
    notes = []
    if len(audio[0]) > _PAGE_CHANNELS:
        notes.append(f'{len(audio[0])} channels mixed to one')
        audio = tuple(samples.mean(axis=0, keepdims=True) for samples in audio)
    peak = max(float(np.abs(samples).max(initial=0.0)) for samples in audio)
    if peak > 1:
        notes.append(f'both turned down by {20 * np.log10(peak):.1f} dB to fit full scale')
        audio = tuple(samples / np.float32(peak) for samples in audio)
    before, after = (flac_bytes(samples, rate) for samples, rate in zip(audio, rates, strict=True))
    return Place(title, start, end, before, after, picture, '; '.join(notes))
