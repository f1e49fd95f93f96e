"""Adversarial training under Lightning: two optimizers take turns, and count one step together."""

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig
from torch import Tensor, nn

from nemo_audio_restore._nemo import logging
from nemo_audio_restore.models.blocks import ConfigError, build

_MAX_SKIPPED_IN_A_ROW = 20


class AdversarialSettings(Protocol):
    """What a ``training`` block of a model with discriminators says at least."""

    discriminator_start_step: int
    gradient_clip: float | None


class TwoOptimizersMixin:
    """Optimizers, schedules and updates of a ModelPT with modules that generate and, perhaps, discriminators."""

    generator_modules: ClassVar[tuple[str, ...]]
    training_settings: AdversarialSettings

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        super().__init__(cfg=cfg, trainer=trainer)
        # Lightning steps one optimizer; here two take turns.
        self.automatic_optimization = False
        self.discriminator: nn.Module | None = None
        self._skipped: Counter[str] = Counter()

    def _make_discriminator(self, *, needed: bool) -> None:
        """Builds the discriminators when training begins; Lightning has not read a checkpoint yet."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        if self.trainer.precision in ('16-mixed', '16-true'):
            raise ConfigError(
                f'trainer.precision is {self.trainer.precision}; a codec trains in 32-true or bf16-mixed'
            )
        if self.discriminator is None and needed:
            if self.cfg.get('discriminator') is None:
                raise ConfigError(
                    'there is no discriminator block, but loss.adversarial_weight or loss.feature_weight is not 0. '
                    'A .nemo file holds no discriminators: train from a YAML file with init_from_nemo_model'
                )
            self.discriminator = build(self.cfg.discriminator, where='discriminator')

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict[str, Any]]]:
        """One optimizer for the model and one for the discriminators, each with its schedule."""
        # NeMo writes the config of the optimizer that it makes into cfg.optim; the model's is made last.
        config = copy.deepcopy(self.cfg.optim)
        made = []
        if self.discriminator is not None:
            self._optimized = ('discriminator',)
            made.append(self.setup_optimization(self.cfg.get('discriminator_optim') or copy.deepcopy(config)))
        self._optimized = self.generator_modules
        made.insert(0, self.setup_optimization(config))
        schedules = [schedule for _, schedule in made if schedule is not None]
        # Lightning forgets these under manual optimization.
        self._intervals = [schedule['interval'] for schedule in schedules]
        return [optimizer for optimizer, _ in made], schedules

    def setup_optimizer_param_groups(self) -> None:
        """Gives NeMo the parameters of the modules whose optimizer is being made."""
        modules = [getattr(self, name) for name in self._optimized]
        self._optimizer_param_groups = [{'params': [p for module in modules for p in module.parameters()]}]

    def on_train_epoch_end(self) -> None:
        """Steps the schedules that count epochs, like NeMo's ``ExponentialLR``."""
        super().on_train_epoch_end()
        self._step_schedules('epoch', self.global_step)

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor, name: str) -> None:
        """Backward pass and step; a batch whose gradient is not finite is left out."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        norm = limited_gradient(parameters, self.training_settings.gradient_clip)
        self.log(f'train_{name}_gradient', norm.detach())
        if torch.isfinite(norm):
            optimizer.step()
            self._skipped[name] = 0
            return
        optimizer.zero_grad()
        self._skipped[name] += 1
        logging.warning(f'the gradient of the {name} is not finite at step {self.global_step}; the batch is left out')
        if self._skipped[name] >= _MAX_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f'{_MAX_SKIPPED_IN_A_ROW} gradients of the {name} in a row were not finite; lower the learning rate'
            )

    def _step_schedules(self, interval: str, step: int) -> None:
        """Moves on the schedules of one kind; that of the discriminators, with its warm-up, begins when they do."""
        schedules = self.lr_schedulers()
        schedules = schedules if isinstance(schedules, list) else [schedules] if schedules is not None else []
        begun = 1 if step < self.training_settings.discriminator_start_step else 2
        for schedule, kind in list(zip(schedules, self._intervals, strict=True))[:begun]:
            if kind == interval:
                schedule.step()


def limited_gradient(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scales the gradient down to a norm of ``limit``, in place.

    Args:
        parameters: with gradients.
        limit: largest norm; None leaves the gradient alone.

    Returns:
        The norm before; not finite when the gradient is not.
    """
    return nn.utils.clip_grad_norm_(list(parameters), float('inf') if limit is None else limit)
