"""The only file that touches NeMo's private corners; everything that needs NeMo gets it from here.

NeMo 3.0 restores no class outside its own namespaces, loads no checkpoint of its own under torch's safe loader, and
prints telemetry noise when imported. Each is mended here once, as narrowly as it goes.
"""

import contextlib
import logging as python_logging
import typing
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def _without_telemetry_noise() -> Iterator[None]:
    noisy = python_logging.getLogger('nv_one_logger')
    level = noisy.level
    noisy.setLevel(python_logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)


with _without_telemetry_noise():
    from nemo.collections.common.callbacks import EMA
    from nemo.collections.common.callbacks.ema import EMAOptimizer
    from nemo.core import ModelPT
    from nemo.core.classes import common as _common
    from nemo.core.classes.common import PretrainedModelInfo
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
    from nemo.utils import logging
    from nemo.utils.app_state import AppState
    from nemo.utils.get_rank import is_global_rank_zero

import omegaconf  # noqa: E402 - after NeMo, which brings it
from lightning.pytorch.core.optimizer import LightningOptimizer  # noqa: E402
from lightning.pytorch.plugins.io import TorchCheckpointIO  # noqa: E402

__all__ = [
    'EMA',
    'ModelPT',
    'PretrainedModelInfo',
    'SafeCheckpointIO',
    'SaveRestoreConnector',
    'UnsafeFileError',
    'allow_targets',
    'averaged_weights',
    'detach_averages',
    'is_global_rank_zero',
    'load_safely',
    'logging',
    'restore_flag_kept',
    'target_class',
    'uncounted_steps',
]

# What a NeMo training checkpoint holds beside tensors: its config, which is plain data in OmegaConf's boxes.
_CHECKPOINT_TYPES = [
    omegaconf.DictConfig,
    omegaconf.ListConfig,
    omegaconf.base.ContainerMetadata,
    omegaconf.base.Metadata,
    omegaconf.nodes.AnyNode,
    typing.Any,
    defaultdict,
    dict,
    list,
    int,
]

# Not the whole package: nothing in files, apps or evaluation is meant to be named in a config.
_OUR_TARGETS = ('models', 'networks', 'processes', 'signal', 'losses', 'data')


class UnsafeFileError(ValueError):
    """A model file, checkpoint or manifest asks for something that data must not be able to do."""


def allow_targets(prefix: str) -> None:
    """Lets configs and ``.nemo`` files name classes whose dotted path starts with ``prefix``.

    NeMo still refuses everything under the prefix that is no ``nn.Module``, ``Dataset`` or NeMo class.

    Args:
        prefix: for instance ``'my_package.networks.'``, with the dot.

    Raises:
        ValueError: the prefix does not end with a dot, so it would also allow other packages.
    """
    if not prefix.endswith('.') or prefix.startswith('.'):
        raise ValueError(f'a prefix must name a package and end with a dot, like "my_package."; got {prefix!r}')
    if prefix not in _common.ALLOWED_TARGET_PREFIXES:
        _common.ALLOWED_TARGET_PREFIXES.append(prefix)


def target_class(target: str) -> type:
    """The class that a ``_target_`` names.

    Args:
        target: dotted path.

    Returns:
        The class, imported.

    Raises:
        UnsafeFileError: it is outside the allowed packages, or no class that a config may build.
    """
    if not isinstance(target, str) or not _common._is_target_allowed(target):
        raise UnsafeFileError(
            f'{target!r} may not be built from a config: it is unknown, outside the allowed packages, or no module. '
            'Own classes: derive from torch.nn.Module and call nemo_audio_restore._nemo.allow_targets("my_package.").'
        )
    return _common.import_class_by_path(target)


def load_safely(path: str | Path, *, map_location: torch.device | str = 'cpu', mapped: bool = False) -> typing.Any:
    """``torch.load`` that runs no code from the file, whatever the environment variables say.

    Args:
        path: of a ``.ckpt`` or ``.pt``.
        map_location: device of the tensors.
        mapped: tensors on the CPU are pages of the file, read when they are needed; changes to them stay in memory.

    Returns:
        Tensors in plain containers.

    Raises:
        UnsafeFileError: the file holds pickled objects other than tensors and plain data, or is no such file.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsafeFileError(
            f'{path} holds more than tensors and plain data (or is damaged); it was not loaded. Cause: {reason}'
        ) from error


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning plugin: resuming from a ``.ckpt`` runs no code from it.

    Pass it to the trainer: ``Trainer(plugins=[SafeCheckpointIO()])``.
    """

    def load_checkpoint(
        self, path: str | Path, map_location: typing.Any = lambda storage, _: storage
    ) -> dict[str, typing.Any]:
        """Loads a training checkpoint through :func:`load_safely`."""
        return load_safely(path, map_location=map_location)


@contextlib.contextmanager
def averaged_weights(trainer: typing.Any) -> Iterator[None]:
    """Puts the moving average of the weights into the model while a file is written; no EMA, no effect.

    NeMo does so for its ``-EMA.ckpt`` but not for the ``.nemo``, which is what people use. Not for use inside a
    validation step: there NeMo has swapped the weights without leaving a trace.

    Args:
        trainer: a Lightning trainer, or None.
    """
    callbacks = [] if trainer is None else trainer.callbacks
    ema = next((callback for callback in callbacks if isinstance(callback, EMA)), None)
    if ema is None or not ema._ema_initialized(trainer):
        yield
        return
    # While NeMo writes its own -EMA.ckpt (and a .nemo beside it), the average is in place already.
    if any(optimizer.in_saving_ema_model_context for optimizer in trainer.optimizers):
        yield
        return
    with torch.no_grad(), ema.save_ema_model(trainer):
        yield


def detach_averages(trainer: typing.Any) -> None:
    """Takes the gradient flag off averages that were read from a checkpoint; without this NeMo cannot save them again.

    Args:
        trainer: a Lightning trainer whose optimizers hold their restored state.
    """
    for optimizer in trainer.optimizers:
        if isinstance(optimizer, EMAOptimizer):
            optimizer.ema_params = tuple(average.detach() for average in optimizer.ema_params)


@contextlib.contextmanager
def restore_flag_kept() -> Iterator[None]:
    """Puts NeMo's global "a model is being restored" flag back at the end, also after an error.

    NeMo leaves it set when a restore fails; every model made later in the process would then skip its data loaders.
    """
    state = AppState()
    before = state.is_model_being_restored, state.nemo_file_folder
    try:
        yield
    finally:
        state.is_model_being_restored, state.nemo_file_folder = before


@contextlib.contextmanager
def uncounted_steps(optimizer: LightningOptimizer) -> Iterator[None]:
    """Steps of this optimizer do not count as training steps.

    Under manual optimization Lightning counts the steps of every optimizer, so a GAN's schedules, checkpoints and
    ``max_steps`` would run up to twice as fast as its batches.

    Args:
        optimizer: one of ``self.optimizers()`` inside a training step.
    """
    before = optimizer._on_before_step, optimizer._on_after_step
    optimizer._on_before_step = optimizer._on_after_step = lambda: None
    try:
        yield
    finally:
        optimizer._on_before_step, optimizer._on_after_step = before


for _name in _OUR_TARGETS:
    allow_targets(f'{__package__}.{_name}.')
torch.serialization.add_safe_globals(_CHECKPOINT_TYPES)
