r"""Trains the small text-to-audio diffusion transformer with plain torch on one CPU core: no NeMo, no Lightning.

    python examples/encode_latents_plain.py --cuts captions/train.jsonl.gz \\
        --autoencoder audio_autoencoder_44k_small.nemo --out runs/latents/train.pt
    python examples/encode_latents_plain.py --cuts captions/validation.jsonl.gz \\
        --autoencoder audio_autoencoder_44k_small.nemo --out runs/latents/validation.pt
    python examples/train_diffusion_plain.py --config conf/stable_audio_44k_small.yaml --latents runs/latents \\
        --out runs/stable_audio_44k_small --minutes 50

It reads network, conditions and objective from the same YAML as train.py. What makes it fast: everything is in memory,
matrices are stepped with Muon, and a batch holds clips of one length, many short ones or few long ones, so that all
cost the same. Clips that end inside the window or are cut off there go on in silence and say so with seconds_total.
The same command again resumes the run. export_plain.py packs the averaged weights into a .nemo file.
"""

import argparse
import copy
import importlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from nemo_audio_restore.networks.condition_builder import ConditionBuilder
from nemo_audio_restore.networks.latent_condition import LatentCondition, mix_conditions
from nemo_audio_restore.processes.diffusion import DiffusionProcess, RectifiedFlow, VDiffusion

OBJECTIVES: dict[str, type[DiffusionProcess]] = {'v': VDiffusion, 'rectified_flow': RectifiedFlow}
MEAN_PAUSE_S = 0.3
ENDINGS = {'short_share': 0.3, 'repeat_share': 0.0, 'cut_share': 0.0}  # of the validation
LOG_RATIO_BUCKETS = (-1.0, 0.0, 1.0)
PROMPT = 'prompt'


@dataclass(frozen=True)
class Batch:
    """Clips of one length."""

    clean: Tensor
    """(B, D, L)."""
    features: Tensor
    """(B, S, E) of the prompts, zero in padding."""
    mask: Tensor
    """(B, S)."""
    seconds: Tensor
    """(B,) of sound in the window."""
    tasks: list[str]


class LatentStore:
    """A file of encode_latents_plain.py in memory.

    Args:
        path: the file.
        max_tokens: S of every prompt.
        evenness: 0 draws every clip equally often, 1 every class of a task.
        caption_share: of the prompts; the others are made of the metadata.
    """

    def __init__(self, path: Path, *, max_tokens: int, evenness: float = 0.5, caption_share: float = 0.8):
        data = torch.load(path, weights_only=True)
        self.mean, self.deviation, self.features = data['mean'], data['deviation'], data['features']
        self.lengths, self.seconds = np.array(data['latents']), np.array(data['seconds'])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = np.array(data['tokens'])
        self.token_starts = np.cumsum(self.tokens) - self.tokens
        self.prompts, self.tasks, self.silence = data['prompts'], data['tasks'], data['silence']
        self.latents_per_s, self.max_tokens, self.caption_share = data['latents_per_s'], max_tokens, caption_share
        kinds = list(zip(data['tasks'], data['classes'], strict=True))
        weights = np.array([kinds.count(kind) for kind in kinds], dtype=np.float64) ** -evenness
        for task in set(data['tasks']):
            own = np.array([name == task for name in data['tasks']])
            weights[own] /= weights[own].sum()
        self.weights = weights

    def batch(
        self,
        size: int,
        window: int,
        rng: np.random.Generator,
        *,
        short_share: float,
        repeat_share: float,
        cut_share: float,
    ) -> Batch:
        """Clips of one length.

        Args:
            size: B.
            window: L.
            rng: of all choices.
            short_share: share of the clips that may end inside the window; the others fill it.
            repeat_share: share of those that end there which are repeated, with pauses, up to its end.
            cut_share: share of all clips that are cut off somewhere in the window.

        Returns:
            Clips and conditions.
        """
        # All of the encoder's latents count but the last, which is of the silence behind the clip.
        fill = np.minimum(self.lengths - 1, window) / window
        weights = self.weights * np.where(fill > 0.8, 1.0, 0.0)
        weights = (1 - short_share) * weights / max(weights.sum(), 1e-9) + short_share * self.weights * fill
        chosen = rng.choice(len(weights), size, p=weights / weights.sum())
        ends = [int(rng.integers(window // 6, window) if rng.random() < cut_share else window) for _ in chosen]
        rows = [
            self.row(index, window, rng, repeated=rng.random() < repeat_share, end=end)
            for index, end in zip(chosen, ends, strict=True)
        ]
        features = torch.zeros(size, self.max_tokens, self.features.shape[1])
        mask = torch.zeros(size, self.max_tokens)
        for row, index in enumerate(chosen):
            text = self.prompts[index][
                0 if rng.random() < self.caption_share else rng.integers(len(self.prompts[index]))
            ]
            count = min(self.tokens[text], self.max_tokens)
            features[row, :count] = self.features[self.token_starts[text] :][:count].float()
            mask[row, :count] = 1
        clean = torch.stack([latents for latents, _ in rows]).transpose(1, 2)
        seconds = torch.tensor([length for _, length in rows], dtype=torch.float32)
        return Batch(clean, features, mask, seconds, [self.tasks[index] for index in chosen])

    def row(
        self, index: int, window: int, rng: np.random.Generator, *, repeated: bool, end: int
    ) -> tuple[Tensor, float]:
        """Latents (L, D) of a clip up to ``end``, drawn from the posterior, and the seconds of sound among them."""
        length = self.lengths[index]
        latents, place, seconds = self.silence.repeat(window, 1), 0, 0.0
        offset = int(rng.integers(0, max(length - 1 - end, 0) + 1))
        while place < end:
            part = slice(self.starts[index] + offset, self.starts[index] + min(length, offset + end - place))
            noise = rng.standard_normal((part.stop - part.start, len(self.silence)), dtype=np.float32)
            drawn = self.mean[part].float() + self.deviation[part].float() * torch.from_numpy(noise)
            latents[place : place + len(drawn)] = drawn
            seconds = self.seconds[index] + (place - offset) / self.latents_per_s
            if not repeated:
                break
            place += len(drawn) + int(rng.exponential(MEAN_PAUSE_S) * self.latents_per_s)
        return latents, min(seconds, end / self.latents_per_s)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal, in float32 (that of torch computes in bfloat16, slow on many CPUs).

    Args:
        parameters: matrices.
        lr: step; each matrix moves by about 0.2 ``lr`` per element.
        momentum: of the gradient's average, in Nesterov's form.
        weight_decay: shrinks the weights by ``lr * weight_decay`` per step.

    Source: Muon is scalable for LLM training (arXiv 2502.16982), equations 1 to 4.
    """

    def __init__(
        self, parameters: list[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(parameters, {'lr': lr, 'momentum': momentum, 'weight_decay': weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Moves every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault('average', torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group['momentum'])
                direction = orthogonal(parameter.grad.lerp(average, group['momentum']))
                parameter.mul_(1 - group['lr'] * group['weight_decay'])
                parameter.add_(direction, alpha=-0.2 * group['lr'] * max(parameter.shape) ** 0.5)


def orthogonal(matrix: Tensor, iterations: int = 3) -> Tensor:
    """A matrix with the singular vectors of another one, and singular values nearer to 1.

    Five iterations are usual; three do as well here, and a step costs an eighth less.

    Source: arXiv 2502.16982, equation 2: Newton and Schulz's iteration.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-9)
    for _ in range(iterations):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if tall else x


def build(block: dict) -> nn.Module:
    """Constructs what a YAML block names in ``_target_`` from the block's other keys."""
    module, name = block['_target_'].rsplit('.', 1)
    return getattr(importlib.import_module(module), name)(**{k: v for k, v in block.items() if k != '_target_'})


class Trained(nn.Module):
    """Conditions and network of a YAML's model block; texts come as features."""

    def __init__(self, config: dict):
        super().__init__()
        conditions = dict(config['conditions'])
        blocks = conditions.pop('conditioners')
        self.conditions = ConditionBuilder(
            conditioners={name: build(block) for name, block in blocks.items() if name != PROMPT}, **conditions
        )
        self.network = build(config['network'])
        self._start()

    def _start(self) -> None:
        """Every branch, the prediction and the summary begin at zero, the tokens of the condition at size one.

        A summary of any size would at first be noise to all layers, and its embedding would die of getting rid of it.
        """
        nn.init.zeros_(self.network.transformer.project_out.weight)
        for layer in self.network.transformer.layers:
            for branch in (layer.self_attn.to_out, layer.cross_attn.to_out, layer.ff.ff[2]):
                nn.init.zeros_(branch.weight)
        network = self.network
        for embed in (network.to_cond_embed, network.to_global_embed, network.to_prepend_embed):
            for linear in (embed[0], embed[2]) if embed is not None else ():
                nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(network.to_global_embed[2].weight)

    def condition(self, batch: Batch) -> LatentCondition:
        """Of a batch."""
        return self.conditions({PROMPT: (batch.features, batch.mask), 'seconds_total': batch.seconds})


def start_from(model: Trained, path: Path, fresh: list[str]) -> None:
    """Takes over the averaged weights of another run, in place.

    Args:
        model: may have more latent channels than the other run had; what belongs to the new ones begins as it is.
        path: ``last.pt`` of the other run.
        fresh: beginnings of the names of tensors that are not taken over.
    """
    tensors = model.state_dict()
    for name, value in torch.load(path, weights_only=True)['averaged'].items():
        if not name.startswith(tuple(fresh)):
            tensors[name][tuple(slice(0, size) for size in value.shape)] = value


def optimizers_of(model: Trained, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    matrices = [p for p in model.network.transformer.layers.parameters() if p.ndim == 2]
    known = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [
        Muon(matrices, lr=options.lr, weight_decay=options.weight_decay),
        torch.optim.AdamW(others, lr=options.lr_others, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first hundredth, constant for 60 % of the time, then straight down to 1 %."""
    return max(0.01, min(1.0, progress / 0.01, (1 - progress) / 0.4))


def losses_of(
    model: Trained, process: DiffusionProcess, batch: Batch, log_ratio: Tensor, noise: Tensor, kept: Tensor
) -> Tensor:
    """Mean square error of every item (B,).

    Args:
        model: network and conditions.
        process: objective.
        batch: clips.
        log_ratio: (B,) logarithm of the ratio of noise to signal.
        noise: like the clips.
        kept: (B,) where the condition is given; elsewhere it is the one that guidance leads away from.

    Returns:
        (B,).
    """
    t = process.time_of_ratio(log_ratio.exp())
    example = process.noised(batch.clean, noise, t)
    condition = model.condition(batch)
    condition = mix_conditions(condition, model.network.null_condition(condition), kept)
    return (model.network(example.state, t, condition) - example.target).square().mean(dim=(1, 2))


class Validation:
    """The same clips, times and noise at every call.

    Args:
        store: held-out clips.
        windows: lengths in latents, two batches of each.
        size: clips of a batch.
    """

    def __init__(self, store: LatentStore, windows: list[int], size: int):
        rng = np.random.default_rng(0)
        self.batches = [store.batch(size, window, rng, **ENDINGS) for window in windows for _ in range(2)]
        generator = torch.Generator().manual_seed(0)
        self.noises = [torch.randn(batch.clean.shape, generator=generator) for batch in self.batches]
        self.log_ratio = torch.linspace(-2.5, 2.5, size)

    @torch.no_grad()
    def __call__(self, model: Trained, process: DiffusionProcess) -> dict[str, float]:
        """Mean loss by noise, by task, and without condition."""
        errors, tasks, alone = [], [], []
        for batch, noise in zip(self.batches, self.noises, strict=True):
            given = torch.ones(len(noise), dtype=torch.bool)
            errors.append(losses_of(model, process, batch, self.log_ratio, noise, given))
            alone.append(losses_of(model, process, batch, self.log_ratio, noise, ~given))
            tasks += batch.tasks
        errors, bucket = torch.cat(errors), torch.bucketize(self.log_ratio, torch.tensor(LOG_RATIO_BUCKETS))
        bucket = bucket.repeat(len(self.batches))
        groups = {f'noise_{n}': bucket == n for n in range(len(LOG_RATIO_BUCKETS) + 1)}
        groups |= {task: torch.tensor([name == task for name in tasks]) for task in sorted(set(tasks))}
        found = {name: errors[own].mean() for name, own in groups.items()}
        found |= {'validation': errors.mean(), 'unconditional': torch.cat(alone).mean()}
        return {name: round(float(value), 4) for name, value in found.items()}


def save(path: Path, state: dict) -> None:
    """Writes a checkpoint under its final name only when it is complete."""
    partial = path.with_suffix('.partial')
    torch.save(state, partial)
    os.replace(partial, path)


def train(options: argparse.Namespace) -> None:
    """The loop."""
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = yaml.safe_load(options.config.read_text())['model']
    max_tokens = config['conditions']['conditioners'][PROMPT]['max_length']
    process = OBJECTIVES[config['objective']]()
    model = Trained(config)
    if options.start_from is not None:
        start_from(model, options.start_from, options.fresh)
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizers = optimizers_of(model, options)
    parameters = list(model.parameters())
    print(f'{sum(parameter.numel() for parameter in parameters):,} parameters', flush=True)
    step, seconds_before, last = 0, 0.0, options.out / 'last.pt'
    if last.exists():
        state = torch.load(last, weights_only=True)
        model.load_state_dict(state['model'])
        averaged.load_state_dict(state['averaged'])
        for optimizer, content in zip(optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(content)
        step, seconds_before = state['step'], state['seconds']
    shares = {'evenness': options.evenness, 'caption_share': options.caption_share}
    store = LatentStore(options.latents / 'train.pt', max_tokens=max_tokens, **shares)
    windows = [round(seconds * store.latents_per_s) for seconds in options.windows_s]
    windows = [max(1, window // model.network.latents_multiple) * model.network.latents_multiple for window in windows]
    held_out = LatentStore(options.latents / 'validation.pt', max_tokens=max_tokens, **shares)
    validate = Validation(held_out, windows, options.validation_size)
    began, saved, running, stop = time.monotonic(), time.monotonic(), [], step + options.steps_now
    with (options.out / 'log.jsonl').open('a') as log:
        while True:
            seconds = seconds_before + time.monotonic() - began
            progress = max(seconds / (60 * options.minutes), step / options.max_steps)
            ends = progress >= 1 or step >= stop
            if ends or time.monotonic() - saved > 60 * options.validation_minutes:
                state = {'model': model.state_dict(), 'averaged': averaged.state_dict()}
                state |= {'optimizers': [optimizer.state_dict() for optimizer in optimizers]}
                save(last, state | {'step': step, 'seconds': seconds})
                row = {'step': step, 'minutes': round(seconds / 60, 1), 'loss': round(float(np.mean(running or 0)), 4)}
                print(json.dumps(row | validate(averaged, process)), file=log, flush=True)
                saved, running = time.monotonic(), []
            if ends:
                return
            factor = learning_rate_factor(progress)
            for optimizer, peak in zip(optimizers, (options.lr, options.lr_others), strict=True):
                for group in optimizer.param_groups:
                    group['lr'] = peak * factor
            # Of the step alone: a resumed run goes on as if it had not been interrupted.
            rng = np.random.default_rng([1, step])
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            window = windows[rng.integers(len(windows))]
            size = max(1, options.latents_per_batch // window)
            batch = store.batch(size, window, rng, **{name: getattr(options, name) for name in ENDINGS})
            # One time from every part of the distribution: less noise in the gradient than from independent ones.
            share = (torch.arange(size) + torch.rand(size, generator=generator)) / size
            log_ratio = options.log_ratio_mean + options.log_ratio_std * torch.special.ndtri(share)
            # In little noise the silence behind a clip is seen; only in much of it the condition has to be read.
            ended = batch.seconds < 0.97 * window / store.latents_per_s
            log_ratio = log_ratio + options.ending_log_ratio * ended
            noise = torch.randn(batch.clean.shape, generator=generator)
            kept = torch.rand(size, generator=generator) >= options.dropout
            loss = losses_of(model, process, batch, log_ratio, noise, kept).mean()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, options.gradient_clip)
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            running.append(loss.item())
            with torch.no_grad():
                decay = min(options.ema_decay, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(averaged.parameters()), parameters, 1 - decay)


def options_of(command_line: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML with network, conditions and objective')
    parser.add_argument('--latents', type=Path, required=True, help='folder with train.pt and validation.pt')
    parser.add_argument('--out', type=Path, required=True, help='folder for log and checkpoint; resumes from it')
    parser.add_argument('--start-from', type=Path, help='last.pt of another run whose weights a new run begins with')
    parser.add_argument('--fresh', nargs='*', default=[], help='names of tensors, or beginnings, that it leaves there')
    parser.add_argument('--minutes', type=float, default=50, help='wall-clock budget, resumed runs included')
    parser.add_argument('--max-steps', type=int, default=10**9, help='of resumed runs too')
    parser.add_argument('--steps-now', type=int, default=10**9, help='of this call, to be resumed later')
    parser.add_argument('--latents-per-batch', type=int, default=3000)
    parser.add_argument('--windows-s', type=float, nargs='+', default=[1.05, 2.05, 3.0, 5.05, 10.05])
    parser.add_argument('--short-share', type=float, default=0.35, help='clips that may end inside the window')
    parser.add_argument('--repeat-share', type=float, default=0.5, help='of these, how many are repeated to its end')
    parser.add_argument('--cut-share', type=float, default=0.2, help='clips that are cut off inside the window')
    parser.add_argument('--evenness', type=float, default=0.5, help='0: clips equally often, 1: classes equally often')
    parser.add_argument('--caption-share', type=float, default=0.8, help='of the prompts; others are of metadata')
    parser.add_argument('--dropout', type=float, default=0.1, help='share of clips without condition')
    parser.add_argument('--log-ratio-mean', type=float, default=0.2, help='of the training times: ln(sigma / alpha)')
    parser.add_argument('--log-ratio-std', type=float, default=1.1)
    parser.add_argument('--ending-log-ratio', type=float, default=2.0, help='added where a clip ends in its window')
    parser.add_argument('--lr', type=float, default=0.004, help='of the matrices in the layers (Muon)')
    parser.add_argument('--lr-others', type=float, default=0.0006, help='of the rest (AdamW); 0.002 kills the length')
    parser.add_argument('--weight-decay', type=float, default=0.02)
    parser.add_argument('--gradient-clip', type=float, default=1.0)
    parser.add_argument('--ema-decay', type=float, default=0.998)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--validation-minutes', type=float, default=5)
    parser.add_argument('--validation-size', type=int, default=32, help='clips of a batch')
    return parser.parse_args(command_line)


if __name__ == '__main__':
    train(options_of())
