"""The small network for laptop CPUs."""

import pytest
import torch

from nemo_audio_restore.networks.folded_unet import FoldedUNet


def tiny(**changes) -> FoldedUNet:
    settings = {
        'num_bins': 64,
        'fold_bins': 4,
        'fold_frames': 2,
        'channels': (16, 32),
        'num_blocks': (1, 1),
        'attention_levels': (1,),
        'num_heads': 2,
        'embedding_channels': 16,
    }
    torch.manual_seed(0)
    network = FoldedUNet(**(settings | changes))
    with torch.no_grad():  # wake the layers that start at zero
        for parameter in network.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.1)
    return network.eval()


def inputs(batch: int = 2, frames: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(batch, 3, 64, frames, generator=generator)
    mask = (torch.rand(batch, 1, 64, frames, generator=generator) < 0.5).float()
    return x_t, torch.linspace(0.2, 0.9, batch), mask


def test_default_network_fits_sixteen_megabytes_in_half_precision():
    with torch.device('meta'):
        network = FoldedUNet()
    assert 2 * sum(p.numel() for p in network.parameters()) < 16 * 2**20


def test_unfold_undoes_fold():
    network = tiny()
    x = torch.randn(2, 3, 64, 8)
    assert torch.equal(network._unfold(network._fold(x)), x)


def test_fold_puts_one_cell_into_one_position():
    network = tiny()
    x = torch.zeros(1, 3, 64, 8)
    x[0, :, 4:8, 2:4] = 1
    folded = network._fold(x)
    assert (folded[0, :, 1, 1] == 1).all()
    assert folded.sum() == folded[0, :, 1, 1].sum()


def test_untrained_network_returns_a_gain_times_what_differs_from_the_prior():
    torch.manual_seed(0)
    network = FoldedUNet(
        num_bins=64, fold_bins=4, fold_frames=2, channels=(16, 32), num_blocks=(1, 1), embedding_channels=16
    )
    x_t, t, mask = inputs()
    prediction = network(x_t, t, mask)
    gain = network.gain(network.time(t))
    magnitude = x_t[:, :1] - network.prior(x_t[:, :1], mask)
    assert torch.allclose(prediction[:, :1], gain[:, :1, None, None] * magnitude, atol=1e-5)
    assert torch.allclose(prediction[:, 1:], gain[:, 1:, None, None] * x_t[:, 1:], atol=1e-5)


def test_level_of_one_frame_reaches_every_row_of_it():
    network = tiny(attention_levels=())
    x_t, t, mask = inputs(batch=1)
    louder = x_t.clone()
    louder[:, 0, 0, 3] += 5
    mask[:, :, 0, 3] = 0
    difference = (network(louder, t, mask) - network(x_t, t, mask)).abs().amax(dim=(0, 1))
    assert (difference[:, 3] > 0).all()


def test_prediction_depends_on_state_time_and_mask():
    network = tiny()
    x_t, t, mask = inputs()
    base = network(x_t, t, mask)
    assert not torch.allclose(base, network(x_t + 0.1, t, mask))
    assert not torch.allclose(base, network(x_t, t + 0.05, mask))
    assert not torch.allclose(base, network(x_t, t, 1 - mask))


def test_prediction_knows_absolute_frequency():
    network = tiny(attention_levels=())
    x_t = torch.zeros(1, 3, 64, 8)
    prediction = network(x_t, torch.tensor([0.5]), torch.ones(1, 1, 64, 8))
    assert prediction[0, 0, :, 4].reshape(16, 4).std(dim=0).max() > 1e-3


def test_items_of_a_batch_do_not_touch_each_other():
    network = tiny()
    x_t, t, mask = inputs(batch=3)
    together = network(x_t, t, mask)
    alone = torch.cat([network(x_t[i : i + 1], t[i : i + 1], mask[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_every_parameter_learns():
    network = tiny()
    network(*inputs()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


@pytest.mark.parametrize(('bins', 'frames'), [(32, 8), (64, 6)])
def test_shapes_that_do_not_fit_are_refused_with_the_allowed_ones(bins: int, frames: int):
    with pytest.raises(ValueError, match='64 bins and a multiple of 4 frames'):
        tiny()(torch.zeros(1, 3, bins, frames), torch.ones(1), torch.zeros(1, 1, bins, frames))


def test_number_of_bins_must_fit_the_levels():
    with pytest.raises(ValueError, match='num_bins must be a multiple of 8'):
        tiny(num_bins=60)
    with pytest.raises(ValueError, match='one entry a level'):
        tiny(num_blocks=(1,))
