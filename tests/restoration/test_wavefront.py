"""Streaming against an oracle that holds the whole spectrogram."""

import dataclasses

import numpy as np
import pytest
import torch
from fake_restorer import FakeRestorer, noise_audio

from nemo_audio_restore.processes.bridge_samplers import clean_estimator, sample_bridge, sampling_times
from nemo_audio_restore.processes.bridge_step import bridge_step
from nemo_audio_restore.restoration import SamplerSettings, restore_array
from nemo_audio_restore.restoration.evaluator import Evaluator
from nemo_audio_restore.restoration.noise import FILL_DRAW, FrameNoise
from nemo_audio_restore.restoration.wavefront import Chunk, Layout, Wavefront, chunks_in_flight
from nemo_audio_restore.signal.tiling import tiled

SETTINGS = SamplerSettings(steps=4, tile_frames=32, tile_hop_frames=16, batch_size=3)


def _mask(bins: int, frames: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, bins, frames)
    mask[..., bins // 3 :, :] = 1
    mask[..., frames // 2 : frames // 2 + 11] = 1
    return mask


def whole(network, process, degraded, mask, *, settings: SamplerSettings, noise: FrameNoise) -> torch.Tensor:
    """The plain form: all frames in memory, one step after the other."""
    frames = degraded.shape[-1]
    starts = range(0, frames - settings.tile_frames + 1, settings.tile_hop_frames)
    times = sampling_times(settings.steps, t_min=settings.t_min).double()
    x = degraded
    for step, t in enumerate(times):
        total, count = torch.zeros_like(x), torch.zeros(frames)
        for start in starts:
            tile = slice(start, start + settings.tile_frames)
            total[..., tile] += network(
                x[..., tile], t.float().expand(len(x)), mask[..., tile].expand(len(x), -1, -1, -1)
            )
            count[tile] += 1
        clean = process.clean_estimate(x, total / count, t)
        clean = mask * clean + (1 - mask) * degraded
        if step + 1 < len(times):
            fresh = noise.frames(step, 0, frames)
            x = bridge_step(process, x, clean, degraded, t, times[step + 1], eta=settings.eta, noise=fresh)
    return clean


def streamed(restorer, degraded, mask, *, settings: SamplerSettings, noise: FrameNoise) -> torch.Tensor:
    hop = settings.tile_hop_frames
    per_tile = settings.tile_frames // hop
    num_chunks = degraded.shape[-1] // hop
    wavefront = Wavefront(
        Evaluator(restorer.network, device=restorer.device, batch_size=settings.batch_size),
        restorer.process,
        times=sampling_times(settings.steps, t_min=settings.t_min).double(),
        eta=settings.eta,
        layout=Layout(num_chunks, range(num_chunks - per_tile + 1), per_tile),
        load=lambda i: Chunk(degraded[..., i * hop : (i + 1) * hop], mask[..., i * hop : (i + 1) * hop]),
        noise=lambda i, step: noise.frames(step, i * hop, hop),
        order=settings.order,
    )
    return torch.cat([chunk.state for chunk in wavefront.run()], dim=-1)


@pytest.mark.parametrize('eta', [0.0, 0.6, 1.0])
@pytest.mark.parametrize(
    ('tile_frames', 'hop', 'steps', 'batch_size'), [(32, 16, 4, 3), (32, 8, 3, 16), (16, 16, 5, 1), (32, 16, 1, 2)]
)
def test_wavefront_equals_whole_file_multidiffusion(tile_frames, hop, steps, batch_size, eta):
    settings = SamplerSettings(
        steps=steps, eta=eta, tile_frames=tile_frames, tile_hop_frames=hop, batch_size=batch_size
    )
    restorer, bins, frames = FakeRestorer(), 24, 16 * 14
    noise = FrameNoise(5, channels=3, bins=bins)
    degraded = torch.randn(2, 3, bins, frames, generator=torch.Generator().manual_seed(1))
    mask = _mask(bins, frames)
    expected = whole(restorer.network, restorer.process, degraded, mask, settings=settings, noise=noise)
    actual = streamed(restorer, degraded, mask, settings=settings, noise=noise)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('eta', 'order'), [(0.0, 1), (0.6, 1), (0.0, 2)])
def test_wavefront_equals_the_library_sampler(eta, order):
    settings = dataclasses.replace(SETTINGS, eta=eta, order=order)
    restorer, noise = FakeRestorer(), FrameNoise(5, channels=3, bins=24)
    degraded = torch.randn(1, 3, 24, 96, generator=torch.Generator().manual_seed(1))
    mask = _mask(24, 96)
    predict = tiled(restorer.network, tile_frames=32, tile_hop_frames=16, batch_size=2)
    expected = sample_bridge(
        clean_estimator(predict, restorer.process, mask), degraded, sampling_times(4, t_min=0.05),
        process=restorer.process, degraded=degraded, mask=mask, eta=eta, order=order,
        noise=lambda draw, like: noise.frames(draw, 0, 96)[None],
    )  # fmt: skip
    torch.testing.assert_close(
        streamed(restorer, degraded, mask, settings=settings, noise=noise), expected, rtol=1e-5, atol=1e-5
    )


def test_known_region_comes_back_exactly():
    restorer, noise = FakeRestorer(), FrameNoise(5, channels=3, bins=24)
    degraded, mask = torch.randn(1, 3, 24, 96), _mask(24, 96)
    estimate = streamed(restorer, degraded, mask, settings=SETTINGS, noise=noise)
    known = (mask == 0).expand_as(estimate)
    assert torch.equal(estimate[known], degraded[known])


def test_chunks_in_flight_do_not_grow_with_length():
    restorer, live, most = FakeRestorer(), 0, 0
    settings = dataclasses.replace(SETTINGS, batch_size=1)

    def load(number: int) -> Chunk:
        nonlocal live, most
        live += 1
        most = max(most, live)
        return Chunk(torch.zeros(1, 3, 8, 16), torch.ones(1, 1, 8, 16))

    wavefront = Wavefront(
        Evaluator(restorer.network, device=restorer.device, batch_size=settings.batch_size),
        restorer.process, times=sampling_times(4, t_min=0.05).double(), eta=0.0,
        layout=Layout(200, range(199), 2), load=load, noise=lambda i, step: torch.zeros(3, 8, 16),
    )  # fmt: skip
    done = 0
    for _ in wavefront.run():
        live, done = live - 1, done + 1
    assert done == 200
    assert restorer.network.tiles == 4 * 199
    assert most <= chunks_in_flight(4, 2) + 2


def test_noise_belongs_to_frame_draw_and_seed():
    noise = FrameNoise(3, channels=3, bins=5)
    long = noise.frames(0, 0, 300)
    assert torch.equal(FrameNoise(3, channels=3, bins=5).frames(0, 100, 70), long[..., 100:170])
    assert not torch.equal(noise.frames(1, 0, 64), long[..., :64])
    assert not torch.equal(noise.frames(FILL_DRAW, 0, 64), long[..., :64])
    assert not torch.equal(FrameNoise(4, channels=3, bins=5).frames(0, 0, 64), long[..., :64])
    assert abs(float(long.mean())) < 0.05 and abs(float(long.std()) - 1) < 0.05


@pytest.mark.parametrize('batch_size', [1, 2, 7])
def test_batch_size_does_not_change_the_result(batch_size):
    audio = noise_audio(0.5, channels=2)
    request = {'cutoff_hz': 5000, 'gaps': [(0.2, 0.21)], 'seed': 4}
    expected = restore_array(FakeRestorer(), audio, 44100, settings=SETTINGS, **request)
    restorer = FakeRestorer()
    settings = dataclasses.replace(SETTINGS, batch_size=batch_size)
    actual = restore_array(restorer, audio, 44100, settings=settings, **request)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert restorer.network.largest <= batch_size
