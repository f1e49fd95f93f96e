"""The bridge against arrays of the published program."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_audio_restore.processes.bridge import SchrodingerBridge

BRIDGE = SchrodingerBridge(beta_max=1.0)


@pytest.fixture(scope='module')
def arrays():
    path = Path(__file__).resolve().parent.parent / 'fixtures' / 'a2sb' / 'bridge.npz'
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(path).items()}


def test_schedule(arrays):
    t = arrays['t']
    torch.testing.assert_close(BRIDGE.variance(t), arrays['int_beta_0_t'], atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(BRIDGE.std(t), arrays['std_fwd'], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(BRIDGE.remaining_variance(t).sqrt(), arrays['std_rev'], atol=1e-6, rtol=1e-4)


def test_marginal(arrays):
    t, zero, one = arrays['t'], torch.zeros(()), torch.ones(())
    torch.testing.assert_close(BRIDGE.marginal(t, one.expand(212), zero).mean, arrays['q_coef_x0'], atol=1e-6, rtol=0)
    torch.testing.assert_close(BRIDGE.marginal(t, zero.expand(212), one).mean, arrays['q_coef_x1'], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        BRIDGE.marginal(t, one.expand(212), zero).std.square(), arrays['q_var'], atol=1e-7, rtol=0
    )


@pytest.mark.parametrize('steps', [8, 25, 50, 200])
def test_posterior_of_every_step(arrays, steps):
    times = arrays[f'n{steps}_t_steps']
    t, t_next = times[:-1].double(), times[1:].double()
    one, zero = torch.ones(steps - 1, dtype=torch.float64), torch.zeros(steps - 1, dtype=torch.float64)
    # The published coefficients are float32: near t = 1 they carry the cancellation of s2(t) - s2(t_next).
    for name, x_t, clean in (('mu_x0', zero, one), ('mu_xt', one, zero)):
        mean = BRIDGE.posterior(x_t, clean, t, t_next).mean.float()
        torch.testing.assert_close(mean, arrays[f'n{steps}_{name}'], atol=1e-6, rtol=1e-5)
    variance = BRIDGE.posterior(one, one, t, t_next).std.square().float()
    torch.testing.assert_close(variance, arrays[f'n{steps}_var'], atol=1e-7, rtol=1e-5)
    std = BRIDGE.marginal(t_next, one, one).std.float()
    torch.testing.assert_close(std, arrays[f'n{steps}_std_sb_prev'], atol=1e-6, rtol=1e-4)


def test_draws_target_and_loss(arrays):
    clean, degraded, t = arrays['qs_x0'], arrays['qs_x1'], arrays['qs_t']
    marginal = BRIDGE.marginal(t, clean, degraded)
    torch.testing.assert_close(marginal.mean, arrays['qs_xt_ode'], atol=1e-5, rtol=0)
    x_t = marginal.sample(arrays['qs_noise'])
    torch.testing.assert_close(x_t, arrays['qs_xt_sde'], atol=1e-5, rtol=0)
    # Divided by the standard deviation, which is 0.0016 at the smallest t.
    target = BRIDGE.target(arrays['qs_xt_sde'], clean, t)
    torch.testing.assert_close(target, arrays['qs_target'], atol=2e-4, rtol=1e-5)
    loss = BRIDGE.loss(arrays['loss_vf'], arrays['qs_target'], arrays['loss_mask'])
    torch.testing.assert_close(loss, arrays['loss_value'], rtol=1e-5, atol=0)
