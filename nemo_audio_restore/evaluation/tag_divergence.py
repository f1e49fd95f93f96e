"""How much the tags that a classifier hears in generated audio differ from those that it hears in the original."""

import numpy as np

_EPS = 1e-6


def tag_probabilities(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the tags of a recording: the logits of its windows are averaged, then normalised.

    Args:
        logits: (W, K) of every window.

    Returns:
        (K,) float64, sums to 1.

    Source: Stable Audio (arXiv 2402.04825), section 4.2 (KL passt for long audio).
    """
    mean = np.asarray(logits, dtype=np.float64).mean(axis=0)
    weights = np.exp(mean - mean.max())
    return weights / weights.sum()


def tag_divergence(generated: np.ndarray, reference: np.ndarray) -> float:
    """Kullback-Leibler divergence of the tags of a generated recording from those of its reference.

    Args:
        generated: (W, K) logits of its windows.
        reference: (W', K) logits of the reference's windows.

    Returns:
        In nats, 0 for equal probabilities.

    Raises:
        ValueError: different tags.

    Source: stable-audio-metrics, passt_kld.
    """
    p, q = tag_probabilities(generated), tag_probabilities(reference)
    if p.shape != q.shape:
        raise ValueError(f'{len(p)} and {len(q)} tags cannot be compared: they are of different classifiers')
    return float((p * (np.log(p + _EPS) - np.log(q + _EPS))).sum())
