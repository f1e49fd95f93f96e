"""LatentDiffusionModel: audio from texts and times, by diffusion in an autoencoder's latents. Wiring only."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from typing_extensions import Self

from nemo_audio_restore.generation.settings import SamplerSettings
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.latent_diffusion_autoencoder import FrozenAutoencoder, with_its_own_block
from nemo_audio_restore.models.latent_diffusion_data import CaptionDataMixin
from nemo_audio_restore.models.latent_diffusion_import import imported_config, read_stable_audio
from nemo_audio_restore.models.latent_diffusion_lora import LatentLoraMixin
from nemo_audio_restore.models.latent_diffusion_sampling import StepNoise, sample_latents, with_choices
from nemo_audio_restore.models.latent_diffusion_text import FrozenText, portable_source
from nemo_audio_restore.models.latent_diffusion_training import LatentDiffusionTrainingMixin
from nemo_audio_restore.models.latent_generation import GenerationMixin
from nemo_audio_restore.networks.condition_builder import ConditionBuilder, ConditionPart
from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.networks.low_rank import LowRankSettings
from nemo_audio_restore.processes.bridge_samplers import OnStep
from nemo_audio_restore.processes.diffusion import DiffusionProcess, RectifiedFlow, VDiffusion
from nemo_audio_restore.processes.item_noise import noise_from_each

_OBJECTIVES: dict[str, type[DiffusionProcess]] = {'v': VDiffusion, 'rectified_flow': RectifiedFlow}


class LatentDiffusionModel(
    GenerationMixin, LatentLoraMixin, LatentDiffusionTrainingMixin, CaptionDataMixin, BaseModel
):
    """Generates audio from a text and a length: the Stable Audio family.

    Config blocks, each named like the attribute that it builds:

    - ``autoencoder``: ``sample_rate`` and ``network`` (arguments of :class:`FrozenAutoencoder`), or ``model``: name or
      path of an :class:`AudioAutoencoderModel` or of a model of this class, whose autoencoder is taken; it is never
      trained here
    - ``conditions``: arguments of :class:`ConditionBuilder`: conditioners by name (``prompt``, ``seconds_start``,
      ``seconds_total``) and what each is for
    - ``network``: ``_target_`` and arguments of :class:`LatentUNet` or :class:`LatentTransformer`
    - ``objective``: ``v`` or ``rectified_flow``
    - ``window_latents``: length of the clips of training
    - ``sampler``: fields of :class:`SamplerSettings`, the defaults of :meth:`sample`
    - ``lora``: fields of :class:`LowRankSettings`, for a network with adapters
    - for training: ``loss`` (:class:`LatentLossSettings`), ``training`` (:class:`LatentTrainingSettings`), ``optim``,
      ``train_ds``, ``validation_ds``, ``card``; ``plain_training`` belongs to examples/train_diffusion_plain.py

    Source: Stable Audio (arXiv 2402.04825); Stable Audio Open (arXiv 2407.14358).
    """

    config_blocks: ClassVar[tuple[str, ...]] = (
        'autoencoder',
        'conditions',
        'network',
        'objective',
        'window_latents',
        'sampler',
        'lora',
        'plain_training',
        *LatentDiffusionTrainingMixin.training_config_blocks,
    )
    pipeline_tag: ClassVar[str] = 'text-to-audio'
    tags: ClassVar[tuple[str, ...]] = ('text-to-audio', 'music', 'sound-effects', 'latent-diffusion')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        # Completed below; the caller's stays as it is.
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        autoencoder = with_its_own_block(cfg)
        _drop_empty(cfg.get('conditions', {}).get('conditioners'))
        conditions = build(cfg.get('conditions'), where='conditions', default=ConditionBuilder)
        for name, conditioner in conditions.conditioners.items():
            block = cfg.conditions.conditioners[name]
            if 'source' in block and isinstance(conditioner, FrozenText):
                block.source = portable_source(block.source)
        network = build(cfg.get('network'), where='network')
        process = _process(cfg.get('objective'))
        sampler = build(cfg.get('sampler'), where='sampler', default=SamplerSettings)
        self.window_latents = _window_latents(cfg.get('window_latents'), network.latents_multiple)
        if network.latent_channels != autoencoder.latent_channels:
            raise ConfigError(
                f'the autoencoder has {autoencoder.latent_channels} latent channels, but network.latent_channels is '
                f'{network.latent_channels}'
            )
        # NeMo builds the data loaders inside its constructor, and they need these.
        self.sample_rate, self.audio_channels = autoencoder.sample_rate, autoencoder.audio_channels
        self.latents_ratio = autoencoder.ratio
        super().__init__(cfg=cfg, trainer=trainer)
        self.process = process
        self.sampler = sampler
        self.autoencoder = autoencoder
        self.conditions = conditions
        self.network = network
        if self.has_lora:
            self._inject(build(self.cfg.lora, where='lora', default=LowRankSettings))

    @classmethod
    def from_stable_audio(
        cls,
        model_config: str | Path | Mapping[str, Any] | None,
        weights: str | Path,
        text_encoder: str | Path | None = None,
        text_tokenizer: str | Path | None = None,
    ) -> Self:
        """Builds a model from published files: Stable Audio 1.0, 2.0, Open, Open Small, and models trained like them.

        Args:
            model_config: ``model_config.json`` or its content; None for a folder of weights.
            weights: ``.safetensors`` or ``.ckpt`` file of the whole model, or a folder in the layout of diffusers.
            text_encoder: for T5 its folder or hub name, for CLAP the file in LAION's layout. Without it texts need
                :meth:`use_text_encoder` first, or the hub; it is in no file that this model writes.
            text_tokenizer: folder or hub name of the tokenizer, if it is not beside the encoder.

        Returns:
            The model in evaluation mode.

        Raises:
            CheckpointError: it is another kind of checkpoint, or a part or tensor is missing, left over or of another
                shape; names it.
            FileNotFoundError: a file does not exist.
            ValueError: a file without configuration.
        """
        loaded = read_stable_audio(model_config, weights, text_encoder=text_encoder, text_tokenizer=text_tokenizer)
        config = OmegaConf.create(imported_config(loaded, source=Path(weights).name))
        # The tensors exist already: no need to fill gigabytes with random numbers first.
        with torch.device('meta'):
            model = cls(config)
        model.network = loaded.network
        model.autoencoder = FrozenAutoencoder(
            sample_rate=loaded.sample_rate, network=loaded.autoencoder, is_trained=True
        )
        model.conditions = build(model.cfg.conditions, where='conditions', default=ConditionBuilder)
        for name, conditioner in loaded.conditions.conditioners.items():
            model.conditions.conditioners[name].load_state_dict(conditioner.state_dict())
            if isinstance(model.conditions.conditioners[name], FrozenText):
                model.conditions.conditioners[name].accept(conditioner)
        return model.eval()

    @property
    def window_samples(self) -> int:
        """Length of the clips of training."""
        return self.window_latents * self.latents_ratio

    @property
    def window_s(self) -> float:
        """Length of the clips of training, in seconds."""
        return self.window_samples / self.sample_rate

    def use_text_encoder(self, source: str | Path, *, tokenizer: str | Path | None = None) -> None:
        """Takes the text encoder from a place of this machine, or from another name.

        Args:
            source: for T5 and sentence encoders a folder or hub name, for CLAP the file in LAION's layout.
            tokenizer: folder or hub name of the tokenizer, if it is not beside the encoder.

        Raises:
            FileNotFoundError: nothing can be loaded from there.
            ValueError: the model takes no texts, or the encoder's features have another width.
        """
        found = [part for part in self.conditions.conditioners.values() if isinstance(part, FrozenText)]
        if not found:
            raise ValueError('this model takes no texts')
        for part in found:
            part.use(source, tokenizer=tokenizer)

    @torch.no_grad()
    def condition(
        self, prompts: Sequence[str], seconds: float | Sequence[float], *, start: float | Sequence[float] = 0.0
    ) -> dict[str, ConditionPart]:
        """What :meth:`sample` takes as ``condition`` or ``negative``, for texts and lengths.

        Args:
            prompts: B texts.
            seconds: length of the clip, or of each.
            start: where in a longer recording the clip begins, in seconds.

        Returns:
            By name what this model is told: ``prompt`` (features and mask), ``seconds_start``, ``seconds_total`` (B,).

        Raises:
            FileNotFoundError: the text encoder is not found; says how to give it.
            ValueError: numbers for another number of prompts, or the model is told other things, too.
        """
        count = len(prompts)
        values: dict[str, ConditionPart] = {
            'seconds_start': _numbers(start, count, 'start'),
            'seconds_total': _numbers(seconds, count, 'seconds'),
        }
        parts = self.conditions.parts
        strange = [name for name in parts if name not in (*values, 'prompt')]
        if strange:
            raise ValueError(f'this model is also told {", ".join(strange)}: make the condition yourself')
        if 'prompt' in parts:
            if 'prompt' not in self.conditions.conditioners:
                raise ValueError('this model has no text encoder: give features and mask as condition["prompt"]')
            values['prompt'] = self.conditions.conditioners['prompt'].encode(list(prompts))
        return {name: values[name] for name in parts}

    @torch.no_grad()
    def sample(
        self,
        *,
        noise: Tensor,
        condition: Mapping[str, ConditionPart] | LatentCondition,
        negative: Mapping[str, ConditionPart] | LatentCondition | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        rescale: float | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        times: Tensor | None = None,
        step_noise: StepNoise | None = None,
        generators: Sequence[torch.Generator] | None = None,
        initial: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Samples latents, for research and for comparison with published programs; for audio use ``generate``.

        What is not given is as in the model's ``sampler`` settings.

        Args:
            noise: (B, D, L) standard normal, L a multiple of ``network.latents_multiple``.
            condition: for every part of ``conditions.parts`` features and mask, texts or numbers, each for B items.
            negative: the same for what is not wanted.
            sampler: ``ddim`` (Euler's method for a rectified flow), ``heun``, ``rk4``, ``dpmpp_2m``, ``dpmpp_2m_sde``,
                ``dpmpp_3m_sde``, ``ping_pong``, or the published program's names.
            steps: number of times at which the network is evaluated.
            guidance: scale; 1 for none.
            rescale: 0..1, how far the spread of the guided prediction is brought back.
            interval: noise levels sigma, 0..1, between which guidance acts.
            sigma_min: ratio of noise to signal at the last time, where times are spaced exponentially.
            sigma_max: ratio at the first time; where times are not spaced exponentially, the first time itself.
            rho: above 1 exponential spacing spends more evaluations at low noise.
            times: (K,) descending in (0, 1], instead of ``steps`` and levels.
            step_noise: for samplers that draw noise in every step: all of it (K, B, D, L), or a function.
            generators: one for each item, instead of ``step_noise``: an item is the same in any batch.
            initial: (B, D, L) or (1, D, L) latents of a clip to vary; its share grows as the first time falls.
            on_step: told about every evaluation; may raise to stop.

        Returns:
            (B, D, L).

        Raises:
            ValueError: a choice that makes no sense, or parts of the condition that are missing or unknown.
        """
        settings, spaced = with_choices(
            self.sampler,
            self.process,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            rescale=rescale,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            rho=rho,
        )
        asked = self._condition(condition)
        return sample_latents(
            self.network,
            self.process,
            noise=noise,
            condition=asked,
            null=self.network.null_condition(asked, None if negative is None else self._condition(negative)),
            settings=settings,
            times=spaced if times is None else times,
            step_noise=noise_from_each(generators) if generators is not None else step_noise,
            initial=initial,
            interval=interval,
            on_step=on_step,
        )

    def latents_for(self, seconds: float) -> int:
        """The least number of latents that hold a length and that the network takes.

        Args:
            seconds: of audio.

        Returns:
            L, a multiple of ``network.latents_multiple``.
        """
        latents = math.ceil(round(seconds * self.sample_rate) / self.autoencoder.ratio)
        return math.ceil(max(latents, 1) / self.network.latents_multiple) * self.network.latents_multiple

    def facts(self) -> Sequence[str]:
        """Lines of the model card about inputs, outputs and size."""
        channels = {1: 'mono', 2: 'stereo'}.get(self.autoencoder.audio_channels, f'{self.autoencoder.audio_channels}')
        return (
            *super().facts(),
            f'{channels} audio at {self.sample_rate} Hz, clips of up to {self.window_s:.1f} s',
            f'{self.autoencoder.latent_channels} latent channels, '
            f'{self.sample_rate / self.autoencoder.ratio:.2f} latents a second',
            f'{self.sampler.steps} steps of {self.sampler.sampler} with guidance {self.sampler.guidance:g} by default',
        )

    def _condition(self, given: Mapping[str, ConditionPart] | LatentCondition) -> LatentCondition:
        return given if isinstance(given, LatentCondition) else self.conditions(given)


def _drop_empty(conditioners: DictConfig | None) -> None:
    """A config that builds on another one takes a conditioner away with ``NAME: null``."""
    for name in [name for name, block in (conditioners or {}).items() if block is None]:
        del conditioners[name]


def _process(objective: str | None) -> DiffusionProcess:
    if objective not in _OBJECTIVES:
        raise ConfigError(f'objective must be one of {", ".join(_OBJECTIVES)}; got {objective!r}')
    return _OBJECTIVES[objective]()


def _window_latents(given: int | None, multiple: int) -> int:
    if not isinstance(given, int) or given < 1 or given % multiple:
        raise ConfigError(f'window_latents must be a positive multiple of {multiple}; got {given!r}')
    return given


def _numbers(value: float | Sequence[float], count: int, name: str) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float32)
    if numbers.ndim == 0:
        return numbers.expand(count)
    if numbers.shape != (count,):
        raise ValueError(f'{name} must be one number or {count}, one for each prompt; got {tuple(numbers.shape)}')
    return numbers
