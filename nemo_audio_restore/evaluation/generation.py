"""Metrics of generated audio against real audio and captions: Frechet distance, tags, text-audio score."""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nemo_audio_restore.evaluation.embedders import WindowNetwork, embed_stereo, peak_normalised
from nemo_audio_restore.evaluation.frechet import GaussianStatistics, frechet_distance, gaussian_statistics
from nemo_audio_restore.evaluation.tag_divergence import tag_divergence
from nemo_audio_restore.files.audio import read_audio

_AUDIO_SUFFIXES = frozenset({'.wav', '.flac', '.ogg', '.mp3', '.opus', '.aiff', '.aif'})
_FORMAT = 1

# Similarity of a recording (C, T) of a rate in Hz with a text.
ScoreText = Callable[[np.ndarray, int, str], float]


class GenerationError(ValueError):
    """Folders or captions that cannot be evaluated; the message says why and what to do."""


@dataclass(frozen=True)
class GenerationMetrics:
    """What is measured.

    Attributes:
        embedders: a Frechet distance for each; their names stand beside the numbers.
        tagger: for the divergence of tags; None leaves it out.
        text_score: for captions; None leaves it out.
        text_score_name: of the model that scores.
    """

    embedders: Sequence[WindowNetwork]
    tagger: WindowNetwork | None = None
    text_score: ScoreText | None = None
    text_score_name: str = ''


@dataclass(frozen=True)
class Reference:
    """All that is kept of reference recordings.

    Attributes:
        statistics: of the embeddings of all of them, by name of the embedder.
        logits: (W, K) of the tags of each, by name of the recording without suffix; empty without a tagger.
        tagger: name of the tagger, empty without one.
    """

    statistics: Mapping[str, GaussianStatistics]
    logits: Mapping[str, np.ndarray] = field(default_factory=dict)
    tagger: str = ''

    def save(self, path: str | Path) -> None:
        """Writes an ``.npz`` file that :meth:`load` reads; no recording can be made of it."""
        arrays: dict[str, np.ndarray] = {}
        for index, found in enumerate(self.statistics.values()):
            arrays |= {f'mean_{index}': found.mean, f'covariance_{index}': found.covariance}
        for index, logits in enumerate(self.logits.values()):
            arrays[f'logits_{index}'] = logits
        about = {
            'format': _FORMAT,
            'embedders': {name: found.count for name, found in self.statistics.items()},
            'tagger': self.tagger,
            'recordings': list(self.logits),
        }
        np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> 'Reference':
        """Reads what :meth:`save` wrote.

        Args:
            path: of the file.

        Returns:
            The statistics.

        Raises:
            GenerationError: it is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                about = json.loads(str(kept['about']))
                if about['format'] != _FORMAT:
                    raise KeyError(f'format {about["format"]}')
                statistics = {
                    name: GaussianStatistics(kept[f'mean_{index}'], kept[f'covariance_{index}'], count)
                    for index, (name, count) in enumerate(about['embedders'].items())
                }
                logits = {name: kept[f'logits_{index}'] for index, name in enumerate(about['recordings'])}
        except (ValueError, KeyError, OSError) as error:
            raise GenerationError(f'{path} holds no reference statistics of this program: {error}') from error
        return cls(statistics, logits, about['tagger'])


@dataclass(frozen=True)
class GenerationReport:
    """Results.

    Attributes:
        scores: value by name; the names tell the networks.
        files: scores of each generated file by its name.
        notes: what to know when reading them.
    """

    scores: dict[str, float]
    files: dict[str, dict[str, float]]
    notes: list[str]


def measure_reference(
    folder: str | Path, metrics: GenerationMetrics, *, on_file: Callable[[str], None] | None = None
) -> Reference:
    """Statistics of the recordings of a folder, which need not be measured again for the next generated set.

    Args:
        folder: of audio files, at any depth.
        metrics: what will be measured.
        on_file: called with the name of each file when it has been read.

    Returns:
        The statistics.

    Raises:
        GenerationError: the folder holds no audio.
        AudioFileError: a file cannot be read.
    """
    statistics, logits, _ = _measure(Path(folder), metrics, captions=None, on_file=on_file)
    return Reference(statistics, logits, metrics.tagger.name if metrics.tagger else '')


def evaluate_generation(
    reference: Reference | None,
    generated: str | Path,
    metrics: GenerationMetrics,
    *,
    captions: Mapping[str, str] | None = None,
    on_file: Callable[[str], None] | None = None,
) -> GenerationReport:
    """Compares generated recordings with real ones, and with what was asked for.

    Args:
        reference: statistics of real recordings; None if only captions are compared.
        generated: folder of audio files.
        metrics: what to measure.
        captions: text by name of the generated file without suffix, see :func:`read_captions`.
        on_file: called with the name of each file when it has been read.

    Returns:
        The scores.

    Raises:
        GenerationError: no audio, no captions for a file, or statistics of other networks.
        AudioFileError: a file cannot be read.
    """
    if reference is None and (captions is None or metrics.text_score is None):
        raise GenerationError('there is nothing to compare with: give reference recordings, or captions')
    if reference is not None:
        for embedder in metrics.embedders:
            if embedder.name not in reference.statistics:
                known = ', '.join(reference.statistics) or 'none'
                raise GenerationError(f'the reference statistics lack {embedder.name}; they hold {known}')
    needed = metrics if reference is not None else GenerationMetrics([], None, metrics.text_score)
    statistics, logits, texts = _measure(Path(generated), needed, captions=captions, on_file=on_file)
    scores, files, notes = {}, {}, []
    for embedder in needed.embedders:
        own, other = statistics[embedder.name], reference.statistics[embedder.name]
        scores[f'FD ({embedder.name})'] = frechet_distance(own, other)
        if min(own.count, other.count) < 2 * len(own.mean):
            notes.append(
                f'FD ({embedder.name}): {own.count} and {other.count} windows for {len(own.mean)} dimensions; so few '
                'raise the distance, so compare only with sets of the same size'
            )
        if embedder.sample_rate <= 16000:
            notes.append(f'FD ({embedder.name}) hears nothing above {embedder.sample_rate // 2000} kHz')
    if needed.tagger is not None:
        name = f'KL ({needed.tagger.name})'
        pairs = {
            key: tag_divergence(found, reference.logits[key])
            for key, found in logits.items()
            if key in reference.logits
        }
        if pairs and needed.tagger.name == reference.tagger:
            scores[name] = float(np.mean(list(pairs.values())))
            for key, value in pairs.items():
                files.setdefault(key, {})[name] = value
        if len(pairs) < len(logits):
            notes.append(f'{name}: {len(pairs)} of {len(logits)} files have a reference of the same name')
    if texts:
        name = f'text-audio score ({metrics.text_score_name})'
        scores[name] = float(np.mean(list(texts.values())))
        for key, value in texts.items():
            files.setdefault(key, {})[name] = value
    return GenerationReport(scores, files, notes)


def read_captions(path: str | Path) -> dict[str, str]:
    """Captions from a CSV file.

    Args:
        path: with the columns ``file`` (name, with or without suffix and folders) and ``caption``.

    Returns:
        Caption by name without suffix, with folders.

    Raises:
        GenerationError: no such file or columns.
    """
    try:
        with Path(path).open(newline='', encoding='utf-8-sig') as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError) as error:
        raise GenerationError(f'{path} cannot be read: {error}') from error
    if not rows or not {'file', 'caption'} <= set(rows[0]):
        raise GenerationError(f'{path} needs a header with the columns file and caption, and a line for each file')
    return {_key(Path(row['file'])): row['caption'] for row in rows}


def caption_seed(name: str) -> int:
    """Seed of the crops of a recording: the same in every run, and different for different names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], 'big') >> 1


def _measure(
    folder: Path,
    metrics: GenerationMetrics,
    *,
    captions: Mapping[str, str] | None,
    on_file: Callable[[str], None] | None,
) -> tuple[dict[str, GaussianStatistics], dict[str, np.ndarray], dict[str, float]]:
    paths = _audio_files(folder)
    logits: dict[str, np.ndarray] = {}
    texts: dict[str, float] = {}
    embedded: dict[str, list[np.ndarray]] = {embedder.name: [] for embedder in metrics.embedders}
    for path in paths:
        key = _key(path.relative_to(folder))
        audio, rate = read_audio(path)
        audio = peak_normalised(audio[:2])
        for embedder in metrics.embedders:
            embedded[embedder.name].append(embed_stereo(embedder, audio, rate))
        if metrics.tagger is not None:
            logits[key] = metrics.tagger(audio.mean(axis=0), rate)
        if captions is not None and metrics.text_score is not None:
            if key not in captions:
                raise GenerationError(f'there is no caption for {key}')
            texts[key] = metrics.text_score(audio, rate, captions[key])
        if on_file is not None:
            on_file(key)
    return {name: gaussian_statistics(pieces) for name, pieces in embedded.items()}, logits, texts


def _audio_files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob('*') if path.is_file() and path.suffix.lower() in _AUDIO_SUFFIXES)
    if not found:
        raise GenerationError(f'{folder} is no folder with audio files ({", ".join(sorted(_AUDIO_SUFFIXES))})')
    return found


def _key(path: Path) -> str:
    return path.with_suffix('').as_posix() if path.suffix.lower() in _AUDIO_SUFFIXES else path.as_posix()
