"""Bridge ends for audio whose known part is damaged, too: filters that roll off softly, lossy codecs."""

from dataclasses import replace

import torch
from torch import Tensor

from nemo_audio_restore.signal.corruption import Corruption, fill_with_noise, first_missing_row
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram


def with_file_damage(
    representation: MagnitudePhaseSpectrogram,
    clean: Tensor,
    damaged: Tensor,
    corruption: Corruption,
    *,
    cutoff_hz: Tensor,
    bandwidth_hz: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Corruption]:
    """Puts the damaged audio where the bridge takes its input for known, and asks for all that the damage removed.

    The loss covers only what is generated, and a sampler never changes what is known; so the bridge that the model
    meets later runs from clean (inside the mask) to noise, beside a known part that is the damaged file's.

    Args:
        representation: gives the rows their frequencies.
        clean: (B, 3, F, N).
        damaged: (B, 3, F, N), the file as it would be given to the model.
        corruption: the masks drawn so far.
        cutoff_hz: (B,) frequency above which the damaged file holds nothing of use; rows above it are masked.
        bandwidth_hz: (B,) true bandwidth; rows above it are not part of ``loss_mask``.
        noise: (B, 3, F, N) standard normal, for the bridge's degraded end.

    Returns:
        The bridge's clean end (B, 3, F, N) and the enlarged corruption.
    """
    rows = torch.arange(clean.shape[2], device=clean.device)[None, :]
    lost = (rows >= _first_rows(cutoff_hz, representation, clean))[:, None, :, None]
    trusted = (rows < _first_rows(bandwidth_hz, representation, clean))[:, None, :, None]
    mask = torch.maximum(corruption.mask, lost.to(corruption.mask.dtype))
    loss_mask = torch.maximum(corruption.loss_mask, (lost & trusted).to(mask.dtype).expand_as(mask))
    degraded = fill_with_noise(damaged, mask, noise)
    target = clean * mask + damaged * (1 - mask)
    return target, replace(corruption, mask=mask, loss_mask=loss_mask, degraded=degraded)


def _first_rows(frequency_hz: Tensor, representation: MagnitudePhaseSpectrogram, like: Tensor) -> Tensor:
    rows = [first_missing_row(float(hz), representation) for hz in frequency_hz]
    return torch.tensor(rows, device=like.device)[:, None]
