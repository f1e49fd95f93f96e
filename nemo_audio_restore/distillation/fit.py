"""The optimisation loop of score distillation: history, seed, progress, checkpoint and resume."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nemo_audio_restore.distillation.objectives import Objective
from nemo_audio_restore.distillation.renderers import Renderer

OnIteration = Callable[[int, dict[str, float]], None]


@dataclass
class FitHistory:
    """What an optimisation went through.

    Attributes:
        terms: name of a term -> its value at each iteration; 'total' is their sum.
    """

    terms: dict[str, list[float]] = field(default_factory=dict)

    def append(self, values: dict[str, float]) -> None:
        """Adds the values of one iteration."""
        for name, value in values.items():
            self.terms.setdefault(name, []).append(value)

    def __len__(self) -> int:
        return len(self.terms.get('total', ()))


def cosine_decay(iteration: int, iterations: int, floor: float) -> float:
    """Factor of the learning rate: from 1 down to ``floor`` along half a cosine."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * iteration / iterations))


def fit(
    renderer: Renderer,
    objective: Objective,
    *,
    iterations: int = 1000,
    learning_rate: float = 0.05,
    learning_rate_floor: float = 0.05,
    gradient_clip: float | None = None,
    seed: int = 0,
    on_iteration: OnIteration | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    about: Mapping[str, str | float] | None = None,
) -> FitHistory:
    """Moves the parameters of a renderer down an objective, with Adam.

    The same seed gives the same result; a run that is resumed from its checkpoint equals one that was never stopped.

    Args:
        renderer: whose parameters move, in place.
        objective: terms to add up and descend.
        iterations: in all, those before a resume included.
        learning_rate: of the first iteration.
        learning_rate_floor: share of it that the last iteration has.
        gradient_clip: largest norm of the whole gradient; None leaves it.
        seed: of everything the objective draws.
        on_iteration: is told the iteration (from 1) and the terms.
        checkpoint: file that the state is kept in and resumed from; it goes when the run is complete.
        checkpoint_every: iterations between two checkpoints.
        about: what else makes this run what it is, such as its prompt; a checkpoint of another is not resumed.

    Returns:
        The terms of every iteration.

    Raises:
        ValueError: a setting is outside its range, or the checkpoint belongs to another run.
        FloatingPointError: a term became NaN or infinite; the message names it.

    Source: Audio-SDS (arXiv 2505.04621), section 5: Adam, 0.05, 1000 iterations.
    """
    if iterations < 1 or learning_rate <= 0 or checkpoint_every < 1:
        raise ValueError(
            'iterations and checkpoint_every must be 1 or more and learning_rate positive; '
            f'got {iterations}, {checkpoint_every}, {learning_rate}'
        )
    parameters = [parameter for parameter in renderer.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(f'{type(renderer).__name__} has no parameter to move')
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    history = FitHistory()
    run = {'iterations': iterations, 'learning_rate': learning_rate, 'floor': learning_rate_floor, 'seed': seed}
    run |= about or {}
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        history = _resume(path, run, renderer, optimizer, generator)

    for iteration in range(len(history), iterations):
        for group in optimizer.param_groups:
            group['lr'] = learning_rate * cosine_decay(iteration, iterations, learning_rate_floor)
        optimizer.zero_grad(set_to_none=True)
        terms = objective(renderer, generator)
        values = {name: float(term.detach()) for name, term in terms.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(f'the terms {broken} are not finite at iteration {iteration + 1}: {values}')
        sum(terms.values()).backward()
        if gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip)
        optimizer.step()
        values['total'] = sum(values.values())
        history.append(values)
        if on_iteration is not None:
            on_iteration(iteration + 1, values)
        if path is not None and (iteration + 1) % checkpoint_every == 0:
            _save(path, run, renderer, optimizer, generator, history)
    if path is not None:
        path.unlink(missing_ok=True)
    return history


def _save(
    path: Path,
    run: dict[str, str | float],
    renderer: Renderer,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    history: FitHistory,
) -> None:
    """Writes the state beside its final name, then moves it there: a crash never leaves half a checkpoint."""
    state = {
        'run': run,
        'renderer': renderer.state_dict(),
        'optimizer': optimizer.state_dict(),
        'generator': generator.get_state(),
        'history': history.terms,
    }
    unfinished = path.with_name(f'{path.name}.unfinished')
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def _resume(
    path: Path,
    run: dict[str, str | float],
    renderer: Renderer,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> FitHistory:
    state = torch.load(path, weights_only=True)
    if state['run'] != run:
        raise ValueError(
            f'the checkpoint {path} is of a run with {state["run"]}, this one has {run}; '
            'give it another checkpoint, or remove the file'
        )
    renderer.load_state_dict(state['renderer'])
    optimizer.load_state_dict(state['optimizer'])
    generator.set_state(state['generator'])
    return FitHistory(state['history'])
