import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_audio_restore.processes.diffusion import RectifiedFlow, VDiffusion
from nemo_audio_restore.processes.diffusion_times import exponential_times, linear_times, log_snr_times, shift_times
from nemo_audio_restore.processes.guidance import guided
from nemo_audio_restore.processes.item_noise import item_generators, noise_from_each

TRAJECTORIES = Path(__file__).resolve().parent.parent / 'fixtures' / 'stable_audio' / 'trajectories.npz'
PROCESSES = [VDiffusion(), RectifiedFlow()]


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('process', PROCESSES, ids=['v', 'flow'])
def test_ends_are_the_clean_latents_and_the_noise(process):
    clean, noise = drawn(2, 3, 4), drawn(2, 3, 4, seed=2)
    start, end = torch.tensor([0.0, 0.0]).double(), torch.tensor([1.0, 1.0]).double()
    torch.testing.assert_close(process.noised(clean, noise, start).state, clean)
    torch.testing.assert_close(process.noised(clean, noise, end).state, noise)


@pytest.mark.parametrize('process', PROCESSES, ids=['v', 'flow'])
def test_clean_estimate_of_the_target_is_the_clean_latents_at_every_time(process):
    clean, noise, t = drawn(5, 3, 4), drawn(5, 3, 4, seed=2), torch.linspace(0, 1, 5, dtype=torch.float64)
    example = process.noised(clean, noise, t)
    torch.testing.assert_close(process.clean_estimate(example.state, example.target, t), clean)


@pytest.mark.parametrize('process', PROCESSES, ids=['v', 'flow'])
def test_velocity_of_the_target_is_the_derivative_of_the_path(process):
    clean, noise, t = drawn(5, 3, 4), drawn(5, 3, 4, seed=2), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    step = 1e-6
    slope = (process.noised(clean, noise, t + step).state - process.noised(clean, noise, t - step).state) / (2 * step)
    velocity = process.velocity(process.noised(clean, noise, t).target)
    torch.testing.assert_close(velocity, slope, atol=1e-6, rtol=0)


@pytest.mark.parametrize('process', PROCESSES, ids=['v', 'flow'])
def test_time_of_ratio_inverts_sigma_over_alpha(process):
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    torch.testing.assert_close(process.time_of_ratio(process.sigma(t) / process.alpha(t)), t)


def test_v_keeps_the_power_and_denoiser_reads_the_clean_latents_off_the_network():
    process, t = VDiffusion(), torch.tensor([0.3, 0.6]).double()
    torch.testing.assert_close(process.alpha(t) ** 2 + process.sigma(t) ** 2, torch.ones_like(t))
    clean, noise = drawn(2, 3, 4), drawn(2, 3, 4, seed=2)
    example = process.noised(clean, noise, t)
    told = []

    def network(x_t, t, condition):
        told.append(condition)
        return example.target

    torch.testing.assert_close(process.denoiser(network, 'a prompt')(example.state, t), clean)
    assert told == ['a prompt']


def test_exponential_times_have_the_given_ends_and_equal_steps_in_log_snr():
    process = VDiffusion()
    times = exponential_times(process, 8, sigma_min=0.03, sigma_max=500)
    ratios = process.sigma(times) / process.alpha(times)
    assert ratios[0].item() == pytest.approx(500)
    assert ratios[-1].item() == pytest.approx(0.03)
    steps = ratios.log().diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    lower = exponential_times(process, 8, sigma_min=0.03, sigma_max=500, rho=2.0)
    assert (lower[1:-1] < times[1:-1]).all()


def test_exponential_times_are_those_of_the_published_program():
    stored = np.load(TRAJECTORIES)
    times = exponential_times(VDiffusion(), 8, sigma_min=0.03, sigma_max=500)
    ratios = VDiffusion().sigma(times) / VDiffusion().alpha(times)
    torch.testing.assert_close(ratios, torch.from_numpy(stored['dpmpp2m_sigma']), atol=0, rtol=1e-5)


def test_log_snr_times_are_those_of_the_published_program_and_begin_where_asked():
    stored = np.load(TRAJECTORIES)
    torch.testing.assert_close(log_snr_times(8), torch.from_numpy(stored['pingpong_t']), atol=1e-6, rtol=0)
    assert log_snr_times(8, t_max=0.7)[0] == 0.7
    assert log_snr_times(8, t_max=0.7)[1] < 0.7
    assert log_snr_times(8, log_snr_min=-4.0)[1] < log_snr_times(8)[1]
    assert log_snr_times(8, log_snr_max=4.0)[-1] < log_snr_times(8)[-1]


def test_shifted_times_are_those_of_the_published_program_and_keep_the_ends():
    stored = np.load(TRAJECTORIES)
    times = torch.from_numpy(stored['dist_shift_in']).double()
    for length in (256, 1024):
        expected = torch.from_numpy(stored[f'dist_shift_out_{length}']).double()
        torch.testing.assert_close(shift_times(times, length), expected, atol=1e-6, rtol=0)
    assert (shift_times(times, 4096, max_shift=2.0)[1:-1] > shift_times(times, 4096)[1:-1]).all()
    assert (shift_times(times, 256, base_shift=1.0)[1:-1] > shift_times(times, 256)[1:-1]).all()
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert torch.equal(shift_times(ends, 512), ends)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: linear_times(0), 'at least one network evaluation'),
        (lambda: linear_times(4, t_max=1.5), r't_max must lie in \(0, 1\]'),
        (lambda: exponential_times(VDiffusion(), 4, sigma_min=2, sigma_max=1), 'sigma_min < sigma_max'),
        (lambda: exponential_times(VDiffusion(), 4, sigma_min=0.1, sigma_max=1, rho=0), 'rho must be positive'),
        (lambda: log_snr_times(4, t_max=0.05), 'beyond log_snr_max'),
        (lambda: guided(None, None, process=VDiffusion(), scale=6, rescale=2), 'rescale must lie'),
        (lambda: guided(None, None, process=VDiffusion(), scale=6, interval=(0.5, 0.2)), 'two noise levels'),
    ],
)
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def two_answers(asked, unasked, calls):
    def predict(x_t, t, condition):
        calls.append(condition)
        return asked if condition == 'prompt' else unasked

    return predict


def test_guidance_extrapolates_from_the_null_prediction():
    asked, unasked, calls = drawn(2, 3, 4), drawn(2, 3, 4, seed=2), []
    x, t = drawn(2, 3, 4, seed=3), torch.tensor([0.2, 0.8])
    predict = guided(two_answers(asked, unasked, calls), 'null', process=VDiffusion(), scale=6)
    torch.testing.assert_close(predict(x, t, 'prompt'), unasked + 6 * (asked - unasked))
    assert sorted(calls) == ['null', 'prompt']


def test_guidance_of_one_asks_the_network_once():
    asked, calls = drawn(2, 3, 4), []
    predict = guided(two_answers(asked, None, calls), 'null', process=VDiffusion(), scale=1, rescale=0.4)
    assert torch.equal(predict(asked, torch.tensor([0.2, 0.8]), 'prompt'), asked)
    assert calls == ['prompt']


def test_rescaling_restores_the_spread_over_channels():
    asked, unasked = drawn(2, 3, 4), drawn(2, 3, 4, seed=2)
    t = torch.tensor([0.2, 0.8])

    def spread(rescale):
        predict = guided(two_answers(asked, unasked, []), 'null', process=VDiffusion(), scale=6, rescale=rescale)
        return predict(asked, t, 'prompt').std(dim=1)

    torch.testing.assert_close(spread(1.0), asked.std(dim=1))
    torch.testing.assert_close(spread(0.4), 0.4 * asked.std(dim=1) + 0.6 * spread(0.0))


def test_guidance_acts_within_its_interval_of_noise_levels_only():
    asked, unasked, calls = drawn(2, 3, 4), drawn(2, 3, 4, seed=2), []
    network, t = two_answers(asked, unasked, calls), torch.tensor([0.2, 0.8])
    everywhere = guided(network, 'null', process=VDiffusion(), scale=6)(asked, t, 'prompt')
    late = guided(network, 'null', process=VDiffusion(), scale=6, interval=(0.5, 1.0))(asked, t, 'prompt')
    assert torch.equal(late[0], asked[0])
    assert torch.equal(late[1], everywhere[1])
    calls.clear()
    # sin(pi / 2 * 0.2) = 0.31 for the v objective, but 0.2 for a flow: the interval is one of noise levels.
    nowhere = guided(network, 'null', process=VDiffusion(), scale=6, interval=(0.1, 0.3))(asked, t, 'prompt')
    assert torch.equal(nowhere, asked)
    assert calls == ['prompt']
    flow = guided(network, 'null', process=RectifiedFlow(), scale=6, interval=(0.1, 0.3))(asked, t, 'prompt')
    assert torch.equal(flow[0], everywhere[0])


def test_noise_of_an_item_is_the_same_in_any_batch():
    like = torch.zeros(3, 2, 5)
    together = noise_from_each(item_generators([7, 8, 9]))
    alone = noise_from_each(item_generators([8]))
    for draw in range(3):
        assert torch.equal(together(draw, like)[1], alone(draw, like[:1])[0])
    first = noise_from_each(item_generators([7, 8]))(0, like[:2])
    assert not torch.equal(first[0], first[1])


def test_noise_needs_a_generator_for_every_item():
    with pytest.raises(ValueError, match='a batch of 3 needs as many generators; got 2'):
        noise_from_each(item_generators([1, 2]))(0, torch.zeros(3, 1))


def test_drawing_is_standard_normal():
    noise = noise_from_each(item_generators([3]))(0, torch.zeros(1, 20_000))
    assert abs(noise.mean().item()) < 4 / math.sqrt(20_000)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
