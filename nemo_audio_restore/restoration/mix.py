"""Adds what was generated to the input."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from nemo_audio_restore.files.audio import BLOCK_SAMPLES
from nemo_audio_restore.restoration.blend import GapGate, filtered
from nemo_audio_restore.restoration.frames import BlockBuffer


def added_band(difference: Iterator[Tensor], gate: GapGate, taps: Tensor) -> Iterator[np.ndarray]:
    """H((1 - g) D): the bandwidth extension outside gaps, as (C, n) blocks.

    The gate comes before the high-pass: in the other order the step that D makes at the edge of a gap would ring
    into the known audio beside it.

    Args:
        difference: D in (C, n) blocks.
        gate: g.
        taps: of H.

    Yields:
        As many samples as D has.
    """
    for block in filtered(_outside(difference, gate), taps):
        yield block.numpy()


def mixed(
    dry: Iterator[np.ndarray],
    band: Iterator[np.ndarray] | None,
    restored: Iterator[np.ndarray] | None,
    boxes: Iterator[np.ndarray] | None,
    gate: GapGate,
    *,
    channels: int,
    num_samples: int,
) -> Iterator[np.ndarray]:
    """Sum of (1 - g) dry + g restored + band + boxes, at the rate of the output.

    Args:
        dry: the input.
        band: the bandwidth extension, or None.
        restored: input plus D, or None without gaps.
        boxes: what time-frequency boxes change, or None.
        gate: g.
        channels: C.
        num_samples: T.

    Yields:
        (C, n) float32 blocks with T samples together.
    """
    for first, count, audio, streams in _blocks(dry, [band, restored, boxes], channels, num_samples):
        if streams[1] is not None and (inside := gate(first, count)) is not None:
            audio = (1 - inside) * audio + inside * streams[1]
        for added in (streams[0], streams[2]):
            audio = audio if added is None else audio + added
        yield audio


def gated(difference: Iterator[Tensor], gate: GapGate) -> Iterator[np.ndarray]:
    """A difference inside the gate only, as (C, n) blocks."""
    first = 0
    for block in difference:
        inside = gate(first, block.shape[1])
        first += block.shape[1]
        yield np.zeros(block.shape, np.float32) if inside is None else (block * block.new_tensor(inside)).numpy()


def summed(first: Iterator[np.ndarray], second: Iterator[np.ndarray], *, channels: int) -> Iterator[np.ndarray]:
    """The sum of two streams of one length."""
    other = BlockBuffer(second, channels=channels)
    for block in first:
        yield block + other.take(block.shape[1])


def _outside(difference: Iterator[Tensor], gate: GapGate) -> Iterator[Tensor]:
    """(1 - g) D."""
    first = 0
    for block in difference:
        inside = gate(first, block.shape[1])
        first += block.shape[1]
        yield block if inside is None else block * (1 - block.new_tensor(inside))


def _blocks(
    dry: Iterator[np.ndarray], others: list[Iterator[np.ndarray] | None], channels: int, num_samples: int
) -> Iterator[tuple[int, int, np.ndarray, list[np.ndarray | None]]]:
    """(first sample, count, dry block, blocks of the other streams) in lockstep."""
    source = BlockBuffer(dry, channels=channels)
    buffers = [None if other is None else BlockBuffer(other, channels=channels) for other in others]
    for first in range(0, num_samples, BLOCK_SAMPLES):
        count = min(BLOCK_SAMPLES, num_samples - first)
        yield first, count, source.take(count), [None if buffer is None else buffer.take(count) for buffer in buffers]


def blanked(blocks: Iterator[np.ndarray], spans: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The stream with zeros in the gaps: whatever damage is there, not even its ringing reaches the model."""
    first = 0
    for block in blocks:
        inside = [(a - first, b - first) for a, b in spans if a < first + block.shape[1] and b > first]
        first += block.shape[1]
        if inside:
            block = block.copy()
            for start, stop in inside:
                block[:, max(start, 0) : stop] = 0.0
        yield block
