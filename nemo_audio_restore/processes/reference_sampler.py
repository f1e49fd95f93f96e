"""A2SB's sampling procedure as published: whole-file state, wrap-around padding, fixed tiles.

This is the path that reproduces published results number by number. For files, use the restoration engine.
"""

import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.bridge_samplers import (
    NoiseSource,
    OnStep,
    clean_estimator,
    noise_from,
    sample_markov,
)
from nemo_audio_restore.signal.tiling import Predict, tiled


def sample_reference(
    network: Predict,
    process: SchrodingerBridge,
    degraded: Tensor,
    mask: Tensor,
    times: Tensor,
    *,
    stochastic: bool,
    tile_frames: int,
    tile_hop_frames: int,
    batch_size: int,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Restores a whole spectrogram the way the published program does.

    The spectrogram is lengthened to a whole number of tiles by a copy of its own beginning, which conditions the last
    tile on unrelated audio: a defect that is kept because it changes the numbers.

    Args:
        network: ``network(x_t, t, condition)``.
        process: the bridge it was trained on.
        degraded: x_1 with the noise already filled in, (B, C, F, N).
        mask: (B, 1, F, N), 1 = to generate.
        times: grid (K,) from 1 downwards. As published, the network is evaluated at all entries but the last.
        stochastic: draw noise as in training; False is the deterministic variant that tests use.
        tile_frames: length of a tile.
        tile_hop_frames: distance between tiles.
        batch_size: most tiles in one call of the network.
        generator: needed when ``stochastic``.
        on_step: told about every evaluation, with the lengthened spectrograms.

    Returns:
        The clean estimate of the last evaluation, (B, C, F, N).

    Raises:
        ValueError: the grid has fewer than two entries, the generator is missing, or the input is so short that its
            beginning does not fill the last tile.
    """
    noise = _noise(stochastic, generator)
    num_frames = degraded.shape[-1]
    degraded = _wrap(degraded, tile_frames, tile_hop_frames)
    mask = _wrap(mask, tile_frames, tile_hop_frames)
    predict = tiled(network, tile_frames=tile_frames, tile_hop_frames=tile_hop_frames, batch_size=batch_size)
    estimate = sample_markov(
        clean_estimator(predict, process, mask),
        degraded,
        _evaluation_times(times),
        process=process,
        degraded=degraded,
        mask=mask,
        noise=noise,
        on_step=on_step,
    )
    return estimate[..., :num_frames]


def sample_reference_gaps(
    network: Predict,
    process: SchrodingerBridge,
    degraded: Tensor,
    mask: Tensor,
    times: Tensor,
    *,
    stochastic: bool,
    tile_frames: int,
    tile_hop_frames: int,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The published fast inpainting: one tile around the centre of every gap, one after the other.

    Every result is written back before the next gap, which may use it as context; neighbouring gaps are not solved
    together.

    Args:
        network: ``network(x_t, t, condition)``.
        process: the bridge it was trained on.
        degraded: x_1 with the noise already filled in, (B, C, F, N).
        mask: (B, 1, F, N), 1 = to generate; gaps are read from the first row of the first item.
        times: grid (K,) from 1 downwards. As published, the network is evaluated at all entries but the last.
        stochastic: draw noise as in training; False is the deterministic variant that tests use.
        tile_frames: length of a tile.
        tile_hop_frames: only decides how far the spectrogram is lengthened by its own beginning.
        generator: needed when ``stochastic``.
        on_step: told about every evaluation of every gap.

    Returns:
        The spectrogram with all gaps filled, (B, C, F, N).

    Raises:
        ValueError: as :func:`sample_reference`; or a gap is longer than a tile (published: noise stays in it).
    """
    noise = _noise(stochastic, generator)
    schedule = _evaluation_times(times)
    num_frames = degraded.shape[-1]
    filled = _wrap(degraded, tile_frames, tile_hop_frames).clone()
    padded_mask = _wrap(mask, tile_frames, tile_hop_frames)
    for first, end in _runs(mask[0, 0, 0] > 0):
        if end - first > tile_frames:
            raise ValueError(
                f'the gap at frames {first}..{end - 1} is longer than a tile of {tile_frames}; '
                'use sample_reference, or longer tiles'
            )
        start = (first + end) // 2 - tile_frames // 2
        start = min(max(start, 0), filled.shape[-1] - tile_frames)
        window = filled[..., start : start + tile_frames].clone()
        window_mask = padded_mask[..., start : start + tile_frames]
        filled[..., start : start + tile_frames] = sample_markov(
            clean_estimator(network, process, window_mask),
            window,
            schedule,
            process=process,
            degraded=window,
            mask=window_mask,
            noise=noise,
            on_step=on_step,
        )
        if noise is not None:
            for draw in range(2):  # published: drawn after the last estimate too and thrown away
                noise(draw, window)
    return filled[..., :num_frames]


def _runs(flags: Tensor) -> list[tuple[int, int]]:
    """(first, end) of every run of True in a (N,) tensor."""
    edges = torch.nn.functional.pad(flags.to('cpu', torch.int8), (1, 1)).diff().nonzero()[:, 0].tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _noise(stochastic: bool, generator: torch.Generator | None) -> NoiseSource | None:
    if not stochastic:
        return None
    if generator is None:
        raise ValueError('stochastic sampling needs a torch.Generator')
    return noise_from(generator)


def _evaluation_times(times: Tensor) -> Tensor:
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f'times must be a (K,) grid of at least two entries; got shape {tuple(times.shape)}')
    return times[:-1]


def _wrap(x: Tensor, tile_frames: int, tile_hop_frames: int) -> Tensor:
    """Appends the beginning of (B, C, F, N) so that tiles at multiples of the hop end exactly with it."""
    num_frames = x.shape[-1]
    hops = max(0, -(-(num_frames - tile_frames) // tile_hop_frames))
    missing = tile_frames + hops * tile_hop_frames - num_frames
    if missing > num_frames:
        raise ValueError(
            f'{num_frames} frames are too short for tiles of {tile_frames}: the published padding repeats the '
            f'beginning once, so at least {-(-tile_frames // 2)} frames are needed'
        )
    return torch.cat([x, x[..., :missing]], dim=-1)
