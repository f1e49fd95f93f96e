"""The learning rate schedule of Stable Audio's configurations, by the name ``InverseLR`` in a config's ``sched``."""

from dataclasses import dataclass

import torch
from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS, register_scheduler
from torch.optim.lr_scheduler import LambdaLR

from nemo_audio_restore.processes.training_schedules import inverse_lr_factor


class InverseLR(LambdaLR):
    """Warm-up, then an inverse power of the step; see :func:`inverse_lr_factor`.

    Args:
        optimizer: whose learning rate is the highest one.
        inv_gamma: steps after which the decay sets in.
        power: of the decay.
        warmup: share of the distance to full speed that is left after each step; 0 for none.
        max_steps: NeMo's; no effect here.
        last_epoch: steps done, less one.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        inv_gamma: float = 1.0,
        power: float = 1.0,
        warmup: float = 0.0,
        max_steps: int | None = None,
        last_epoch: int = -1,
    ):
        del max_steps
        if inv_gamma <= 0 or not 0.0 <= warmup < 1.0:
            raise ValueError(f'inv_gamma must be positive and warmup in [0, 1); got {inv_gamma}, {warmup}')

        def factor(step: int) -> float:
            return inverse_lr_factor(step, inv_gamma=inv_gamma, power=power, warmup=warmup)

        super().__init__(optimizer, factor, last_epoch=last_epoch)


@dataclass
class InverseLRParams:
    """What NeMo keeps beside the name."""

    inv_gamma: float = 1.0
    power: float = 1.0
    warmup: float = 0.0
    max_steps: int | None = None
    last_epoch: int = -1


if InverseLR.__name__ not in AVAILABLE_SCHEDULERS:
    register_scheduler(InverseLR.__name__, InverseLR, InverseLRParams)
