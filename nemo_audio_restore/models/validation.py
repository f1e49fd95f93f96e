"""Validation of a restoration model: real restorations of held-out audio, scored by cutoff and gap length."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore.evaluation.metrics import gap_lsd, lsd, sispec
from nemo_audio_restore.restoration.engine import restore_array
from nemo_audio_restore.restoration.protocol import Restorer, SamplerSettings
from nemo_audio_restore.signal.corruption import bandwidth_mask
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

_SHOWN_RANGE_DB = 80.0


@dataclass(frozen=True)
class ValidationSettings:
    """The ``validation`` block of a model config.

    Attributes:
        cutoffs_hz: each item is low-passed at these and restored.
        gaps_s: each item loses this much in its middle and is restored.
        batches: batches of every validation that are restored; the loss is computed on all.
    """

    cutoffs_hz: Sequence[float] = (4000.0, 8000.0)
    gaps_s: Sequence[float] = (0.1, 0.3)
    batches: int = 1

    def __post_init__(self):
        if any(cutoff <= 0 for cutoff in self.cutoffs_hz) or any(gap <= 0 for gap in self.gaps_s):
            raise ValueError(f'cutoffs_hz and gaps_s must be positive; got {self.cutoffs_hz} and {self.gaps_s}')
        if self.batches < 0:
            raise ValueError(f'batches must be at least 0; got {self.batches}')


@dataclass(frozen=True)
class Example:
    """One restoration for the log: (T,) samples each."""

    name: str
    clean: Tensor
    damaged: Tensor
    restored: Tensor


@dataclass
class _Scores:
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, tuple[Tensor, int]]:
        return {name: (torch.tensor(sum(found) / len(found)), len(found)) for name, found in self.values.items()}


def low_passed(audio: Tensor, cutoff_hz: float, representation: MagnitudePhaseSpectrogram) -> Tensor:
    """Audio (B, T) without the rows of its spectrogram from ``cutoff_hz`` up."""
    keep = 1 - bandwidth_mask(cutoff_hz, representation).to(audio.device)
    spectrum = representation.stft(audio)
    # Row i of the mask is bin i + 1 of the STFT; DC is kept.
    return representation.istft(torch.cat([spectrum[:, :1], spectrum[:, 1:] * keep], dim=1), length=audio.shape[1])


def validate_batch(
    restorer: Restorer,
    batch: dict[str, Tensor],
    *,
    settings: ValidationSettings,
    sampler: SamplerSettings,
    seed: int,
) -> tuple[dict[str, tuple[Tensor, int]], list[Example]]:
    """Damages and restores every item of a batch in every way.

    Args:
        restorer: the model, in evaluation mode.
        batch: ``audio`` (B, T), ``audio_lens`` (B,), ``bandwidth_hz`` (B,).
        settings: what to damage.
        sampler: how to restore.
        seed: of the restorations.

    Returns:
        Mean and number of items of ``val_lsd_4000hz`` (above the cutoff), ``val_sispec_4000hz``, ``val_lsd_300ms``
        (frames of the gap), ``val_sispec_300ms`` and so on; and one example of each kind.
    """
    representation = restorer.representation
    rate = representation.sample_rate
    scores, examples = _Scores(), []
    for index, (row, length) in enumerate(zip(batch['audio'], batch['audio_lens'].tolist(), strict=True)):
        clean, bandwidth_hz = row[:length], float(batch['bandwidth_hz'][index])
        options = {'settings': sampler, 'seed': seed + index}
        for cutoff_hz in settings.cutoffs_hz:
            if cutoff_hz >= 0.9 * bandwidth_hz:
                continue
            name = f'{cutoff_hz:g}hz'
            damaged = low_passed(clean[None], cutoff_hz, representation)[0]
            restored = restore_array(restorer, damaged, rate, cutoff_hz=cutoff_hz, **options)
            high_hz = bandwidth_hz if bandwidth_hz < rate / 2 else None
            scores.add(f'val_lsd_{name}', lsd(clean.cpu(), restored.cpu(), rate, low_hz=cutoff_hz, high_hz=high_hz))
            scores.add(f'val_sispec_{name}', sispec(clean.cpu(), restored.cpu(), rate))
            if index == 0:
                examples.append(Example(name, clean, damaged, restored))
        for gap_s in settings.gaps_s:
            start, end = round(length / 2 - gap_s * rate / 2), round(length / 2 + gap_s * rate / 2)
            if start < rate // 10:
                continue
            name = f'{1000 * gap_s:g}ms'
            damaged = clean.clone()
            damaged[start:end] = 0.0
            span = (start / rate, end / rate)
            restored = restore_array(restorer, damaged, rate, gaps=[span], **options)
            scores.add(f'val_lsd_{name}', gap_lsd(clean.cpu(), restored.cpu(), rate, start_s=span[0], end_s=span[1]))
            scores.add(f'val_sispec_{name}', sispec(clean.cpu(), restored.cpu(), rate))
            if index == 0:
                examples.append(Example(name, clean, damaged, restored))
    return scores.means(), examples


def log_examples(
    loggers: Iterable[Any], examples: Sequence[Example], representation: MagnitudePhaseSpectrogram, *, step: int
) -> None:
    """Shows restorations in TensorBoard: sound, and spectrograms of clean, damaged and restored below each other.

    Args:
        loggers: of the trainer; those without TensorBoard's ``add_audio`` are left out.
        examples: to show.
        representation: for the spectrograms.
        step: of training.
    """
    for logger in loggers:
        writer = getattr(logger, 'experiment', None)
        if not hasattr(writer, 'add_audio'):
            continue
        for example in examples:
            sounds = {'clean': example.clean, 'damaged': example.damaged, 'restored': example.restored}
            for kind, sound in sounds.items():
                writer.add_audio(
                    f'{example.name}/{kind}', sound[None].cpu(), step, sample_rate=representation.sample_rate
                )
            pictures = [spectrogram_picture(sound, representation) for sound in sounds.values()]
            writer.add_image(f'{example.name}/clean_damaged_restored', torch.cat(pictures, dim=1), step)


def spectrogram_picture(audio: Tensor, representation: MagnitudePhaseSpectrogram) -> Tensor:
    """Grey picture (1, F, N) of (T,) samples: low frequencies at the bottom, 80 dB from black to white.

    0 dB is the level of a full-scale sine.
    """
    magnitude = representation.stft(audio[None]).abs()[0, 1:] / (representation.n_fft / 4)
    level_db = 20 * magnitude.clamp_min(1e-10).log10()
    return (1 + level_db / _SHOWN_RANGE_DB).clamp(0, 1).flip(0)[None].cpu()
