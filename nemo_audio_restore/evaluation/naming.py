"""Does a recording sound like its class? A classifier of mel statistics that is trained on real recordings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from torch import Tensor

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

SAMPLE_RATE = 44100
_N_FFT, _HOP, _BANDS = 2048, 512, 64
_FLOOR_DB, _ACTIVE_DB = -80.0, -50.0
_WIDE_BANDS = 8
# Centres of modulation filters, in Hz: slower than any bar, up to faster than any sixteenth.
_MODULATIONS_HZ = np.geomspace(0.5, 16.0, 11)
_TEMPI = np.geomspace(40.0, 240.0, 17)


def class_features(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Describes timbre and rhythm of a recording, whatever its level and length.

    Args:
        audio: (C, T) samples; channels are averaged.
        sample_rate: in Hz.

    Returns:
        (D,) float32: mean, deviation and outer deciles of the mel levels of frames that are not silent; how strongly
        each of eight wide bands is modulated at 0.5 to 16 Hz; the periodicity of onsets at 40 to 240 BPM; onsets,
        flatness and decay.

    Raises:
        ValueError: the recording is empty or not finite.
    """
    mono = np.asarray(audio, np.float32).mean(axis=0)
    if not len(mono) or not np.isfinite(mono).all():
        raise ValueError('a class is heard in recordings of at least one finite sample')
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE, quality='HQ')
    levels, flatness = _mel_levels(torch.from_numpy(np.pad(mono, (0, max(0, _N_FFT - len(mono))))))
    loud = levels.max(axis=0)
    # In silence nothing is active: then all of it is described.
    active = loud >= min(_ACTIVE_DB, loud.max())
    sounding, dull = levels[:, active], flatness[active]
    timbre = [sounding.mean(axis=1), sounding.std(axis=1), *np.quantile(sounding, [0.1, 0.9], axis=1)]
    wide = levels.reshape(_WIDE_BANDS, -1, levels.shape[1]).mean(axis=1)
    flux = np.maximum(np.diff(wide, axis=1, prepend=wide[:, :1]), 0.0)
    onsets = flux.mean(axis=0)
    shape = np.array(
        [
            dull.mean(),
            dull.std(),
            onsets[active].mean(),
            onsets.max() / 10,
            active.mean(),
            (loud >= -20).mean(),
            (loud >= -35).mean(),
            float(np.argmax(loud)) / len(loud),
        ]
    )
    parts = [*timbre, flux[:, active].mean(axis=1), _modulations(wide).ravel(), _periodicity(onsets), shape]
    return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True)
class ClassNamer:
    """Names the class of a recording from its features.

    Attributes:
        pipeline: of scikit-learn, fitted.
        classes: what it chooses from.
    """

    pipeline: 'Pipeline'
    classes: tuple[str, ...]

    @classmethod
    def fit(cls, features: np.ndarray, names: Sequence[str]) -> 'ClassNamer':
        """Trains on real recordings; rare classes weigh as much as frequent ones.

        Args:
            features: (N, D) of :func:`class_features`.
            names: class of each.

        Returns:
            The classifier.

        Raises:
            ValueError: fewer than two classes, or numbers that do not agree.
        """
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        if len(features) != len(names) or len(set(names)) < 2:
            raise ValueError(
                f'two or more classes and a name for each recording are needed; got {len(features)} recordings, '
                f'{len(names)} names, {len(set(names))} classes'
            )
        pipeline = make_pipeline(StandardScaler(), SVC(C=10.0, gamma='scale', class_weight='balanced'))
        pipeline.fit(features, list(names))
        return cls(pipeline, tuple(sorted(set(names))))

    def name(self, features: np.ndarray) -> list[str]:
        """Classes of recordings.

        Args:
            features: (N, D).

        Returns:
            N names.
        """
        return [str(name) for name in self.pipeline.predict(features)]


@dataclass(frozen=True)
class NamingScore:
    """How often the right class was named.

    Attributes:
        right: recordings whose class was named.
        count: all recordings.
        chance: 1 / number of classes.
        low: lower end of the 95 % interval of the accuracy (Wilson).
        high: upper end.
        p_value: that chance alone names as many, one-sided (binomial).
    """

    right: int
    count: int
    chance: float
    low: float
    high: float
    p_value: float

    @property
    def accuracy(self) -> float:
        """Share of the recordings."""
        return self.right / self.count

    @property
    def times_chance(self) -> float:
        """How many times better than guessing."""
        return self.accuracy / self.chance


def score_names(named: Sequence[str], wanted: Sequence[str], classes: Sequence[str]) -> NamingScore:
    """Compares named with wanted classes.

    Args:
        named: class that was heard in each recording.
        wanted: class of each prompt.
        classes: what could be named.

    Returns:
        The score.

    Raises:
        ValueError: no recordings, or numbers that do not agree.
    """
    from scipy.stats import binomtest

    if not wanted or len(named) != len(wanted):
        raise ValueError(f'a name for each recording is needed; got {len(named)} for {len(wanted)} recordings')
    right = sum(a == b for a, b in zip(named, wanted, strict=True))
    chance = 1 / len(classes)
    interval = binomtest(right, len(wanted)).proportion_ci(method='wilson')
    p_value = binomtest(right, len(wanted), chance, alternative='greater').pvalue
    return NamingScore(right, len(wanted), chance, float(interval.low), float(interval.high), float(p_value))


def _mel_levels(mono: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(F, N) decibels below the loudest band, at least -80; and the flatness (N,) of the frames."""
    window = torch.hann_window(_N_FFT)
    power = torch.stft(mono, _N_FFT, _HOP, window=window, return_complex=True).abs().square()
    bands = (_mel_bank() @ power).numpy().astype(np.float64)
    levels = 10 * np.log10(bands / max(bands.max(), 1e-20) + 1e-20)
    floored = bands + 1e-8 * max(bands.max(), 1e-12)
    flatness = np.exp(np.log(floored).mean(axis=0)) / floored.mean(axis=0)
    return np.maximum(levels, _FLOOR_DB), flatness


@lru_cache(maxsize=1)
def _mel_bank() -> Tensor:
    # librosa takes a second to import.
    from librosa.filters import mel

    return torch.from_numpy(mel(sr=SAMPLE_RATE, n_fft=_N_FFT, n_mels=_BANDS, fmin=40.0, fmax=16000.0))


def _modulations(wide: np.ndarray) -> np.ndarray:
    """(8, 10) shares of each band's variance between neighbouring modulation frequencies."""
    centred = wide - wide.mean(axis=1, keepdims=True)
    # At least four seconds, so that the slowest band holds bins of short recordings, too.
    size = max(centred.shape[1], round(4 * SAMPLE_RATE / _HOP))
    power = np.abs(np.fft.rfft(centred * np.hanning(centred.shape[1]), size, axis=1)) ** 2
    frequency = np.fft.rfftfreq(size, _HOP / SAMPLE_RATE)
    edges = zip(_MODULATIONS_HZ[:-1], _MODULATIONS_HZ[1:], strict=True)
    energy = np.stack([power[:, (frequency >= low) & (frequency < high)].sum(axis=1) for low, high in edges], axis=1)
    return np.log10(energy / (power[:, 1:].sum(axis=1, keepdims=True) + 1e-9) + 1e-4)


def _periodicity(onsets: np.ndarray) -> np.ndarray:
    """(16,) highest autocorrelation of the onsets at the periods between neighbouring tempi."""
    centred = onsets - onsets.mean()
    spectrum = np.abs(np.fft.rfft(centred, 2 * len(centred))) ** 2
    correlation = np.fft.irfft(spectrum)[: len(centred)]
    correlation = correlation / max(correlation[0], 1e-9)
    lags = 60 / _TEMPI * SAMPLE_RATE / _HOP
    found = []
    for longest, shortest in zip(lags[:-1], lags[1:], strict=True):
        span = correlation[int(shortest) : int(longest) + 1]
        found.append(float(span.max()) if len(span) else 0.0)
    return np.array(found)
