"""Sample rate conversion of streams, exact in length and alignment."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr


def resampled_length(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Samples that last as long at ``to_hz`` as ``num_samples`` at ``from_hz``, rounded to the nearest."""
    return (2 * num_samples * to_hz + from_hz) // (2 * from_hz)


def resample_blocks(
    blocks: Iterable[np.ndarray], from_hz: int, to_hz: int, *, channels: int, num_samples: int
) -> Iterator[np.ndarray]:
    """Converts a stream of blocks with a linear-phase filter; sample 0 stays at time 0.

    Args:
        blocks: (C, n) float32 blocks.
        from_hz: sample rate of the blocks.
        to_hz: sample rate to produce.
        channels: C.
        num_samples: samples to produce in all; the stream is cut or continued with zeros to fit.

    Yields:
        (C, m) float32 blocks with ``num_samples`` samples together.
    """
    if from_hz == to_hz:
        yield from _exactly(blocks, channels, num_samples)
        return
    yield from _exactly(_soxr_blocks(blocks, from_hz, to_hz, channels), channels, num_samples)


def resample_stream(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int, *, channels: int) -> Iterator[np.ndarray]:
    """The same for a stream whose length shows only at its end.

    Args:
        blocks: (C, n) float32 blocks.
        from_hz: sample rate of the blocks.
        to_hz: sample rate to produce.
        channels: C.

    Yields:
        (C, m) float32 blocks, together :func:`resampled_length` of what ``blocks`` hold together.
    """
    if from_hz == to_hz:
        yield from blocks
        return
    taken = done = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal taken
        for block in blocks:
            taken += block.shape[1]
            yield block

    # The filter looks ahead: until the end there is less than what the input lasts.
    for block in _soxr_blocks(counted(), from_hz, to_hz, channels):
        block = block[:, : resampled_length(taken, from_hz, to_hz) - done]
        done += block.shape[1]
        if block.shape[1]:
            yield np.ascontiguousarray(block)
    missing = resampled_length(taken, from_hz, to_hz) - done
    if missing:
        yield np.zeros((channels, missing), np.float32)


def _soxr_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int, channels: int) -> Iterator[np.ndarray]:
    stream = soxr.ResampleStream(from_hz, to_hz, channels, dtype='float32', quality='VHQ')
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block.T)).T
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).T


def _exactly(blocks: Iterable[np.ndarray], channels: int, num_samples: int) -> Iterator[np.ndarray]:
    left = num_samples
    for block in blocks:
        block = block[:, :left]
        left -= block.shape[1]
        if block.shape[1]:
            yield np.ascontiguousarray(block)
    while left > 0:
        block = np.zeros((channels, min(left, 1 << 16)), np.float32)
        left -= block.shape[1]
        yield block
