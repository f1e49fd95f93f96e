"""Samplers on problems whose answer is known.

With a Gaussian prior x_0 ~ N(mean, spread**2) the best denoiser is linear, so a deterministic sampler is an affine map
of its one draw: its bias and spread are read off two runs, without statistics.
"""

import math

import pytest
import torch

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.bridge_samplers import (
    clean_estimator,
    noise_from,
    sample_bridge,
    sample_markov,
    sampling_times,
)

BRIDGE = SchrodingerBridge()
MEAN, SPREAD, DEGRADED = 0.7, 0.4, -0.3


def gaussian_denoiser(x_t, t):
    """E[x_0 | x_t, x_1 = DEGRADED] for x_0 ~ N(MEAN, SPREAD**2)."""
    t = t.double().view(-1, 1, 1, 1)
    s2, r2 = BRIDGE.variance(t), BRIDGE.remaining_variance(t)
    total = s2 + r2
    clean_weight, variance = r2 / total, s2 * r2 / total
    gain = clean_weight * SPREAD**2 / (clean_weight**2 * SPREAD**2 + variance).clamp_min(1e-30)
    return (MEAN + gain * (x_t.double() - s2 / total * DEGRADED - clean_weight * MEAN)).to(x_t.dtype)


def problem(size=1, known=0):
    degraded = torch.full((1, 1, 1, size + known), DEGRADED, dtype=torch.float64)
    mask = torch.ones(1, 1, 1, size + known, dtype=torch.float64)
    mask[..., size:] = 0
    return degraded, mask


def constant_noise(value):
    return lambda draw, like: torch.full_like(like, value)


def deterministic_spread(steps):
    """Standard deviation of the clean estimate at t = 0.02 over the single draw of the eta = 0 sampler."""
    degraded, mask = problem()
    ends = [
        sample_bridge(
            gaussian_denoiser,
            degraded,
            sampling_times(steps, t_min=0.02).double(),
            process=BRIDGE,
            degraded=degraded,
            mask=mask,
            noise=constant_noise(z),
        ).item()
        for z in (-1.0, 1.0)
    ]
    return (ends[1] - ends[0]) / 2, (ends[1] + ends[0]) / 2


def test_deterministic_sampler_keeps_the_mean_and_converges_to_the_spread_of_the_data():
    t = torch.tensor(0.02, dtype=torch.float64)
    s2, r2 = BRIDGE.variance(t), BRIDGE.remaining_variance(t)
    clean_weight, variance = r2 / (s2 + r2), s2 * r2 / (s2 + r2)
    total = clean_weight**2 * SPREAD**2 + variance
    # Spread of E[x_0 | x_t] when x_t has the true marginal.
    truth = (clean_weight * SPREAD**2 / total.sqrt()).item()
    errors = []
    for steps in (50, 100, 200, 400):
        spread, centre = deterministic_spread(steps)
        assert centre == pytest.approx(MEAN, abs=1e-9)
        errors.append(abs(spread - truth))
    orders = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert all(order > 0.8 for order in orders), (errors, orders)
    assert errors[-1] < 0.01 * SPREAD


@pytest.mark.parametrize('order', [1, 2])
def test_error_falls_with_the_order_of_the_sampler(order):
    """From t = 0.9 on: the first step, from t = 1, is of the first order for every sampler."""
    first, last = (torch.tensor(value, dtype=torch.float64) for value in (0.9, 0.02))

    def marginal(t):
        s2, r2 = BRIDGE.variance(t), BRIDGE.remaining_variance(t)
        total = s2 + r2
        mean = (r2 * MEAN + s2 * DEGRADED) / total
        return mean, ((r2 / total * SPREAD) ** 2 + s2 * r2 / total).sqrt()

    # The flow keeps every state at its quantile of the marginal.
    quantile = 1.3
    start, exact = (mean + quantile * std for mean, std in map(marginal, (first, last)))
    exact = gaussian_denoiser(exact.view(1, 1, 1, 1), last)
    degraded, mask = problem()
    errors = []
    for steps in (40, 80, 160):
        clean = sample_bridge(
            gaussian_denoiser,
            start.view(1, 1, 1, 1),
            torch.linspace(0.9, 0.02, steps, dtype=torch.float64),
            process=BRIDGE,
            degraded=degraded,
            mask=mask,
            noise=constant_noise(math.nan),
            order=order,
        )
        errors.append(abs((clean - exact).item()))
    orders = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert all(abs(found - order) < 0.35 for found in orders), (errors, orders)


def test_second_order_leaves_the_known_region_alone_and_starts_as_the_first():
    degraded, mask = problem(4, 4)
    draws = torch.randn(8, *degraded.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    common = {'process': BRIDGE, 'degraded': degraded, 'mask': mask, 'noise': lambda k, like: draws[k]}

    def run(steps, order):
        return sample_bridge(gaussian_denoiser, degraded, sampling_times(steps, t_min=0.1), order=order, **common)

    assert torch.equal(run(8, 2)[..., 4:], degraded[..., 4:])
    # Two steps: the estimate at t = 1 and one more. The first to have two finite predecessors is the third step.
    assert torch.equal(run(3, 1), run(3, 2))
    assert (run(4, 1) - run(4, 2)).abs().max() > 1e-3


def test_power_moves_times_towards_the_end():
    times = sampling_times(5, t_min=0.1, power=2.0)
    assert times[0] == 1 and times[-1] == pytest.approx(0.1)
    torch.testing.assert_close(times.sqrt().diff(), times.sqrt().diff()[:1].expand(4))
    assert torch.equal(sampling_times(5, t_min=0.1), torch.linspace(1, 0.1, 5))
    assert (sampling_times(5, t_min=0.1, power=0.5)[1:-1] > sampling_times(5, t_min=0.1)[1:-1]).all()
    assert sampling_times(1, t_min=0.1, power=2.0).tolist() == [1.0]


@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
def test_states_keep_the_marginals_of_the_bridge_when_the_clean_end_is_known(eta):
    size = 40_000
    degraded, mask = problem(size)
    clean = torch.full_like(degraded, MEAN)
    states = []
    sample_bridge(
        lambda x, t: clean,
        degraded,
        torch.tensor([1.0, 0.8, 0.45, 0.2, 0.05]),
        process=BRIDGE,
        degraded=degraded,
        mask=mask,
        noise=noise_from(torch.Generator().manual_seed(1)),
        eta=eta,
        on_step=lambda step: states.append((step.time, step.state)),
    )
    for time, state in states[1:]:
        marginal = BRIDGE.marginal(torch.tensor(time, dtype=torch.float64), clean, degraded)
        assert state.mean().item() == pytest.approx(
            marginal.mean.mean().item(), abs=4 * float(marginal.std) / size**0.5
        )
        assert state.std().item() == pytest.approx(marginal.std.item(), rel=4 / (2 * size) ** 0.5)


def test_markov_states_keep_the_marginals_in_the_known_and_the_generated_region():
    size = 40_000
    degraded, mask = problem(size, size)
    clean = torch.full_like(degraded, MEAN)
    states = []
    sample_markov(
        lambda x, t: clean,
        degraded,
        torch.tensor([1.0, 0.8, 0.45, 0.2, 0.05]),
        process=BRIDGE,
        degraded=degraded,
        mask=mask,
        noise=noise_from(torch.Generator().manual_seed(1)),
        on_step=lambda step: states.append((step.time, step.state)),
    )
    truth = torch.lerp(degraded, clean, mask)
    for time, state in states[1:]:
        marginal = BRIDGE.marginal(torch.tensor(time, dtype=torch.float64), truth, degraded)
        for part in (slice(0, size), slice(size, None)):
            error = (state - marginal.mean)[..., part] / marginal.std
            assert error.mean().item() == pytest.approx(0, abs=4 / size**0.5)
            assert error.std().item() == pytest.approx(1, rel=4 / (2 * size) ** 0.5)


def test_eta_1_is_the_markov_step_in_the_generated_region():
    degraded, mask = problem(64)
    times = sampling_times(6, t_min=0.05)
    draws = torch.randn(6, *degraded.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    common = {'process': BRIDGE, 'degraded': degraded, 'mask': mask}
    family = sample_bridge(gaussian_denoiser, degraded, times, noise=lambda k, like: draws[k], eta=1.0, **common)
    markov = sample_markov(gaussian_denoiser, degraded, times, noise=lambda k, like: draws[k // 2], **common)
    torch.testing.assert_close(family, markov, atol=1e-9, rtol=0)


def test_eta_changes_the_samples():
    degraded, mask = problem(64)
    results = [
        sample_bridge(
            gaussian_denoiser,
            degraded,
            sampling_times(4, t_min=0.05),
            process=BRIDGE,
            degraded=degraded,
            mask=mask,
            noise=noise_from(torch.Generator().manual_seed(0)),
            eta=eta,
        )
        for eta in (0.0, 0.5)
    ]
    assert (results[0] - results[1]).abs().max() > 0.01


def test_known_region_carries_one_and_the_same_noise_through_the_deterministic_sampler():
    degraded, mask = problem(8, 8)
    states, draws = [], []

    def noise(draw, like):
        draws.append(draw)
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(draw), dtype=like.dtype)

    result = sample_bridge(
        gaussian_denoiser,
        degraded,
        sampling_times(5, t_min=0.1).double(),
        process=BRIDGE,
        degraded=degraded,
        mask=mask,
        noise=noise,
        on_step=lambda step: states.append((step.time, step.state[..., 8:])),
    )
    assert draws == [0]
    assert torch.equal(result[..., 8:], degraded[..., 8:])
    first = noise(0, degraded)[..., 8:]
    for time, state in states[1:]:
        std = BRIDGE.marginal(torch.tensor(time, dtype=torch.float64), degraded, degraded).std
        torch.testing.assert_close((state - degraded[..., 8:]) / std, first)


@pytest.mark.parametrize('noise_seed', [None, 3])
def test_an_oracle_is_reached_and_the_known_region_never_touched(noise_seed):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, 3, 8, 16, generator=generator)
    mask = (torch.rand(2, 1, 8, 16, generator=generator) > 0.5).float()
    degraded = torch.lerp(clean, 0.5 * torch.randn(clean.shape, generator=generator), mask)
    before = degraded.clone()
    noise = None if noise_seed is None else noise_from(torch.Generator().manual_seed(noise_seed))
    denoise = clean_estimator(lambda x, t, c: BRIDGE.target(x, clean, t), BRIDGE)
    times = sampling_times(5, t_min=0.05)
    result = sample_markov(denoise, degraded, times, process=BRIDGE, degraded=degraded, mask=mask, noise=noise)
    torch.testing.assert_close(result, clean, atol=1e-6, rtol=0)
    assert torch.equal(result * (1 - mask), clean * (1 - mask))
    assert torch.equal(degraded, before)


def test_the_network_is_asked_once_for_every_time_and_told_the_condition():
    asked = []

    def predict(x_t, t, condition):
        asked.append((t.tolist(), condition))
        return torch.zeros_like(x_t)

    degraded, mask = torch.zeros(2, 3, 4, 8), torch.ones(2, 1, 4, 8)
    times = sampling_times(3, t_min=0.5)
    reported = []
    sample_bridge(
        clean_estimator(predict, BRIDGE, mask),
        degraded,
        times,
        process=BRIDGE,
        degraded=degraded,
        mask=mask,
        noise=noise_from(torch.Generator().manual_seed(0)),
        on_step=lambda step: reported.append((step.index, step.total, step.time)),
    )
    assert [t for t, _ in asked] == [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5]]
    assert all(condition is mask for _, condition in asked)
    assert reported == [(0, 3, 1.0), (1, 3, 0.75), (2, 3, 0.5)]


def test_a_seed_fixes_the_samples_and_the_global_generator_is_left_alone():
    degraded, mask = problem(32)

    def run(seed):
        return sample_bridge(
            gaussian_denoiser,
            degraded,
            sampling_times(3, t_min=0.1),
            process=BRIDGE,
            degraded=degraded,
            mask=mask,
            noise=noise_from(torch.Generator().manual_seed(seed)),
        )

    state = torch.get_rng_state()
    assert torch.equal(run(5), run(5))
    assert not torch.equal(run(5), run(6))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ('times', 'message'),
    [
        (torch.tensor([]), 'non-empty'),
        (torch.tensor([0.5, 0.5]), 'descending'),
        (torch.tensor([0.5, 0.7]), 'descending'),
        (torch.tensor([1.2, 0.7]), 'descending'),
        (torch.tensor([1.0, 0.0]), 'descending'),
    ],
)
def test_bad_times_are_refused(times, message):
    degraded, mask = problem()
    with pytest.raises(ValueError, match=message):
        sample_markov(gaussian_denoiser, degraded, times, process=BRIDGE, degraded=degraded, mask=mask)


def test_bad_shapes_and_eta_are_refused():
    degraded, mask = problem(4)
    common = {'process': BRIDGE, 'noise': constant_noise(0.0)}
    times = torch.tensor([1.0])
    with pytest.raises(ValueError, match=r'mask must be \(1, 1, 1, 4\); got \(1, 1, 1, 3\)'):
        sample_bridge(gaussian_denoiser, degraded, times, degraded=degraded, mask=mask[..., :3], **common)
    with pytest.raises(ValueError, match='one shape'):
        sample_bridge(gaussian_denoiser, degraded[..., :2], times, degraded=degraded, mask=mask, **common)
    with pytest.raises(ValueError, match='eta'):
        sample_bridge(gaussian_denoiser, degraded, times, degraded=degraded, mask=mask, eta=1.5, **common)
    with pytest.raises(ValueError, match='t_min'):
        sampling_times(3, t_min=0.0)
    with pytest.raises(ValueError, match='at least one'):
        sampling_times(0, t_min=0.1)
    with pytest.raises(ValueError, match='power'):
        sampling_times(3, t_min=0.1, power=0.0)
    with pytest.raises(ValueError, match='order'):
        sample_bridge(gaussian_denoiser, degraded, times, degraded=degraded, mask=mask, order=3, **common)
