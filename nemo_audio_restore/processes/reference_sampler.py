"""A2SB's sampling procedure as published: whole-file state, wrap-around padding, fixed tiles.

This is the path that reproduces published results number by number. For files, use the restoration engine.
"""

import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.bridge_samplers import OnStep, clean_estimator, noise_from, sample_markov
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
        degraded: x_1 with the noise already filled in, (B, C, F, N); N at least half a tile or so (see Raises).
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


def _noise(stochastic, generator):
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
