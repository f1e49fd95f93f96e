"""The network that judges spectra: its verdicts, and its weights on disk."""

import numpy as np
import pytest
import torch

from nemo_audio_restore.signal.cutoff_statistics import FEATURES, NUM_CELLS
from nemo_audio_restore.signal.knee_network import (
    FIRST_CANDIDATE,
    WEIGHTS,
    KneeNetwork,
    Verdict,
    average,
    judge,
    load_weights,
    save_weights,
)

CANDIDATES = NUM_CELLS - FIRST_CANDIDATE
CENTRES = 500 * 2 ** ((np.arange(FIRST_CANDIDATE, NUM_CELLS) + 0.5) / 24)


def verdict(masses, none=0.0):
    """Probability at some cells."""
    probability = np.zeros(CANDIDATES)
    for cell, mass in masses.items():
        probability[cell] = mass
    return Verdict(probability, none, np.linspace(0, 0.1, CANDIDATES))


def random_features(count=3, seed=0):
    return np.random.default_rng(seed).standard_normal((count, len(FEATURES), NUM_CELLS)).astype(np.float32)


def test_all_probabilities_add_up_to_one():
    log_probability, width = KneeNetwork(8).eval()(torch.from_numpy(random_features()))
    torch.testing.assert_close(log_probability.exp().sum(dim=1), torch.ones(3))
    assert log_probability.shape == (3, CANDIDATES + 1) and (width > 0).all()


def test_a_spectrum_far_away_does_not_change_the_verdict_on_a_knee():
    network = KneeNetwork(8).eval()
    one = torch.from_numpy(random_features(1))
    other = one.clone()
    other[:, :, -1] += 1
    difference = (network(one)[1] - network(other)[1]).abs()[0]
    assert difference[-1] > 0 and difference[: CANDIDATES - 70].max() == 0


def test_the_centre_of_the_densest_stretch_wins_and_not_the_highest_peak():
    found = verdict({10: 0.3, 40: 0.25, 41: 0.25})
    assert found.best_hz() == pytest.approx(np.sqrt(CENTRES[40] * CENTRES[41]), rel=1e-3)
    assert found.mass(found.best_hz()) == pytest.approx(0.5, abs=1e-6)
    assert found.best_hz(tolerance=0.01) == pytest.approx(CENTRES[10], rel=0.01)


def test_no_knee_wins_where_it_is_likelier_than_all_knees_together():
    assert verdict({10: 0.4}, none=0.6).best_hz() is None
    assert verdict({10: 0.6}, none=0.4).best_hz() == pytest.approx(CENTRES[10], rel=1e-3)
    assert verdict({10: 0.4}, none=0.6).mass(None) == 0.6


def test_widths_are_interpolated():
    assert verdict({}).width_at(np.sqrt(CENTRES[20] * CENTRES[21])) == pytest.approx(0.1 * 20.5 / (CANDIDATES - 1))


def test_a_jury_that_is_split_follows_its_majority():
    jury = average([verdict({10: 1.0}), verdict({10: 1.0}), verdict({60: 1.0}), verdict({}, none=1.0)])
    assert jury.best_hz() == pytest.approx(CENTRES[10], rel=1e-3) and jury.none == 0.25


def test_weights_survive_the_disk_in_half_precision(tmp_path):
    network = KneeNetwork(8).eval()
    save_weights(network, tmp_path / 'a.npz')
    again = load_weights(tmp_path / 'a.npz')
    x = torch.from_numpy(random_features())
    torch.testing.assert_close(again(x)[0], network(x)[0], atol=0.05, rtol=0)
    save_weights(again, tmp_path / 'b.npz')
    torch.testing.assert_close(load_weights(tmp_path / 'b.npz')(x)[0], again(x)[0], atol=0, rtol=0)
    assert not again.training


def test_another_network_gives_another_verdict():
    torch.manual_seed(0)
    x = random_features(1)
    assert judge(x)[0].none != judge(x, KneeNetwork(8).eval())[0].none


def test_the_weights_that_ship_are_small():
    assert WEIGHTS.stat().st_size < 150_000
