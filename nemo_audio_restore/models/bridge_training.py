"""One training step of the restoration bridge in plain torch: the loss that every trainer here uses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nemo_audio_restore.signal.corruption import Corruption
from nemo_audio_restore.signal.file_damage import with_file_damage

# Below this time the regression target is a difference of almost equal float32 numbers (0.3 % error here, 10 % at
# 1e-4); no sampler asks for times below 0.05.
MIN_TIME = 1e-3

CHANNEL_NAMES = ('magnitude', 'cosine', 'sine')


Corrupt = Callable[[nn.Module, Tensor, Tensor, torch.Generator | None], Corruption]


@dataclass(frozen=True)
class BridgeLoss:
    """The loss of one batch.

    Attributes:
        loss: scalar to minimise.
        parts: scalars without gradient for the log: the unweighted loss of each channel (``magnitude``, ``cosine``,
            ``sine``) and ``trained_fraction``, the share of the spectrogram that the loss covers.
    """

    loss: Tensor
    parts: dict[str, Tensor]


def frame_mask(representation: nn.Module, audio_lens: Tensor, num_frames: int) -> Tensor:
    """Tells the frames that hold audio from the padding behind it.

    Args:
        representation: gives the number of frames of a number of samples.
        audio_lens: (B,) samples.
        num_frames: N of the padded batch.

    Returns:
        (B, 1, 1, N) float, 1 where there is audio.
    """
    lengths = representation.num_frames(audio_lens)
    frames = torch.arange(num_frames, device=audio_lens.device)
    return (frames[None, :] < lengths[:, None]).float()[:, None, None, :]


def draw_times(
    batch_size: int,
    *,
    time_range: tuple[float, float],
    time_power: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Draws bridge times in ``time_range``: ``low + (high - low) * uniform**time_power``, never below 1e-3.

    Args:
        batch_size: B.
        time_range: (low, high) within [0, 1]; the range of one expert when only that one is trained.
        time_power: 1 for uniform times; above 1 more of them lie near ``low``.
        generator: source of the random numbers; the result is on its device.

    Returns:
        (B,) times.

    Raises:
        ValueError: the range or the power makes no sense.
    """
    low, high = time_range
    if not 0.0 <= low < high <= 1.0:
        raise ValueError(f'time_range must satisfy 0 <= low < high <= 1; got {time_range}')
    if time_power <= 0:
        raise ValueError(f'time_power must be positive; got {time_power}')
    uniform = torch.rand(batch_size, generator=generator, device=generator.device if generator else None)
    return (low + (high - low) * uniform.pow(time_power)).clamp_min(max(low, MIN_TIME))


def bridge_training_loss(
    network: nn.Module,
    process: nn.Module,
    representation: nn.Module,
    corruption: Corrupt,
    batch: dict[str, Tensor],
    *,
    generator: torch.Generator | None = None,
    time_range: tuple[float, float] = (0.0, 1.0),
    channel_weights: Tensor | None = None,
    time_power: float = 1.0,
) -> BridgeLoss:
    """Corrupts a batch of clean audio, draws a point of the bridge and scores the network's prediction there.

    The network alone may run under autocast (enter it around this call); everything else is float32.

    Args:
        network: ``network(x_t (B, 3, F, N), t (B,), mask (B, 1, F, N)) -> (B, 3, F, N)``.
        process: the bridge (``marginal``, ``target``, ``loss``).
        representation: ``encode(audio (B, T)) -> (B, 3, F, N)``.
        corruption: ``corruption(representation, clean (B, 3, F, N), bandwidth_hz (B,), generator)`` damages the clean
            spectrogram and says which part is to be learned.
        batch: ``audio`` (B, T) samples, ``audio_lens`` (B,) valid samples, ``bandwidth_hz`` (B,) true bandwidth; with
            file damage also ``damaged`` (B, T) samples and ``cutoff_hz`` (B,), see :func:`with_file_damage`.
        generator: source of all random numbers, on any device; drawn in the order corruption, times, noise.
        time_range: of the bridge times; part of [0, 1] to train one expert.
        channel_weights: (3,) loss factors with mean 1, or None.
        time_power: see :func:`draw_times`.

    Returns:
        The loss and its parts.

    Source: A2SB (arXiv 2501.11311), section 3; I2SB (arXiv 2302.05872), algorithm 1.
    """
    audio = batch['audio']
    with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
        clean = _usable_frames(network, representation.encode(audio))
        damage = corruption(representation, clean, batch['bandwidth_hz'], generator)
        if 'damaged' in batch:
            fill = torch.randn(clean.shape, generator=generator, device=generator.device if generator else None)
            clean, damage = with_file_damage(
                representation,
                clean,
                _usable_frames(network, representation.encode(batch['damaged'])),
                damage,
                cutoff_hz=batch['cutoff_hz'],
                bandwidth_hz=batch['bandwidth_hz'],
                noise=fill.to(clean.device),
            )
        t = draw_times(audio.shape[0], time_range=time_range, time_power=time_power, generator=generator)
        noise = torch.randn(clean.shape, generator=generator, device=generator.device if generator else None)
        t, noise = t.to(clean.device), noise.to(clean.device)
        x_t = process.marginal(t, clean, damage.degraded).sample(noise)
        target = process.target(x_t, clean, t)
        loss_mask = damage.loss_mask * frame_mask(representation, batch['audio_lens'], clean.shape[-1])
    prediction = network(x_t, t, damage.mask)
    with torch.autocast(audio.device.type, enabled=False):
        loss = process.loss(prediction, target, loss_mask, channel_weights=channel_weights)
        parts = _parts(process, prediction.detach(), target, loss_mask)
    return BridgeLoss(loss, parts)


def _usable_frames(network: nn.Module, spectrogram: Tensor) -> Tensor:
    """The first frames of (B, C, F, N), as many as the network accepts."""
    multiple = getattr(network, 'frames_multiple', 1)
    frames = spectrogram.shape[-1] // multiple * multiple
    if frames == 0:
        raise ValueError(f'the network needs {multiple} frames or more; the batch has {spectrogram.shape[-1]}')
    return spectrogram[..., :frames]


def _parts(process: nn.Module, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> dict[str, Tensor]:
    parts = {
        name: process.loss(prediction[:, i : i + 1], target[:, i : i + 1], loss_mask)
        for i, name in enumerate(CHANNEL_NAMES)
    }
    parts['trained_fraction'] = loss_mask.mean()
    return parts
