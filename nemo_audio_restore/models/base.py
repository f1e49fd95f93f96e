"""What all our NeMo models share: safe restoring, saving for others, names, and configs without silent mistakes."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from typing_extensions import Self

from nemo_audio_restore import __version__
from nemo_audio_restore._nemo import (
    ModelPT,
    PretrainedModelInfo,
    SaveRestoreConnector,
    UnsafeFileError,
    averaged_weights,
    detach_averages,
    load_safely,
    target_class,
)
from nemo_audio_restore.checkpoints.registry import list_models
from nemo_audio_restore.models.archive import check_config
from nemo_audio_restore.models.blocks import ConfigError, build, check_keys
from nemo_audio_restore.models.connector import ModelFile, without_modules
from nemo_audio_restore.models.locate import locate_model, refuse_unconverted
from nemo_audio_restore.models.model_card import ModelCard

_DATA_BLOCKS = ('train_ds', 'validation_ds', 'test_ds')
_COMMON_KEYS = (*_DATA_BLOCKS, 'optim', 'card', 'target', 'nemo_version', 'package_version')


class BaseModel(ModelPT):
    """A NeMo model whose files can be passed on and taken from strangers.

    Subclasses set ``config_blocks`` and build those blocks in their constructor with :func:`blocks.build`.

    Args:
        cfg: the model's config; keys that are neither in ``config_blocks`` nor NeMo's are refused.
        trainer: Lightning trainer, when training.

    Raises:
        ConfigError: an unknown key.
    """

    config_blocks: ClassVar[tuple[str, ...]] = ()
    # Blocks and modules that only training needs: in its checkpoints, but in no .nemo file.
    training_blocks: ClassVar[tuple[str, ...]] = ()
    training_modules: ClassVar[tuple[str, ...]] = ()
    pipeline_tag: ClassVar[str] = 'audio-to-audio'
    tags: ClassVar[tuple[str, ...]] = ()

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        check_keys(cfg, (*self.config_blocks, *_COMMON_KEYS), where='the model config')
        self.card = build(cfg.get('card'), where='card', default=ModelCard)
        super().__init__(cfg=cfg, trainer=trainer)
        self._save_restore_connector = ModelFile()

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """The models with names that this class restores."""
        return [
            PretrainedModelInfo(
                pretrained_model_name=entry.name,
                description=entry.description,
                location=entry.address,
                class_=cls,
            )
            for entry in list_models(cls.__name__)
            if not entry.how_to_get
        ]

    @classmethod
    def from_config_dict(cls, config: DictConfig, trainer: Trainer | None = None) -> Self:
        """Builds a model from its config, of the class that the config names if that is a subclass of this one.

        NeMo's version hides the first error, tries a second time with the calling class and logs both.
        """
        return cls._class_for(config)(cfg=config, trainer=trainer)

    @classmethod
    def without_memory(cls, config: DictConfig, trainer: Trainer | None = None) -> Self | None:
        """Builds a large model whose weights are still undefined, to be filled with those of a file.

        Args:
            config: of the model.
            trainer: for the model.

        Returns:
            The model, or None where it must be built as usual: small models, whose memory does not matter.
        """
        chosen = cls._class_for(config)
        return None if chosen is cls else getattr(chosen, 'without_memory', lambda *args: None)(config, trainer)

    def after_restoring_in_place(self) -> None:
        """Mends what :meth:`without_memory` and tensors taken from the file in place of one's own have broken."""

    @classmethod
    def restore_from(
        cls,
        restore_path: str | Path,
        override_config_path: DictConfig | str | None = None,
        map_location: torch.device | str | None = None,
        strict: bool = True,
        return_config: bool = False,
        save_restore_connector: SaveRestoreConnector | None = None,
        trainer: Trainer | None = None,
        validate_access_integrity: bool = True,
    ) -> Self | DictConfig:
        """Restores a model from a ``.nemo`` file or an unpacked folder, in evaluation mode.

        Args:
            restore_path: file or folder.
            override_config_path: config to use instead of the stored one: a path or a DictConfig.
            map_location: device of the model; the CPU unless given.
            strict: refuse missing and unexpected weights.
            return_config: return the config alone.
            save_restore_connector: only its packing options are used.
            trainer: for the restored model.
            validate_access_integrity: NeMo's; no effect here.

        Returns:
            The model, or its config.

        Raises:
            UnsafeFileError: the file asks for something that data must not be able to do.
            TypeError: it holds a model of another class.
            FileNotFoundError: there is no such file.
        """
        path = Path(restore_path).expanduser()
        connector = ModelFile.like(save_restore_connector)
        if path.is_dir():
            connector.model_extracted_dir = str(path)
        # Zero-argument super() would leave __class__ in this frame, on which Lightning's hyperparameter search trips.
        restored = super(BaseModel, cls).restore_from(  # noqa: UP008
            restore_path=str(path),
            override_config_path=override_config_path,
            map_location=map_location,
            strict=strict,
            return_config=return_config,
            save_restore_connector=connector,
            trainer=trainer,
            validate_access_integrity=validate_access_integrity,
        )
        if return_config:
            return restored
        if not isinstance(restored, cls):
            raise TypeError(f'{path} holds a {type(restored).__name__}, not a {cls.__name__}')
        return restored.eval()

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | Path,
        refresh_cache: bool = False,
        override_config_path: DictConfig | str | None = None,
        map_location: torch.device | str | None = None,
        strict: bool = True,
        return_config: bool = False,
        trainer: Trainer | None = None,
        save_restore_connector: SaveRestoreConnector | None = None,
        return_model_file: bool = False,
    ) -> Self | DictConfig | str:
        """Restores a model by name, path or address, in evaluation mode.

        Args:
            model_name: a name of :meth:`list_available_models`; a ``.nemo`` file or an unpacked folder; a ``file://``
                address; or ``ORG/NAME`` on the Hugging Face Hub (a cached copy needs no network).
            refresh_cache: download again what is cached already.
            override_config_path: see :meth:`restore_from`.
            map_location: device of the model; the CPU unless given.
            strict: refuse missing and unexpected weights.
            return_config: return the config alone.
            trainer: for the restored model.
            save_restore_connector: only its packing options are used.
            return_model_file: return the path of the file alone.

        Returns:
            The model, its config, or the path of its file.

        Raises:
            FileNotFoundError: nothing has that name; says what can be done.
        """
        name = str(model_name)
        refuse_unconverted(name, list_models(cls.__name__))
        known = {info.pretrained_model_name: info.location for info in cls.list_available_models()}
        path = locate_model(name, known=known, refresh_cache=refresh_cache)
        if return_model_file:
            return str(path)
        return cls.restore_from(
            path,
            override_config_path=override_config_path,
            map_location=map_location,
            strict=strict,
            return_config=return_config,
            save_restore_connector=save_restore_connector,
            trainer=trainer,
        )

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        hparams_file: str | None = None,
        strict: bool = True,
    ) -> Self:
        """Loads a training checkpoint (``.ckpt``) for inference; unlike Lightning's version it runs no code from it.

        Args:
            checkpoint_path: the file; ``*-EMA.ckpt`` holds the averaged weights.
            map_location: device of the model; the CPU unless given.
            hparams_file: YAML with the model's config, for checkpoints that hold none.
            strict: refuse missing and unexpected weights.

        Returns:
            The model in evaluation mode.

        Raises:
            UnsafeFileError: the file holds pickled objects, or its config reads from this machine.
            ConfigError: there is no config in the file and none was given.
        """
        checkpoint = load_safely(checkpoint_path, map_location='cpu')
        if not isinstance(checkpoint, Mapping) or 'state_dict' not in checkpoint:
            raise UnsafeFileError(f'{checkpoint_path} is no training checkpoint: it holds no state_dict')
        stored = OmegaConf.load(hparams_file) if hparams_file else checkpoint.get('hyper_parameters')
        if not stored:
            raise ConfigError(f'{checkpoint_path} holds no config; give it as hparams_file')
        config = _plain(stored, resolve=False)
        config = config['cfg'] if set(config) == {'cfg'} else config
        config = {key: value for key, value in config.items() if key not in cls.training_blocks}
        if not hparams_file:
            check_config(config, source=str(checkpoint_path))
        model = cls.from_config_dict(OmegaConf.create({**config, **dict.fromkeys(_DATA_BLOCKS)}))
        if not isinstance(model, cls):
            raise TypeError(f'{checkpoint_path} holds a {type(model).__name__}, not a {cls.__name__}')
        model.load_state_dict(without_modules(checkpoint['state_dict'], model.training_modules), strict=strict)
        return model.to(map_location if map_location is not None else 'cpu').eval()

    def save_to(self, save_path: str | Path, *, half_precision: bool = False) -> None:
        """Writes a ``.nemo`` file for inference: averaged weights if there is an EMA, no paths of data sets.

        Args:
            save_path: of the file; it appears when it is complete.
            half_precision: store matrices and kernels as float16, at half the size; they are restored to float32.

        Raises:
            UnsafeFileError: the config holds a path or interpolation, so that nobody could restore the file.
            ValueError: a weight is too large for half precision.
        """
        connector = self._save_restore_connector
        before = connector.half_precision, connector.left_out
        connector.half_precision, connector.left_out = half_precision, self.training_modules
        try:
            with averaged_weights(self._trainer):
                super().save_to(save_path)
        finally:
            connector.half_precision, connector.left_out = before

    def on_train_start(self) -> None:
        """Makes averages that were restored from a checkpoint writable."""
        super().on_train_start()
        detach_averages(self._trainer)

    def multi_validation_epoch_end(
        self, outputs: Sequence[Mapping[str, tuple[Tensor, int]]], dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Averages over the items of all batches."""
        means = {}
        for name in dict.fromkeys(name for output in outputs for name in output):
            pairs = [output[name] for output in outputs if name in output]
            means[name] = sum(value * count for value, count in pairs) / sum(count for _, count in pairs)
        return {'val_loss': means['val_loss'], 'log': means}

    def on_validation_epoch_end(self, sync_metrics: bool = True) -> dict[str, Any] | None:
        """NeMo's, with the metrics averaged over processes."""
        return super().on_validation_epoch_end(sync_metrics=sync_metrics)

    def to_config_file(self, path2yaml_file: str | Path) -> None:
        """Writes the config as YAML: resolved, with this package's version, without data sets.

        Args:
            path2yaml_file: the file to write.
        """
        config = _plain(self._cfg, resolve=True)
        left_out = (*_DATA_BLOCKS, *self.training_blocks)
        config = {key: value for key, value in config.items() if key not in left_out}
        config['package_version'] = __version__
        Path(path2yaml_file).write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding='utf-8')

    def register_artifact(self, config_path: str, src: str, verify_src_exists: bool = True) -> str | None:
        """NeMo's; while a model is being restored only files inside its own archive are accepted.

        Args:
            config_path: config key that holds the path.
            src: the path, or ``nemo:NAME``.
            verify_src_exists: without it a missing file gives None.

        Returns:
            The path to read from, or None.

        Raises:
            UnsafeFileError: the restored config names a file elsewhere on this machine.
        """
        if src and self._is_model_being_restored() and not _inside_archive(src):
            raise UnsafeFileError(
                f'config key {config_path} of the restored model names the file {src!r}; '
                'only files inside the archive (nemo:NAME) are read'
            )
        return super().register_artifact(config_path, src, verify_src_exists)

    def generate_model_card(
        self, type: str = 'hf', template: str | None = None, template_kwargs: Mapping[str, str] | None = None
    ) -> str:
        """The model card that ``push_to_hf_hub`` uploads, with the licence of the config's ``card`` block.

        Args:
            type: only ``hf``.
            template: not supported; the card has one form.
            template_kwargs: ``model_name`` and ``repo_id``, as NeMo passes them.

        Returns:
            Markdown.

        Raises:
            ValueError: another type, or a template.
        """
        if type != 'hf' or template is not None:
            raise ValueError(f"only type='hf' without a template is supported; got {type!r}, template {template!r}")
        names = dict(template_kwargs or {})
        return self.card.render(
            title=names.get('model_name', self.__class__.__name__),
            class_name=self.__class__.__name__,
            reference=names.get('repo_id', 'PATH.nemo'),
            pipeline_tag=self.pipeline_tag,
            tags=self.tags,
            facts=self.facts(),
        )

    @classmethod
    def _class_for(cls, config: Mapping[str, Any]) -> 'type[Self]':
        """The class that a config names if it is a subclass of this one, else this one."""
        if not config.get('target'):
            return cls
        named = target_class(config['target'])
        return cls if issubclass(cls, named) else named

    def _collect(self, output: dict[str, Any], dataloader_idx: int) -> None:
        """Keeps what a validation step found, (value, number of items) by name, for the means of the epoch."""
        several = isinstance(self.trainer.val_dataloaders, list | tuple) and len(self.trainer.val_dataloaders) > 1
        collected = self.validation_step_outputs
        (collected[dataloader_idx] if several else collected).append(output)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode for the time of a block."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training

    def facts(self) -> Sequence[str]:
        """Lines of the model card about inputs, outputs and size."""
        count = sum(parameter.numel() for parameter in self.parameters())
        return (f'{count:,} parameters',)


def _plain(config: Any, *, resolve: bool) -> dict[str, Any]:
    if OmegaConf.is_config(config):
        return OmegaConf.to_container(config, resolve=resolve)
    return {
        name: _plain(item, resolve=resolve) if OmegaConf.is_config(item) else item for name, item in config.items()
    }


def _inside_archive(src: str) -> bool:
    name = src.removeprefix('nemo:')
    return src.startswith('nemo:') and Path(name).name == name
