"""``audio-restore evaluate --generation``: which networks measure, and how the result is shown."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_audio_restore.apps.inputs import UsageError

if TYPE_CHECKING:
    import numpy as np

    from nemo_audio_restore.evaluation.embedders import WindowNetwork
    from nemo_audio_restore.evaluation.generation import GenerationMetrics, GenerationReport
    from nemo_audio_restore.models.text_audio import TextAudioModel

EMBEDDERS = ('musicnn', 'whisper', 'text-audio')
DEFAULT_TEXT_MODEL = 'text_audio_small'


def evaluate_folders(
    reference: Path,
    generated: Path,
    *,
    embedders: Sequence[str],
    captions: Path | None,
    text_model: str,
    save_statistics: Path | None,
    on_file: Callable[[str], None] | None,
) -> 'GenerationReport':
    """Measures a folder of generated audio.

    Args:
        reference: folder of real audio, or an ``.npz`` file of an earlier run.
        generated: folder.
        embedders: names of :data:`EMBEDDERS`.
        captions: CSV file with what was asked for.
        text_model: name or path of the TextAudioModel that scores captions and is the embedder ``text-audio``.
        save_statistics: where to keep the statistics of the reference.
        on_file: called with the name of each file when it has been read.

    Returns:
        The scores.

    Raises:
        UsageError: an unknown embedder, or a name for the statistics that does not end in ``.npz``.
    """
    if unknown := sorted(set(embedders) - set(EMBEDDERS)):
        raise UsageError(f'--embedder must be one of {", ".join(EMBEDDERS)}; got {", ".join(unknown)}')
    if save_statistics is not None and save_statistics.suffix != '.npz':
        raise UsageError(f'--save-statistics must end in .npz; got {save_statistics}')
    from nemo_audio_restore.evaluation.generation import (
        Reference,
        evaluate_generation,
        measure_reference,
        read_captions,
    )

    asked = None if captions is None else read_captions(captions)
    metrics = _metrics(embedders, text_model if asked is not None or 'text-audio' in embedders else None)
    if reference.suffix == '.npz':
        known = Reference.load(reference)
    else:
        known = measure_reference(reference, metrics, on_file=on_file)
        if save_statistics is not None:
            known.save(save_statistics)
    return evaluate_generation(known, generated, metrics, captions=asked, on_file=on_file)


def report_markdown(report: 'GenerationReport') -> str:
    """The scores as a table, the notes below it."""
    lines = [
        '| metric | value |',
        '| --- | --- |',
        *(f'| {name} | {value:.4f} |' for name, value in report.scores.items()),
    ]
    return '\n'.join([*lines, *(['', *(f'- {note}' for note in report.notes)] if report.notes else [])])


def report_csv(report: 'GenerationReport') -> str:
    """One line for each file with scores of its own, and one with those of all."""
    columns = ['file', *report.scores]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator='\n', restval='')
    writer.writeheader()
    writer.writerows({'file': name, **scores} for name, scores in report.files.items())
    writer.writerow({'file': '(all)', **report.scores})
    return buffer.getvalue()


def _metrics(embedders: Sequence[str], text_model: str | None) -> 'GenerationMetrics':
    from nemo_audio_restore.evaluation.embedders import WindowNetwork
    from nemo_audio_restore.evaluation.generation import GenerationMetrics

    model = None if text_model is None else _text_model(text_model)
    networks, tagger = [], None
    if 'musicnn' in embedders:
        from nemo_audio_restore.checkpoints.musicnn import load_musicnn
        from nemo_audio_restore.networks.musicnn import SAMPLE_RATE

        musicnn = load_musicnn()
        window = musicnn.window_samples
        hop = window // 2
        networks.append(
            WindowNetwork('MusiCNN', SAMPLE_RATE, window, hop, lambda audio: musicnn(musicnn.features(audio))[1])
        )
        tagger = WindowNetwork(
            'MusiCNN tags', SAMPLE_RATE, window, hop, lambda audio: musicnn(musicnn.features(audio))[0]
        )
    if 'whisper' in embedders:
        from nemo_audio_restore.models.speech_models import SPEECH_MODEL_RATE, WhisperSpeechModel

        whisper = WhisperSpeechModel()
        rate = SPEECH_MODEL_RATE
        networks.append(
            WindowNetwork('Whisper base encoder', rate, rate, rate // 2, lambda audio: whisper(audio)[-1].mean(dim=1))
        )
    if 'text-audio' in embedders:
        networks.append(_text_audio_embedder(model, text_model))
    score = None if model is None else _text_score(model)
    return GenerationMetrics(networks, tagger, score, Path(text_model).stem if text_model else '')


def _text_model(name: str) -> 'TextAudioModel':
    from nemo_audio_restore.models.text_audio import TextAudioModel

    return TextAudioModel.from_pretrained(name)


def _text_audio_embedder(model: 'TextAudioModel', name: str) -> 'WindowNetwork':
    from torch.nn import functional

    from nemo_audio_restore.evaluation.embedders import WindowNetwork

    window = model.window_samples
    return WindowNetwork(
        Path(name).stem,
        model.sample_rate,
        window,
        window // 2,
        lambda audio: functional.normalize(model.audio_tower(audio), dim=-1),
    )


def _text_score(model: 'TextAudioModel') -> Callable[['np.ndarray', int, str], float]:
    import torch

    from nemo_audio_restore.evaluation.generation import caption_seed

    def score(audio: 'np.ndarray', sample_rate: int, caption: str) -> float:
        heard = torch.from_numpy(audio)[None]
        return float(model.similarity(heard, [caption], sample_rate=sample_rate, seed=caption_seed(caption)))

    return score
