"""Samplers on problems whose answer is known, and against the steps of the published program.

With Gaussian data the best denoiser is linear and the probability flow has a closed form, so the order of a
deterministic sampler is measured without statistics.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_audio_restore.processes.diffusion import RectifiedFlow, VDiffusion
from nemo_audio_restore.processes.diffusion_samplers import (
    sample_ddim,
    sample_heun,
    sample_ping_pong,
    sample_rk4,
)
from nemo_audio_restore.processes.diffusion_times import exponential_times, linear_times, log_snr_times
from nemo_audio_restore.processes.dpm_solvers import sample_dpmpp_2m, sample_dpmpp_2m_sde, sample_dpmpp_3m_sde
from nemo_audio_restore.processes.item_noise import item_generators, noise_from_each

TRAJECTORIES = Path(__file__).resolve().parent.parent / 'fixtures' / 'stable_audio' / 'trajectories.npz'
MEAN, SPREAD = 0.7, 0.4
V, FLOW = VDiffusion(), RectifiedFlow()


def denoiser(process):
    """E[x_0 | x_t] for x_0 ~ N(MEAN, SPREAD**2)."""

    def denoise(x, t):
        alpha, sigma = (f(t.double()).view(-1, 1, 1) for f in (process.alpha, process.sigma))
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return denoise


def predictor(process):
    """The prediction of a perfect network for the same data."""

    def predict(x, t):
        alpha, sigma = (f(t.double()).view(-1, 1, 1) for f in (process.alpha, process.sigma))
        noise = sigma / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)
        return process.target(denoiser(process)(x, t), noise, t.double())

    return predict


def exact_flow(process, x, t, t_next):
    """Where the probability flow takes a state."""
    alpha, sigma, alpha_next, sigma_next = (
        f(torch.tensor(time, dtype=torch.float64)) for time in (t, t_next) for f in (process.alpha, process.sigma)
    )
    spread = (alpha**2 * SPREAD**2 + sigma**2).sqrt()
    spread_next = (alpha_next**2 * SPREAD**2 + sigma_next**2).sqrt()
    return alpha_next * MEAN + spread_next * (x - alpha * MEAN) / spread


def start_state(process, times, noise, clean=None):
    return process.marginal(times[0], torch.zeros_like(noise) if clean is None else clean).sample(noise)


NOISE = torch.tensor([[[-1.3, 0.4, 2.1]]], dtype=torch.float64)


@pytest.mark.parametrize('process', [V, FLOW], ids=['v', 'flow'])
@pytest.mark.parametrize(('sampler', 'order'), [(sample_ddim, 1), (sample_dpmpp_2m, 2), (sample_heun, 2)])
def test_deterministic_samplers_converge_with_their_order(process, sampler, order):
    errors = []
    for evaluations in (24, 48, 96):
        times = exponential_times(process, evaluations, sigma_min=0.05, sigma_max=20)
        x = start_state(process, times, NOISE)
        last = exact_flow(process, x, times[0].item(), times[-1].item())
        exact = denoiser(process)(last, times[-1:])
        errors.append((sampler(denoiser(process), x, times, process=process) - exact).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert all(order - 0.25 < measured for measured in orders), (errors, orders)
    # The first-order method is not mistaken for a better one: the test can tell orders apart.
    assert order > 1 or max(orders) < 1.4


@pytest.mark.parametrize('process', [V, FLOW], ids=['v', 'flow'])
def test_runge_kutta_converges_with_fourth_order_from_pure_noise_to_the_clean_end(process):
    errors = []
    for steps in (4, 16):  # two doublings at once: near a change of sign of the error one alone says little
        found = sample_rk4(predictor(process), NOISE, linear_times(steps), process=process)
        errors.append((found - exact_flow(process, NOISE, 1.0, 0.0)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) / 2 > 3.5, errors


@pytest.mark.parametrize('process', [V, FLOW], ids=['v', 'flow'])
@pytest.mark.parametrize('sampler', [sample_dpmpp_2m_sde, sample_dpmpp_3m_sde])
def test_samplers_with_fresh_noise_reach_the_distribution_of_the_data(process, sampler):
    # The flow from pure noise, where the log ratio is infinite; v from where programs of its kind begin.
    times = (
        log_snr_times(60, log_snr_max=4.0)
        if process is FLOW
        else exponential_times(process, 60, sigma_min=0.02, sigma_max=100)
    )
    size = 40_000
    noise = noise_from_each(item_generators([5]))
    x = start_state(process, times, noise(0, torch.zeros(1, 1, size, dtype=torch.float64)))
    found = sampler(denoiser(process), x, times, process=process, noise=noise)
    assert found.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert found.std().item() == pytest.approx(SPREAD, rel=0.03)


@pytest.mark.parametrize('process', [V, FLOW], ids=['v', 'flow'])
@pytest.mark.parametrize('sampler', [sample_dpmpp_2m_sde, sample_dpmpp_3m_sde, sample_ping_pong])
def test_states_keep_the_marginals_when_the_clean_end_is_known(process, sampler):
    times = torch.tensor([1.0, 0.8, 0.45, 0.2, 0.05])
    clean = torch.full((1, 1, 40_000), MEAN, dtype=torch.float64)
    noise = noise_from_each(item_generators([6]))
    steps = []
    found = sampler(lambda x, t: clean, noise(0, clean), times, process=process, noise=noise, on_step=steps.append)
    assert torch.equal(found, clean)
    for step in steps:
        marginal = process.marginal(torch.tensor(step.time, dtype=torch.float64), clean)
        assert step.state.mean().item() == pytest.approx(marginal.mean.mean().item(), abs=0.02)
        assert step.state.std().item() == pytest.approx(marginal.std.item(), rel=0.02)


def test_ping_pong_of_a_perfect_one_step_network_returns_its_last_answer():
    noise = noise_from_each(item_generators([1]))
    found = sample_ping_pong(
        lambda x, t: x * 0 + t.double().view(-1, 1, 1), NOISE, torch.tensor([1.0, 0.5]), process=FLOW, noise=noise
    )
    torch.testing.assert_close(found, torch.full_like(NOISE, 0.5))


@pytest.mark.parametrize(
    ('sampler', 'calls'),
    [(sample_ddim, 5), (sample_dpmpp_2m, 5), (sample_heun, 9), (sample_dpmpp_2m_sde, 5), (sample_ping_pong, 5)],
)
def test_on_step_is_told_about_every_evaluation(sampler, calls):
    times = exponential_times(V, 5, sigma_min=0.1, sigma_max=10)
    steps, seen = [], []

    def denoise(x, t):
        seen.append(t.tolist())
        return denoiser(V)(x, t)

    noise = {} if sampler in (sample_ddim, sample_dpmpp_2m, sample_heun) else {'noise': lambda draw, like: like * 0}
    state = NOISE.expand(2, 1, 3)
    before = state.clone()
    found = sampler(denoise, state, times, process=V, on_step=steps.append, **noise)
    assert torch.equal(state, before)
    assert [step.index for step in steps] == list(range(calls))
    assert all(step.total == calls for step in steps)
    assert [[pytest.approx(step.time)] * 2 for step in steps] == seen
    assert torch.equal(steps[-1].clean_estimate, found)


def test_runge_kutta_tells_one_estimate_a_step():
    steps = []
    sample_rk4(predictor(FLOW), NOISE, linear_times(3), process=FLOW, on_step=steps.append)
    assert [round(step.time, 3) for step in steps] == [1.0, 0.667, 0.333]
    torch.testing.assert_close(
        steps[1].clean_estimate, denoiser(FLOW)(steps[1].state, torch.tensor([2 / 3])), atol=1e-6, rtol=0
    )


def test_a_clip_that_is_varied_from_little_noise_stays_close_to_itself():
    clip = torch.tensor([[[0.9, 0.5, 0.6]]], dtype=torch.float64)
    distances = []
    for level in (0.02, 0.5, 5.0):
        times = exponential_times(V, 40, sigma_min=0.01, sigma_max=level)
        found = sample_dpmpp_2m(denoiser(V), start_state(V, times, NOISE, clip), times, process=V)
        distances.append((found - clip).abs().max().item())
    assert distances[0] < 0.06 < distances[1] < distances[2]


@pytest.mark.parametrize('times', [[], [0.5, 0.5], [0.2, 0.5], [1.2, 0.5], [0.5, 0.0]])
def test_times_that_do_not_descend_are_refused(times):
    with pytest.raises(ValueError, match='times must be'):
        sample_ddim(denoiser(V), NOISE, torch.tensor(times), process=V)


def test_heun_refuses_pure_noise():
    for process in (V, FLOW):
        with pytest.raises(ValueError, match='cannot begin at pure noise'):
            sample_heun(denoiser(process), NOISE, linear_times(4), process=process)


# The published program's own estimates are fed back, so that every step is compared without its network.


def replayed(estimates):
    queue = iter(torch.from_numpy(estimates))
    return lambda x, t: next(queue)


def test_steps_of_the_published_ddim():
    stored = np.load(TRAJECTORIES)
    steps, times = [], linear_times(8)
    start = start_state(V, times, torch.from_numpy(stored['noise']))
    found = sample_ddim(replayed(stored['ddim_denoised']), start, times, process=V, on_step=steps.append)
    assert torch.equal(found, torch.from_numpy(stored['ddim_latents']))
    expected = torch.from_numpy(stored['ddim_x'])  # after each step
    states = torch.stack([step.state for step in steps[1:]])
    torch.testing.assert_close(states, expected[:-1], atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_steps_of_the_published_dpmpp_2m():
    stored = np.load(TRAJECTORIES)
    steps, times = [], exponential_times(V, 8, sigma_min=0.03, sigma_max=500)
    start = start_state(V, times, torch.from_numpy(stored['noise']))
    sample_dpmpp_2m(replayed(stored['dpmpp2m_denoised']), start, times, process=V, on_step=steps.append)
    states = torch.stack([step.state for step in steps])
    # That program keeps the share of the signal at 1.
    expected = torch.from_numpy(stored['dpmpp2m_x']) * V.alpha(times).float().view(-1, 1, 1, 1)
    torch.testing.assert_close(states, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_steps_of_the_published_ping_pong():
    stored = np.load(TRAJECTORIES)
    fresh = torch.from_numpy(stored['pingpong_step_noise'])
    estimates, times = stored['pingpong_cfg1_denoised'], log_snr_times(8)
    steps = []
    sample_ping_pong(
        replayed(estimates),
        torch.from_numpy(stored['flow_noise']),
        times,
        process=FLOW,
        noise=lambda draw, like: fresh[draw],
        on_step=steps.append,
    )
    for index, step in enumerate(steps[1:]):
        t = float(stored['pingpong_t'][index + 1])
        expected = (1 - t) * torch.from_numpy(estimates[index]) + t * fresh[index]
        torch.testing.assert_close(step.state, expected, atol=1e-5, rtol=0)
    assert torch.equal(steps[-1].clean_estimate, torch.from_numpy(stored['pingpong_cfg1_latents']))
