"""``generate`` of a latent diffusion model: from prompts to audio, through the engine of :mod:`generation`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nemo_audio_restore.generation.engine import generate_clips
from nemo_audio_restore.generation.given import AudioInput, Span, given_audio
from nemo_audio_restore.generation.protocol import GeneratedClip, OnStep
from nemo_audio_restore.generation.settings import SamplerSettings
from nemo_audio_restore.models.latent_diffusion_sampling import with_choices
from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.processes.diffusion import Denoise, DiffusionProcess
from nemo_audio_restore.processes.guidance import guided

if TYPE_CHECKING:
    from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel


@dataclass(frozen=True)
class PromptedCondition:
    """What the network is told, and what guidance leads away from."""

    asked: LatentCondition
    null: LatentCondition


class AsGenerator:
    """A latent diffusion model as the engine sees it: :class:`generation.LatentGenerator`.

    Args:
        model: in evaluation mode while it is used.
    """

    def __init__(self, model: 'LatentDiffusionModel'):
        self._model = model
        self.sample_rate: int = model.sample_rate
        self.window_samples: int = model.window_samples
        self.audio_channels: int = model.autoencoder.audio_channels
        self.latent_channels: int = model.autoencoder.latent_channels
        self.ratio: int = model.autoencoder.ratio
        self.latents_multiple: int = model.network.latents_multiple
        self.process: DiffusionProcess = model.process
        self.sampler: SamplerSettings = model.sampler

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self._model.network.parameters()).device

    def condition(
        self, prompts: Sequence[str], *, seconds: float, negative: Sequence[str] | None
    ) -> PromptedCondition:
        """See :class:`LatentGenerator`."""
        model = self._model
        asked = model.conditions(model.condition(prompts, seconds))
        unwanted = None if negative is None else model.conditions(model.condition(negative, seconds))
        return PromptedCondition(asked, model.network.null_condition(asked, unwanted))

    def predictor(self, condition: PromptedCondition, *, guidance: float, guidance_rescale: float) -> Denoise:
        """See :class:`LatentGenerator`."""
        led = guided(
            self._model.network, condition.null, process=self.process, scale=guidance, rescale=guidance_rescale
        )
        return lambda x_t, t: led(x_t, t, condition.asked)

    def encode(self, audio: Tensor) -> Tensor:
        """See :class:`LatentGenerator`."""
        return self._model.autoencoder.encode(audio)

    def decode(self, latents: Tensor, *, length: int) -> Tensor:
        """See :class:`LatentGenerator`."""
        return self._model.autoencoder.decode(latents, length=length)


class GenerationMixin:
    """Adds :meth:`generate` to a model with autoencoder, conditions, network, process and sampler settings."""

    sampler: SamplerSettings
    process: DiffusionProcess

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seconds: float | None = None,
        negative: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        settings: SamplerSettings | None = None,
        initial_audio: AudioInput | None = None,
        strength: float | None = None,
        inpaint: tuple[AudioInput, Sequence[Span]] | None = None,
        continue_from: AudioInput | None = None,
        loudness_lufs: float | None = None,
        batch_size: int = 4,
        on_step: OnStep | None = None,
    ) -> list[GeneratedClip]:
        """Makes audio of texts.

        Args:
            prompts: one text or several.
            seconds: length of the clips, at most ``window_s``; with ``continue_from``, of what is added. None takes
                that of ``initial_audio``, or ``window_s``.
            negative: what is not wanted: one text for all prompts, or one for each.
            seed: the same prompt, seed and settings give the same clip in any batch; several make several clips of
                each prompt.
            steps: number of times at which the network is evaluated; None takes the settings'.
            guidance: how strictly the prompt is followed, 1 for no guidance; None takes the settings'.
            sampler: ours or the published program's name, and its spacing of the times; None takes the settings'.
            settings: everything else about sampling; None takes the model's.
            initial_audio: file, or samples (C, T) at the model's rate, that the clips shall resemble.
            strength: 0 gives ``initial_audio`` back, 1 ignores it, 0.5 begins with as much noise as signal, for every
                objective; 0.5 unless given.
            inpaint: a file, or samples, and the spans of it, (start, end) in seconds, that are generated anew; the
                rest stays as it is, sample for sample, but for a crossfade of 30 ms around the spans.
            continue_from: a file, or samples, that go on.
            loudness_lufs: integrated loudness of the clips; None leaves them as the model made them.
            batch_size: clips made at once: more memory, faster on a GPU.
            on_step: told about every evaluation; may raise to stop.

        Returns:
            The clips: all seeds of the first prompt, then of the next. ``clip.audio`` is (C, T) at ``sample_rate``.

        Raises:
            AudioFileError: a file cannot be read.
            FileNotFoundError: the text encoder is not found; says how to give it.
            GenerationError: the request does not fit the model.
            ImportError: an optional package is missing; says how to install it.
        """
        chosen, _ = with_choices(
            settings or self.sampler, self.process, sampler=sampler, steps=steps, guidance=guidance
        )
        given = given_audio(
            initial_audio=initial_audio, strength=strength, inpaint=inpaint, continue_from=continue_from
        )
        with self._evaluating():
            clips = generate_clips(
                AsGenerator(self),
                prompts,
                seconds=seconds,
                negative=negative,
                seeds=(seed,) if isinstance(seed, int) else tuple(seed),
                settings=chosen,
                given=given,
                loudness_lufs=loudness_lufs,
                batch_size=batch_size,
                on_step=on_step,
            )
            return list(clips)
