"""Training crops: one stretch of fixed length out of each cut, reproducible from a seed."""

import random

from lhotse import CutSet
from lhotse.cut import Cut


class Crop:
    """Cuts a stretch of fixed length out of every cut of a batch; shorter cuts stay as they are.

    Lhotse's own random truncation draws from Python's global generator, which other code reseeds, which every rank
    seeds alike, and which no checkpoint restores. This one owns its generator.

    Args:
        duration_s: length in seconds.
        position: ``random``, or ``middle`` for a fixed choice that avoids fade-ins (validation).
        seed: of the random positions.

    Raises:
        ValueError: the duration is not positive, or the position is unknown.
    """

    def __init__(self, duration_s: float, *, position: str = 'random', seed: int = 0):
        if duration_s <= 0:
            raise ValueError(f'the crop must last longer than 0 s; got {duration_s}')
        if position not in ('random', 'middle'):
            raise ValueError(f'position must be random or middle; got {position!r}')
        self.duration_s = duration_s
        self.position = position
        self._random = random.Random(seed)

    def __call__(self, cuts: CutSet) -> CutSet:
        """Crops a mini-batch."""
        return CutSet.from_cuts(self._crop(cut) for cut in cuts)

    def _crop(self, cut: Cut) -> Cut:
        spare = cut.duration - self.duration_s
        if spare <= 0:
            return cut
        share = self._random.random() if self.position == 'random' else 0.5
        # Whole samples: Lhotse rounds offset and duration separately, which may cost a sample at the end of a file.
        offset = int(share * spare * cut.sampling_rate) / cut.sampling_rate
        return cut.truncate(offset=offset, duration=self.duration_s, preserve_id=True)
