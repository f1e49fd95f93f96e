"""Reading and writing ``.nemo`` files: checked before they are used, and never half-written."""

import os
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore._nemo import (
    ModelPT,
    SaveRestoreConnector,
    UnsafeFileError,
    is_global_rank_zero,
    load_safely,
    restore_flag_kept,
    target_class,
)
from nemo_audio_restore.models.archive import check_archive, check_config, check_folder, read_config


class ModelFile(SaveRestoreConnector):
    """NeMo's file format with our checks.

    Args:
        half_precision: store matrices and kernels as float16 in a compressed archive. Vectors (norms, biases,
            frequencies) stay float32: they weigh nothing, and some are not harmless to round.
        left_out: names of modules whose weights are not written.
    """

    def __init__(self, *, half_precision: bool = False, left_out: Sequence[str] = ()):
        super().__init__()
        self.half_precision = half_precision
        self.left_out = tuple(left_out)
        self._in_place = False

    @classmethod
    def like(cls, connector: SaveRestoreConnector | None) -> 'ModelFile':
        """This connector with the folder and packing of another one."""
        made = cls()
        if connector is not None:
            made.model_extracted_dir = connector.model_extracted_dir
            made.pack_nemo_file = connector.pack_nemo_file
        return made

    def save_to(self, model: ModelPT, save_path: str) -> None:
        """Writes beside the target and renames at the end, so a broken run leaves the old file, or none.

        Args:
            model: to save.
            save_path: of the ``.nemo`` file; with ``pack_nemo_file=False`` any file in the folder to fill.
        """
        if not is_global_rank_zero():
            return
        if not self.pack_nemo_file:
            super().save_to(model, save_path)
            return
        target = Path(save_path)
        partial = target.with_name(f'.{target.name}.{uuid.uuid4().hex}.partial')
        try:
            super().save_to(model, str(partial))
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def _make_nemo_file_from_folder(self, filename: str, source_dir: str) -> None:
        # A file that could not be restored must fail now and not on somebody else's machine.
        check_config(read_config(Path(source_dir)), source=f'the config of {Path(filename).name}')
        if not self.half_precision:
            SaveRestoreConnector._make_nemo_file_from_folder(filename, source_dir)
            return
        # Who asks for half precision wants a small file; NeMo reads gzip as well, and float16 shrinks by a tenth.
        with tarfile.open(filename, 'w:gz') as archive:
            archive.add(source_dir, arcname='.')

    def _save_state_dict_to_disk(self, state_dict: Mapping[str, Tensor], filepath: str) -> None:
        kept = without_modules(state_dict, self.left_out)
        tensors = {name: tensor.detach().cpu() for name, tensor in kept.items()}
        if self.half_precision:
            tensors = {name: _to_half(name, tensor) for name, tensor in tensors.items()}
        torch.save(tensors, filepath)

    def load_config_and_state_dict(
        self,
        calling_cls: type,
        restore_path: str,
        override_config_path: Any = None,
        map_location: torch.device | str | None = None,
        strict: bool = True,
        return_config: bool = False,
        trainer: Any = None,
        validate_access_integrity: bool = True,
    ) -> Any:
        """NeMo's, after our checks; the model goes to the CPU unless ``map_location`` says otherwise.

        Args:
            calling_cls: class whose ``restore_from`` was called.
            restore_path: of the file or unpacked folder.
            override_config_path: config to use instead of the stored one.
            map_location: device of the model.
            strict: passed on by NeMo.
            return_config: stop after reading the config.
            trainer: for the model.
            validate_access_integrity: NeMo's; no effect here.

        Returns:
            The config alone, or config, model and weights.

        Raises:
            UnsafeFileError: see :mod:`nemo_audio_restore.models.archive`.
            TypeError: the file holds a model of another class.
        """
        if self.model_extracted_dir is not None:
            config = check_folder(Path(self.model_extracted_dir))
        else:
            config = check_archive(Path(restore_path))
        if not return_config:
            check_class(config, calling_cls, source=restore_path)
        with restore_flag_kept():
            return super().load_config_and_state_dict(
                _Builder(calling_cls, self, strict),
                restore_path,
                override_config_path,
                map_location if map_location is not None else torch.device('cpu'),
                strict,
                return_config,
                trainer,
                validate_access_integrity,
            )

    def load_instance_with_state_dict(self, instance: ModelPT, state_dict: Mapping[str, Tensor], strict: bool) -> None:
        """Fills the model with the weights; half precision becomes float32 again."""
        with restore_flag_kept():
            if not self._in_place:
                super().load_instance_with_state_dict(instance, state_dict, strict)
                return
            whole = {name: x.float() if x.dtype == torch.float16 else x for name, x in state_dict.items()}
            instance.load_state_dict(whole, strict=strict, assign=True)
            instance.after_restoring_in_place()
            instance._set_model_restore_state(is_being_restored=False)

    def _load_state_dict_from_disk(
        self, model_weights: str, map_location: torch.device | str | None = 'cpu'
    ) -> dict[str, Tensor]:
        state = load_safely(model_weights, map_location=map_location, mapped=self._in_place)
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise UnsafeFileError(f'{Path(model_weights).name} holds something else than named tensors')
        return dict(state)


class _Builder:
    """Stands for a model class where NeMo builds the model that it fills: without memory of its own if possible."""

    def __init__(self, model_class: type, connector: ModelFile, strict: bool):
        self._class, self._connector, self._strict = model_class, connector, strict

    def __getattr__(self, name: str) -> Any:
        return getattr(self._class, name)

    def from_config_dict(self, config: Any, trainer: Any = None) -> ModelPT:
        # What is missing in the file would stay undefined, so a tolerant restore goes the usual way.
        empty = getattr(self._class, 'without_memory', None)
        made = empty(config, trainer) if self._strict and empty is not None else None
        self._connector._in_place = made is not None
        return self._class.from_config_dict(config=config, trainer=trainer) if made is None else made


def without_modules(state_dict: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The weights of a model without those of some of its modules.

    Args:
        state_dict: of the model.
        names: of the modules to leave out.

    Returns:
        The rest, in the same order.
    """
    return {name: tensor for name, tensor in state_dict.items() if name.split('.')[0] not in names}


def check_class(config: Mapping[str, Any], expected: type, *, source: str) -> None:
    """Refuses a file of another model class, which NeMo would restore without a word.

    Args:
        config: of the file.
        expected: the class whose ``restore_from`` was called.
        source: named in the error.

    Raises:
        TypeError: the classes are not related.
    """
    if 'target' not in config:
        return
    stored = target_class(config['target'])
    if not (issubclass(stored, expected) or issubclass(expected, stored)):
        raise TypeError(
            f'{source} holds a {stored.__name__}, not a {expected.__name__}; use {stored.__name__}.restore_from'
        )


def _to_half(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.ndim < 2:
        return tensor
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise ValueError(f'{name} holds values that float16 cannot; save it with half_precision=False')
    return half
