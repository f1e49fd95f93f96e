"""Level of a recording over time and frequency, small enough to draw, from a file of any length."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nemo_audio_restore.files.audio import probe, read_blocks

MOST_COLUMNS = 1200
FLOOR = 1e-14


@dataclass(frozen=True)
class Levels:
    """A spectrogram to draw.

    Attributes:
        level_db: (F, N) in dB.
        sample_rate: in Hz; row F - 1 is half of it.
        duration_s: what the N columns stand for.
    """

    level_db: np.ndarray
    sample_rate: int
    duration_s: float


def window_samples(sample_rate: int) -> int:
    """Window of the spectrograms: the power of two next to 46 ms."""
    return 2 ** max(5, round(np.log2(0.046 * sample_rate)))


def file_levels(path: str | Path) -> Levels:
    """Reads a file once, in constant memory.

    Args:
        path: an audio file.

    Returns:
        Its levels, see :func:`stream_levels`.

    Raises:
        AudioFileError: it cannot be read.
    """
    info = probe(path)
    return stream_levels(read_blocks(path), info.sample_rate, expected_samples=info.num_samples)


def stream_levels(blocks: Iterable[np.ndarray], sample_rate: int, *, expected_samples: int) -> Levels:
    """Measures a stream.

    Args:
        blocks: (C, n) samples, mixed to mono.
        sample_rate: in Hz.
        expected_samples: about how many samples will come; sets how many frames share a column.

    Returns:
        About 1200 columns at most; each is the loudest of the frames that it stands for.

    Raises:
        ValueError: the stream is empty.
    """
    size = window_samples(sample_rate)
    hop, window = size // 4, torch.hann_window(size)
    group = max(1, -(-(expected_samples // hop + 1) // MOST_COLUMNS))
    rest, pending, columns, samples = torch.zeros(size // 2), torch.zeros(0, size // 2 + 1), [], 0
    end = np.zeros((1, size // 2), np.float32)
    for block in itertools.chain(blocks, (end,)):
        samples += 0 if block is end else block.shape[1]
        rest = torch.cat([rest, torch.from_numpy(np.asarray(block, np.float32)).mean(dim=0)])
        frames = (len(rest) - size) // hop + 1
        if frames < 1:
            continue
        pieces = rest[: (frames - 1) * hop + size].unfold(0, size, hop)
        pending = torch.cat([pending, torch.fft.rfft(pieces * window).abs().square()])
        rest = rest[frames * hop :]
        whole = len(pending) // group * group
        columns.append(pending[:whole].view(-1, group, pending.shape[1]).amax(dim=1))
        pending = pending[whole:]
    if samples == 0:
        raise ValueError('there is no audio to measure')
    if len(pending):
        columns.append(pending.amax(dim=0, keepdim=True))
    power = torch.cat(columns).T
    return Levels((10 * torch.log10(power.clamp_min(FLOOR))).numpy(), sample_rate, samples / sample_rate)
