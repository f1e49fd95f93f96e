import math

import numpy as np
import pytest
import torch

from nemo_audio_restore.processes.training_times import SobolTimes, logit_normal_times


def test_sobol_times_leave_no_hole_between_batches():
    times = SobolTimes(3)
    drawn = torch.cat([times.draw(16) for _ in range(4)])
    assert torch.histc(drawn, 64, 0, 1).eq(1).all()
    assert torch.equal(SobolTimes(3).draw(64), drawn)
    assert not torch.equal(SobolTimes(4).draw(64), drawn)


def test_sobol_times_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    SobolTimes(3).draw(8)
    assert torch.equal(torch.get_rng_state(), before)


def test_logits_of_logit_normal_times_are_normal():
    times = logit_normal_times(20_000, generator=torch.Generator().manual_seed(0), mean=0.5, std=2.0)
    logits = torch.logit(times.double())
    assert logits.mean().item() == pytest.approx(0.5, abs=4 * 2 / math.sqrt(20_000))
    assert logits.std().item() == pytest.approx(2.0, rel=0.03)
    with pytest.raises(ValueError, match='std must be positive'):
        logit_normal_times(1, generator=torch.Generator(), std=0.0)


@pytest.mark.needs_fixtures
def test_first_times_of_the_published_program(reference_arrays):
    stored = np.load(reference_arrays / 'stable_audio' / 'f_losses' / 'io.npz')['sobol_seed7_first8']
    torch.testing.assert_close(SobolTimes(7).draw(8), torch.from_numpy(stored))
