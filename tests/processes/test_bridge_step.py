"""The non-Markov step of the bridge against its closed forms."""

import pytest
import torch

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.bridge_step import bridge_step


def _tensors(*, count: int = 3, size: int = 4000) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(2, size, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize(('t', 't_next'), [(1.0, 0.6), (0.8, 0.4), (0.5, 0.05), (0.3, 0.1)])
def test_eta_one_is_the_markov_posterior(t: float, t_next: float):
    process = SchrodingerBridge()
    clean, degraded, noise = _tensors()
    now, then = torch.tensor(t, dtype=torch.float64), torch.tensor(t_next, dtype=torch.float64)
    x_t = process.marginal(now, clean, degraded).sample(torch.randn_like(clean)) if t < 1 else degraded
    stepped = bridge_step(process, x_t, clean, degraded, now, then, eta=1.0, noise=noise)
    torch.testing.assert_close(stepped, process.posterior(x_t, clean, now, then).sample(noise), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
def test_every_eta_keeps_the_marginal(eta: float):
    process = SchrodingerBridge()
    clean, degraded, first, second = _tensors(count=4, size=200_000)
    t, t_next = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    x_t = process.marginal(t, clean, degraded).sample(first)
    marginal = process.marginal(t_next, clean, degraded)
    residual = bridge_step(process, x_t, clean, degraded, t, t_next, eta=eta, noise=second) - marginal.mean
    assert float(residual.std()) == pytest.approx(float(marginal.std), rel=5e-3)
    assert abs(float(residual.mean())) < 1e-3


def test_known_region_keeps_one_noise_over_all_steps_without_fresh_noise():
    process = SchrodingerBridge()
    known, noise = _tensors(count=2)
    times = torch.linspace(1.0, 0.05, 8, dtype=torch.float64)
    x = known
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x = bridge_step(process, x, known, known, t, t_next, eta=0.0, noise=noise)
        torch.testing.assert_close(x, process.marginal(t_next, known, known).sample(noise))


def test_times_per_item_equal_separate_calls():
    process = SchrodingerBridge()
    x_t, clean, degraded, noise = _tensors(count=4)
    t, t_next = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.tensor([0.6, 0.2], dtype=torch.float64)
    together = bridge_step(process, x_t, clean, degraded, t, t_next, eta=0.3, noise=noise)
    for item in range(2):
        alone = bridge_step(
            process, x_t[item : item + 1], clean[item : item + 1], degraded[item : item + 1], t[item], t_next[item],
            eta=0.3, noise=noise[item : item + 1],
        )  # fmt: skip
        torch.testing.assert_close(together[item : item + 1], alone)


def test_missing_noise_is_an_error_only_where_noise_is_used():
    process = SchrodingerBridge()
    clean, degraded, _ = _tensors()
    with pytest.raises(ValueError, match='fresh noise'):
        bridge_step(process, degraded, clean, degraded, torch.tensor(1.0), torch.tensor(0.5))
    bridge_step(process, degraded, clean, degraded, torch.tensor(0.5), torch.tensor(0.2))
