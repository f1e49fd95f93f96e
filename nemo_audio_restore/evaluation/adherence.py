"""Whether generated audio follows its prompt: agreement with texts, and with the length that was asked for."""

from dataclasses import dataclass

import numpy as np

_FRAME_S = 0.02


@dataclass(frozen=True)
class ShuffleTest:
    """How much better recordings agree with their own texts than with those of others.

    Attributes:
        own: mean similarity with the own text.
        shuffled: mean over the permutations.
        deviation: of the permutations' means.
        p_value: share of the permutations that agree as well, counting the one that was observed.
        better_than: mean share of the other texts that agree less than the own one; 0.5 by chance.
    """

    own: float
    shuffled: float
    deviation: float
    p_value: float
    better_than: float


def shuffle_test(similarity: np.ndarray, *, permutations: int = 10_000, seed: int = 0) -> ShuffleTest:
    """Permutation test of recordings against texts.

    Args:
        similarity: (N, N) of each recording with each text; row and column n belong together.
        permutations: number of random assignments.
        seed: of them.

    Returns:
        The result; the p-value is one-sided and at least 1 / (permutations + 1).

    Raises:
        ValueError: not a square matrix of two or more finite rows.

    Source: Phipson and Smyth 2010, "Permutation P-values should never be zero", equation 2.
    """
    similarity = np.asarray(similarity, np.float64)
    count = len(similarity)
    if similarity.shape != (count, count) or count < 2 or not np.isfinite(similarity).all():
        raise ValueError(f'similarity must be (N, N), N >= 2, finite; got the shape {similarity.shape}')
    own = np.diag(similarity)
    rng = np.random.default_rng(seed)
    means = np.array([similarity[np.arange(count), rng.permutation(count)].mean() for _ in range(permutations)])
    # Rounding must not decide whether the identity counts as agreeing as well as itself.
    as_good = int((means >= own.mean() - 1e-12).sum())
    others = (similarity < own[:, None]).sum(axis=1) / (count - 1)
    return ShuffleTest(
        own=float(own.mean()),
        shuffled=float(means.mean()),
        deviation=float(means.std()),
        p_value=(1 + as_good) / (1 + permutations),
        better_than=float(others.mean()),
    )


def sounding_seconds(audio: np.ndarray, sample_rate: int, *, floor_db: float = -40.0) -> float:
    """When a recording falls silent for good.

    Args:
        audio: (C, T) samples.
        sample_rate: in Hz.
        floor_db: frames of 20 ms that are this far below the loudest one count as silent.

    Returns:
        Seconds from the beginning to the end of the last frame that is not silent; 0 for silence.
    """
    frame = max(1, round(_FRAME_S * sample_rate))
    power = np.square(np.asarray(audio, np.float64)).mean(axis=0)
    frames = np.add.reduceat(power, np.arange(0, len(power), frame)) / frame if len(power) else np.zeros(0)
    if not frames.any():
        return 0.0
    last = int(np.flatnonzero(frames >= frames.max() * 10 ** (floor_db / 10))[-1])
    return min((last + 1) * frame, len(power)) / sample_rate


def within(measured: float, asked: float, *, tolerance: float = 0.1) -> bool:
    """Whether a measured length differs from the asked one by at most a share of that."""
    return abs(measured - asked) <= tolerance * asked + 1e-9


def shaped_noise(recordings: list[np.ndarray], num_samples: int, *, seed: int = 0) -> np.ndarray:
    """Noise with the mean spectrum and the mean level of recordings: what says nothing about any prompt.

    Args:
        recordings: (C, T) samples each, of one sample rate.
        num_samples: T of the noise.
        seed: of the noise.

    Returns:
        (1, T) float32.

    Raises:
        ValueError: no recordings.
    """
    if not recordings:
        raise ValueError('noise is shaped like one recording at least')
    size = 4096
    power = np.zeros(size // 2 + 1)
    level = 0.0
    for audio in recordings:
        mono = np.asarray(audio, np.float64).mean(axis=0)
        frames = np.pad(mono, (0, -len(mono) % size)).reshape(-1, size)
        spectrum = (np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2).mean(axis=0)
        power += spectrum / max(spectrum.sum(), 1e-20)
        level += float(np.sqrt(np.mean(mono**2))) / len(recordings)
    white = np.random.default_rng(seed).standard_normal(num_samples)
    spectrum = np.fft.rfft(white)
    spectrum *= np.sqrt(np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, len(power)), power))
    noise = np.fft.irfft(spectrum, num_samples)
    return (noise * level / max(float(np.sqrt(np.mean(noise**2))), 1e-20)).astype(np.float32)[None]
