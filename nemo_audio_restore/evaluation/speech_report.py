"""The columns that speech codecs are compared by, for files and their originals."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from nemo_audio_restore.evaluation import speech
from nemo_audio_restore.evaluation.alignment import estimate_delay
from nemo_audio_restore.evaluation.transcription import LONGEST_S, SAMPLE_RATE, Transcribe, character_errors

_DELAY_FILES = 20
_DELAY_S = 30.0


@dataclass(frozen=True)
class Recogniser:
    """Who writes down what is said.

    Attributes:
        transcribe: from recordings at 16 kHz to their texts.
        language: of the speech, as Whisper abbreviates it.
    """

    transcribe: Transcribe
    language: str


def speech_scores(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> tuple[dict[str, float], list[str]]:
    """Distances, intelligibility and quality of one channel; SI-SDR is among the scores of every recording.

    Args:
        reference: original samples (T,).
        estimate: decoded samples (T,), aligned.
        sample_rate: of both, in Hz.

    Returns:
        Scores, NaN where a metric found too little speech, and notes that say so.

    Raises:
        ImportError: a package is missing; install the `speech` extra.
    """
    scores = {
        'mel_distance': speech.mel_distance(reference, estimate, sample_rate),
        'stft_distance': speech.stft_distance(reference, estimate, sample_rate),
    }
    notes = []
    for name, metric in (('estoi', speech.estoi), ('pesq_wb', speech.pesq_wb)):
        try:
            scores[name] = metric(reference, estimate, sample_rate)
        except ValueError as error:
            scores[name] = math.nan
            notes.append(f'no {name}: {error}')
    scores['dnsmos'] = speech.dnsmos(estimate, sample_rate).overall
    return scores, notes


def error_rates(
    reference: np.ndarray, estimate: np.ndarray, sample_rate: int, *, recogniser: Recogniser, text: str | None
) -> tuple[dict[str, float], list[str]]:
    """Character error rates of a decoded recording and of its original.

    Args:
        reference: original samples (T,), at most 30 s.
        estimate: decoded samples (T,).
        sample_rate: of both, in Hz.
        recogniser: who listens.
        text: what is said; without it, what the recogniser understands of the original counts as said.

    Returns:
        Rates, NaN where there is none, and notes that say why or what counted as said.
    """
    nothing = {'cer': math.nan, 'cer_original': math.nan}
    if len(reference) > LONGEST_S * sample_rate:
        return nothing, [f'no cer: the recognition takes at most {LONGEST_S:g} s; cut the recording']
    heard = recogniser.transcribe([speech.resampled(one, sample_rate, SAMPLE_RATE) for one in (reference, estimate)])
    said = heard[0] if text is None else text
    try:
        rates = [
            errors / length for errors, length in (character_errors(said, one, recogniser.language) for one in heard)
        ]
    except ValueError as error:
        return nothing, [f'no cer: {error}']
    if text is None:
        return {'cer': rates[1], 'cer_original': math.nan}, ['cer against what is recognised in the original: no .txt']
    return {'cer': rates[1], 'cer_original': rates[0]}, []


def common_delay(pairs: Iterable[tuple[np.ndarray, np.ndarray, int]]) -> float:
    """The delay of a codec, measured over up to 20 of its recordings.

    Args:
        pairs: (original, decoded, sample rate in Hz), each (C, T).

    Returns:
        Seconds by which the decoded recordings are late; 0.0 when all are silent.
    """
    by_rate: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for original, decoded, rate in islice(pairs, _DELAY_FILES):
        length = int(_DELAY_S * rate)
        one, other = (audio[:, :length].mean(axis=0) for audio in (original, decoded))
        if one.any() and other.any():
            by_rate.setdefault(rate, []).append((one, other))
    if not by_rate:
        return 0.0
    rate, usual = max(by_rate.items(), key=lambda item: len(item[1]))
    return estimate_delay(usual, rate) / rate
