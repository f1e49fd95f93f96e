import numpy as np
import pytest

from nemo_audio_restore.processes.training_schedules import ema_decay, inverse_lr_factor

OPEN = {'inv_gamma': 1e6, 'power': 0.5, 'warmup': 0.99}


def test_learning_rate_warms_up_and_has_halved_its_square_at_inv_gamma():
    factors = [inverse_lr_factor(step, **OPEN) for step in range(500)]
    assert factors[0] == pytest.approx(0.01) and factors == sorted(factors)
    assert inverse_lr_factor(10**6, **OPEN) == pytest.approx(0.5**0.5)
    assert inverse_lr_factor(0, inv_gamma=1.0, power=1.0, warmup=0.0) == 1.0


def test_average_begins_without_memory_and_ends_with_the_highest():
    decays = [ema_decay(step, highest=0.999) for step in (0, 1, 2, 3, 10, 100, 10**6)]
    assert decays[:3] == [0.0, 0.0, 0.0] and decays == sorted(decays) and decays[-1] == 0.999
    assert ema_decay(100, highest=0.999, power=0.5) < ema_decay(100, highest=0.999)


@pytest.mark.needs_fixtures
def test_schedules_of_the_published_program(reference_arrays):
    stored = np.load(reference_arrays / 'stable_audio' / 'f_losses' / 'io.npz')
    rates = [5e-5 * inverse_lr_factor(int(step), **OPEN) for step in stored['lr_steps']]
    np.testing.assert_allclose(rates, stored['inverselr_2_0_dit'], rtol=1e-6)
    decays = [ema_decay(int(step), highest=0.9999) for step in stored['ema_steps']]
    np.testing.assert_allclose(decays, stored['ema_decay'], rtol=1e-6)
