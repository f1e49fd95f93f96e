"""What the channels of a file share while they are generated.

Recorded channels resemble each other, and generated ones must as much: with noise of their own they drift apart, and
the image of an instrument widens above the cutoff.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.restoration.protocol import RestorationError

STEREO_MODES = ('auto', 'shared', 'mid-side', 'independent')
"""'shared': every channel is generated from the same noise; 'mid-side': sum and difference of left and right are
generated, from noise of their own, and decoded; 'independent': every channel has noise of its own; 'auto': 'mid-side'
for two channels of similar level, else 'shared'."""
SIMILAR_POWER = 0.01
"""Least ratio of the powers of two channels that 'auto' decodes from mid and side: 20 dB."""


def check_stereo(stereo: str, *, channels: int | None = None) -> None:
    """Raises RestorationError if a mode is unknown, or does not fit the number of channels."""
    if stereo not in STEREO_MODES:
        raise RestorationError(f'stereo mode "{stereo}" is unknown; choose from {", ".join(STEREO_MODES)}')
    if stereo == 'mid-side' and channels is not None and channels > 2:
        raise RestorationError(f'mid-side is for two channels, this file has {channels}; use "shared"')


def chosen(stereo: str, powers: np.ndarray) -> str:
    """What 'auto' means for a recording; other modes as they are.

    Left and right decoded from a sum and a difference share what was generated: nothing is to reach a channel that is
    (nearly) silent.

    Args:
        stereo: one of ``STEREO_MODES``.
        powers: (C,) power of each channel.

    Returns:
        'shared', 'mid-side' or 'independent'.
    """
    if stereo != 'auto':
        return stereo
    return 'mid-side' if len(powers) == 2 and powers.min() >= SIMILAR_POWER * powers.max() else 'shared'


def mid_side(left_right: Tensor) -> Tensor:
    """Mid and side of left and right, of the same power together; its own inverse.

    Args:
        left_right: (2, ...).

    Returns:
        (2, ...).
    """
    left, right = left_right
    return torch.stack([left + right, left - right]) * 0.5**0.5


def mid_side_blocks(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Mid and side of a stream of (2, n) blocks."""
    for block in blocks:
        yield mid_side(torch.from_numpy(block)).numpy()
