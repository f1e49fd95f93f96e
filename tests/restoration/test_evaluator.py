"""Precision, compilation and batches: what the network is told, and what comes out of it."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest
import torch
from fake_restorer import FakeNetwork, FakeRestorer, noise_audio
from torch import nn

from nemo_audio_restore.networks.folded_unet import FoldedUNet
from nemo_audio_restore.networks.spectrogram_unet import SpectrogramUNet
from nemo_audio_restore.networks.time_experts import TimeExperts
from nemo_audio_restore.restoration import RestorationError, SamplerSettings, evaluator, restore_array
from nemo_audio_restore.restoration.evaluator import Evaluator, is_out_of_memory, tiles_that_fit

CPU, CUDA = torch.device('cpu'), torch.device('cuda')
SETTINGS = SamplerSettings(steps=2, tile_frames=32, tile_hop_frames=16, batch_size=3)


def tiles(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x_t = torch.randn(count, 3, 128, 32, generator=torch.Generator().manual_seed(0))
    return x_t, torch.linspace(0.2, 1.0, count), (x_t[:, :1] > 0).float()


class Cramped(FakeNetwork):
    """Has memory for so many tiles, and says so with a given error."""

    def __init__(self, room: int, error: Exception):
        super().__init__()
        self.room, self.error = room, error

    def __call__(self, x_t, t, condition):
        if len(x_t) > self.room:
            raise self.error
        return super().__call__(x_t, t, condition)


def folded(seed: int = 0) -> FoldedUNet:
    torch.manual_seed(seed)
    shape = {'channels': (16, 32), 'num_blocks': (1, 1), 'attention_levels': (1,), 'num_heads': 2}
    network = FoldedUNet(num_bins=128, fold_bins=4, fold_frames=2, embedding_channels=16, **shape)
    with torch.no_grad():  # wake the layers that start at zero
        for parameter in network.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.02)
    return network.eval()


def unet() -> SpectrogramUNet:
    torch.manual_seed(0)
    return SpectrogramUNet(
        hidden_channels=(32, 64, 64), time_embedding_dim=8, band_embedding_dim=4, num_heads=1, attention_levels=(1,),
        num_res_blocks=1,
    ).eval()  # fmt: skip


ERRORS = [
    torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB'),
    RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)'),
    RuntimeError('MPS backend out of memory (MPS allocated: 18 GB)'),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    MemoryError('Unable to allocate 2.0 GiB for an array'),
]


@pytest.mark.parametrize('error', ERRORS)
@pytest.mark.parametrize('batch_size', [8, 'auto'])
def test_running_out_of_memory_halves_the_batch_and_changes_nothing_else(monkeypatch, error, batch_size):
    monkeypatch.setattr(evaluator, 'tiles_that_fit', lambda device: 8)
    network, said = Cramped(3, error), []
    evaluate = Evaluator(network, device=CPU, batch_size=batch_size, on_warning=said.append)
    expected = FakeNetwork()(*tiles(11))
    assert torch.equal(evaluate(*tiles(11)), expected)
    assert (evaluate.batch_size, network.tiles, network.largest) == (2, 11, 2)
    assert len(said) == 2 and 'ran out of memory with 8 tiles' in said[0] and 'going on with 2' in said[1]


def test_a_tile_that_does_not_fit_alone_ends_in_a_sentence():
    evaluate = Evaluator(Cramped(0, ERRORS[0]), device=CPU, batch_size=4)
    with pytest.raises(RestorationError, match='not enough memory on cpu for a single tile of 32 frames'):
        evaluate(*tiles(4))


def test_other_errors_of_the_network_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match='shapes'):
        Evaluator(Cramped(0, RuntimeError('shapes do not match')), device=CPU, batch_size=4)(*tiles(4))
    assert not is_out_of_memory(ValueError('out of memory'))


def test_auto_evaluates_one_tile_and_then_as_many_as_fit(monkeypatch):
    monkeypatch.setattr(evaluator, 'tiles_that_fit', lambda device: 5)
    network = FakeNetwork()
    evaluate = Evaluator(network, device=CPU, batch_size='auto')
    assert evaluate.batch_size == 1
    assert torch.equal(evaluate(*tiles(1)), FakeNetwork()(*tiles(1))) and network.largest == 1
    evaluate(*tiles(11))
    assert (evaluate.batch_size, network.largest, network.calls) == (5, 5, 4)


@pytest.mark.parametrize(('free', 'tile', 'expected'), [(10.0, 3.0, 2), (100.0, 3.0, 4), (1.0, 3.0, 1), (9.0, 0.0, 4)])
def test_a_cpu_takes_what_fits_into_its_free_memory(monkeypatch, free, tile, expected):
    monkeypatch.setattr(evaluator, '_memory_of_linux', lambda: (int(free * 2**30), int(tile * 2**30)))
    assert tiles_that_fit(CPU) == expected
    monkeypatch.setattr(evaluator, '_memory_of_linux', lambda: None)
    assert tiles_that_fit(CPU) == 1


def test_linux_tells_how_much_memory_is_free_and_how_large_the_process_has_been():
    measured = evaluator._memory_of_linux()
    if measured is None:
        pytest.skip('not Linux')
    assert measured[0] > 2**20 and measured[1] >= 0


@pytest.mark.parametrize(('free', 'expected'), [(8, 6), (100, 32), (0.5, 1)])
def test_a_gpu_takes_what_fits_beside_the_weights(monkeypatch, free, expected):
    gib = 2**30
    numbers = {'memory_allocated': 2 * gib, 'memory_reserved': 3 * gib, 'max_memory_allocated': 3 * gib}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (int(free * gib), 80 * gib))
    assert tiles_that_fit(CUDA) == expected
    assert tiles_that_fit(torch.device('mps')) == 4


@pytest.mark.parametrize(('precision', 'low', 'high'), [('bf16', 1e-4, 2e-2), ('fp16', 1e-5, 2e-3)])
@pytest.mark.parametrize('make', [folded, unet])
def test_half_precision_rounds_inside_the_network_alone(make, precision, low, high):
    network = make()
    exact = Evaluator(network, device=CPU, batch_size=2)(*tiles(2))
    rounded = Evaluator(network, device=CPU, batch_size=2, precision=precision)(*tiles(2))
    assert exact.dtype == rounded.dtype == torch.float32
    assert low < (rounded - exact).norm() / exact.norm() < high


def test_fp32_switches_the_autocast_of_the_caller_off():
    network = folded()
    with torch.no_grad():
        exact = network(*tiles(2))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(Evaluator(network, device=CPU, batch_size=2)(*tiles(2)), exact)


def restored(network, **changes) -> np.ndarray:
    restorer = FakeRestorer()
    restorer.network = network
    settings = dataclasses.replace(SETTINGS, **changes)
    return restore_array(restorer, noise_audio(0.15, channels=2), 44100, cutoff_hz=5000, seed=4, settings=settings)


def test_the_precision_reaches_the_network_through_the_engine():
    exact, rounded = restored(folded()), restored(folded(), precision='bf16')
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 5e-2


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_the_same_seed_gives_the_same_samples_for_any_tile_batch(precision):
    expected = restored(folded(), precision=precision, batch_size=3)
    error = np.abs(expected - restored(folded())).max()  # of bf16 itself
    for batch_size in (1, 7, 'auto'):
        actual = restored(folded(), precision=precision, batch_size=batch_size)
        # A batch may add in another order; in bf16 that moves a few values by one rounding step.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=max(1e-5, 0.1 * error))


def test_what_happened_to_the_machine_is_said_in_the_end():
    restorer = FakeRestorer()
    restorer.network = Cramped(2, ERRORS[0])
    with pytest.warns(RuntimeWarning, match='ran out of memory with 3 tiles at once: going on with 1'):
        cramped = restore_array(restorer, noise_audio(0.4), 44100, cutoff_hz=5000, settings=SETTINGS)
    roomy = restore_array(FakeRestorer(), noise_audio(0.4), 44100, cutoff_hz=5000, settings=SETTINGS)
    np.testing.assert_allclose(cramped, roomy, atol=1e-6)


def test_values_that_fp16_cannot_hold_are_reported_with_the_way_out():
    class Overflowing(FakeNetwork):
        def __call__(self, x_t, t, condition):
            return super().__call__(x_t, t, condition) * float('inf')

    with pytest.raises(RestorationError, match='fp16 has little range'):
        restored(Overflowing(), precision='fp16')


def experts() -> TimeExperts:
    return TimeExperts([folded(0), folded(1)]).eval()


@pytest.mark.parametrize('make', [unet, experts])
def test_every_network_can_be_traced_for_compilation(monkeypatch, make):
    network, said = make(), []
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    evaluate = Evaluator(network, device=CPU, batch_size=3, compile=True, on_warning=said.append)
    with torch.no_grad():
        expected = network(*tiles(3))
    torch.testing.assert_close(evaluate(*tiles(3)), expected, atol=1e-5, rtol=1e-5)
    assert said == []


class Small(nn.Module):
    frames_multiple = 4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.calls = 0

    def forward(self, x_t, t, condition):
        self.calls += 1
        return self.layer(x_t).tanh() * t[:, None, None, None] + condition


@pytest.mark.skipif(shutil.which('c++') is None, reason='torch.compile needs a C++ compiler on a CPU')
def test_a_compiled_network_predicts_the_same():
    network, said = Small().eval(), []
    compiled = Evaluator(network, device=CPU, batch_size=2, compile=True, on_warning=said.append)(*tiles(4))
    assert said == []
    torch.testing.assert_close(compiled, Evaluator(network, device=CPU)(*tiles(4)), atol=1e-5, rtol=1e-5)


def test_without_a_compiler_the_network_runs_as_it_is_and_the_user_is_told(monkeypatch):
    def no_compiler(network):
        def call(*arguments):
            raise RuntimeError('InvalidCxxCompiler: No working C++ compiler found\nmore')

        return call

    monkeypatch.setattr(torch, 'compile', no_compiler)
    network = Small().eval()
    plain = Evaluator(network, device=CPU)(*tiles(4))
    with pytest.warns(RuntimeWarning, match='could not be compiled and runs as it is.*No working C'):
        restored(network, compile=True)
    said = []
    evaluate = Evaluator(network, device=CPU, compile=True, on_warning=said.append)
    assert torch.equal(evaluate(*tiles(4)), plain) and len(said) == 1 and 'more' not in said[0]


def test_an_error_of_the_network_itself_is_not_blamed_on_the_compiler(monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda network: network)
    with pytest.raises(RuntimeError, match='shapes'):
        Evaluator(Cramped(0, RuntimeError('shapes do not match')), device=CPU, compile=True)(*tiles(1))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'batch_size': 'all'}, "batch_size must be 'auto' or at least 1"),
        ({'batch_size': 2.5}, "batch_size must be 'auto' or at least 1"),
        ({'precision': 'int8'}, 'precision must be fp32, bf16, fp16; got int8'),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(RestorationError, match=message):
        dataclasses.replace(SETTINGS, **changes)
