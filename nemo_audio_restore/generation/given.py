"""Audio that a clip starts from: to vary, to repair, or to continue."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from nemo_audio_restore.files.audio import read_audio
from nemo_audio_restore.files.resample import resample_stream
from nemo_audio_restore.generation.settings import GenerationError

AudioInput = str | Path | np.ndarray | Tensor
Span = tuple[float, float]


@dataclass(frozen=True)
class Variation:
    """A clip that the result resembles.

    Attributes:
        audio: a file, or samples (C, T) or (T,) at the model's rate.
        strength: 0 gives the clip back, 1 ignores it; see :func:`sampling.strength_time`.
    """

    audio: AudioInput = field(repr=False)
    strength: float = 0.5

    def __post_init__(self):
        if not 0.0 <= self.strength <= 1.0:
            raise GenerationError(
                f'strength must lie between 0 (gives the audio back) and 1 (ignores it); got {self.strength}'
            )


@dataclass(frozen=True)
class Inpainting:
    """A recording of which parts are generated anew; everything else stays as it is.

    Attributes:
        audio: a file, or samples (C, T) or (T,) at the model's rate; of any length.
        spans: (start, end) in seconds of what is generated.
    """

    audio: AudioInput = field(repr=False)
    spans: tuple[Span, ...]

    def __post_init__(self):
        if not self.spans:
            raise GenerationError('in-painting needs at least one span, (start, end) in seconds; got none')
        for start, end in self.spans:
            if not 0 <= start < end < float('inf'):
                raise GenerationError(f'a span must be 0 <= start < end, in seconds; got {start:g} to {end:g}')


@dataclass(frozen=True)
class Continuation:
    """A recording that goes on; the seconds of the request are what is added.

    Attributes:
        audio: a file, or samples (C, T) or (T,) at the model's rate; of any length.
    """

    audio: AudioInput = field(repr=False)


Given = Variation | Inpainting | Continuation


def given_audio(
    *,
    initial_audio: AudioInput | None = None,
    strength: float | None = None,
    inpaint: tuple[AudioInput, list[Span] | tuple[Span, ...]] | None = None,
    continue_from: AudioInput | None = None,
) -> Given | None:
    """The one thing that these arguments describe.

    Args:
        initial_audio: to vary.
        strength: of the variation; 0.5 unless given.
        inpaint: audio, and the spans of it to generate.
        continue_from: to continue.

    Returns:
        A description, or None if nothing is given.

    Raises:
        GenerationError: more than one of them is given, strength without audio, or a value is out of range.
    """
    asked = {'initial_audio': initial_audio, 'inpaint': inpaint, 'continue_from': continue_from}
    names = [name for name, value in asked.items() if value is not None]
    if len(names) > 1:
        raise GenerationError(f'{" and ".join(names)} exclude each other: give one of them')
    if strength is not None and initial_audio is None:
        raise GenerationError('strength says how far initial_audio may change: give that too, or leave strength out')
    if initial_audio is not None:
        return Variation(initial_audio) if strength is None else Variation(initial_audio, float(strength))
    if inpaint is not None:
        audio, spans = inpaint
        return Inpainting(audio, tuple((float(start), float(end)) for start, end in spans))
    return None if continue_from is None else Continuation(continue_from)


def read_given(audio: AudioInput, *, sample_rate: int, channels: int) -> np.ndarray:
    """The samples as the model takes them.

    Args:
        audio: a file of any rate, or samples (C, T) or (T,) at ``sample_rate``.
        sample_rate: of the model, in Hz.
        channels: of the model. Mono is copied to all channels; more than one become one by their mean.

    Returns:
        (channels, T) float32; the caller's array is not changed.

    Raises:
        AudioFileError: the file cannot be read.
        GenerationError: the samples have another shape, or the channels do not fit.
    """
    if isinstance(audio, str | Path):
        samples, rate = read_audio(audio)
        samples = np.concatenate(list(resample_stream([samples], rate, sample_rate, channels=len(samples))), axis=1)
    else:
        samples = audio.detach().cpu().float().numpy() if isinstance(audio, Tensor) else np.asarray(audio, np.float32)
        samples = samples[None] if samples.ndim == 1 else samples
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise GenerationError(f'audio must be (channels, samples) with some samples; got the shape {samples.shape}')
    if not np.isfinite(samples).all():
        raise GenerationError('the audio holds samples that are not numbers; repair it first')
    if len(samples) == channels:
        return np.array(samples, np.float32)
    if len(samples) == 1:
        return np.repeat(samples, channels, axis=0).astype(np.float32)
    if channels == 1:
        return samples.mean(axis=0, keepdims=True, dtype=np.float32)
    raise GenerationError(
        f'the model makes {channels} channels, the audio given has {len(samples)}: mix it down first'
    )
