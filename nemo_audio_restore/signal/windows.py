"""Windows of one length out of recordings of any length."""

import torch
from torch import Tensor
from torch.nn import functional


def filled_windows(audio: Tensor, window_samples: int, *, count: int, generator: torch.Generator) -> Tensor:
    """Windows of a recording: a short one is repeated as often as it fits, a long one is cut at random places.

    After the last whole repetition there is silence. The places are spread: the recording is divided evenly, and each
    part holds the start of one window.

    Args:
        audio: (..., T) samples, at least one.
        window_samples: length of a window.
        count: windows of a long recording, at least 1; a short one has one.
        generator: of the places.

    Returns:
        (K, ..., window_samples), K being 1 or ``count``.

    Raises:
        ValueError: no samples, or no windows asked for.

    Source: repeat padding of CLAP (arXiv 2211.06687), section 3.3.
    """
    samples = audio.shape[-1]
    if samples == 0 or count < 1:
        raise ValueError(f'windows need at least one sample, and a count of at least 1; got {samples}, {count}')
    if samples <= window_samples:
        repeated = audio.repeat(*[1] * (audio.ndim - 1), window_samples // samples)
        return functional.pad(repeated, (0, window_samples - repeated.shape[-1]))[None]
    room = samples - window_samples + 1
    draws = torch.rand(count, generator=generator, device=generator.device).tolist()
    starts = [min(int((index + draw) / count * room), room - 1) for index, draw in enumerate(draws)]
    return torch.stack([audio[..., start : start + window_samples] for start in starts])
