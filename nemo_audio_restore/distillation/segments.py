"""Recordings longer than a prior knows: one segment after the other, crossfaded where they overlap."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

Work = Callable[[Tensor, int, Path | None], Tensor]
"""Makes (..., C, n) of a segment (C, n), given its number and the file of its checkpoint."""


def segment_starts(num_samples: int, *, segment_samples: int, overlap_samples: int) -> list[int]:
    """Where segments of equal length start, so that neighbours overlap and the last one ends with the recording.

    Args:
        num_samples: of the recording.
        segment_samples: of a segment.
        overlap_samples: that neighbours share at least, below a segment.

    Returns:
        One start a segment.

    Raises:
        ValueError: the overlap is negative or not shorter than a segment.
    """
    if not 0 <= overlap_samples < segment_samples:
        raise ValueError(
            f'segments must be longer than they overlap; got {segment_samples}, {overlap_samples} samples'
        )
    if num_samples <= segment_samples:
        return [0]
    count = -(-(num_samples - overlap_samples) // (segment_samples - overlap_samples))
    last = num_samples - segment_samples
    return [round(index * last / (count - 1)) for index in range(count)]


def in_segments(
    audio: Tensor, work: Work, *, segment_samples: int, overlap_samples: int, checkpoint: str | Path | None = None
) -> Tensor:
    """Does something to a recording of any length, segment by segment.

    The crossfade's weights are divided by their sum: parts that add up to each segment add up to the whole.

    Args:
        audio: (C, T).
        work: done to each segment.
        segment_samples: of a segment.
        overlap_samples: of the linear crossfade between neighbours, at least.
        checkpoint: finished segments are kept in files of this name with a number behind it, until all are done; an
            unfinished one may keep its state in the file it is given.

    Returns:
        (..., C, T), what ``work`` makes.
    """
    num_samples = audio.shape[-1]
    starts = segment_starts(num_samples, segment_samples=segment_samples, overlap_samples=overlap_samples)
    path = None if checkpoint is None else Path(checkpoint)
    if len(starts) == 1:
        return work(audio, 0, path)
    total, weight_sum, kept = None, torch.zeros(num_samples, device=audio.device), []
    for index, start in enumerate(starts):
        end = min(start + segment_samples, num_samples)
        segment = audio[:, start:end]
        if path is None:
            part = work(segment, index, None)
        else:
            kept.append(path.with_name(f'{path.name}.{index}'))
            part = _keep(kept[-1], segment, work, index, path)
        total = part.new_zeros(*part.shape[:-1], num_samples) if total is None else total
        rise = overlap_samples if index else 0
        fall = overlap_samples if index + 1 < len(starts) else 0
        weights = _weights(end - start, rise, fall).to(part)
        total[..., start:end] += part * weights
        weight_sum[start:end] += weights
    for file in kept:
        file.unlink()
    return total / weight_sum


def _keep(file: Path, segment: Tensor, work: Work, index: int, checkpoint: Path) -> Tensor:
    """What ``work`` makes of a segment, read from its file if that is there and of the same segment."""
    if file.exists():
        state = torch.load(file, weights_only=True)
        if not torch.equal(state['segment'], segment.cpu()):
            raise ValueError(f'{file} is of another recording; give this one another checkpoint, or remove the file')
        return state['part'].to(segment.device)
    part = work(segment, index, checkpoint)
    unfinished = file.with_name(f'{file.name}.unfinished')
    torch.save({'segment': segment.cpu().clone(), 'part': part.cpu()}, unfinished)
    os.replace(unfinished, file)
    return part


def _weights(length: int, rise: int, fall: int) -> Tensor:
    """(length,), one but for linear slopes at the ends, and nowhere zero."""
    position = torch.arange(length) + 0.5
    rising = (position / rise).clamp(max=1.0) if rise else torch.ones(length)
    return rising * ((length - position) / fall).clamp(max=1.0) if fall else rising
