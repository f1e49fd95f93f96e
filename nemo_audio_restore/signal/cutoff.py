"""Where a low-passed recording ends: the knee of its long-term spectrum, or the finding that it is full-band.

Around every candidate frequency the spectrum, in dB over octaves, is fitted by a straight line times a low-pass of
free steepness above a floor; a parabola above the same floor stands for music that grows darker by itself. The
candidate whose low-pass explains most more than the parabola does is the knee, if it explains enough and if what it
took away was deep. Times count by the root of their energy; what is 30 dB below the loud parts does not count.
"""

from dataclasses import dataclass

import numpy as np

FULL_BAND_HZ = 18000.0
"""A recording that reaches this far is full-band: hardly anyone hears what is above."""

LOWEST_HZ = 1200.0
"""Knees below are not looked for: many instruments end there by themselves."""

_BIN_HZ = 10.8
_CELLS_PER_OCTAVE = 24
_BELOW, _ABOVE = 30, 30  # cells around a candidate that are fitted
_DECAY_OCTAVES = 0.4  # what lies this far from the candidate counts 1 / e
_LOUD_DB = 30.0
_RANGE_DB = 105.0
_ORDERS = np.array([4.0, 6.0, 8.0, 11.0, 13.0, 16.0, 24.0, 48.0, 120.0])
_CAP_DB = 8.0
_MISSING_DB = 6.0
_HUBER_DB = 3.0
_PRIOR_SLOPE, _PRIOR_WEIGHT = -9.0, 8.0  # dB per octave, and how many cells it is worth
_SLOPES = (-24.0, 6.0)
_MOST_CURVED = -25.0  # dB per octave squared that music may have by itself
_LEAST_DEPTH_DB = 10.0
_LEAST_GAIN, _LEAST_SOFT_GAIN = 13.0, 18.0  # what undamaged music reaches now and then, measured on training music
_MOST_WALLS = 3
_LATE = {8.0: 1.03, 13.0: 1.03, 16.0: 1.03, 24.0: 1.01}
"""The line takes a part of a soft slope for its own: by how much that delays the knee, measured on training music."""
_GROUPS = 6  # parts of a recording that are asked on their own
_AGREEMENT = 0.08
UNSURE = 0.5
"""Confidence below which a user should look for himself."""


class SpectrumBlocks:
    """Power spectra of blocks of about a second, collected from a stream in bounded memory.

    Args:
        channels: C.
        sample_rate: in Hz.
        max_blocks: when as many are held, neighbours are merged.
    """

    def __init__(self, channels: int, sample_rate: int, *, max_blocks: int = 1024):
        self.sample_rate = sample_rate
        self._n_fft = 1 << max(round(float(np.log2(sample_rate / _BIN_HZ))), 6)
        self._hop = self._n_fft // 2
        self._window = np.hanning(self._n_fft + 1)[:-1].astype(np.float32)
        self._frames_per_block = max(round(sample_rate / self._hop), 1)
        self._max_blocks = max_blocks + max_blocks % 2
        self._blocks: list[np.ndarray] = []
        self._open = np.zeros((channels, self._n_fft // 2 + 1))
        self._open_frames = 0
        self._rest = np.zeros((channels, 0), np.float32)

    def add(self, audio: np.ndarray) -> None:
        """Takes the next (C, n) float32 samples of the stream."""
        audio = np.concatenate([self._rest, audio], axis=1)
        count = max((audio.shape[1] - self._n_fft) // self._hop + 1, 0)
        done = 0
        while done < count:
            number = min(self._frames_per_block - self._open_frames, count - done)
            start = done * self._hop
            part = audio[:, start : start + (number - 1) * self._hop + self._n_fft]
            frames = np.lib.stride_tricks.sliding_window_view(part, self._n_fft, axis=1)[:, :: self._hop]
            self._open += np.square(np.abs(np.fft.rfft(frames * self._window))).sum(axis=1)
            self._open_frames += number
            done += number
            if self._open_frames == self._frames_per_block:
                self._close()
        self._rest = audio[:, count * self._hop :].copy()

    def power(self) -> np.ndarray:
        """Mean power (C, K, F) of K blocks in the order of time; F bins from 0 Hz to half the sample rate."""
        blocks = list(self._blocks)
        if self._open_frames:
            blocks.append((self._open / self._open_frames).astype(np.float32))
        if not blocks:
            return np.zeros((len(self._open), 0, self._open.shape[1]), np.float32)
        return np.stack(blocks, axis=1)

    def _close(self) -> None:
        self._blocks.append((self._open / self._open_frames).astype(np.float32))
        self._open, self._open_frames = np.zeros_like(self._open), 0
        if len(self._blocks) == self._max_blocks:
            self._blocks = [(a + b) / 2 for a, b in zip(self._blocks[::2], self._blocks[1::2], strict=True)]
            self._frames_per_block *= 2


@dataclass(frozen=True)
class Knee:
    """The best low-pass that was found in one spectrum.

    Attributes:
        cutoff_hz: its -3 dB point.
        order: its steepness in units of 6 dB per octave.
        gain: by how many dB times cells it explains the spectrum better than a parabola.
        depth_db: how far the spectrum above lies below its continuation from below the cutoff.
    """

    cutoff_hz: float
    order: float
    gain: float
    depth_db: float


def spectrum_cells(power: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums a power spectrum (F,) into cells of constant width in octaves: (n,) levels in dB and centres in Hz."""
    bins = len(power)
    count = int(np.log2(sample_rate / 2 / (LOWEST_HZ / 2)) * _CELLS_PER_OCTAVE)
    edges = sample_rate / 2 * 2.0 ** (-np.arange(count, -1, -1) / _CELLS_PER_OCTAVE)
    total = np.concatenate([[0.0], np.cumsum(power, dtype=np.float64)])
    position = np.minimum(edges / (sample_rate / 2) * (bins - 1) + 0.5, bins)
    level = np.diff(np.interp(position, np.arange(bins + 1), total)) / np.diff(position)
    level = 10 * np.log10(np.maximum(level, 1e-30))
    return np.maximum(level, level.max() - _RANGE_DB), np.sqrt(edges[1:] * edges[:-1])


def find_knee(level_db: np.ndarray, centres_hz: np.ndarray) -> Knee | None:
    """Finds the low-pass in a spectrum.

    A wall may stand in the slope of a softer low-pass, as an encoder's does. So the spectrum below a wall is searched
    again.

    Args:
        level_db: (n,) cells in dB, as of :func:`spectrum_cells`.
        centres_hz: (n,) their centres.

    Returns:
        The lowest that explains enough, else the best one, however weak; None where nothing falls away.
    """
    found = _best(level_db, centres_hz)
    for _ in range(_MOST_WALLS - 1):
        if found is None or found.gain < _LEAST_GAIN:
            break
        below = int(np.searchsorted(centres_hz, found.cutoff_hz * 2 ** (-1.5 / _CELLS_PER_OCTAVE)))
        softer = _best(level_db[:below], centres_hz[:below]) if found.order > _ORDERS[1] else None
        if softer is None or softer.gain < _LEAST_SOFT_GAIN:
            break
        found = softer
    return found


def _best(level: np.ndarray, centres: np.ndarray) -> Knee | None:
    """The low-pass that explains most."""
    first = int(np.searchsorted(centres, LOWEST_HZ))
    position = np.arange(first, len(level) - 2, dtype=np.float64)
    found = None
    for _ in range(2):  # whole cells, then quarters around the best
        if not len(position):
            return None
        fits = _fits(level, position)
        allowed = np.where(fits.depth >= _LEAST_DEPTH_DB, fits.gain, -np.inf)
        at = np.unravel_index(np.argmax(allowed), allowed.shape)
        if not np.isfinite(allowed[at]):
            return found
        order = float(_ORDERS[at[1]])
        cutoff_hz = centres[0] * 2 ** (position[at[0]] / _CELLS_PER_OCTAVE) / _LATE.get(order, 1.0)
        found = Knee(float(cutoff_hz), order, float(fits.gain[at]), float(fits.depth[at]))
        position = position[at[0]] + np.arange(-1.5, 1.51, 0.25)
        position = position[(position >= first - 1) & (position <= len(level) - 2)]
    return found


@dataclass(frozen=True)
class _Fits:
    """Gain and depth of all candidates (M, orders)."""

    gain: np.ndarray
    depth: np.ndarray


def _fits(level: np.ndarray, position: np.ndarray) -> _Fits:
    """Fits low-passes at (M,) positions, in cells, and a parabola each."""
    centre = np.round(position).astype(int)
    index = centre[:, None] + np.arange(-_BELOW, _ABOVE + 1)
    x = (index - position[:, None]) / _CELLS_PER_OCTAVE  # octaves above the candidate
    inside = ((index >= 0) & (index < len(level))) * np.exp(-np.abs(x) / _DECAY_OCTAVES)
    y = level[np.clip(index, 0, len(level) - 1)]
    above = inside * (x > 0.5 / _CELLS_PER_OCTAVE)
    floor = np.array([np.quantile(level[min(c + 1, len(level) - 1) :], 0.25) for c in centre])[:, None]
    response = -10 * np.log10(1 + 2.0 ** (2 * _ORDERS[:, None] * x[:, None, :]))  # (M, orders, W)
    a, b = _line(x[:, None, :], y[:, None, :] - response, (inside - above)[:, None, :])
    line = a[..., None] + b[..., None] * x[:, None, :]
    model = 10 * np.log10(10 ** ((line + response) / 10) + 10 ** (floor[:, None] / 10))
    residual = y[:, None, :] - model
    # A second wall above the knee is no argument against it: there, less than expected costs little.
    residual = np.where((above[:, None, :] > 0) & (residual < 0), np.maximum(residual, -_MISSING_DB), residual)
    loss = _loss(residual, inside[:, None, :])
    null = _loss(y - np.maximum(_parabola(x, y, inside), floor), inside)
    weight = above[:, None, :]
    depth = (weight * (line - y[:, None, :])).sum(-1) / np.maximum(weight.sum(-1), 1)
    return _Fits(null[:, None] - loss, depth)


def _loss(residual: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return (np.minimum(np.abs(residual), _CAP_DB) * inside).sum(axis=-1)


def _line(x: np.ndarray, z: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Robust straight lines through (..., W) points, their slopes drawn towards what music has."""
    weight = np.broadcast_to(inside, z.shape)
    for _ in range(4):
        total = weight.sum(-1)
        x_mean, z_mean = (weight * x).sum(-1) / total, (weight * z).sum(-1) / total
        dx = x - x_mean[..., None]
        variance, covariance = (weight * dx * dx).sum(-1), (weight * dx * z).sum(-1)
        prior = _PRIOR_WEIGHT / 12
        slope = np.clip((covariance + prior * _PRIOR_SLOPE) / (variance + prior), *_SLOPES)
        offset = z_mean - slope * x_mean
        residual = np.abs(z - offset[..., None] - slope[..., None] * x)
        weight = inside * np.minimum(1, _HUBER_DB / np.maximum(residual, 1e-9))
    return offset, slope


def _parabola(x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Robust parabolas through (M, W) points, not more curved downwards than music is."""
    basis = np.stack([np.ones_like(x), x, x * x], axis=-1)
    weight = inside
    for _ in range(3):
        normal = np.einsum('mw,mwi,mwj->mij', weight, basis, basis) + np.diag([0, 0.1, 0.1])
        right = np.einsum('mw,mwi,mw->mi', weight, basis, y)
        found = np.linalg.solve(normal, right[..., None])[..., 0]
        bent = np.maximum(found[:, 2], _MOST_CURVED)
        straight = np.linalg.solve(normal[:, :2, :2], (right[:, :2] - normal[:, :2, 2] * bent[:, None])[..., None])
        curve = straight[:, 0] + straight[:, 1] * x + bent[:, None] * x * x
        weight = inside * np.minimum(1, _HUBER_DB / np.maximum(np.abs(y - curve), 1e-9))
    return curve


def loud_blocks(power: np.ndarray) -> np.ndarray:
    """(K,) bool: which of (K, F) blocks lie within 30 dB of the loud ones; none of digital silence."""
    loudness = power[:, 4:].sum(axis=1, dtype=np.float64)
    if not loudness.any():
        return np.zeros(len(power), bool)
    return loudness >= np.quantile(loudness[loudness > 0], 0.95) * 10 ** (-_LOUD_DB / 10)


def weighted_spectrum(power: np.ndarray) -> np.ndarray:
    """Mean (F,) of (K, F) blocks, each weighted so that it counts by the root of its energy."""
    weight = power[:, 4:].sum(axis=1, dtype=np.float64) ** -0.5
    return (power * weight[:, None]).sum(axis=0) / weight.sum()


@dataclass(frozen=True)
class CutoffEstimate:
    """Where a recording ends.

    Attributes:
        cutoff_hz: the knee, where the low-pass has taken 3 dB; None for a full-band recording.
        wall_hz: where it has taken less than 1 dB, and what is above should be generated anew; None likewise.
        confidence: 0 to 1.
        channels_hz: the knee of each channel by itself, None where it is full-band.
        reason: one sentence for the user.
    """

    cutoff_hz: float | None
    wall_hz: float | None
    confidence: float
    channels_hz: tuple[float | None, ...]
    reason: str

    @property
    def is_sure(self) -> bool:
        """Whether it may be used without a look at the spectrum."""
        return self.confidence >= UNSURE


class CutoffDetector:
    """Reads a stream, then tells where its band ends.

    Args:
        channels: C.
        sample_rate: in Hz.
    """

    def __init__(self, channels: int, sample_rate: int):
        self._rate = sample_rate
        self._blocks = SpectrumBlocks(channels, sample_rate)

    def add(self, audio: np.ndarray) -> None:
        """Takes the next (C, n) float32 samples; memory stays bounded for a stream of any length."""
        self._blocks.add(audio)

    def estimate(self) -> CutoffEstimate:
        """Judges the stream so far: all channels together, each by itself, and parts of the time for confidence."""
        power = self._blocks.power()
        together = power.sum(axis=0)
        loud = loud_blocks(together)
        if not loud.any():
            return CutoffEstimate(None, None, 0.0, (None,) * len(power), 'there is no sound to judge by')
        knee = self._knee(together[loud])
        cutoff_hz = _cutoff(knee)
        channels = tuple(_cutoff(self._knee(part[loud])) for part in power) if len(power) > 1 else (cutoff_hz,)
        groups = np.array_split(np.flatnonzero(loud), min(_GROUPS, max(int(loud.sum()) // 4, 1)))
        others = [_cutoff(self._knee(together[group])) for group in groups] if len(groups) > 1 else [cutoff_hz]
        # Better a dull recording left alone than treble replaced: where half of the parts see no knee, there is none.
        outvoted = cutoff_hz is not None and np.mean([other is None for other in [*others, *channels]]) >= 0.5
        if outvoted:
            cutoff_hz = None
        agreement = float(np.mean([_agree(cutoff_hz, other) for other in [*others, *channels]]))
        gain = 0.0 if knee is None or outvoted else knee.gain
        strength = 1 / (1 + np.exp((_LEAST_GAIN - gain) / 4))
        confidence = agreement * float(1 - strength if gain < _LEAST_GAIN else strength)
        reason = _reason(cutoff_hz, knee, channels, others)
        if cutoff_hz is None:
            return self._full_band(confidence, channels, reason)
        # 1 dB of a Butterworth slope, and a percent for what the estimate may be off.
        wall_hz = 0.99 * cutoff_hz * (10**0.1 - 1) ** (1 / (2 * knee.order))
        return CutoffEstimate(cutoff_hz, wall_hz, confidence, channels, reason)

    def _knee(self, power: np.ndarray) -> Knee | None:
        """The knee of (K, F) blocks of one channel or of all."""
        heard = power[power[:, 4:].any(axis=1)]
        if not len(heard):
            return None
        return find_knee(*spectrum_cells(weighted_spectrum(heard), self._rate))

    def _full_band(self, confidence: float, channels: tuple[float | None, ...], reason: str) -> CutoffEstimate:
        limit = 0.95 * self._rate / 2
        if self._rate / 2 > FULL_BAND_HZ:
            return CutoffEstimate(None, None, confidence, channels, reason)
        reason = f'the recording fills the band that its sample rate of {self._rate} Hz allows'
        return CutoffEstimate(limit, limit, max(confidence, UNSURE), channels, reason)


def _cutoff(knee: Knee | None) -> float | None:
    """The knee's frequency, or None if it is too weak or too high to count."""
    if knee is None or knee.gain < _LEAST_GAIN or knee.cutoff_hz >= FULL_BAND_HZ:
        return None
    return knee.cutoff_hz


def _agree(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(np.log(a / b)) <= _AGREEMENT


def _reason(
    cutoff_hz: float | None,
    knee: Knee | None,
    channels: tuple[float | None, ...],
    groups: list[float | None],
) -> str:
    """What was found, and what speaks against it."""
    if cutoff_hz is None:
        text = f'the recording reaches {FULL_BAND_HZ / 1000:g} kHz or falls off by itself'
    else:
        text = f'above {cutoff_hz:.0f} Hz the spectrum lies {knee.depth_db:.0f} dB below its course'
    for name, values in (('channels', channels), ('parts of the recording', groups)):
        if not all(_agree(cutoff_hz, value) for value in values):
            ends = ', '.join('full band' if value is None else f'{value:.0f} Hz' for value in values)
            text += f'; the {name} differ: {ends}'
    return text
