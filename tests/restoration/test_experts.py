"""Networks with one expert for each part of the bridge: exchanging them is what must be rare."""

import itertools

import numpy as np
import pytest
import torch
from fake_restorer import FakeNetwork, FakeRestorer, noise_audio

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.bridge_samplers import sampling_times
from nemo_audio_restore.restoration import SamplerSettings, restore_array
from nemo_audio_restore.restoration.evaluator import Evaluator
from nemo_audio_restore.restoration.noise import FrameNoise
from nemo_audio_restore.restoration.wavefront import Chunk, Layout, Wavefront


class TakingTurns(FakeNetwork):
    """Two experts with different outputs; only one can be on the accelerator."""

    one_resident = True

    def __init__(self):
        super().__init__()
        self.used: list[int] = []

    def expert_index(self, t):
        return (t >= 0.5).long()

    def __call__(self, x_t, t, condition):
        (expert,) = set(self.expert_index(t).tolist())  # a mixed batch needs both
        self.used.append(expert)
        return super().__call__(x_t, t, condition) * (1 + expert)

    @property
    def exchanges(self):
        return sum(a != b for a, b in itertools.pairwise(self.used))


class OneAtATime(TakingTurns):
    """The same function for an engine that knows nothing of experts."""

    one_resident = False
    expert_index = None

    def __call__(self, x_t, t, condition):
        return FakeNetwork.__call__(self, x_t, t, condition) * (1 + (t >= 0.5).float().view(-1, 1, 1, 1))


def streamed(network, *, num_chunks, spare_chunks, experts, steps=8, batch_size=4):
    noise = FrameNoise(3, channels=3, bins=4)
    degraded = torch.randn(1, 3, 4, 16 * num_chunks, generator=torch.Generator().manual_seed(1))
    wavefront = Wavefront(
        Evaluator(network, device=torch.device('cpu'), batch_size=batch_size),
        SchrodingerBridge(),
        times=sampling_times(steps, t_min=0.05).double(),
        eta=0.5,
        layout=Layout(num_chunks, range(num_chunks - 1), 2),
        load=lambda i: Chunk(degraded[..., i * 16 : (i + 1) * 16], torch.ones(1, 1, 4, 16)),
        noise=lambda i, step: noise.frames(step, i * 16, 16),
        experts=experts,
        spare_chunks=spare_chunks,
    )
    return torch.cat([chunk.state for chunk in wavefront.run()], dim=-1)


@pytest.mark.parametrize('spare_chunks', [4, 16, 32])
def test_experts_are_exchanged_twice_for_each_run_of_spare_chunks(spare_chunks):
    network, num_chunks = TakingTurns(), 150
    experts = network.expert_index(sampling_times(8, t_min=0.05)).tolist()
    streamed(network, num_chunks=num_chunks, spare_chunks=spare_chunks, experts=experts)
    assert network.tiles == 8 * (num_chunks - 1)
    assert network.exchanges <= 2 * -(-num_chunks // (spare_chunks + 1)) + 1
    assert network.exchanges < len(network.used) / 4


def test_the_order_of_experts_does_not_change_the_result():
    network = TakingTurns()
    experts = network.expert_index(sampling_times(8, t_min=0.05)).tolist()
    expected = streamed(OneAtATime(), num_chunks=40, spare_chunks=4, experts=None)
    actual = streamed(network, num_chunks=40, spare_chunks=32, experts=experts)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_the_engine_asks_the_network_for_its_experts():
    settings = SamplerSettings(steps=4, tile_frames=32, tile_hop_frames=16, batch_size=4)
    audio = noise_audio(0.8, channels=2)
    turns, plain = FakeRestorer(), FakeRestorer()
    turns.network, plain.network = TakingTurns(), OneAtATime()
    actual, expected = (
        restore_array(restorer, audio, 44100, cutoff_hz=6000, settings=settings) for restorer in (turns, plain)
    )
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert turns.network.exchanges <= 5
