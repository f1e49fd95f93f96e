"""One network for each part of the bridge: A2SB's experts for late (noisy) and early (nearly clean) times."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class TimeExperts(nn.Module):
    """Several networks with one calling convention, each used for its own range of times.

    The expert for time t is the one whose range holds it; on a border the later range wins. A batch with several
    experts is grouped, so each expert runs once.

    Args:
        experts: networks ``expert(x_t, t, condition)`` with one ``frames_multiple``.
        splits: for each expert its range (from, to) of times; sorted, without gap or overlap, from 0.0 to 1.0.
        one_resident: keep on the accelerator only the expert in use and the others in main memory. A sampler goes
            through the ranges once, so this costs one transfer for each expert and run.

    Source: A2SB (arXiv 2501.11311), section 3, after eDiff-I (arXiv 2211.01324), section 4.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        splits: Sequence[tuple[float, float]] = ((0.0, 0.5), (0.5, 1.0)),
        *,
        one_resident: bool = False,
    ):
        super().__init__()
        self.splits = check_splits(splits)
        if len(experts) != len(self.splits):
            raise ValueError(f'every range needs an expert; got {len(experts)} experts for {len(self.splits)} ranges')
        multiples = {expert.frames_multiple for expert in experts}
        if len(multiples) > 1:
            raise ValueError(f'all experts must accept the same lengths; got frames_multiple {sorted(multiples)}')
        self.experts = nn.ModuleList(experts)
        self.one_resident = one_resident

    @property
    def frames_multiple(self) -> int:
        """The number of frames N must be a multiple of this."""
        return self.experts[0].frames_multiple

    def expert_index(self, t: Tensor) -> Tensor:
        """Which expert serves each time: the number of inner borders that are not above t.

        Args:
            t: (B,) in [0, 1].

        Returns:
            (B,) integers.
        """
        borders = torch.tensor([start for start, _ in self.splits[1:]], dtype=t.dtype, device=t.device)
        return (t[:, None] >= borders).sum(dim=1)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Prediction of the expert in charge.

        Args:
            x_t: (B, C, F, N).
            t: (B,) in [0, 1].
            condition: (B, 1, F, N), or None.

        Returns:
            What the experts return, in the order of the batch.
        """
        index = self.expert_index(t)
        used = index.unique().tolist()
        if len(used) == 1:
            return self._resident(used[0], x_t.device)(x_t, t, condition)
        prediction = None
        for expert in used:
            rows = (index == expert).nonzero()[:, 0]
            part = self._resident(expert, x_t.device)(
                x_t[rows], t[rows], None if condition is None else condition[rows]
            )
            if prediction is None:
                prediction = part.new_zeros(x_t.shape[0], *part.shape[1:])
            prediction = prediction.index_copy(0, rows, part)
        return prediction

    def _resident(self, index: int, device: torch.device) -> nn.Module:
        """The expert, on ``device``; with ``one_resident`` the others leave it first."""
        if self.one_resident:
            for other, expert in enumerate(self.experts):
                if other != index:
                    expert.to('cpu')
            self.experts[index].to(device)
        return self.experts[index]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> 'TimeExperts':
        # .to('cuda') and friends arrive here. Passing the experts through one by one keeps the peak at one expert.
        if self.one_resident:
            for expert in self.experts:
                expert._apply(fn, recurse)
                expert.to('cpu')
            return self
        return super()._apply(fn, recurse)


def check_splits(splits: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The ranges as a tuple of pairs of floats.

    Args:
        splits: (from, to) for each expert.

    Returns:
        The same ranges, immutable.

    Raises:
        ValueError: they are not sorted, leave a gap, overlap, or do not go from 0 to 1.
    """
    ranges = tuple((float(start), float(end)) for start, end in splits)
    text = ', '.join(f'{start:g}:{end:g}' for start, end in ranges) or 'none'
    if not ranges or ranges[0][0] != 0.0 or ranges[-1][1] != 1.0:
        raise ValueError(f'the ranges must go from 0 to 1; got {text}')
    for start, end in ranges:
        if not start < end:
            raise ValueError(f'a range must end after it starts; got {start:g}:{end:g} in {text}')
    for (_, end), (start, _) in itertools.pairwise(ranges):
        if start > end:
            raise ValueError(f'the ranges leave a gap between {end:g} and {start:g}; got {text}')
        if start < end:
            raise ValueError(f'the ranges overlap between {start:g} and {end:g} (or are not sorted); got {text}')
    return ranges
