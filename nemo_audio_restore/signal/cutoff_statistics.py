"""What the detector of cutoffs remembers of a recording: sums over time, in cells of a constant share of an octave.

A low-pass is the same at all times and the music is not. So there is more to go by than the mean spectrum: the mean
in dB, how much each cell fluctuates, the spectrum of onsets (which is flat and wide before a filter bends it), how
tonal a cell is, and whether its share moves with the low end's (that of noise behind the filter moves against it).
"""

import numpy as np

FIRST_HZ = 500.0
CELLS_PER_OCTAVE = 24
NUM_CELLS = 131
"""Up to 22 kHz."""

FEATURES = ('mean', 'mean of dB', 'deviation', 'onsets', 'tonality', 'activity')

_BIN_HZ = 10.8
_BLOCK_S = 1.0
_FLOOR = 10**-12.5  # of the power of a frame
_RANGE_DB = 105.0
_BUSY_CELLS = slice(24, 60)  # 1 to 2.8 kHz: below most cutoffs
_SUMS = 9
_HOLE_S = 0.005
_LOUD_DB = 30.0


def cell_centres_hz() -> np.ndarray:
    """(n,) centres of the cells."""
    return FIRST_HZ * 2.0 ** ((np.arange(NUM_CELLS) + 0.5) / CELLS_PER_OCTAVE)


def cell_matrix(sample_rate: int, n_fft: int) -> np.ndarray:
    """(F, n) float32: how bins are averaged into cells; zero for cells above half the sample rate."""
    edges = FIRST_HZ * 2.0 ** (np.arange(NUM_CELLS + 1) / CELLS_PER_OCTAVE)
    bins = np.arange(n_fft // 2 + 1)[:, None]
    position = np.minimum(edges * n_fft / sample_rate + 0.5, n_fft // 2 + 1)
    overlap = np.minimum(bins + 1, position[1:]) - np.maximum(bins, position[:-1])
    weight = np.maximum(overlap, 0)
    return (weight / np.maximum(weight.sum(axis=0), 1e-9)).astype(np.float32)


def frame_power(audio: np.ndarray, n_fft: int) -> np.ndarray:
    """Power (C, N, F) float32 of half-overlapping Hann frames of (C, T) samples; a last partial frame is dropped."""
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(audio, n_fft, axis=1)[:, :: n_fft // 2]
    return np.square(np.abs(np.fft.rfft(frames * window))).astype(np.float32)


def with_holes(audio: np.ndarray, n_fft: int, sample_rate: int) -> np.ndarray:
    """(N,) bool: which frames of (C, T) samples hold 5 ms of digital silence, whose edges splash over the spectrum."""
    shortest = max(round(_HOLE_S * sample_rate), 1)
    zeros = np.concatenate([[0], np.cumsum((audio == 0).all(axis=0))])
    holes = np.concatenate([[0], np.cumsum(zeros[shortest:] - zeros[:-shortest] == shortest)])
    start = np.arange(0, audio.shape[1] - n_fft + 1, n_fft // 2)
    return holes[start + n_fft - shortest + 1] > holes[start]


def frame_sums(power: np.ndarray, matrix: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """Sums of statistics over frames; sums of several stretches may be added.

    Every frame counts by the root of its energy, so that the result hardly depends on levels, fades and pauses.

    Args:
        power: (N, F).
        matrix: (F, n), as of :func:`cell_matrix`.
        before: (F,) power of the frame before the first; None where there is none.

    Returns:
        (9, n) float64: weight, power, dB, squared dB, onsets, tonality, dB times activity, activity and its square.
    """
    sums = np.zeros((_SUMS, matrix.shape[1]))
    energy = power[:, 9:].sum(axis=1)
    heard = energy > 0
    if not heard.any():
        return sums
    cells = power @ matrix
    previous = np.concatenate([(cells[:1] if before is None else before[None] @ matrix), cells[:-1]])
    # After silence everything rises, what an edge splashes over the spectrum included.
    rise = np.where(previous.any(axis=1, keepdims=True), np.maximum(cells - previous, 0), 0)[heard]
    logs = np.log10(np.maximum(power[heard], 1e-30))
    logs *= 10
    tonality = np.clip(logs @ matrix - 10 * np.log10(np.maximum(cells[heard], 1e-30)), -40, 0)
    energy, cells = energy[heard, None].astype(np.float64), cells[heard]
    weight = np.sqrt(energy)
    share = cells / energy
    level = 10 * np.log10(np.maximum(share, _FLOOR))
    activity = level[:, _BUSY_CELLS].mean(axis=1, keepdims=True)
    terms = (1.0, share, level, level**2, rise / energy, tonality, level * activity, activity, activity**2)
    for index, term in enumerate(terms):
        sums[index] = (weight * term).sum(axis=0)
    return sums


def features(sums: np.ndarray) -> np.ndarray:
    """Turns sums (9, n) into the six features (6, n) of the network, float32, all within a few units of zero."""
    total = np.maximum(sums[0], 1e-30)
    power, level, squares, rise, tonality, product, activity, activity_squares = sums[1:] / total
    mean = 10 * np.log10(np.maximum(power, _FLOOR))
    onsets = 10 * np.log10(np.maximum(rise, _FLOOR))
    deviation = np.sqrt(np.maximum(squares - level**2, 0))
    spread = np.sqrt(np.maximum(activity_squares - activity**2, 0.01))
    together = (product - level * activity) / (spread * np.maximum(deviation, 0.3))
    levels = [np.maximum(x - mean.max(), -_RANGE_DB) / 20 + 2 for x in (mean, level, onsets)]
    rows = [levels[0], levels[1], deviation / 5, levels[2], tonality / 4, together]
    return np.stack(rows).astype(np.float32)


class SpectrumStatistics:
    """Sums for blocks of about a second of every channel and of all together, in bounded memory.

    Args:
        channels: C.
        sample_rate: in Hz.
        max_blocks: when as many are held, neighbours are merged.
    """

    def __init__(self, channels: int, sample_rate: int, *, max_blocks: int = 1024):
        self._rate = sample_rate
        self._n_fft = 1 << max(round(float(np.log2(sample_rate / _BIN_HZ))), 6)
        self._matrix = cell_matrix(sample_rate, self._n_fft)
        self._frames_per_block = max(round(_BLOCK_S * sample_rate / (self._n_fft // 2)), 1)
        self._max_blocks = max_blocks + max_blocks % 2
        voices = channels + 1 if channels > 1 else 1
        self._sums: list[np.ndarray] = []
        self._energies: list[float] = []
        self._open = np.zeros((voices, _SUMS, NUM_CELLS))
        self._open_energy, self._open_frames = 0.0, 0
        self._before: np.ndarray | None = None
        self._rest = np.zeros((channels, 0), np.float32)

    def add(self, audio: np.ndarray) -> None:
        """Takes the next (C, n) float32 samples of the stream."""
        audio = np.concatenate([self._rest, audio], axis=1)
        hop = self._n_fft // 2
        count = max((audio.shape[1] - self._n_fft) // hop + 1, 0)
        done = 0
        while done < count:
            number = min(self._frames_per_block - self._open_frames, count - done)
            start = done * hop
            part = audio[:, start : start + (number - 1) * hop + self._n_fft]
            power = frame_power(part, self._n_fft)
            power[:, with_holes(part, self._n_fft, self._rate)] = 0
            if len(power) > 1:
                power = np.concatenate([power.sum(axis=0, keepdims=True), power])
            for voice, frames in enumerate(power):
                before = None if self._before is None else self._before[voice]
                self._open[voice] += frame_sums(frames, self._matrix, before)
            self._before = power[:, -1].copy()
            self._open_energy += float(power[0, :, 4:].sum(dtype=np.float64))
            self._open_frames += number
            done += number
            if self._open_frames == self._frames_per_block:
                self._close()
        self._rest = audio[:, count * hop :].copy()

    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums (V, K, 9, n) of K blocks in the order of time and their mean energies (K,).

        The first voice is the sum of the powers of all channels; the channels follow where there are several.
        """
        sums, energies = list(self._sums), list(self._energies)
        if self._open_frames:
            sums.append(self._open)
            energies.append(self._open_energy / self._open_frames)
        if not sums:
            return self._open[:, None][:, :0], np.zeros(0)
        return np.stack(sums, axis=1), np.array(energies)

    def _close(self) -> None:
        self._sums.append(self._open)
        self._energies.append(self._open_energy / self._open_frames)
        self._open = np.zeros_like(self._open)
        self._open_energy, self._open_frames = 0.0, 0
        if len(self._sums) == self._max_blocks:
            self._sums = [a + b for a, b in zip(self._sums[::2], self._sums[1::2], strict=True)]
            self._energies = [(a + b) / 2 for a, b in zip(self._energies[::2], self._energies[1::2], strict=True)]
            self._frames_per_block *= 2


def loud_blocks(energies: np.ndarray) -> np.ndarray:
    """(K,) bool: which of the blocks lie within 30 dB of the loud ones; none of digital silence."""
    if not energies.any():
        return np.zeros(len(energies), bool)
    return energies >= np.quantile(energies[energies > 0], 0.95) * 10 ** (-_LOUD_DB / 10)
