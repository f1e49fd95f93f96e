"""Classifier-free guidance: a network with two conditions that behaves like a network with one."""

import torch
from torch import Tensor

from nemo_audio_restore.processes.diffusion import DiffusionProcess, Predict


def guided(
    predict: Predict,
    null: object,
    *,
    process: DiffusionProcess,
    scale: float,
    rescale: float = 0.0,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Predict:
    """Leads every prediction away from what the null condition gives.

    Args:
        predict: ``predict(x_t, t, condition)``.
        null: condition to lead away from: the network's null condition, or one made from a negative prompt.
        process: knows the noise level of a time.
        scale: 1 for no guidance, which leaves out the second evaluation; Stable Audio uses 6, Open 7.
        rescale: 0..1, how far the spread of the result is brought back to that of the prediction without guidance.
        interval: noise levels sigma, in 0..1, between which an item is guided.

    Returns:
        A function like ``predict``.

    Raises:
        ValueError: ``rescale`` or ``interval`` is out of range.

    Source: classifier-free guidance (arXiv 2207.12598), equation 6; rescaling: arXiv 2305.08891, equations 15 and 16,
    over channels; interval: arXiv 2404.07724, equation 5.
    """
    low, high = interval
    if not 0.0 <= rescale <= 1.0:
        raise ValueError(f'rescale must lie in [0, 1]; got {rescale}')
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f'interval must be two noise levels, 0 <= low <= high <= 1; got {interval}')

    def prediction(x_t: Tensor, t: Tensor, condition: object) -> Tensor:
        asked = predict(x_t, t, condition)
        level = process.sigma(t)
        inside = (level >= low) & (level <= high)
        if scale == 1 or not inside.any():
            return asked
        unasked = predict(x_t, t, null)
        out = unasked + scale * (asked - unasked)
        if rescale > 0:
            out = torch.lerp(out, out * (asked.std(dim=1, keepdim=True) / out.std(dim=1, keepdim=True)), rescale)
        return out if inside.all() else torch.where(inside.view(-1, *([1] * (x_t.ndim - 1))), out, asked)

    return prediction
