"""Long spectrograms through a network that was made for short ones: overlapping tiles, averaged."""

from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def tile_starts(num_frames: int, tile_frames: int, tile_hop_frames: int) -> list[int]:
    """First frames of the tiles that cover ``num_frames`` frames.

    Args:
        num_frames: length N of the spectrogram, at least 1.
        tile_frames: length of a tile.
        tile_hop_frames: distance between tiles, in 1..tile_frames.

    Returns:
        Multiples of the hop; the last tile is moved back so that it ends with the spectrogram. ``[0]`` if one tile is
        enough.
    """
    if not 1 <= tile_hop_frames <= tile_frames:
        raise ValueError(f'tile_hop_frames must lie in 1..tile_frames = {tile_frames}; got {tile_hop_frames}')
    last = num_frames - tile_frames
    if last <= 0:
        return [0]
    return [*range(0, last, tile_hop_frames), last]


def tiled(predict: Predict, *, tile_frames: int, tile_hop_frames: int, batch_size: int) -> Predict:
    """Wraps a network so that it sees tiles of ``tile_frames`` frames; where tiles overlap, predictions are averaged.

    All tiles look at one shared state, so the noise is coherent across their borders. A spectrogram that is not
    longer than a tile goes through as it is. A tile whose condition is zero everywhere has nothing to generate and is
    not computed; frames that only such tiles cover come back as zeros.

    Args:
        predict: ``predict(x_t (B, C, F, N), t (B,), condition (B, 1, F, N) or None) -> (B, C', F, N)``.
        tile_frames: length of a tile.
        tile_hop_frames: distance between tiles, in 1..tile_frames.
        batch_size: most tiles in one call of ``predict``; changes memory and speed, not the result.

    Returns:
        A function with the signature of ``predict`` for any N.

    Source: MultiDiffusion (arXiv 2302.08113), equation 5 with equal weights; A2SB (arXiv 2501.11311), section 3.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1; got {batch_size}')
    tile_starts(1, tile_frames, tile_hop_frames)  # refuses a bad hop here rather than in the middle of a file

    def predict_tiled(x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        num_frames = x_t.shape[-1]
        if num_frames <= tile_frames:
            return predict(x_t, t, condition)
        starts = tile_starts(num_frames, tile_frames, tile_hop_frames)
        tiles = [(item, start) for start in starts for item in range(x_t.shape[0])]
        if condition is not None:
            busy = condition.amax(dim=(1, 2)) > 0  # (B, N)
            busy = busy.unfold(1, tile_frames, 1).any(dim=2).cpu()  # [item, start]: does that tile have work?
            tiles = [(item, start) for item, start in tiles if busy[item, start]]
        total = count = None
        for first in range(0, len(tiles), batch_size):
            group = tiles[first : first + batch_size]
            items = torch.tensor([item for item, _ in group], device=t.device)
            prediction = predict(
                _cut(x_t, group, tile_frames),
                t[items],
                None if condition is None else _cut(condition, group, tile_frames),
            )
            if total is None:
                total = x_t.new_zeros(x_t.shape[0], *prediction.shape[1:-1], num_frames)
                count = x_t.new_zeros(x_t.shape[0], 1, 1, num_frames)
            for row, (item, start) in enumerate(group):
                total[item, ..., start : start + tile_frames] += prediction[row]
                count[item, ..., start : start + tile_frames] += 1
        if total is None:
            return torch.zeros_like(x_t)
        return total / count.clamp_min(1)

    return predict_tiled


def _cut(tensor: Tensor, tiles: list[tuple[int, int]], tile_frames: int) -> Tensor:
    """The tiles (item, start) of a (B, C, F, N) tensor as one batch."""
    return torch.stack([tensor[item, ..., start : start + tile_frames] for item, start in tiles])
