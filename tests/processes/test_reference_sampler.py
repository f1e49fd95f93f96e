import pytest
import torch

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.reference_sampler import sample_reference, sample_reference_gaps

BRIDGE = SchrodingerBridge()
TIMES = torch.linspace(1, 0.05, 4)


def masked(frames, *gaps):
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 1, 4, frames)
    for first, end in gaps:
        mask[..., first:end] = 1
    return torch.randn(1, 3, 4, frames, generator=generator), mask


def settings(**changes):
    return {'stochastic': False, 'tile_frames': 16, 'tile_hop_frames': 8, 'batch_size': 4, **changes}


def test_the_last_time_of_the_grid_is_not_evaluated():
    asked = []

    def network(x_t, t, condition):
        asked.append(t[0].item())
        return torch.zeros_like(x_t)

    sample_reference(network, BRIDGE, *masked(16, (0, 16)), TIMES, **settings())
    assert asked == TIMES[:-1].tolist()


def test_the_input_is_lengthened_by_its_own_beginning():
    seen = []

    def network(x_t, t, condition):
        seen.append(x_t.clone())
        return torch.zeros_like(x_t)

    degraded, mask = masked(21, (0, 21))
    result = sample_reference(network, BRIDGE, degraded, mask, TIMES, **settings())
    assert result.shape == degraded.shape
    assert torch.equal(seen[0][1], torch.cat([degraded[0, ..., 8:], degraded[0, ..., :3]], dim=-1))


def test_noise_is_used_when_stochastic_and_needs_a_generator():
    degraded, mask = masked(24, (4, 20))

    def network(x_t, t, condition):
        return 0.1 * x_t

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample_reference(
            network, BRIDGE, degraded, mask, TIMES, **settings(stochastic=True, generator=generator)
        )

    assert torch.equal(run(0), run(0))
    assert (run(0) - run(1)).abs().max() > 1e-3
    assert torch.equal(run(0)[..., :4], degraded[..., :4])
    with pytest.raises(ValueError, match='needs a torch.Generator'):
        sample_reference(network, BRIDGE, degraded, mask, TIMES, **settings(stochastic=True))


def test_gaps_are_filled_in_order_and_serve_as_context_for_the_next():
    windows = []

    def network(x_t, t, condition):
        if t[0] == 1:
            windows.append(x_t.clone())
        return x_t  # estimate = (1 - std) x_t

    degraded, mask = masked(32, (6, 9), (13, 16))
    result = sample_reference_gaps(
        network, BRIDGE, degraded, mask, TIMES, stochastic=False, tile_frames=16, tile_hop_frames=8
    )
    assert torch.equal(windows[0], degraded[..., :16])  # centre 7: would begin at -1
    assert not torch.equal(windows[1][..., 0:3], degraded[..., 6:9])  # begins at 6, sees what was filled
    known = mask[0, 0, 0] == 0
    assert torch.equal(result[..., known], degraded[..., known])
    assert (result[..., ~known] != degraded[..., ~known]).all()


def test_too_short_inputs_long_gaps_and_short_grids_are_refused():
    def network(x_t, t, condition):
        return x_t

    with pytest.raises(ValueError, match='at least 8 frames'):
        sample_reference(network, BRIDGE, *masked(7, (0, 2)), TIMES, **settings())
    with pytest.raises(ValueError, match=r'frames 4\.\.20 is longer than a tile of 16'):
        sample_reference_gaps(
            network, BRIDGE, *masked(40, (4, 21)), TIMES, stochastic=False, tile_frames=16, tile_hop_frames=8
        )
    with pytest.raises(ValueError, match='at least two'):
        sample_reference(network, BRIDGE, *masked(16, (0, 2)), TIMES[:1], **settings())
