"""Finds places where a recording is damaged: digital silence, drop-outs and stuck samples in the midst of sound.

What tells damage from music is its edges. A pause is reached by decay; a hole begins and ends within a few
milliseconds at full level. So silence at the start and end of a recording, pauses, and fades are left alone.
"""

from dataclasses import dataclass

import numpy as np

CELL_S = 0.001
LONGEST_S = 2.0
"""Holes longer than this are taken for pauses."""

_SHORTEST_CELLS = 4
_EDGE_CELLS = 4  # within which the level must fall and rise
_CONTEXT_CELLS = 100
_FALL_DB = 30.0
_QUIETEST_DB = -65.0  # of the sound beside a hole: quieter music may well have samples of zero
_DECAYED_DB = 25.0  # below its surroundings a hole's edge is the end of a decay, not a cut
_STUCK_LEVEL = 3e-4
_COARSE_PER_S = 3.0  # stretches of one value; a recording of a few bits has more wherever it is quiet


@dataclass(frozen=True)
class Gap:
    """A damaged stretch.

    Attributes:
        start_s: in seconds.
        end_s: in seconds.
        kind: 'silence', 'drop-out' or 'stuck'.
    """

    start_s: float
    end_s: float
    kind: str


class GapDetector:
    """Collects what a stream looks like, then finds its gaps.

    Args:
        channels: C.
        sample_rate: in Hz.
    """

    def __init__(self, channels: int, sample_rate: int):
        self._cell = max(round(CELL_S * sample_rate), 8)
        self._rate = sample_rate
        self._power: list[np.ndarray] = []
        self._flat: list[np.ndarray] = []
        self._last: list[np.ndarray] = []
        self._rest = np.zeros((channels, 0), np.float32)
        self._previous = np.full((channels, 1), np.nan, np.float32)

    def add(self, audio: np.ndarray) -> None:
        """Takes the next (C, n) samples; 9 bytes are kept for each channel and millisecond."""
        audio = np.concatenate([self._rest, audio], axis=1)
        count = audio.shape[1] // self._cell
        used = audio[:, : count * self._cell]
        self._rest = audio[:, count * self._cell :].copy()
        if count == 0:
            return
        same = np.diff(used, axis=1, prepend=self._previous) == 0
        self._previous = used[:, -1:].copy()
        cells = used.reshape(len(used), count, self._cell)
        self._power.append(np.einsum('cks,cks->ck', cells, cells) / self._cell)
        self._flat.append(same.reshape(cells.shape).all(axis=2))
        self._last.append(cells[:, :, -1].copy())

    def gaps(self) -> list[Gap]:
        """The damaged stretches of the stream so far, sorted and disjoint; a gap holds for all channels."""
        if not self._power:
            return []
        power, flat, last = (np.concatenate(x, axis=1) for x in (self._power, self._flat, self._last))
        found: list[tuple[int, int, str]] = []
        for channel in range(len(power)):
            level = 10 * np.log10(power[channel] + 1e-12)
            found += _flat_runs(level, flat[channel], last[channel])
            found += _drop_outs(level)
        return [
            Gap(max(start - 1, 0) * self._cell / self._rate, (stop + 1) * self._cell / self._rate, kind)
            for start, stop, kind in _merged(found)
        ]


def _flat_runs(level: np.ndarray, flat: np.ndarray, last: np.ndarray) -> list[tuple[int, int, str]]:
    """Cells [start, stop) of constant value between cells of sound."""
    peak = np.abs(last).max()
    stuck = flat & (np.abs(last) > _STUCK_LEVEL)
    coarse = len(_runs(stuck)) > max(_COARSE_PER_S * len(level) * CELL_S, 10)
    found = []
    for start, stop in _runs(flat):
        if not _SHORTEST_CELLS - 1 <= stop - start <= LONGEST_S / CELL_S:
            continue
        value = np.abs(last[stop - 1])
        if value > _STUCK_LEVEL:
            # Flat at full scale is clipping, which has its own remedies.
            if not coarse and value < 0.98 * peak and _sound_around(level, start, stop) is not None:
                found.append((start, stop, 'stuck'))
        elif value <= 1e-6 and _is_cut(level, start, stop):
            found.append((start, stop, 'silence'))
    return found


def _drop_outs(level: np.ndarray) -> list[tuple[int, int, str]]:
    """Cells [start, stop) between a sudden fall and a sudden rise of at least 30 dB."""
    count = len(level)
    if count < 4 * _EDGE_CELLS:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(level, _EDGE_CELLS)
    mean, most = windows.mean(axis=1), windows.max(axis=1)
    # Before cell k: k - 4 .. k - 1. After: k + 2 .. k + 5, since a cell may hold the edge itself.
    k = np.arange(_EDGE_CELLS, count - _EDGE_CELLS - 2)
    falls = k[(mean[k - _EDGE_CELLS] - most[k + 2] >= _FALL_DB) & (mean[k - _EDGE_CELLS] > _QUIETEST_DB)]
    found: list[tuple[int, int, str]] = []
    for fall in falls.tolist():
        if found and fall < found[-1][1] + _EDGE_CELLS:
            continue
        limit = mean[fall - _EDGE_CELLS] - _FALL_DB
        inside = level[fall + 2 : fall + 2 + int(LONGEST_S / CELL_S)] <= limit + 3
        length = int(np.argmin(inside)) if not inside.all() else 0
        stop = fall + 2 + length
        if length < _SHORTEST_CELLS - 1 or not _is_cut(level, fall, stop):
            continue
        found.append((fall, stop, 'drop-out'))
    return found


def _sound_around(level: np.ndarray, start: int, stop: int) -> tuple[float, float] | None:
    """Levels right before and after, without the cells that hold the edges; None at the ends or beside quiet."""
    before = level[max(start - 1 - _EDGE_CELLS, 0) : max(start - 1, 0)]
    after = level[stop + 1 : stop + 1 + _EDGE_CELLS]
    if len(before) < _EDGE_CELLS or len(after) < _EDGE_CELLS:
        return None
    if min(before.max(), after.max()) < _QUIETEST_DB:
        return None
    return float(before.max()), float(after.max())


def _is_cut(level: np.ndarray, start: int, stop: int) -> bool:
    """Whether sound goes on at its level up to the stretch, and again from its end on, instead of decaying."""
    around = _sound_around(level, start, stop)
    if around is None:
        return False
    inside = np.median(level[start + 1 : stop - 1]) if stop - start > 2 else level[start:stop].min()
    loud_before = level[max(start - _CONTEXT_CELLS, 0) : start].max()
    loud_after = level[stop : stop + _CONTEXT_CELLS].max()
    return (
        min(around) - inside >= _FALL_DB - 3
        and around[0] >= loud_before - _DECAYED_DB
        and around[1] >= loud_after - _DECAYED_DB
    )


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Ranges [start, stop) of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _merged(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Union of ranges that are less than four cells apart; silence and stuck samples tell more than a drop-out."""
    merged: list[tuple[int, int, str]] = []
    for start, stop, kind in sorted(found):
        if merged and start <= merged[-1][1] + _SHORTEST_CELLS:
            first, end, name = merged[-1]
            merged[-1] = (first, max(end, stop), kind if name == 'drop-out' else name)
        else:
            merged.append((start, stop, kind))
    return merged
