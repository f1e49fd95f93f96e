"""What all clips of a request have in common: lengths, times, and what is given besides the prompt."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.generation.given import Continuation, Given, Inpainting, Variation, read_given
from nemo_audio_restore.generation.known_part import KnownPart, count_around
from nemo_audio_restore.generation.placement import Placement, place_spans
from nemo_audio_restore.generation.protocol import LatentGenerator
from nemo_audio_restore.generation.sampling import count_reports, sampler_times, strength_time, times_from
from nemo_audio_restore.generation.settings import GenerationError, SamplerSettings


@dataclass(frozen=True)
class Plan:
    """How every clip of a request is made.

    Attributes:
        task: as in :class:`GeneratedClip`.
        num_samples: T of the clips.
        conditioned_s: the length that the network is told, in seconds.
        num_latents: L that the network works on.
        times: (K,) of the sampler.
        settings: of the sampler.
        audio: (C, T) that a variation of no strength returns.
        initial: latents (1, D, L) of a clip to vary.
        strength: of a variation.
        placement: of the spans in a recording.
        known: what is known of its latents.
    """

    task: str
    num_samples: int
    conditioned_s: float
    num_latents: int
    times: Tensor
    settings: SamplerSettings
    audio: np.ndarray | None = None
    initial: Tensor | None = None
    strength: float | None = None
    placement: Placement | None = None
    known: KnownPart | None = None

    @property
    def steps(self) -> int:
        """Calls of ``on_step`` for a batch."""
        if self.audio is not None:
            return 0
        if self.known is not None:
            return count_around(self.settings.sampler, len(self.times), self.settings.resamples)
        return count_reports(self.settings.sampler, len(self.times))

    @property
    def spans_s(self) -> tuple[tuple[float, float], ...]:
        """What is generated of a recording, in seconds."""
        if self.placement is None:
            return ()
        rate = self.placement.sample_rate
        return tuple((start / rate, end / rate) for start, end in self.placement.spans)


def make_plan(model: LatentGenerator, seconds: float | None, settings: SamplerSettings, given: Given | None) -> Plan:
    """Everything that can be known before the first batch; encodes what is given.

    Args:
        model: in evaluation mode.
        seconds: as for :func:`engine.generate_clips`.
        settings: of the sampler.
        given: audio to vary, to repair or to continue.

    Returns:
        The plan.

    Raises:
        AudioFileError: audio that is given cannot be read.
        GenerationError: lengths or spans do not fit the model or the audio.
    """
    times = sampler_times(settings, model.process)
    if isinstance(given, Inpainting | Continuation):
        return _plan_known(model, seconds, settings, given, times)
    window_s = model.window_samples / model.sample_rate
    audio = None
    if isinstance(given, Variation):
        audio = read_given(given.audio, sample_rate=model.sample_rate, channels=model.audio_channels)
        seconds = min(audio.shape[1] / model.sample_rate, window_s) if seconds is None else seconds
    seconds = window_s if seconds is None else seconds
    check_seconds(seconds, window_s)
    num_samples = max(1, round(seconds * model.sample_rate))
    num_latents = _num_latents(model, num_samples, settings)
    plain = Plan('text to audio', num_samples, seconds, num_latents, times, settings)
    if not isinstance(given, Variation):
        return plain
    plan = replace(plain, task='variation', strength=given.strength)
    if given.strength == 0:
        return replace(plan, audio=_exactly(audio, num_samples))
    if given.strength == 1:
        return plan
    initial = _encode(model, torch.from_numpy(_exactly(_exactly(audio, num_samples), num_latents * model.ratio))[None])
    first = strength_time(given.strength, model.process)
    return replace(plan, initial=initial, times=times_from(times, first))


def _plan_known(
    model: LatentGenerator,
    seconds: float | None,
    settings: SamplerSettings,
    given: Inpainting | Continuation,
    times: Tensor,
) -> Plan:
    rate, window_s = model.sample_rate, model.window_samples / model.sample_rate
    recording = read_given(given.audio, sample_rate=rate, channels=model.audio_channels)
    if isinstance(given, Inpainting):
        if seconds is not None:
            raise GenerationError('in-painting keeps the length of the audio: leave seconds out')
        spans, task = given.spans, 'in-painting'
    else:
        if seconds is None:
            raise GenerationError('seconds must say how much is added to the audio')
        check_seconds(seconds, window_s)
        before = recording.shape[1]
        recording = _exactly(recording, before + round(seconds * rate))
        spans, task = ((before / rate, recording.shape[1] / rate),), 'continuation'
    placement = place_spans(recording, spans, sample_rate=rate, window_samples=model.window_samples)
    num_latents = _num_latents(model, placement.length, settings)
    known = KnownPart(
        _encode(model, placement.shown(num_latents * model.ratio)),
        placement.known_latents(num_latents, model.ratio).to(model.device),
    )
    return Plan(
        task, recording.shape[1], placement.length / rate, num_latents, times, settings,
        placement=placement, known=known,
    )  # fmt: skip


def _num_latents(model: LatentGenerator, num_samples: int, settings: SamplerSettings) -> int:
    samples = model.window_samples if settings.full_window else num_samples
    per_multiple = model.ratio * model.latents_multiple
    return -(-samples // per_multiple) * model.latents_multiple


@torch.no_grad()
def _encode(model: LatentGenerator, audio: Tensor) -> Tensor:
    return model.encode(audio.to(model.device)).float()


def _exactly(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """(C, num_samples): cut, or filled with silence."""
    return np.pad(audio[:, :num_samples], ((0, 0), (0, max(0, num_samples - audio.shape[1]))))


def check_seconds(seconds: float, window_s: float | None = None) -> None:
    """Raises GenerationError unless a clip may have that length, and fits into the window where that is known."""
    if not (math.isfinite(seconds) and seconds > 0 and (window_s is None or seconds <= window_s + 1e-6)):
        window = '' if window_s is None else f", at most {window_s:.2f}, the model's window"
        raise GenerationError(f'seconds must be a number above 0{window}; got {seconds:g}')
