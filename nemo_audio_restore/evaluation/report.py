"""Compares restored files with their originals and writes the scores as CSV and markdown."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nemo_audio_restore.evaluation import metrics
from nemo_audio_restore.evaluation.alignment import aligned
from nemo_audio_restore.evaluation.speech_report import Recogniser, common_delay, error_rates, speech_scores
from nemo_audio_restore.files.audio import read_audio

_AUDIO_SUFFIXES = frozenset({'.wav', '.flac', '.ogg', '.mp3', '.opus', '.aiff', '.aif'})
_MOST_TRIMMED_S = 0.1


class EvaluationError(ValueError):
    """Two recordings that cannot be compared; the message says why and what to do."""


@dataclass(frozen=True)
class FileScores:
    """Scores of one restored file.

    Attributes:
        name: relative path of the restored file.
        scores: metric to value, mean over channels; the keys are the columns of the report.
        notes: what was done to make the files comparable.
    """

    name: str
    scores: dict[str, float]
    notes: list[str] = field(default_factory=list)


def evaluate_pairs(
    reference: str | Path,
    estimate: str | Path,
    *,
    low_hz: float | None = None,
    perceptual: bool = True,
    visqol: bool = False,
    speech: bool = False,
    recogniser: Recogniser | None = None,
    on_file: Callable[[FileScores], None] | None = None,
) -> list[FileScores]:
    """Scores a restored file or every restored file of a folder.

    Args:
        reference: original file, or folder of originals.
        estimate: restored file, or folder in which each file has the relative path of its original without suffix;
            ``name.restored.wav`` also belongs to ``name``.
        low_hz: also report LSD above this frequency (the cutoff that was restored).
        perceptual: also report Zimtohrli; needs the `visqol` extra.
        visqol: also report ViSQOL, which takes seconds for each file; needs the `visqol` extra.
        speech: also report the columns of speech codecs; a delay that the files have in common is measured and
            removed first. Needs the `speech` extra.
        recogniser: also report character error rates, against ``name.txt`` beside the original or, where there is
            none, against what is recognised in the original.
        on_file: called after each file.

    Returns:
        Scores in the order of the names.

    Raises:
        EvaluationError: nothing to compare, or files that differ in rate, channels or by more than 0.1 s in length.
        AudioFileError: a file cannot be read.
        ImportError: a perceptual metric is not installed.
    """
    results = []
    pairs = pair_files(Path(reference), Path(estimate))
    # A codec that answers late would be counted as distorted.
    delay_s = common_delay(_comparable(*pair[1:])[:3] for pair in pairs) if speech or recogniser else 0.0
    for name, original, restored in pairs:
        target, candidate, rate, notes = _comparable(original, restored)
        if delay := round(delay_s * rate):
            candidate = np.stack([aligned(one, delay=delay, num_samples=len(one)) for one in candidate])
            notes.append(f'a delay of {1000 * delay_s:.1f} ms, common to all files, was removed')
        scores = _mean_over_channels(
            [
                _score(one, other, rate, low_hz=low_hz, perceptual=perceptual, visqol=visqol)
                for one, other in zip(target, candidate, strict=True)
            ]
        )
        if speech:
            of_channels = [speech_scores(one, other, rate) for one, other in zip(target, candidate, strict=True)]
            scores |= _mean_over_channels([found for found, _ in of_channels])
            notes += dict.fromkeys(note for _, channel_notes in of_channels for note in channel_notes)
        if recogniser is not None:
            text = original.with_suffix('.txt')
            rates, remarks = error_rates(
                target.mean(axis=0),
                candidate.mean(axis=0),
                rate,
                recogniser=recogniser,
                text=text.read_text('utf-8') if text.exists() else None,
            )
            scores |= rates
            notes += remarks
        results.append(FileScores(name, scores, notes))
        if on_file is not None:
            on_file(results[-1])
    return results


def pair_files(reference: Path, estimate: Path) -> list[tuple[str, Path, Path]]:
    """Finds the original of every restored file.

    Args:
        reference: file or folder.
        estimate: file or folder, the same kind.

    Returns:
        (relative name, original, restored) for each restored file.

    Raises:
        EvaluationError: a path is missing, one is a folder and the other is not, no file is found, or an original is
            missing or ambiguous.
    """
    for path in (reference, estimate):
        if not path.exists():
            raise EvaluationError(f'{path} does not exist')
    if reference.is_dir() != estimate.is_dir():
        raise EvaluationError(f'give two files or two folders; {reference} and {estimate} are one of each')
    if not reference.is_dir():
        return [(estimate.name, reference, estimate)]
    originals: dict[Path, list[Path]] = {}
    for path in _audio_files(reference):
        originals.setdefault(path.relative_to(reference).with_suffix(''), []).append(path)
    pairs = []
    for path in _audio_files(estimate):
        relative = path.relative_to(estimate)
        stem = relative.with_suffix('')
        candidates = originals.get(stem) or originals.get(stem.with_name(stem.name.removesuffix('.restored')), [])
        if len(candidates) != 1:
            found = ', '.join(str(one) for one in candidates) or 'none'
            raise EvaluationError(f'{path} needs exactly one original with its name in {reference}; found: {found}')
        pairs.append((str(relative), candidates[0], path))
    if not pairs:
        raise EvaluationError(f'{estimate} holds no audio file ({", ".join(sorted(_AUDIO_SUFFIXES))})')
    return pairs


def to_csv(results: Sequence[FileScores]) -> str:
    """Scores as CSV, one file a line.

    Args:
        results: from :func:`evaluate_pairs`.

    Returns:
        The text, with a header.
    """
    rows = [{'file': result.name} | result.scores | {'notes': '; '.join(result.notes)} for result in results]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_markdown(results: Sequence[FileScores]) -> str:
    """Scores as a markdown table; the last line is the mean when there are several files.

    Args:
        results: from :func:`evaluate_pairs`.

    Returns:
        The table, followed by the notes.
    """
    rows = [{'file': result.name} | {name: f'{v:.3f}' for name, v in result.scores.items()} for result in results]
    if len(results) > 1:
        mean = _mean_over_files([result.scores for result in results])
        rows.append({'file': '**mean**'} | {name: f'{value:.3f}' for name, value in mean.items()})
    notes = [f'- {result.name}: {note}' for result in results for note in result.notes]
    return '\n'.join([markdown_table(rows), *(['', *notes] if notes else [])])


def markdown_table(rows: Sequence[dict[str, object]]) -> str:
    """A markdown table of dictionaries that share most of their keys.

    Args:
        rows: one dictionary a line; a missing key leaves its cell empty.

    Returns:
        The table without a final line break.
    """
    columns = _columns(rows)
    escaped = [[str(row.get(column, '')).replace('|', '\\|') for column in columns] for row in rows]
    lines = [columns, ['---'] * len(columns), *escaped]
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def bootstrap_interval(
    values: Sequence[float], groups: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval when whole groups are drawn again.

    Args:
        values: one for each clip.
        groups: what each value belongs to, such as its track; values of one group are not independent.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        Mean of the values and half the distance between the 2.5 % and 97.5 % quantiles of the resampled means.

    Source: Davison and Hinkley 1997, section 3.8 (resampling of whole groups).
    """
    names = sorted(set(groups))
    sums = np.array([sum(v for v, g in zip(values, groups, strict=True) if g == name) for name in names])
    counts = np.array([sum(group == name for group in groups) for name in names])
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean(values)), float((high - low) / 2)


def _comparable(original: Path, restored: Path) -> tuple[np.ndarray, np.ndarray, int, list[str]]:
    target, target_rate = read_audio(original)
    candidate, rate = read_audio(restored)
    if target_rate != rate:
        raise EvaluationError(
            f'{original} has {target_rate} Hz and {restored} {rate} Hz: '
            'resample one of them first; the result depends on how, so it is not done silently'
        )
    notes = []
    if target.shape[0] != candidate.shape[0]:
        if 1 not in (target.shape[0], candidate.shape[0]):
            raise EvaluationError(
                f'{original} has {target.shape[0]} channels and {restored} {candidate.shape[0]}: '
                'give both the same channels, or mix one of them to mono'
            )
        notes.append(f'compared in mono: {target.shape[0]} and {candidate.shape[0]} channels')
        target, candidate = target.mean(axis=0, keepdims=True), candidate.mean(axis=0, keepdims=True)
    length = min(target.shape[1], candidate.shape[1])
    surplus = max(target.shape[1], candidate.shape[1]) - length
    if surplus > _MOST_TRIMMED_S * rate:
        raise EvaluationError(
            f'{original} lasts {target.shape[1] / rate:.3f} s and {restored} {candidate.shape[1] / rate:.3f} s: '
            f'at most {_MOST_TRIMMED_S} s may differ; cut both to the same excerpt'
        )
    if surplus:
        notes.append(f'the longer file was cut at its end by {surplus} samples')
    return target[:, :length], candidate[:, :length], rate, notes


def _score(
    target: np.ndarray, candidate: np.ndarray, rate: int, *, low_hz: float | None, perceptual: bool, visqol: bool
) -> dict[str, float]:
    scores = {'lsd': metrics.lsd(target, candidate, rate)}
    if low_hz is not None:
        scores[f'lsd_above_{low_hz:g}_hz'] = metrics.lsd(target, candidate, rate, low_hz=low_hz)
    scores['sispec_db'] = metrics.sispec(target, candidate, rate)
    scores['si_sdr_db'] = metrics.si_sdr(target, candidate) if target.any() else math.nan
    if perceptual:
        scores['zimtohrli_mos'] = metrics.zimtohrli_mos(target, candidate, rate)
    if visqol:
        scores['visqol_mos'] = metrics.visqol_mos(target, candidate, rate)
    return scores


def _mean_over_channels(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def _mean_over_files(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Files for which there is no score do not count."""
    found = {name: [one[name] for one in scores if not math.isnan(one[name])] for name in scores[0]}
    return {name: float(np.mean(values)) if values else math.nan for name, values in found.items()}


def _audio_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob('*') if path.is_file() and path.suffix.lower() in _AUDIO_SUFFIXES)


def _columns(rows: Sequence[dict[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
