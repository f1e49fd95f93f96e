"""Bridge sampling of any length with bounded memory, equal to sampling the whole spectrogram at once.

MultiDiffusion averages the network's predictions of overlapping tiles over one shared state. Its step s of a frame
needs step s - 1 of the tiles that cover the frame, and nothing else. So the tiles advance as a diagonal front: the
first ones finish while later ones have not been read yet, and only about (steps * overlap) pieces exist at a time.

The state is kept in pieces ("chunks") of one tile hop; a tile is the chunks ``first .. first + chunks_per_tile - 1``.

A network of several experts would be called for all of them in turn, since the front holds all steps at once. So each
call serves one expert, and the front stays with it until none of its tiles is ready.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.bridge_step import bridge_step, second_order_estimate, step_noise_std
from nemo_audio_restore.restoration.evaluator import Evaluator


@dataclass
class Chunk:
    """A piece of the spectrogram on its way from degraded to clean.

    Attributes:
        degraded: (C, 3, F, n) the bridge's end x_1.
        mask: (1, 1, F, n), 1 = to generate.
        payload: whatever the caller needs when the chunk is done.
        state: (C, 3, F, n) x_t at the time with index ``level``; after the last step the clean estimate.
        level: steps taken.
        predictions: network outputs of the present step by tile, until all tiles that cover the chunk are there.
        previous: (C, 3, F, n) the clean estimate of the last step; only for samplers of the second order.
    """

    degraded: Tensor
    mask: Tensor
    payload: Any = None
    state: Tensor = field(init=False)
    level: int = field(init=False, default=0)
    predictions: dict[int, Tensor] = field(init=False, default_factory=dict)
    previous: Tensor | None = field(init=False, default=None)

    def __post_init__(self):
        self.state = self.degraded  # at t = 1


@dataclass(frozen=True)
class Layout:
    """Which tiles there are.

    Attributes:
        num_chunks: chunks in all, numbered in the order of time.
        tiles: sorted number of the first chunk of each tile.
        chunks_per_tile: tile length in chunks; every chunk is covered by at least one tile.
    """

    num_chunks: int
    tiles: Sequence[int]
    chunks_per_tile: int

    def covering(self, chunk: int) -> range:
        """Numbers of the tiles that hold a chunk."""
        first = bisect_left(self.tiles, chunk - self.chunks_per_tile + 1)
        return range(first, bisect_right(self.tiles, chunk))


def chunks_in_flight(steps: int, chunks_per_tile: int) -> int:
    """Chunks that must be held so that the first one can take its last step."""
    return steps * (chunks_per_tile - 1) + 1


class Wavefront:
    """Samples the bridge over all tiles of a layout, chunk by chunk.

    Args:
        evaluator: calls the network; its ``batch_size`` decides how many tiles are taken together.
        process: the bridge.
        times: (K,) float64, strictly descending from 1; the network is evaluated once at each.
        eta: share of fresh noise, see ``bridge_step``.
        layout: the tiles.
        load: ``load(chunk) -> Chunk``; called once for each number, in order.
        noise: ``noise(chunk, step) -> (3, F, n)`` standard normal noise on the chunk's device.
        order: 1, or 2 for ``second_order_estimate``.
        experts: (K,) which expert of the network serves each time; None for a single one.
        spare_chunks: chunks held beyond the smallest number that works; the more, the longer the front can stay with
            one expert. Never less than one batch.
        on_evaluations: told how many tiles, counted for each channel, have just been evaluated; :meth:`state` may be
            called from there.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        process: SchrodingerBridge,
        *,
        times: Tensor,
        eta: float,
        layout: Layout,
        load: Callable[[int], Chunk],
        noise: Callable[[int, int], Tensor],
        order: int = 1,
        experts: Sequence[int] | None = None,
        spare_chunks: int = 0,
        on_evaluations: Callable[[int], None] | None = None,
    ):
        self.evaluator = evaluator
        self.process = process
        self.times = times
        self.eta = eta
        self.order = order
        self.layout = layout
        self.load = load
        self.noise = noise
        self.on_evaluations = on_evaluations
        self._experts = [0] * len(times) if experts is None else list(experts)
        self._expert = self._experts[0]
        self._spare = spare_chunks
        self._chunks: deque[Chunk] = deque()
        self._first_chunk = 0  # number of self._chunks[0]
        self._tile_levels: deque[int] = deque()
        self._first_tile = 0  # number of the tile of self._tile_levels[0]

    def run(self) -> Iterator[Chunk]:
        """Yields the chunks in order; the ``state`` of each is then its clean estimate (C, 3, F, n)."""
        while self._first_chunk < self.layout.num_chunks:
            self._fill()
            while self._chunks[0].level < len(self.times):
                self._evaluate(self._ready())
            yield self._take_first()

    def state(self) -> dict[str, Any]:
        """Everything that cannot be had from ``load``, as tensors (not copied), numbers, lists and dicts."""
        return {
            'first_chunk': self._first_chunk,
            'first_tile': self._first_tile,
            'tile_levels': list(self._tile_levels),
            'expert': self._expert,
            'chunks': [
                {
                    'level': chunk.level,
                    'state': chunk.state if chunk.level else None,
                    'predictions': chunk.predictions,
                    'previous': chunk.previous,
                }
                for chunk in self._chunks
            ],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues where another wavefront of the same settings was; its unfinished chunks are loaded again.

        Args:
            state: what :meth:`state` returned; its tensors may be on another device.
        """
        self._first_chunk, self._first_tile = state['first_chunk'], state['first_tile']
        self._tile_levels, self._expert = deque(state['tile_levels']), state['expert']
        self._chunks.clear()
        for number, saved in enumerate(state['chunks'], start=self._first_chunk):
            chunk = self.load(number)
            device = chunk.degraded.device
            chunk.level = saved['level']
            if saved['state'] is not None:
                chunk.state = saved['state'].to(device)
            chunk.predictions = {tile: part.to(device) for tile, part in saved['predictions'].items()}
            if saved['previous'] is not None:
                chunk.previous = saved['previous'].to(device)
            self._chunks.append(chunk)

    @property
    def _limit(self) -> int:
        """Most chunks that are held; it grows and shrinks with the batch."""
        spare = max(self.evaluator.batch_size, self._spare)
        return chunks_in_flight(len(self.times), self.layout.chunks_per_tile) + spare

    def _fill(self) -> None:
        while len(self._chunks) < self._limit and self._first_chunk + len(self._chunks) < self.layout.num_chunks:
            self._chunks.append(self.load(self._first_chunk + len(self._chunks)))
        loaded = self._first_chunk + len(self._chunks)
        while (tile := self._first_tile + len(self._tile_levels)) < len(self.layout.tiles):
            if self.layout.tiles[tile] + self.layout.chunks_per_tile > loaded:
                break
            self._tile_levels.append(0)

    def _tile_chunks(self, tile: int) -> list[Chunk]:
        first = self.layout.tiles[tile] - self._first_chunk
        return [self._chunks[first + offset] for offset in range(self.layout.chunks_per_tile)]

    def _ready(self) -> list[int]:
        """Tiles of one expert whose chunks all wait for their next step, the most advanced first; at most a batch."""
        ready = self._ready_tiles(self._expert)
        if not ready:
            offset = self._ready_tiles(None)[0] - self._first_tile
            self._expert = self._experts[self._tile_levels[offset]]
            ready = self._ready_tiles(self._expert)
        return ready

    def _ready_tiles(self, expert: int | None) -> list[int]:
        channels = self._chunks[0].degraded.shape[0]
        most = max(1, self.evaluator.batch_size // channels)
        ready = []
        for offset, level in enumerate(self._tile_levels):
            if level == len(self.times) or (expert is not None and self._experts[level] != expert):
                continue
            tile = self._first_tile + offset
            if all(chunk.level == level for chunk in self._tile_chunks(tile)):
                ready.append(tile)
                if len(ready) == most:
                    break
        return ready

    def _evaluate(self, tiles: list[int]) -> None:
        device = self._chunks[0].degraded.device
        states, masks, times = [], [], []
        for tile in tiles:
            chunks = self._tile_chunks(tile)
            state = torch.cat([chunk.state for chunk in chunks], dim=-1)
            states.append(state)
            masks.append(torch.cat([chunk.mask for chunk in chunks], dim=-1).expand(len(state), -1, -1, -1))
            times += [float(self.times[chunks[0].level])] * len(state)
        state, mask = torch.cat(states), torch.cat(masks)
        t = torch.tensor(times, dtype=torch.float32, device=device)
        prediction = self.evaluator(state, t, mask)
        for tile, part in zip(tiles, prediction.chunk(len(tiles)), strict=True):
            self._tile_levels[tile - self._first_tile] += 1
            self._deliver(tile, part)
        if self.on_evaluations is not None:
            self.on_evaluations(len(state))

    def _deliver(self, tile: int, prediction: Tensor) -> None:
        start = 0
        for offset, chunk in enumerate(self._tile_chunks(tile)):
            frames = chunk.state.shape[-1]
            # A view would keep the whole batch alive until its last chunk has gone.
            chunk.predictions[tile] = prediction[..., start : start + frames].clone()
            start += frames
            number = self.layout.tiles[tile] + offset
            if len(chunk.predictions) == len(self.layout.covering(number)):
                self._advance(number, chunk)

    def _advance(self, number: int, chunk: Chunk) -> None:
        """One step of the sampler, from the average prediction of all tiles that cover the chunk."""
        # Summed in the order of the tiles, not of their arrival: the batch size must not change a bit.
        parts = [chunk.predictions[tile] for tile in sorted(chunk.predictions)]
        prediction = sum(parts[1:], parts[0]) / len(parts)
        t = self.times[chunk.level]
        clean = self.process.clean_estimate(chunk.state, prediction, t)
        clean = torch.where(chunk.mask > 0, clean, chunk.degraded)
        step, chunk.level = chunk.level, chunk.level + 1
        chunk.predictions = {}
        if chunk.level == len(self.times):
            chunk.state, chunk.previous = clean, None
            return
        t_next = self.times[chunk.level]
        noise = None
        if float(step_noise_std(self.process, t, t_next, eta=self.eta)) > 0:
            noise = self.noise(number, step)
        target = clean
        if self.order == 2:
            if step > 0:
                before = self.times[step - 1]
                target = second_order_estimate(self.process, clean, chunk.previous, before, t, t_next)
            chunk.previous = clean
        chunk.state = bridge_step(
            self.process, chunk.state, target, chunk.degraded, t, t_next, eta=self.eta, noise=noise
        )

    def _take_first(self) -> Chunk:
        """Gives the first chunk away, and forgets the tiles that no other chunk needs."""
        chunk = self._chunks.popleft()
        self._first_chunk += 1
        while self._tile_levels and self.layout.tiles[self._first_tile] < self._first_chunk:
            # A tile whose first chunk has gone is finished: it can only have gone with the tile's last step.
            self._tile_levels.popleft()
            self._first_tile += 1
        return chunk
