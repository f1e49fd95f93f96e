"""The ``loss`` block of a model config, and what it means for the network."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nemo_audio_restore.networks.time_experts import TimeExperts


@dataclass(frozen=True)
class LossSettings:
    """How the bridge is trained.

    Attributes:
        time_range: (low, high) of the bridge times; part of [0, 1] trains only the expert of that range.
        time_power: 1 for uniform times; above 1 more of them lie near the clean end.
        channel_weights: factors on the losses of magnitude, cosine and sine, with mean 1; None for equal ones.
        seed: of corruption, times and noise.
    """

    time_range: tuple[float, float] = (0.0, 1.0)
    time_power: float = 1.0
    channel_weights: Sequence[float] | None = None
    seed: int = 0

    def __post_init__(self):
        low, high = self.time_range
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f'time_range must satisfy 0 <= low < high <= 1; got {tuple(self.time_range)}')
        if self.time_power <= 0:
            raise ValueError(f'time_power must be positive; got {self.time_power}')
        if self.channel_weights is not None and (len(self.channel_weights) != 3 or min(self.channel_weights) < 0):
            raise ValueError(f'channel_weights must be three factors of at least 0; got {list(self.channel_weights)}')


def freeze_other_experts(network: nn.Module, time_range: tuple[float, float]) -> None:
    """Stops the gradient of experts that no time of ``time_range`` reaches.

    Args:
        network: changed in place if it is a :class:`TimeExperts`; any other network is trained whole.
        time_range: (low, high) of the bridge times in training.
    """
    if not isinstance(network, TimeExperts):
        return
    low, high = time_range
    for (start, end), expert in zip(network.splits, network.experts, strict=True):
        if end <= low or start >= high:
            expert.requires_grad_(False)
