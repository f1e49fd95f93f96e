"""Claims about Frechet distances."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_audio_restore.evaluation.frechet import GaussianStatistics, frechet_distance, gaussian_statistics


def statistics(mean, covariance, count=100):
    return GaussianStatistics(np.asarray(mean, float), np.asarray(covariance, float), count)


def test_one_dimension_has_the_closed_form():
    # (m1 - m2)^2 + (s1 - s2)^2
    first, second = statistics([1.0], [[4.0]]), statistics([3.0], [[9.0]])
    assert frechet_distance(first, second) == pytest.approx(4 + 1)


def test_commuting_covariances_have_the_closed_form():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    one, two = np.array([1.0, 4.0, 9.0, 0.25]), np.array([4.0, 1.0, 16.0, 0.25])
    found = frechet_distance(statistics(np.zeros(4), turn * one @ turn.T), statistics(np.ones(4), turn * two @ turn.T))
    assert found == pytest.approx(4 + np.square(np.sqrt(one) - np.sqrt(two)).sum())


def test_general_case_is_that_of_the_matrix_square_root():
    rng = np.random.default_rng(1)
    first, second = (gaussian_statistics([rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))]) for _ in range(2))
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance).real
    difference = first.mean - second.mean
    wanted = difference @ difference + np.trace(first.covariance + second.covariance - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-9)


def test_fewer_embeddings_than_dimensions_do_no_harm():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(5, 40))
    same = gaussian_statistics([rows])
    # The root magnifies what rounding leaves of the eigenvalues that are zero.
    assert frechet_distance(same, same) < 1e-6 * np.trace(same.covariance)
    moved = gaussian_statistics([rows + 2.0])
    assert frechet_distance(same, moved) == pytest.approx(4.0 * 40, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 29), max_size=3, unique=True))
def test_pieces_do_not_matter(seed, cuts):
    rows = 100 + np.random.default_rng(seed).normal(size=(30, 3))
    found = gaussian_statistics(np.split(rows, sorted(cuts)))
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(rows.T), rtol=1e-9, atol=1e-12)
    assert found.count == 30


def test_is_symmetric():
    rng = np.random.default_rng(3)
    first, second = (gaussian_statistics([rng.normal(size=(20, 5))]) for _ in range(2))
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))


def test_samples_of_two_gaussians_come_near_their_distance():
    rng = np.random.default_rng(4)
    first = gaussian_statistics([rng.normal(size=(20000, 3))])
    second = gaussian_statistics([1 + 2 * rng.normal(size=(20000, 3))])
    assert frechet_distance(first, second) == pytest.approx(3 * (1 + 1), rel=0.03)


@pytest.mark.parametrize(
    ('pieces', 'message'),
    [
        ([np.zeros((1, 3))], 'two embeddings or more; got 1'),
        ([], 'got 0'),
        ([np.zeros((2, 3)), np.zeros((2, 4))], 'one D for all'),
        ([np.full((2, 3), np.nan)], 'finite'),
    ],
)
def test_what_has_no_statistics_is_refused(pieces, message):
    with pytest.raises(ValueError, match=message):
        gaussian_statistics(pieces)


def test_different_embedders_are_not_compared():
    with pytest.raises(ValueError, match='different embedders'):
        frechet_distance(statistics([0.0], [[1.0]]), statistics([0.0, 0.0], np.eye(2)))
