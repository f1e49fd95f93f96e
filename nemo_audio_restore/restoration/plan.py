"""Where there is something to generate: masks, and the tiles that have to be computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.signal.corruption import bandwidth_mask
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

Span = tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """A run of overlapping tiles that is independent of all others.

    Attributes:
        first_frame: where its first tile starts.
        num_tiles: tiles at the plan's hop.
    """

    first_frame: int
    num_tiles: int


@dataclass(frozen=True)
class Plan:
    """What to generate in one file.

    Attributes:
        num_samples: T at the model's rate.
        num_frames: N of the file; tiles may go beyond it, into reflected audio.
        rows: (F, 1) mask of the bandwidth extension, zeros without one.
        gap_frames: sorted, disjoint frame ranges [start, stop) that hold damaged samples, reflected ones included.
        boxes: frame ranges with row ranges, (start, stop, low, high), of regions, reflected ones included.
        wanted: (N,) bool, frames whose estimate is used; the others are silent.
        segments: what to compute, in order, not overlapping.
        tile_frames: W.
        hop_frames: distance between tiles.
    """

    num_samples: int
    num_frames: int
    rows: Tensor
    gap_frames: tuple[Span, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    wanted: np.ndarray
    segments: tuple[Segment, ...]
    tile_frames: int
    hop_frames: int

    @property
    def num_tiles(self) -> int:
        """Tiles to compute for one channel."""
        return sum(segment.num_tiles for segment in self.segments)

    def mask(self, first: int, count: int) -> Tensor:
        """(1, 1, F, count) mask of what is to be generated in frames from ``first``."""
        return torch.maximum(self._base_mask(first, count), self._all_boxes(first, count))[None, None]

    def box_mask(self, first: int, count: int) -> Tensor:
        """(F, count) 1 for what is generated only because a region asks for it."""
        return self._all_boxes(first, count) * (1 - self._base_mask(first, count))

    def _base_mask(self, first: int, count: int) -> Tensor:
        mask = self.rows.repeat(1, count)
        for start, stop in self.gap_frames:
            if start < first + count and stop > first:
                mask[:, max(start - first, 0) : stop - first] = 1.0
        return mask

    def _all_boxes(self, first: int, count: int) -> Tensor:
        mask = torch.zeros(len(self.rows), count)
        for start, stop, low, high in self.boxes:
            if start < first + count and stop > first:
                mask[low:high, max(start - first, 0) : stop - first] = 1.0
        return mask

    def gap_mask(self, first: int, count: int) -> Tensor:
        """(count,) 1 for frames that hold damaged samples."""
        mask = torch.zeros(count)
        for start, stop in self.gap_frames:
            if start < first + count and stop > first:
                mask[max(start - first, 0) : stop - first] = 1.0
        return mask

    def used(self, first: int, count: int) -> Tensor:
        """(count,) 1 for frames of the file whose estimate is used."""
        used = torch.zeros(count)
        inside = self.wanted[first : first + count]
        used[: len(inside)] = torch.from_numpy(inside.astype(np.float32))
        return used


def make_plan(
    representation: MagnitudePhaseSpectrogram,
    *,
    num_samples: int,
    cutoff_hz: float | None,
    gaps: Sequence[Span],
    regions: Sequence[tuple[Span, tuple[float, float]]] = (),
    silent: np.ndarray,
    tile_frames: int,
    tile_hop_frames: int,
) -> Plan:
    """Decides what to generate and which tiles that takes.

    Args:
        representation: gives rows and frames their units.
        num_samples: T at the model's rate.
        cutoff_hz: everything above is generated; None for gaps only.
        gaps: damaged sample ranges [start, stop) at the model's rate.
        regions: sample ranges with the (low, high) frequencies in Hz that are damaged there.
        silent: (N,) bool, frames that see digital silence only; bandwidth is not extended there.
        tile_frames: W.
        tile_hop_frames: divides ``tile_frames``.

    Returns:
        The plan. With a cutoff the tiles lie on a regular grid, and those without a frame to generate are left out;
        with gaps only they are centred on the gaps, and gaps that share a tile are solved together.
    """
    num_frames = representation.num_frames(num_samples)
    reach = num_frames + tile_frames + tile_hop_frames
    damaged = _reflected(gaps, num_samples, reach * representation.hop_length)
    gap_frames = _merged([_touched_frames(span, representation) for span in damaged])
    gap_frames = tuple((start, stop) for start, stop in gap_frames if start < reach)
    if cutoff_hz is None:
        rows = torch.zeros(representation.num_bins, 1)
        wanted = np.zeros(num_frames, bool)
    else:
        rows = bandwidth_mask(cutoff_hz, representation)
        wanted = ~silent
    boxes = []
    for span, (low, high) in regions:
        first_row = max(round(low / representation.bin_width_hz) - 1, 0)
        last_row = min(max(round(high / representation.bin_width_hz), first_row + 1), representation.num_bins)
        for part in _reflected([span], num_samples, reach * representation.hop_length):
            start, stop = _touched_frames(part, representation)
            boxes.append((start, stop, first_row, last_row))
    damaged_frames = _merged([*gap_frames, *((start, stop) for start, stop, _, _ in boxes)])
    for start, stop in damaged_frames:
        wanted[start:stop] = True
    if cutoff_hz is None:
        inside = [(start, min(stop, num_frames)) for start, stop in damaged_frames if start < num_frames]
        segments = _centred_segments(inside, num_frames, tile_frames, tile_hop_frames)
    else:
        segments = _grid_segments(wanted, tile_frames, tile_hop_frames)
    return Plan(
        num_samples, num_frames, rows, gap_frames, tuple(boxes), wanted, segments, tile_frames, tile_hop_frames
    )


def grid_tiles(num_frames: int, tile_frames: int, hop_frames: int) -> int:
    """Tiles at multiples of the hop that cover ``num_frames`` frames; the last may end behind them."""
    return -(-max(num_frames - tile_frames, 0) // hop_frames) + 1


def _reflected(gaps: Sequence[Span], num_samples: int, stop: int) -> list[Span]:
    """The gaps and their mirror images behind the end of the file, up to sample ``stop``."""
    if not gaps:
        return []
    period = 2 * (num_samples - 1)
    spans = list(gaps)
    for shift in range(period, stop + period, period):
        spans += [(shift - b + 1, shift - a + 1) for a, b in gaps] + [(shift + a, shift + b) for a, b in gaps]
    return [(a, b) for a, b in spans if a < stop]


def _touched_frames(span: Span, representation: MagnitudePhaseSpectrogram) -> Span:
    """Frames whose window overlaps a range of samples: none of them counts as known."""
    half, hop = representation.n_fft // 2, representation.hop_length
    start, stop = span
    return max((start - half) // hop + 1, 0), -(-(stop + half) // hop)


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Sorted union of ranges."""
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def _grid_segments(wanted: np.ndarray, tile_frames: int, hop_frames: int) -> tuple[Segment, ...]:
    """Runs of tiles on the regular grid with at least one wanted frame each."""
    count = np.concatenate([[0], np.cumsum(wanted)])
    total = grid_tiles(len(wanted), tile_frames, hop_frames)
    starts = np.arange(total) * hop_frames
    active = count[np.minimum(starts + tile_frames, len(wanted))] > count[np.minimum(starts, len(wanted))]
    runs: list[Span] = []
    for tile in np.flatnonzero(active).tolist():
        # Runs whose tiles share frames are one segment.
        if runs and tile - runs[-1][1] < tile_frames // hop_frames:
            runs[-1] = (runs[-1][0], tile)
        else:
            runs.append((tile, tile))
    return tuple(Segment(first * hop_frames, last - first + 1) for first, last in runs)


def _centred_segments(
    spans: Sequence[Span], num_frames: int, tile_frames: int, hop_frames: int
) -> tuple[Segment, ...]:
    """Tiles centred on gaps, with context on both sides as far as the file has any."""
    groups: list[tuple[int, int, Segment]] = []
    for start, stop in spans:
        segment = _around(start, stop, num_frames, tile_frames, hop_frames)
        while groups:
            before = groups[-1][2]
            if before.first_frame + (before.num_tiles - 1) * hop_frames + tile_frames <= segment.first_frame:
                break
            start, stop = min(start, groups[-1][0]), max(stop, groups[-1][1])
            segment = _around(start, stop, num_frames, tile_frames, hop_frames)
            groups.pop()
        groups.append((start, stop, segment))
    return tuple(segment for _, _, segment in groups)


def _around(start: int, stop: int, num_frames: int, tile_frames: int, hop_frames: int) -> Segment:
    context = tile_frames // 8
    num_tiles = grid_tiles(stop - start + 2 * context, tile_frames, hop_frames)
    length = (num_tiles - 1) * hop_frames + tile_frames
    first = max(min((start + stop - length) // 2, num_frames - length), 0)
    return Segment(first, num_tiles)
