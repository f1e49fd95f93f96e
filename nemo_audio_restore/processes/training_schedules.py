"""How fast a diffusion network learns, and how long its average remembers, as training goes on."""


def inverse_lr_factor(step: int, *, inv_gamma: float, power: float, warmup: float) -> float:
    """Share of the highest learning rate: an exponential warm-up, then an inverse power of the step.

    Args:
        step: steps done.
        inv_gamma: steps after which the decay sets in: at this step it is 2^-power.
        power: of the decay.
        warmup: 0..1, share of the distance to full speed that is left after each step; 0 for none.

    Returns:
        Factor in [0, 1].

    Source: the schedule of Stable Audio 2.0's and Open's published configurations.
    """
    return (1 - warmup ** (step + 1)) * (1 + step / inv_gamma) ** -power


def ema_decay(step: int, *, highest: float, power: float = 0.75) -> float:
    """How much an average of weights keeps of itself in a step: it begins without memory and learns to remember.

    Args:
        step: steps done.
        highest: limit of the decay.
        power: of the step in the memory; smaller remembers less.

    Returns:
        In [0, highest]; 0 in the first two steps.

    Source: the moving average of the published training program (its configurations set ``highest`` 0.9999).
    """
    counted = max(step - 2, 0)
    return 0.0 if counted == 0 else min(1 - (1 + counted) ** -power, highest)
