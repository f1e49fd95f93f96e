import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_audio_restore.signal.tiling import tile_starts, tiled


@settings(max_examples=200, deadline=None)
@given(frames=st.integers(1, 300), tile=st.integers(1, 80), hop=st.integers(1, 80))
def test_every_frame_lies_in_a_tile_and_no_tile_leaves_the_input(frames, tile, hop):
    hop = min(hop, tile)
    starts = tile_starts(frames, tile, hop)
    covered = {frame for start in starts for frame in range(start, start + tile)}
    assert covered >= set(range(frames))
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert frames <= tile or starts[-1] + tile == frames


def test_a_hop_longer_than_the_tile_is_refused():
    with pytest.raises(ValueError, match=r'1\.\.tile_frames = 8; got 9'):
        tiled(lambda x, t, c: x, tile_frames=8, tile_hop_frames=9, batch_size=1)


def test_a_function_of_single_frames_is_not_changed_by_tiling():
    x = torch.randn(2, 3, 4, 37, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.3, 0.8])

    def predict(x_t, t, condition):
        return x_t.square() * t[:, None, None, None] + condition

    condition = torch.rand(2, 1, 4, 37, generator=torch.Generator().manual_seed(1)) + 0.1
    result = tiled(predict, tile_frames=8, tile_hop_frames=5, batch_size=3)(x, t, condition)
    torch.testing.assert_close(result, predict(x, t, condition))


def test_overlapping_tiles_are_averaged_with_equal_weights():
    seen = []

    def predict(x_t, t, condition):
        seen.append(x_t[0, 0, 0, 0].item())
        return torch.full_like(x_t, seen[-1])

    x = torch.arange(12.0).expand(1, 1, 1, 12)
    result = tiled(predict, tile_frames=8, tile_hop_frames=4, batch_size=1)(x, torch.ones(1))
    assert seen == [0.0, 4.0]
    assert result[0, 0, 0].tolist() == [0.0] * 4 + [2.0] * 4 + [4.0] * 4


@pytest.mark.parametrize('batch_size', [1, 2, 5, 64])
def test_batch_size_bounds_the_calls_and_leaves_the_result_alone(batch_size):
    sizes = []

    def predict(x_t, t, condition):
        sizes.append(len(x_t))
        return x_t.cumsum(-1) * t[:, None, None, None]

    x = torch.randn(3, 1, 2, 50, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9])
    result = tiled(predict, tile_frames=16, tile_hop_frames=8, batch_size=batch_size)(x, t)
    one_by_one = [
        tiled(predict, tile_frames=16, tile_hop_frames=8, batch_size=1)(x[i : i + 1], t[i : i + 1]) for i in range(3)
    ]
    torch.testing.assert_close(result, torch.cat(one_by_one))
    assert max(sizes) <= batch_size


def test_tiles_with_nothing_to_generate_are_not_computed():
    calls = []

    def predict(x_t, t, condition):
        calls.append(len(x_t))
        return torch.ones_like(x_t)

    condition = torch.zeros(2, 1, 4, 64)
    condition[1, :, :, 20] = 1
    x = torch.randn(2, 3, 4, 64, generator=torch.Generator().manual_seed(0))
    result = tiled(predict, tile_frames=16, tile_hop_frames=8, batch_size=8)(x, torch.ones(2), condition)
    assert sum(calls) == 2  # tiles 8..23 and 16..31 of the second item
    assert result[0].abs().max() == 0
    assert (result[1, ..., 8:32] == 1).all()
    nothing = tiled(predict, tile_frames=16, tile_hop_frames=8, batch_size=8)(x, torch.ones(2), condition * 0)
    assert nothing.abs().max() == 0
    assert sum(calls) == 2
