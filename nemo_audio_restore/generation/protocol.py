"""What the engine needs from a model, and what it reports."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.generation.settings import SamplerSettings
from nemo_audio_restore.processes.diffusion import Denoise, DiffusionProcess

Condition = TypeVar('Condition')


class LatentGenerator(Protocol[Condition]):
    """A text-to-audio model as the engine sees it: an autoencoder, and a diffusion process over its latents."""

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        ...

    @property
    def audio_channels(self) -> int:
        """Channels C of the audio."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels D of the latents."""
        ...

    @property
    def ratio(self) -> int:
        """Samples that one latent stands for."""
        ...

    @property
    def window_samples(self) -> int:
        """Length of the longest clip."""
        ...

    @property
    def latents_multiple(self) -> int:
        """The network takes multiples of this number of latents."""
        ...

    @property
    def process(self) -> DiffusionProcess:
        """Schedule and objective of the network."""
        ...

    @property
    def sampler(self) -> SamplerSettings:
        """The model's defaults."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        ...

    def condition(self, prompts: Sequence[str], *, seconds: float, negative: Sequence[str] | None) -> Condition:
        """What the network is told for a batch: B prompts, the length of the clips, B texts to lead away from."""
        ...

    def predictor(self, condition: Condition, *, guidance: float, guidance_rescale: float) -> Denoise:
        """``predict(x_t (B, D, L), t (B,)) -> prediction`` of the network under a condition, guidance included."""
        ...

    def encode(self, audio: Tensor) -> Tensor:
        """Latents (B, D, L) of audio (B, C, L * ratio), without randomness."""
        ...

    def decode(self, latents: Tensor, *, length: int) -> Tensor:
        """The first ``length`` samples (B, C, length) of what latents (B, D, L) stand for; the rest costs nothing."""
        ...


@dataclass(frozen=True)
class GenerationStep:
    """What ``on_step`` is told after evaluations of the network; it may raise to stop."""

    done: int
    """Steps so far, over all batches."""
    total: int
    """Steps of the whole request."""
    clips: tuple[int, ...]
    """Which clips of the request the batch holds."""
    time: float
    """Time of the evaluation: 1 is noise, 0 the clip."""
    clean_estimate: Tensor
    """The latents as estimated now, (B, D, L): what a preview would decode."""


OnStep = Callable[[GenerationStep], None]


@dataclass(frozen=True)
class GeneratedClip:
    """One clip and how it came to be.

    Attributes:
        audio: (C, T) float32 samples, 1.0 = full scale.
        sample_rate: in Hz.
        prompt: that was asked for.
        negative: text that was led away from, or None.
        seed: of all random numbers of this clip.
        settings: of the sampler.
        task: 'text to audio', 'variation', 'in-painting' or 'continuation'.
        strength: of a variation, else None.
        spans: (start, end) in seconds of what was generated, where not everything was.
        steps: calls of ``on_step`` that it took, which is about the number of evaluations of the network.
        seconds: wall time of its batch, divided by the clips in it.
        loudness_lufs: as measured before the gain, or None where no loudness was asked for.
        gain_db: applied to reach the loudness that was asked for, or what full scale allows.
        limited_db: by how much the loudest moment was turned down to stay below full scale, 0 or negative.
    """

    audio: np.ndarray = field(repr=False)
    sample_rate: int
    prompt: str
    negative: str | None
    seed: int
    settings: SamplerSettings
    task: str = 'text to audio'
    strength: float | None = None
    spans: tuple[tuple[float, float], ...] = ()
    steps: int = 0
    seconds: float = 0.0
    loudness_lufs: float | None = None
    gain_db: float = 0.0
    limited_db: float = 0.0

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.audio.shape[1] / self.sample_rate

    @property
    def peak(self) -> float:
        """Largest magnitude, 1.0 = full scale."""
        return float(np.abs(self.audio).max(initial=0.0))

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON, without the samples."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ('audio', 'settings')}
        facts = {'channels': self.audio.shape[0], 'duration_s': self.duration_s, 'peak': self.peak}
        return {**named, **facts, 'settings': asdict(self.settings)}
