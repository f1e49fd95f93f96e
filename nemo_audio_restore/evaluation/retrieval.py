"""How well texts find their recordings among many, and which label a recording is given."""

from collections.abc import Sequence

import torch
from torch import Tensor

_MAP_RANKS = 10


def retrieval_scores(similarity: Tensor, relevant: Tensor, *, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall and mean average precision of a search.

    Args:
        similarity: (Q, N) of each query with each item.
        relevant: (Q, N) bool, which items answer which query; one or more for each query.
        ranks: k of the recalls.

    Returns:
        ``r@k``: share of the queries that have a relevant item among the best k; ``map@10``: mean over the queries of
        the average precision among the best ten.

    Raises:
        ValueError: shapes differ, there are no queries, or a query has no relevant item.

    Source: CLAP (arXiv 2211.06687), section 4.2; Manning et al. 2008, "Introduction to Information Retrieval", 8.4.
    """
    if similarity.ndim != 2 or similarity.shape != relevant.shape or not similarity.numel():
        raise ValueError(
            f'similarity and relevant must both be (Q, N), not empty; got {tuple(similarity.shape)} and '
            f'{tuple(relevant.shape)}'
        )
    if not relevant.any(dim=1).all():
        raise ValueError('every query needs a relevant item; leave out the others')
    order = similarity.argsort(dim=1, descending=True, stable=True)
    hits = relevant.gather(1, order).double()
    scores = {f'r@{k}': float(hits[:, :k].amax(dim=1).mean()) for k in ranks}
    best = hits[:, :_MAP_RANKS]
    precision = best.cumsum(dim=1) / torch.arange(1, best.shape[1] + 1)
    possible = relevant.sum(dim=1).clamp(max=_MAP_RANKS)
    scores['map@10'] = float(((precision * best).sum(dim=1) / possible).mean())
    return scores


def text_audio_scores(audio: Tensor, text: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Retrieval in both directions; recordings with the same caption answer it equally well.

    Args:
        audio: (N, E) embeddings of unit length.
        text: (N, E) embeddings of the captions, of unit length.
        captions: of the recordings.

    Returns:
        The scores of :func:`retrieval_scores` with ``text_to_audio_`` (each different caption is asked for once) and
        ``audio_to_text_`` (each recording looks for its caption among the different ones) before their names.
    """
    names = list(dict.fromkeys(captions))
    numbers = torch.tensor([names.index(caption) for caption in captions])
    first = torch.tensor([captions.index(name) for name in names])
    similarity = text[first].float().cpu() @ audio.float().cpu().T
    relevant = numbers[None, :] == torch.arange(len(names))[:, None]
    found = {'text_to_audio': (similarity, relevant), 'audio_to_text': (similarity.T, relevant.T)}
    return {f'{way}_{name}': value for way, pair in found.items() for name, value in retrieval_scores(*pair).items()}


def zero_shot_accuracy(similarity: Tensor, labels: Sequence[str], classes: Sequence[str]) -> float:
    """Share of the recordings whose own label is the most similar of all.

    Args:
        similarity: (N, L) of each recording with each label.
        labels: the L labels.
        classes: the label of each recording.

    Returns:
        In [0, 1]; chance is ``1 / L`` where the classes are equally frequent.

    Raises:
        ValueError: a class is none of the labels, or numbers do not agree.
    """
    if similarity.shape != (len(classes), len(labels)):
        raise ValueError(
            f'similarity must be ({len(classes)}, {len(labels)}) for so many recordings and labels; '
            f'got {tuple(similarity.shape)}'
        )
    if unknown := sorted(set(classes) - set(labels)):
        raise ValueError(f'these classes are none of the labels: {", ".join(unknown)}')
    chosen = similarity.argmax(dim=1).tolist()
    return sum(labels[index] == name for index, name in zip(chosen, classes, strict=True)) / len(classes)
