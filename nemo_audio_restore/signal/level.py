"""One level for recordings that were made at any: what a model of sounds need not guess."""

from torch import Tensor
from torch.nn import functional

WINDOW_S = 0.1
_MOST_GAIN = 1000.0


def at_level(audio: Tensor, sample_rate: int, level_db: float, *, peak: float = 0.95) -> Tensor:
    """Brings the loudest tenth of a second to a level; less where a sample would exceed a peak.

    A tenth of a second is short enough that a single stroke counts as loud, and long enough that a click does not.

    Args:
        audio: (C, T) samples.
        sample_rate: in Hz.
        level_db: root mean square of all channels there, in dB of full scale.
        peak: largest magnitude of a sample afterwards.

    Returns:
        The audio times one number; silence as it is. The gain is at most 60 dB: what needs more is noise.
    """
    power = audio.square().mean(dim=0)
    size = min(len(power), round(WINDOW_S * sample_rate))
    loudest = float(functional.avg_pool1d(power[None], size, stride=max(1, size // 4)).max().sqrt())
    highest = float(audio.abs().max())
    if not highest:
        return audio
    return audio * min(10 ** (level_db / 20) / loudest, peak / highest, _MOST_GAIN)
