"""Frechet distance of two sets of embeddings, from statistics that can be kept in a file."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GaussianStatistics:
    """What a Frechet distance needs of a set of embeddings.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, unbiased.
        count: embeddings that went in.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def gaussian_statistics(embeddings: Iterable[np.ndarray]) -> GaussianStatistics:
    """Mean and covariance of embeddings that come in pieces; one piece at a time is in memory.

    Args:
        embeddings: (N, D) pieces, each as many rows as it likes.

    Returns:
        The statistics.

    Raises:
        ValueError: fewer than two embeddings, pieces of different widths, or values that are not finite.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae", equation 2.1.
    """
    count, mean, scatter = 0, None, None
    for piece in embeddings:
        rows = np.asarray(piece, dtype=np.float64)
        if rows.ndim != 2 or (mean is not None and rows.shape[1] != len(mean)):
            raise ValueError(f'embeddings must be (N, D) with one D for all; got {rows.shape}')
        if not np.isfinite(rows).all():
            raise ValueError('embeddings must be finite; one holds NaN or infinity')
        if not len(rows):
            continue
        if mean is None:
            mean, scatter = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
        own = rows.mean(axis=0)
        centred = rows - own
        difference = own - mean
        total = count + len(rows)
        scatter += centred.T @ centred + np.outer(difference, difference) * (count * len(rows) / total)
        mean = mean + difference * (len(rows) / total)
        count = total
    if count < 2:
        raise ValueError(f'statistics need two embeddings or more; got {count}: give longer or more recordings')
    return GaussianStatistics(mean, scatter / (count - 1), count)


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics) -> float:
    """Squared distance of two Gaussians, ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``; 0 for equal ones.

    The root is taken of ``S1^(1/2) S2 S1^(1/2)``, which is symmetric and has the same trace: its eigenvalues are real
    and not negative even when there are fewer embeddings than dimensions, so nothing has to be added to the diagonal.

    Args:
        first: statistics of one set.
        second: statistics of the other.

    Returns:
        At least 0.

    Raises:
        ValueError: the embeddings have different widths.

    Source: Dowson and Landau 1982, "The Frechet distance between multivariate normal distributions", equation 4.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f'embeddings of {len(first.mean)} and of {len(second.mean)} numbers cannot be compared: they are of '
            'different embedders'
        )
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ second.covariance @ root)
    difference = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return max(0.0, float(difference @ difference + traces - 2 * np.sqrt(cross.clip(min=0)).sum()))
