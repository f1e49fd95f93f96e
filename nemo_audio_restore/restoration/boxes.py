"""Time-frequency boxes: damage in a part of the spectrum only, such as a cough or a ringing telephone."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nemo_audio_restore.restoration.plan import Plan
from nemo_audio_restore.restoration.protocol import RestorationError
from nemo_audio_restore.restoration.spectrum_runs import Frames


@dataclass(frozen=True)
class Region:
    """A box that is generated anew; what is outside stays.

    Attributes:
        start_s: in seconds.
        end_s: in seconds.
        low_hz: in Hz.
        high_hz: in Hz.

    Raises:
        RestorationError: a box without content.
    """

    start_s: float
    end_s: float
    low_hz: float
    high_hz: float

    def __post_init__(self):
        values = self.start_s, self.end_s, self.low_hz, self.high_hz
        if not all(math.isfinite(value) for value in values) or not (
            0 <= self.start_s < self.end_s and 0 <= self.low_hz < self.high_hz
        ):
            raise RestorationError(
                'a region must be START:END in seconds and LOW:HIGH in Hz, each with its lower value first; got '
                f'{self.start_s:g}:{self.end_s:g} s, {self.low_hz:g}:{self.high_hz:g} Hz'
            )


def split_boxes(frames: Iterable[Frames], plan: Plan) -> tuple[Iterator[Frames], Iterator[Frames]]:
    """Splits the difference into what belongs to gaps and bandwidth, and what belongs to boxes alone.

    Args:
        frames: the difference of the whole file, in order.
        plan: with boxes.

    Returns:
        Two streams of frames; their sum is the input. Read in lockstep they hold only a few runs.
    """
    first, second = itertools.tee(frames)
    return _part(first, plan, boxes=False), _part(second, plan, boxes=True)


def _part(frames: Iterable[Frames], plan: Plan, *, boxes: bool) -> Iterator[Frames]:
    first = 0
    for run in frames:
        if run.spectrum is None:
            yield run
        else:
            inside = plan.box_mask(first, run.count)
            spectrum = run.spectrum.clone()
            spectrum[:, 1:] *= inside if boxes else 1 - inside
            if boxes:
                spectrum[:, :1] = 0  # the constant belongs to gaps
            yield Frames(run.count, spectrum, None)
        first += run.count
