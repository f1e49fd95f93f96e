import pytest
import torch
from torch.nn import functional

from nemo_audio_restore.networks.group_norm import GroupNorm


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('mean', [0.0, 5.0, 50.0])
@pytest.mark.parametrize('modulated', [False, True])
def test_norm_is_exact_in_both_memory_formats_however_large_the_mean(memory_format, mean, modulated):
    norm = GroupNorm(12, 4)
    norm.weight.data, norm.bias.data = random(12, seed=0), random(12, seed=1)
    # Channels of a group differ in their means and spreads.
    x = random(2, 12, 16, 10, seed=2) * (1 + random(12, 1, 1, seed=3).abs()) + mean + random(12, 1, 1, seed=4)
    scale, shift = random(2, 12, 16, 1, seed=5), random(2, 12, 16, 1, seed=6)
    expected = functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double())
    if modulated:
        expected = expected * (1 + scale) + shift
    with torch.no_grad():
        actual = norm(x.contiguous(memory_format=memory_format), *((scale, shift) if modulated else ()))
    assert actual.is_contiguous(memory_format=memory_format)
    assert (actual - expected).norm() <= 2e-7 * (1 + mean) * expected.norm()


def test_gradients_are_those_of_the_contiguous_form():
    norm, x = GroupNorm(8, 4), random(2, 8, 6, 5, seed=0)
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone(memory_format=memory_format).requires_grad_()
        norm.zero_grad()
        (norm(leaf) * random(2, 8, 6, 5, seed=1)).sum().backward()
        gradients.append([leaf.grad, norm.weight.grad.clone(), norm.bias.grad.clone()])
    for plain, channels_last in zip(*gradients, strict=True):
        torch.testing.assert_close(channels_last, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_half_precision_is_rounded_once_at_the_end(memory_format):
    norm, x = GroupNorm(8, 4).eval(), random(1, 8, 6, 5, seed=0).bfloat16().contiguous(memory_format=memory_format)
    scale = random(1, 8, 6, 1, seed=1)
    with torch.no_grad():
        exact = norm(x.float(), scale, torch.zeros_like(scale))
        half = norm.bfloat16()(x, scale, torch.zeros_like(scale))
    assert half.dtype == torch.bfloat16 and torch.equal(half, exact.bfloat16())
