"""Training examples for the detector of cutoffs: music behind random low-passes and codecs, or left as it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_audio_restore.files.excerpts import read_excerpts
from nemo_audio_restore.files.lossy import lossy_round_trip
from nemo_audio_restore.signal.cutoff import FULL_BAND_HZ
from nemo_audio_restore.signal.cutoff_statistics import cell_matrix, features, frame_power, frame_sums

RATE, N_FFT = 44100, 4096
FREQUENCY = np.arange(N_FFT // 2 + 1) * RATE / N_FFT
FULL_BAND_SOURCE_HZ = 18500.0
LOWEST_HZ, HIGHEST_HZ = 1900.0, 16000.0
_FINE = np.linspace(0, RATE / 2, 8193)
_LAST_BIT = N_FFT * 0.375 * 0.25 / 32768**2  # power in a bin of the noise of 16 bits with triangular dither

Gain = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        features: (6, n).
        knee_hz: -3 dB point of the low-pass; infinite where there is none.
        width: octaves from the -1 dB point to the -3 dB point.
    """

    features: np.ndarray
    knee_hz: float
    width: float


def _wall(frequency: np.ndarray, at_hz: float, half_width_hz: float) -> np.ndarray:
    """Power gain of a wall with a raised-cosine transition; half the amplitude is left at ``at_hz``."""
    return (0.5 - 0.5 * np.sin(np.clip((frequency - at_hz) / half_width_hz, -1, 1) * np.pi / 2)) ** 2


def random_low_pass(at_hz: float, rng: np.random.Generator) -> Gain:
    """A power gain over frequency: analog slopes, cascades of two, Chebyshev, FIR transitions, or a brick wall."""
    family = rng.random()
    if family < 0.5:
        order = float(np.exp(rng.uniform(np.log(5), np.log(40))))
        return lambda f: 1 / (1 + np.minimum(f / at_hz, 1e3) ** (2 * order))
    if family < 0.6:
        first, second, ratio = rng.uniform(4, 8), rng.uniform(4, 24), rng.uniform(1.0, 1.5)
        return lambda f: (
            1
            / (1 + np.minimum(f / at_hz, 1e3) ** (2 * first))
            / (1 + np.minimum(f / at_hz / ratio, 1e3) ** (2 * second))
        )
    if family < 0.68:
        order, ripple = int(rng.integers(4, 13)), rng.uniform(0.1, 0.35)

        def chebyshev(f: np.ndarray) -> np.ndarray:
            x = np.minimum(f / at_hz, 50.0)
            inside = np.cos(order * np.arccos(np.minimum(x, 1)))
            outside = np.cosh(np.minimum(order * np.arccosh(np.maximum(x, 1)), 40))
            return 1 / (1 + np.square(ripple * np.where(x <= 1, inside, outside)))

        return chebyshev
    width = at_hz * float(np.exp(rng.uniform(np.log(0.01), np.log(0.4))))
    if family < 0.8:
        return lambda f: _wall(f, at_hz, width)
    if family < 0.88:
        slope = rng.uniform(20, 60) / width
        return lambda f: 10 ** (-np.minimum(np.maximum(f - at_hz, 0) * slope, 140) / 10)
    return lambda f: _wall(f, at_hz, 50.0)


def lost_db_at(gain: Gain, loss_db: float) -> float | None:
    """The lowest frequency at which a low-pass has taken ``loss_db``."""
    level = 10 * np.log10(gain(_FINE) + 1e-30)
    first = int(np.argmax(level < -loss_db))
    if first == 0:
        return None
    share = (level[first - 1] + loss_db) / (level[first - 1] - level[first])
    return float(_FINE[first - 1] + share * (_FINE[first] - _FINE[first - 1]))


def _equaliser(rng: np.random.Generator) -> np.ndarray:
    """Power gain (F,) as another room, microphone or producer might have."""
    octave = np.log2(np.maximum(FREQUENCY, 50) / 1000)
    level = rng.normal(0, 1.5) * octave
    for _ in range(3):
        level = level + rng.normal(0, 2.5) * np.exp(
            -0.5 * ((octave - rng.uniform(-1, 4)) / rng.uniform(0.5, 1.5)) ** 2
        )
    return 10 ** (level / 10)


def _darkness(rng: np.random.Generator) -> np.ndarray:
    """Power gain (F,) of a gentle slope, up to 14 dB per octave: dark, but not low-passed."""
    corner, slope = np.exp(rng.uniform(np.log(200), np.log(2500))), rng.uniform(0, 14)
    if rng.random() < 0.5:
        return np.maximum(FREQUENCY / corner, 1) ** (-slope / 3.01)
    return (1 + (FREQUENCY / corner) ** 2) ** (-slope / 6.02)


def read_track(path: Path, *, excerpts: int = 4, seconds: float = 10.0) -> list[np.ndarray]:
    """Excerpts (C, T) of a file at 44.1 kHz that hold sound, C at most 2, without its beginning and end."""
    blocks = [audio[:2] for audio, _ in read_excerpts(path, count=excerpts + 2, excerpt_s=seconds)]
    inner = blocks[1:-1] if len(blocks) > 2 else blocks
    return [x for x in inner if x.shape[1] >= 2 * RATE and np.sqrt(np.mean(np.square(x))) > 1e-3]


def random_noise(rng: np.random.Generator) -> list[np.ndarray]:
    """White noise of half a second to three: what test signals are made of."""
    sizes = rng.integers(RATE // 2, 3 * RATE, 4)
    return [rng.normal(0, 0.1, (2, int(size))).astype(np.float32) for size in sizes]


class TrackCases:
    """Draws examples from one track.

    Args:
        audio: excerpts (C, T) at 44.1 kHz.
        bandwidth_hz: how far the track reaches.
        rng: for all choices.
    """

    def __init__(self, audio: list[np.ndarray], bandwidth_hz: float, rng: np.random.Generator):
        self._audio = audio
        self._power = [frame_power(x, N_FFT) for x in audio]
        self._bandwidth, self._rng = bandwidth_hz, rng
        self._matrix = cell_matrix(RATE, N_FFT)
        self._is_full = bandwidth_hz >= FULL_BAND_SOURCE_HZ
        self._highest = min(HIGHEST_HZ, bandwidth_hz / 1.1)

    @property
    def is_usable(self) -> bool:
        """Whether the track has sound and a band to cut."""
        return bool(self._audio) and self._highest > LOWEST_HZ

    def filtered(self) -> Example | None:
        """An example that is made in the power spectrum: fast, and the same as filtering the audio."""
        rng = self._rng
        gain = _equaliser(rng) if rng.random() < 0.6 else np.ones_like(FREQUENCY)
        knee_hz, width = np.inf, 0.0
        if self._is_full and rng.random() < 0.3:
            gain = gain * _darkness(rng)
            if rng.random() < 0.2:
                gain = gain * (rng.uniform(FULL_BAND_SOURCE_HZ, 21500) > FREQUENCY)
        else:
            low_pass = random_low_pass(self._random_hz(), rng)
            knee, start = lost_db_at(low_pass, 3.0), lost_db_at(low_pass, 1.0)
            if knee is None or start is None or knee > 1.05 * self._highest:
                return None
            knee_hz, width = knee, float(np.log2(knee / start))
            gain = gain * (_darkness(rng) ** 0.6 if rng.random() < 0.25 else 1.0)
            floor = 10 ** (-rng.uniform(50, 120) / 10) if rng.random() < 0.3 else 1e-15
            gain = gain * np.maximum(low_pass(FREQUENCY), floor)
            if rng.random() < 0.12:  # a second, sharper end above the knee, as encoders and resamplers add
                gain = gain * _wall(FREQUENCY, knee_hz * rng.uniform(1.1, 2), 50.0)
        noise = 0.0
        if rng.random() < 0.5:
            noise = _LAST_BIT * (10 ** rng.uniform(-2, 2) if rng.random() < 0.4 else 1.0)
        voice, sums = int(rng.choice([-1, -1, 0, 1])), 0.0
        for index in rng.permutation(len(self._power))[: int(rng.choice([1, 1, 1, 2, 4]))]:
            power = self._power[index]
            frames = power.sum(axis=0) if voice < 0 or len(power) == 1 else power[voice]
            if rng.random() < 0.3:
                length = int(rng.integers(min(40, len(frames)), len(frames) + 1))
                start = int(rng.integers(0, len(frames) - length + 1))
                frames = frames[start : start + length]
            frames = frames * gain.astype(np.float32)
            if noise:
                frames += noise * rng.standard_exponential(frames.shape, np.float32)
            sums = sums + frame_sums(frames, self._matrix)
        return self._example(sums, knee_hz, width)

    def coded(self) -> Example | None:
        """An example that went through a real codec, behind a low-pass or not."""
        rng = self._rng
        audio = self._audio[int(rng.integers(len(self._audio)))][:, : 6 * RATE]
        knee_hz, width = np.inf, 0.0
        if rng.random() < 0.7:
            low_pass = random_low_pass(self._random_hz(), rng)
            knee, start = lost_db_at(low_pass, 3.0), lost_db_at(low_pass, 1.0)
            if knee is None or start is None:
                return None
            knee_hz, width = knee, float(np.log2(knee / start))
            size = 1 << 19
            gain = np.sqrt(low_pass(np.fft.rfftfreq(size, 1 / RATE)))
            audio = np.fft.irfft(np.fft.rfft(audio, size) * gain, size)[:, : audio.shape[1]].astype(np.float32)
        codec = 'mp3' if rng.random() < 0.8 else 'vorbis'
        kbits = int(rng.choice([64, 64, 96, 96, 128, 128, 48, 56, 80, 112, 160]))
        compression = (320 - kbits) / 288 if codec == 'mp3' else float(rng.uniform(0.3, 0.95))
        after = frame_power(lossy_round_trip(audio, RATE, codec=codec, compression=compression), N_FFT)
        lost_hz = lost_above_hz(frame_power(audio, N_FFT).sum(axis=(0, 1)), after.sum(axis=(0, 1)))
        if lost_hz < knee_hz:
            knee_hz, width = lost_hz, 0.01
        if knee_hz > self._bandwidth / 1.1:
            if not (self._is_full and lost_hz > FULL_BAND_HZ):
                return None
            knee_hz = np.inf
        voice = int(rng.integers(len(after))) if rng.random() < 0.3 else -1
        frames = after.sum(axis=0) if voice < 0 else after[voice]
        return self._example(frame_sums(frames, self._matrix), knee_hz, width)

    def _random_hz(self) -> float:
        return float(np.exp(self._rng.uniform(np.log(LOWEST_HZ), np.log(self._highest))))

    def _example(self, sums: np.ndarray, knee_hz: float, width: float) -> Example | None:
        if not sums[0].any() or knee_hz < LOWEST_HZ / 1.2:
            return None
        return Example(features(sums), knee_hz if knee_hz < FULL_BAND_HZ else np.inf, width)


def lost_above_hz(before: np.ndarray, after: np.ndarray) -> float:
    """The frequency above which a codec leaves 6 dB or less than half of the power (F,) everywhere."""
    a, b = (np.convolve(x, np.full(9, 1 / 9), 'same') for x in (before, after))
    kept = np.flatnonzero((a > a.max() * 1e-10) & (b > a * 10**-0.6))
    return float(kept[-1] + 1) * RATE / N_FFT if len(kept) else 0.0
