"""AudioRestoreModel: the A2SB bridge as a NeMo model. Wiring only; every part works without it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from typing_extensions import Self

from nemo_audio_restore._nemo import logging
from nemo_audio_restore.checkpoints.a2sb import load_a2sb_experts
from nemo_audio_restore.models.base import BaseModel
from nemo_audio_restore.models.blocks import build
from nemo_audio_restore.models.bridge_training import bridge_training_loss
from nemo_audio_restore.models.data_loading import derived_seed
from nemo_audio_restore.models.training_settings import LossSettings, freeze_other_experts
from nemo_audio_restore.models.validation import ValidationSettings, log_examples, validate_batch
from nemo_audio_restore.models.with_audio_data import AudioDataMixin
from nemo_audio_restore.networks.spectrogram_unet import SpectrogramUNet
from nemo_audio_restore.networks.time_experts import TimeExperts, check_splits
from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.processes.bridge_samplers import OnStep
from nemo_audio_restore.processes.reference_sampler import sample_reference
from nemo_audio_restore.restoration.engine import restore_array, restore_file
from nemo_audio_restore.restoration.evaluator import MOST_TILES, Evaluator
from nemo_audio_restore.restoration.protocol import OnProgress, RestorationReport, SamplerSettings
from nemo_audio_restore.signal.corruption import RandomCorruption
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

_A2SB_CARD = {
    'summary': "NVIDIA's A2SB bridge for bandwidth extension and inpainting of music, converted to this package.",
    'license': 'other',
    'license_name': 'NVIDIA OneWay Noncommercial License',
    'license_link': 'https://huggingface.co/nvidia/audio_to_audio_schrodinger_bridge',
    'base_model': 'nvidia/audio_to_audio_schrodinger_bridge',
}


class AudioRestoreModel(AudioDataMixin, BaseModel):
    """Generates missing bandwidth and fills gaps of 44.1 kHz music, by a Schroedinger bridge between spectrograms.

    Config blocks, each named like the attribute that it builds:

    - ``representation``: arguments of :class:`MagnitudePhaseSpectrogram`
    - ``process``: arguments of :class:`SchrodingerBridge`
    - ``network``: ``_target_`` and arguments of a network, or of :class:`TimeExperts` around several
    - ``sampler``: fields of :class:`SamplerSettings`, the defaults of :meth:`restore` and :meth:`sample`
    - for training: ``corruption`` (:class:`RandomCorruption`), ``loss`` (:class:`LossSettings`), ``validation``
      (:class:`ValidationSettings`), ``optim``, ``train_ds``, ``validation_ds``, ``card`` (:class:`ModelCard`);
      ``plain_training`` belongs to examples/train_plain.py, which reads the same files

    Source: A2SB (arXiv 2501.11311).
    """

    config_blocks: ClassVar[tuple[str, ...]] = (
        'representation',
        'process',
        'network',
        'sampler',
        'corruption',
        'loss',
        'validation',
        'plain_training',
    )
    tags: ClassVar[tuple[str, ...]] = ('music', 'bandwidth-extension', 'audio-inpainting', 'schrodinger-bridge')

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        representation = build(cfg.get('representation'), where='representation', default=MagnitudePhaseSpectrogram)
        process = build(cfg.get('process'), where='process', default=SchrodingerBridge)
        network = build(cfg.get('network'), where='network')
        corruption = build(cfg.get('corruption'), where='corruption', default=RandomCorruption)
        self.sampler = build(cfg.get('sampler'), where='sampler', default=SamplerSettings)
        self.loss_settings = build(cfg.get('loss'), where='loss', default=LossSettings)
        self.validation_settings = build(cfg.get('validation'), where='validation', default=ValidationSettings)
        # NeMo builds the data loaders inside its constructor, and they need the rate.
        self.sample_rate = representation.sample_rate
        super().__init__(cfg=cfg, trainer=trainer)
        self.representation = representation
        self.process = process
        self.network = network
        self.corruption = corruption
        freeze_other_experts(network, self.loss_settings.time_range)

    @classmethod
    def from_a2sb_checkpoints(
        cls,
        checkpoints: Mapping[tuple[float, float], str | Path],
        num_heads: int = 8,
        sample_rate: int = 44100,
        n_fft: int = 2048,
        hop_length: int = 512,
        *,
        one_resident: bool = False,
    ) -> Self:
        """Builds a model from the checkpoints that NVIDIA published, or from those its training program writes.

        Args:
            checkpoints: for each range (from, to) of bridge times its file; together they cover 0 to 1.
            num_heads: attention heads; every other size of the network is read from the tensors.
            sample_rate: in Hz.
            n_fft: samples of a frame.
            hop_length: samples between frames.
            one_resident: keep only the expert in use on the accelerator.

        Returns:
            The model in evaluation mode. Its card carries NVIDIA's non-commercial licence.

        Raises:
            CheckpointError: a file is unsafe, damaged, or does not hold the tensors of an A2SB network.
            ValueError: the ranges do not cover 0 to 1 exactly once.
        """
        experts, description = load_a2sb_experts(checkpoints, num_heads=num_heads, one_resident=one_resident)
        expert = {'_target_': _path_of(SpectrogramUNet), **description.network}
        config = OmegaConf.create(
            {
                'representation': {'sample_rate': sample_rate, 'n_fft': n_fft, 'hop_length': hop_length},
                'process': {'beta_max': 1.0},
                'network': {
                    '_target_': _path_of(TimeExperts),
                    'experts': [expert] * len(description.splits),
                    'splits': [list(split) for split in description.splits],
                    'one_resident': one_resident,
                },
                'sampler': {'steps': 49, 'eta': 1.0},
                'card': {**_A2SB_CARD, 'text': _sources_text(description.sources)},
            }
        )
        # The tensors exist already: no need to fill 2 x 2.3 GB with random numbers first.
        with torch.device('meta'):
            model = cls(config)
        model.network = experts
        model.representation = build(config.representation, where='representation', default=MagnitudePhaseSpectrogram)
        return model.eval()

    @classmethod
    def from_time_experts(cls, models: Mapping[tuple[float, float], Self | str | Path]) -> Self:
        """Joins models that were each trained on for one range of bridge times (conf/a2sb_44k_tfinetune.yaml).

        Args:
            models: for each range (from, to) a model, or what :meth:`from_pretrained` takes; together they cover 0 to
                1. Everything but the network is taken from the first.

        Returns:
            A model in evaluation mode with :class:`TimeExperts` for its network; it shares tensors with given models.

        Raises:
            ValueError: the ranges do not cover 0 to 1 exactly once, or the models see different spectrograms.
        """
        splits = check_splits(sorted(models))
        loaded = [m if isinstance(m, cls) else cls.from_pretrained(m) for _, m in sorted(models.items())]
        configs = [OmegaConf.to_container(model.cfg, resolve=True) for model in loaded]
        for name in ('representation', 'process'):
            if any(config.get(name) != configs[0].get(name) for config in configs):
                raise ValueError(f'the experts differ in their {name}: {[config.get(name) for config in configs]}')
        experts = [config['network'] for config in configs]
        network = {'_target_': _path_of(TimeExperts), 'experts': experts, 'splits': [list(split) for split in splits]}
        kept = {key: value for key, value in configs[0].items() if key not in ('train_ds', 'validation_ds', 'loss')}
        with torch.device('meta'):
            joined = cls(OmegaConf.create({**kept, 'network': network}))
        joined.network = TimeExperts([model.network for model in loaded], splits)
        joined.representation = loaded[0].representation
        return joined.eval()

    @torch.no_grad()
    def sample(
        self,
        *,
        degraded: Tensor,
        mask: Tensor,
        times: Tensor | None = None,
        stochastic: bool = True,
        tile_frames: int | None = None,
        tile_hop_frames: int | None = None,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """The published sampler on a whole spectrogram, for research and for comparison with published numbers.

        For recordings use :meth:`restore`.

        Args:
            degraded: (B, 3, F, N) spectrogram with noise where the mask is 1.
            mask: (B, 1, F, N), 1 = to generate.
            times: (K,) descending grid from 1; the network is evaluated at all entries but the last. Without it
                ``sampler.steps`` evaluations, evenly spaced.
            stochastic: draw noise as in training; False leaves it out, which the networks were not trained for.
            tile_frames: length of the overlapping windows; without it ``sampler.tile_frames``.
            tile_hop_frames: distance between windows; without it ``sampler.tile_hop_frames``.
            generator: needed when ``stochastic``.
            on_step: told about every evaluation.

        Returns:
            (B, 3, F, N): the last clean estimate.

        Raises:
            ValueError: a grid, mask or tiling that makes no sense, or a missing generator.
        """
        settings = self.sampler
        if times is None:
            times = torch.linspace(1.0, settings.t_min, settings.steps + 1)
        evaluator = Evaluator(
            self.network,
            device=degraded.device,
            batch_size=settings.batch_size,
            precision=settings.precision,
            compile=settings.compile,
            on_warning=logging.warning,
        )
        return sample_reference(
            evaluator,
            self.process,
            degraded,
            mask,
            times,
            stochastic=stochastic,
            tile_frames=settings.tile_frames if tile_frames is None else tile_frames,
            tile_hop_frames=settings.tile_hop_frames if tile_hop_frames is None else tile_hop_frames,
            batch_size=MOST_TILES,
            generator=generator,
            on_step=on_step,
        )

    def restore(
        self,
        audio: str | Path | np.ndarray | Tensor,
        target: str | Path | None = None,
        *,
        sample_rate: int | None = None,
        cutoff_hz: float | Literal['auto'] | None = None,
        gaps: Sequence[tuple[float, float]] = (),
        regions: Sequence[tuple[float, float, float, float]] = (),
        detect_gaps: bool = False,
        force: bool = False,
        stereo: str = 'auto',
        settings: SamplerSettings | None = None,
        seed: int = 0,
        bits: str | None = None,
        clip: str = 'none',
        overwrite: bool = False,
        resume: bool = True,
        on_progress: OnProgress | None = None,
    ) -> RestorationReport | np.ndarray | Tensor:
        """Restores a file or an array; what was recorded stays as it is.

        Args:
            audio: path of an audio file, or (C, T) or (T,) samples.
            target: ``.wav`` or ``.flac`` to write; for a file only.
            sample_rate: of an array, in Hz.
            cutoff_hz: generate everything above this frequency; 'auto' finds it, and leaves a full-band recording
                alone; None is 'auto' where nothing else is asked, else no bandwidth extension.
            gaps: (start, end) in seconds to generate anew.
            regions: (start, end, low, high) in seconds and Hz to generate anew.
            detect_gaps: look for digital silence, drop-outs and stuck samples, and generate those, too.
            force: allow gaps and regions longer than the model sees at once.
            stereo: what channels share: 'shared' noise, 'mid-side' coding or nothing ('independent'); 'auto' takes
                'mid-side' for two channels of similar level, else 'shared'.
            settings: of the sampler; without them the model's own.
            seed: same seed, same samples.
            bits: of the file: '16', '24', 'float'; None for float in WAV and 24 in FLAC.
            clip: 'none', 'clamp' or 'rescale'; for a file.
            overwrite: whether an existing target may be replaced.
            resume: for a file: go on where an interrupted restoration of the same kind stopped.
            on_progress: called with (evaluations done, evaluations in all).

        Returns:
            For a file what was done; for an array the restored one, of the same kind.

        Raises:
            AudioFileError: a file cannot be read or written.
            RestorationError: the request does not fit the audio or the model.
            TypeError: ``target`` is missing for a file, or ``sample_rate`` for an array, or they are mixed up.
        """
        options = {
            'cutoff_hz': cutoff_hz,
            'gaps': gaps,
            'regions': regions,
            'detect_gaps': detect_gaps,
            'force': force,
            'stereo': stereo,
            'settings': self.sampler if settings is None else settings,
            'seed': seed,
            'on_progress': on_progress,
        }
        is_file = isinstance(audio, str | Path)
        if is_file and target is None:
            raise TypeError('restoring a file needs a target to write: model.restore(source, target, ...)')
        if is_file and sample_rate is not None:
            raise TypeError('a file knows its sample rate; leave sample_rate out')
        if not is_file and (sample_rate is None or target is not None):
            raise TypeError(
                'restoring an array needs sample_rate and no target: model.restore(array, sample_rate=...)'
            )
        with self._evaluating():
            if is_file:
                return restore_file(
                    self, audio, target, bits=bits, clip=clip, overwrite=overwrite, resume=resume, **options
                )
            return restore_array(self, audio, sample_rate, **options)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Loss of one batch; its random numbers depend on seed, step and process, so a resumed run has new ones."""
        result = self._loss(
            batch, derived_seed(self.loss_settings.seed, self.global_step, batch_index, self.global_rank)
        )
        size = len(batch['audio'])
        self.log('train_loss', result.loss.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f'train_{name}': value for name, value in result.parts.items()}, batch_size=size)
        self.log('learning_rate', self._optimizer.param_groups[0]['lr'], batch_size=size)
        return result.loss

    def validation_step(self, batch: dict[str, Tensor], batch_index: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Loss of one batch, and on the first batches the quality of real restorations."""
        seed = derived_seed('validation', batch_index, self.global_rank)
        size = len(batch['audio'])
        output = {'val_loss': (self._loss(batch, seed).loss.float().cpu(), size)}
        settings = self.validation_settings
        if batch_index < settings.batches:
            scores, examples = validate_batch(self, batch, settings=settings, sampler=self.sampler, seed=seed)
            output.update(scores)
            if batch_index == 0 and self.global_rank == 0 and self._trainer.logger is not None:
                log_examples(self._trainer.loggers, examples, self.representation, step=self.global_step)
        self._collect(output, dataloader_idx)
        return output

    def facts(self) -> Sequence[str]:
        """Lines of the model card about inputs, outputs and size."""
        representation = self.representation
        return (
            *super().facts(),
            f'works at {representation.sample_rate} Hz on frames of {representation.n_fft} samples every '
            f'{representation.hop_length}; files of any rate go in and come out with their own rate and channels',
            f'{self.sampler.steps} network evaluations by default',
        )

    def _loss(self, batch: dict[str, Tensor], seed: int) -> Any:
        settings = self.loss_settings
        weights = settings.channel_weights
        return bridge_training_loss(
            self.network,
            self.process,
            self.representation,
            self.corruption,
            batch,
            generator=torch.Generator().manual_seed(seed),
            time_range=settings.time_range,
            channel_weights=None if weights is None else torch.tensor(weights, device=batch['audio'].device),
            time_power=settings.time_power,
        )


def _path_of(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


def _sources_text(sources: Sequence[Any]) -> str:
    lines = ['## Converted from', '', '| bridge times | file | SHA-256 | release |', '|---|---|---|---|']
    for source in sources:
        low, high = source.split
        lines.append(
            f'| {low:g} to {high:g} | {source.path.name} | {source.sha256} | {source.release or "not known"} |'
        )
    return '\n'.join(lines)
