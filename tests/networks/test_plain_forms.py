"""Every exact speed-up equals the plain form but for rounding; single layers are tested beside their networks."""

import importlib.util
from pathlib import Path

import pytest
import torch

from nemo_audio_restore.networks.folded_unet import FoldedUNet
from nemo_audio_restore.networks.spectrogram_unet import ResBlock, SpectrogramUNet, Upsample
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'plain_forms.py'
ERROR = 3e-6
"""Largest difference over the largest output. Plain and fast form are both this far from a run in float64."""


@pytest.fixture(scope='module')
def plain_forms():
    specification = importlib.util.spec_from_file_location('plain_forms', SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def awake(network):
    """Random numbers in the layers that start at zero, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.05, generator=generator)
    return network.eval()


def unet():
    torch.manual_seed(0)
    return awake(
        SpectrogramUNet(
            hidden_channels=(32, 64, 64, 128), time_embedding_dim=8, band_embedding_dim=4, num_heads=1,
            attention_levels=(2,), num_res_blocks=1,
        )
    )  # fmt: skip


def folded():
    torch.manual_seed(0)
    settings = {'channels': (16, 32), 'num_blocks': (1, 1), 'attention_levels': (1,), 'num_heads': 2}
    return awake(FoldedUNet(num_bins=64, fold_bins=4, fold_frames=2, embedding_channels=16, **settings))


def inputs():
    x_t = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    return x_t, torch.tensor([0.2, 0.9]), (x_t[:, :1] > 0).float()


@pytest.mark.parametrize('make', [unet, folded])
@pytest.mark.parametrize('gradients', [False, True])
def test_the_fast_network_equals_the_plain_one(plain_forms, make, gradients):
    fast = make()
    plain = plain_forms.plain(fast)
    with torch.set_grad_enabled(gradients):
        actual, expected = fast(*inputs()).detach(), plain(*inputs()).detach()
    assert (actual - expected).abs().max() <= ERROR * expected.abs().max()


def test_the_plain_network_shares_the_weights_and_has_none_of_the_fast_layers(plain_forms):
    fast = unet()
    plain = plain_forms.plain(fast)
    assert not any(type(module) in (ResBlock, Upsample, SpectrogramUNet) for module in plain.modules())
    assert all(p is q for p, q in zip(plain.parameters(), fast.parameters(), strict=True))
    assert type(fast) is SpectrogramUNet and any(type(module) is ResBlock for module in fast.modules())


@pytest.mark.parametrize('make', [unet, folded])
def test_on_a_cpu_convolutions_see_all_channels_of_a_position_side_by_side(make):
    network, seen = make(), []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_pre_hook(
                lambda _module, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
            )
    with torch.no_grad():
        network(*inputs())
    assert len(seen) > 5 and all(seen)


def test_dividing_by_the_length_finds_the_same_phase_as_the_svd(plain_forms):
    representation = MagnitudePhaseSpectrogram(sample_rate=44100, n_fft=64, hop_length=16)
    spectrogram = torch.randn(1, 3, 32, 20, generator=torch.Generator().manual_seed(0))
    spectrogram[:, 0] = representation.magnitude_scale  # magnitude 1
    actual = torch.view_as_real(representation.to_complex(spectrogram))
    expected = plain_forms.svd_unit_circle(spectrogram[:, 1:].movedim(1, -1))
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=0)
