r"""Trains the small audio-language model with plain torch on one CPU core: no NeMo trainer, no Lightning.

    python examples/prepare_questions.py --captions captions --speech speech --sentences sentences --out questions
    python examples/train_language_plain.py --config conf/audio_flamingo2_small.yaml --data questions \\
        --out runs/audio_flamingo2_small --minutes 70

It reads the blocks of the same YAML as train.py and the same cut manifests, in two stages. First the audio tower and
the transform learn to tell the facts apart, without any text. Then the tower is frozen, and the transform and the
blocks of cross-attention learn to answer. What makes it fast: tokens of recordings are computed once, and so are the
hidden states of texts in front of the first block; logits are computed for answers alone. The same command again
resumes the run; export_plain.py packs its averaged weights.
"""

import argparse
import copy
import importlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from nemo_audio_restore.checkpoints.packaged_language import (
    PACKAGED,
    load_packaged_language_model,
    load_packaged_tokenizer,
)
from nemo_audio_restore.data.listening import Listening
from nemo_audio_restore.data.question_draws import Draws, Question, fact_labels, facts_of, read_questions
from nemo_audio_restore.data.question_text import IGNORED, QuestionFormat, QuestionTokenizer
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.split_decoder import split_decoder

FLOOR_DB, STEP_DB = -140.0, 0.6  # levels are kept as bytes
# How often a task is drawn, when facts are learned and when answers are: counts and order are the hardest to say.
FACT_SHARES = {'instrument': 3.0, 'drum': 1.5, 'sound': 2.0, 'count': 2.0, 'order': 3.0, 'tempo': 1.0, 'language': 1.5}
SHARES = {'instrument': 3.0, 'drum': 1.5, 'sound': 2.5, 'count': 5.0, 'order': 4.0, 'tempo': 0.7, 'language': 1.0}
OTHER_SHARE, GATE_SPEED = 0.4, 8.0
FACTS = ('instrument', 'drum', 'sound', 'count', 'order', 'second', 'tempo', 'key', 'language', 'kind')


@dataclass(frozen=True)
class Recording:
    """Levels (F, N) of a recording in steps of STEP_DB above FLOOR_DB, and what is true of it."""

    levels: np.ndarray
    facts: Mapping[str, str]


def build(block: Mapping[str, Any], default: type | None = None) -> Any:
    """Constructs what a YAML block describes: ``_target_``, or the default."""
    arguments = {key: value for key, value in (block or {}).items() if key != '_target_'}
    if block and '_target_' in block:
        module, name = block['_target_'].rsplit('.', 1)
        default = getattr(importlib.import_module(module), name)
    return default(**arguments)


class Listener(nn.Module):
    """The trained parts of the model, and the heads of the first stage."""

    def __init__(self, config: Mapping[str, Any], width: int):
        super().__init__()
        self.audio_tower = build(config['audio_tower'])
        dim = self.audio_tower.feature_dim
        self.audio_transform = AudioTransform(dim=dim, **config['audio_transform'])
        self.cross_attention = CrossAttentionLayers(dim=width, audio_dim=dim, **config['cross_attention'])
        self.heads = nn.ModuleDict({fact: Head(dim, len(fact_labels(fact))) for fact in FACTS})

    def told(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits of every fact for windows (B, F, N)."""
        tokens = self.audio_tower.encode_pictures(pictures)
        tokens = self.audio_transform(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
        return {fact: head(tokens) for fact, head in self.heads.items()}


class Head(nn.Module):
    """Attention of one query over tokens, then a linear map to labels."""

    def __init__(self, dim: int, count: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, count)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, labels) of tokens (B, M, D)."""
        weights = (tokens @ self.query / math.sqrt(len(self.query))).softmax(dim=1)
        return self.out((weights[..., None] * tokens).sum(dim=1))


@torch.no_grad()
def read_recordings(
    cuts: Mapping[str, dict], folder: Path, tower: nn.Module, listening: Listening, cache: Path
) -> dict[str, Recording]:
    """The recordings of a manifest by name; levels are kept in ``cache``."""
    known: dict[str, np.ndarray] = {}
    if cache.exists():
        with np.load(cache) as kept:
            known = {name: kept[name] for name in kept.files}
    missing = [name for name in cuts if name not in known]
    for name in missing:
        windows = listening.read(folder / cuts[name]['recording']['sources'][0]['source'])
        steps = (tower.log_mel.decibels(windows) - FLOOR_DB) / STEP_DB
        known[name] = steps.round().clamp(0, 255).to(torch.uint8).numpy()
    if missing:
        partial = cache.with_suffix('.partial.npz')
        np.savez(partial, **known)
        os.replace(partial, cache)
    return {name: Recording(known[name], facts_of(cut)) for name, cut in cuts.items()}


def decibels(levels: Sequence[np.ndarray]) -> Tensor:
    """(B, F, N) of levels kept as bytes."""
    return torch.from_numpy(np.stack(levels)).float() * STEP_DB + FLOOR_DB


def roughened(levels: Tensor, rng: np.random.Generator, *, masked: Sequence[bool]) -> Tensor:
    """Decibels (B, F, N) as other microphones, rooms and kits would give: tilted, noisy, partly masked.

    Source: masks of SpecAugment (arXiv 1904.08779), section 2.
    """
    _, bands, frames = levels.shape
    levels = levels.clone()
    for item, mask in zip(levels, masked, strict=True):
        curve = np.interp(np.arange(bands), np.linspace(0, bands - 1, 5), rng.normal(0, 4, 5))
        item += torch.from_numpy(curve).float()[:, None]
        if rng.random() < 0.5:
            floor = float(item.max()) - rng.uniform(30, 70) + torch.from_numpy(rng.normal(0, 3, (bands, frames)))
            item.copy_(torch.logaddexp(item.double() * 0.23, floor * 0.23).float() / 0.23)
        if mask:
            height, width = rng.integers(0, bands // 6 + 1), rng.integers(0, frames // 8 + 1)
            low, first = rng.integers(0, bands - height + 1), rng.integers(0, frames - width + 1)
            item[low : low + height] = FLOOR_DB
            item[:, first : first + width] = FLOOR_DB
    return levels


class FactStage:
    """The first stage: tower, transform and heads learn facts."""

    name, batch_size = 'facts', 48

    def __init__(self, listener: Listener, audio: Mapping[str, Recording]):
        self.listener, self.audio = listener, audio
        facts = [(fact, label, one) for one in audio.values() for fact, label in one.facts.items()]
        known = [item for item in facts if item[0] != 'second']
        self.draws = Draws(known, FACT_SHARES, other_share=OTHER_SHARE)
        self.rates = {'audio_tower': 2e-3, 'audio_transform': 2e-3, 'heads': 2e-3}

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch: the mean over what is known."""
        drawn = [self.draws.draw(rng) for _ in range(self.batch_size)]
        levels = []
        for task, one in drawn:
            # What is counted or ordered is whole in the first window.
            window = 0 if task in ('count', 'order') else rng.integers(len(one.levels))
            levels.append(one.levels[window])
        # What happens once must not be masked.
        masked = [task not in ('count', 'order') for task, _ in drawn]
        rough = roughened(decibels(levels), rng, masked=masked)
        told = self.listener.told(self.listener.audio_tower.log_mel.relative(rough))
        losses = []
        for fact, logits in told.items():
            rows = [index for index, (_, one) in enumerate(drawn) if fact in one.facts]
            if rows:
                labels = torch.tensor([fact_labels(fact).index(drawn[index][1].facts[fact]) for index in rows])
                losses.append(functional.cross_entropy(logits[rows], labels, reduction='sum', label_smoothing=0.05))
        return torch.stack(losses).sum() / self.batch_size

    @torch.no_grad()
    def validate(self, held: Mapping[str, Recording], averaged: Listener) -> dict[str, float]:
        """Accuracy of every fact on recordings that were not trained."""
        averaged.eval()
        right: dict[str, list[bool]] = {}
        names = list(held)
        for first in range(0, len(names), 64):
            some = [held[name] for name in names[first : first + 64]]
            pictures = averaged.audio_tower.log_mel.relative(decibels([one.levels[0] for one in some]))
            for fact, logits in averaged.told(pictures).items():
                for one, best in zip(some, logits.argmax(dim=1).tolist(), strict=True):
                    if fact in one.facts:
                        right.setdefault(fact, []).append(fact_labels(fact)[best] == one.facts[fact])
        return {fact: round(float(np.mean(values)), 3) for fact, values in sorted(right.items())}


class Texts:
    """Hidden states of texts in front of the first block that hears, computed when a text first comes."""

    def __init__(self, questions: QuestionTokenizer, decoder: Any):
        self.questions, self.decoder = questions, decoder
        self.known: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def batch(self, pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (B, S, D), attention mask (B, S) and labels (B, S) of questions with answers."""
        missing = list(dict.fromkeys(pair for pair in pairs if pair not in self.known))
        if missing:
            text, labels = self.questions.pairs([pair[0] for pair in missing], [pair[1] for pair in missing])
            hidden = self.decoder.texts(text.input_ids, text.attention_mask).half()
            for pair, states, mask, row in zip(missing, hidden, text.attention_mask, labels, strict=True):
                length = int(mask.sum())
                self.known[pair] = states[:length].clone(), row[:length].clone()
        rows = [self.known[pair] for pair in pairs]
        hidden = nn.utils.rnn.pad_sequence([states for states, _ in rows], batch_first=True).float()
        labels = nn.utils.rnn.pad_sequence([row for _, row in rows], batch_first=True, padding_value=IGNORED)
        lengths = torch.tensor([len(row) for _, row in rows])
        mask = (torch.arange(labels.shape[1]) < lengths[:, None]).long()
        return hidden, mask, labels


class AnswerStage:
    """The second stage: transform and cross-attention learn to answer, with everything else frozen."""

    name = 'answers'
    batch_sizes = {'words': 48, 'options': 24}

    def __init__(self, listener: Listener, audio: Mapping[str, Recording], asked: Sequence[Question], texts: Texts):
        self.listener, self.texts = listener, texts
        # The tower has learned on the same recordings: roughened, they are as hard as unknown ones.
        rng = np.random.default_rng(5)
        self.versions = [encoded(listener, audio), encoded(listener, audio, rng)]
        kinds = {'words': ('words', 'yes or no'), 'options': ('options',)}
        # Descriptions count as one label: there are nearly as many as recordings.
        items = {
            kind: [(q.task, q.label if q.task != 'caption' else '', q) for q in asked if q.form in forms]
            for kind, forms in kinds.items()
        }
        self.draws = {kind: Draws(own, SHARES, other_share=OTHER_SHARE) for kind, own in items.items()}
        # The transform knows the facts: large steps while the blocks know nothing would make it forget them.
        self.rates = {'audio_transform': 2e-4, 'cross_attention': 2e-3}

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch: surprise at the tokens of answers."""
        # Texts of one kind are about as long as each other.
        kind = 'words' if rng.random() < 0.6 else 'options'
        drawn = [self.draws[kind].draw(rng)[1] for _ in range(self.batch_sizes[kind])]
        tokens = [self.versions[rng.integers(len(self.versions))][question.recording] for question in drawn]
        hidden, mask, labels = self.texts.batch([(question.text, question.answer) for question in drawn])
        wanted = functional.pad(labels[:, 1:] != IGNORED, (0, 1))
        heard, heard_mask = padded_tokens(tokens)
        transform = self.listener.audio_transform
        with self.listener.cross_attention.hearing(transform(heard, heard_mask), heard_mask):
            logits = self.texts.decoder.logits(hidden, mask, wanted)
        return functional.cross_entropy(logits, labels[:, 1:][wanted[:, :-1]])


@torch.no_grad()
def encoded(
    listener: Listener, audio: Mapping[str, Recording], rng: np.random.Generator | None = None
) -> dict[str, Tensor]:
    """(W * N, D) tokens of every recording in half precision, from the frozen tower; ``rng`` roughens them."""
    tower, names = listener.audio_tower.eval(), list(audio)
    found = {}
    for first in range(0, len(names), 32):
        some = names[first : first + 32]
        levels = [audio[name].levels for name in some]
        pictures = decibels(list(np.concatenate(levels)))
        pictures = pictures if rng is None else roughened(pictures, rng, masked=[False] * len(pictures))
        tokens = tower.encode_pictures(tower.log_mel.relative(pictures)).half()
        for name, own in zip(some, tokens.split([len(level) for level in levels]), strict=True):
            found[name] = own.flatten(0, 1).clone()
    return found


def padded_tokens(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, M, D) in single precision, and the mask (B, M)."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True).float()
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


@torch.no_grad()
def validated(
    stage: AnswerStage, held: Mapping[str, Recording], asked: Sequence[Question], averaged: Listener
) -> dict[str, float]:
    """Share of answers in words of which every token is the likeliest, with the right recordings and with others."""
    averaged.eval()
    tokens = encoded(averaged, held)
    asked = [question for question in asked if question.form == 'words'][::2]
    decoder, hearing = stage.texts.decoder, averaged.cross_attention.hearing
    right: dict[str, list[bool]] = {}
    for shift in (0, len(asked) // 2):
        for first in range(0, len(asked), 32):
            some = asked[first : first + 32]
            hidden, mask, labels = stage.texts.batch([(question.text, question.answer) for question in some])
            wanted = functional.pad(labels[:, 1:] != IGNORED, (0, 1))
            names = [asked[(first + index + shift) % len(asked)].recording for index in range(len(some))]
            heard, heard_mask = padded_tokens([tokens[name] for name in names])
            with hearing(averaged.audio_transform(heard, heard_mask), heard_mask):
                best = decoder.logits(hidden, mask, wanted).argmax(dim=1)
            hits = best == labels[:, 1:][wanted[:, :-1]]
            for question, hit in zip(some, hits.split(wanted.sum(dim=1).tolist()), strict=True):
                right.setdefault(question.task + (' shuffled' if shift else ''), []).append(bool(hit.all()))
    return {task: round(float(np.mean(values)), 3) for task, values in sorted(right.items())}


class Run:
    """Weights, averages and progress of a run; everything that a resumed one needs."""

    def __init__(self, listener: Listener, out: Path):
        self.listener, self.path = listener, out / 'last.pt'
        self.averaged = copy.deepcopy(listener).requires_grad_(False)
        self.stage, self.step, self.seconds, self.optimizer_state = 'facts', 0, 0.0, None
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.listener.load_state_dict(state['listener'])
            self.averaged.load_state_dict(state['averaged'])
            self.stage, self.step, self.seconds = state['stage'], state['step'], state['seconds']
            self.optimizer_state = state['optimizer']

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Writes the checkpoint under its final name only when it is complete."""
        state = {'listener': self.listener.state_dict(), 'averaged': self.averaged.state_dict()}
        state |= {'optimizer': optimizer.state_dict(), 'stage': self.stage, 'step': self.step, 'seconds': self.seconds}
        torch.save(state, self.path.with_suffix('.partial'))
        os.replace(self.path.with_suffix('.partial'), self.path)

    def next_stage(self) -> None:
        """Goes on from the averages of the first stage."""
        self.listener.load_state_dict(self.averaged.state_dict())
        self.stage, self.step, self.seconds, self.optimizer_state = 'answers', 0, 0.0, None


def optimizer_of(stage: FactStage | AnswerStage, run: Run) -> torch.optim.Optimizer:
    """AdamW on what the stage trains; nothing else has gradients."""
    run.listener.requires_grad_(False)
    groups = []
    for part, rate in stage.rates.items():
        named = list(getattr(run.listener, part).requires_grad_().named_parameters())
        gates = [weight for name, weight in named if name.endswith('_gate')]
        others = [weight for name, weight in named if not name.endswith('_gate')]
        wide, narrow = ([w for w in others if (w.ndim > 1) == many] for many in (True, False))
        groups.append({'params': wide, 'weight_decay': 0.05, 'rate': rate})
        groups.append({'params': narrow, 'weight_decay': 0.0, 'rate': rate})
        # Gates begin closed, and as long as they are nothing behind them learns.
        groups.append({'params': gates, 'weight_decay': 0.0, 'rate': GATE_SPEED * rate})
    optimizer = torch.optim.AdamW([g for g in groups if g['params']], lr=1e-3, betas=(0.9, 0.98), fused=True)
    if run.optimizer_state is not None:
        optimizer.load_state_dict(run.optimizer_state)
    return optimizer


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first thirtieth, then down to 1 % along a cosine."""
    return min(1.0, max(progress / 0.03, 0.02)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def train_stage(
    stage: FactStage | AnswerStage, run: Run, options: argparse.Namespace, minutes: float, validate: Any
) -> None:
    """The loop of one stage."""
    optimizer = optimizer_of(stage, run)
    before, began, validated_at = run.seconds, time.monotonic(), time.monotonic()
    rng, losses, steps = np.random.default_rng([run.stage == 'answers', run.step]), [], options.max_steps
    with (options.out / 'log.jsonl').open('a') as log:
        while True:
            run.seconds = before + time.monotonic() - began
            progress = max(run.seconds / (60 * minutes), run.step / steps)
            if time.monotonic() - validated_at > 60 * options.validation_minutes or progress >= 1:
                run.save(optimizer)
                row = {'stage': stage.name, 'step': run.step, 'minutes': round(run.seconds / 60, 1)}
                row |= {'loss': round(float(np.mean(losses or [0])), 4), **validate()}
                print(json.dumps(row), flush=True)
                log.write(json.dumps(row) + '\n')
                log.flush()
                validated_at, losses = time.monotonic(), []
                if progress >= 1:
                    return
            run.listener.train()
            if stage.name == 'answers':
                run.listener.audio_tower.eval()
            for group in optimizer.param_groups:
                group['lr'] = group['rate'] * learning_rate_factor(progress)
            optimizer.zero_grad(set_to_none=True)
            loss = stage.loss(rng)
            loss.backward()
            nn.utils.clip_grad_norm_([w for group in optimizer.param_groups for w in group['params']], 1.0)
            optimizer.step()
            run.step += 1
            losses.append(loss.item())
            decay = min(options.ema_decay, (1 + run.step) / (10 + run.step))
            with torch.no_grad():
                for mean, weight in zip(run.averaged.parameters(), run.listener.parameters(), strict=True):
                    mean.lerp_(weight, 1 - decay)


def train(options: argparse.Namespace) -> None:
    """Both stages, or what is left of them."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = yaml.safe_load(options.config.read_text())['model']
    if config['language_model']['weights'] != PACKAGED:
        raise SystemExit(f'this trainer knows {PACKAGED} alone; train.py trains with any language model')
    listening = build(config['listening'], Listening)
    width = config['language_model']['config']['hidden_size']
    run = Run(Listener(config, width).to(memory_format=torch.channels_last), options.out)
    sets, audio = {}, {}
    for split in ('train', 'validation'):
        sets[split], cuts = read_questions(options.data / f'{split}.jsonl.gz')
        cache = options.out / f'{split}.npz'
        audio[split] = read_recordings(cuts, options.data, run.listener.audio_tower, listening, cache)
        print(f'{split}: {len(sets[split])} questions about {len(cuts)} recordings', flush=True)
    if run.stage == 'facts':
        stage = FactStage(run.listener, audio['train'])
        minutes = options.minutes * options.facts_share
        train_stage(stage, run, options, minutes, lambda: stage.validate(audio['validation'], run.averaged))
        run.next_stage()
    model = load_packaged_language_model()
    for listener in (run.listener, run.averaged):
        listener.cross_attention.attach(model)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=load_packaged_tokenizer(), eos_token=config['tokenizer']['eos_token']
    )
    questions = QuestionTokenizer(tokenizer, build(config['question'], QuestionFormat))
    texts = Texts(questions, split_decoder(model, min(config['cross_attention']['layers'])))
    answers = AnswerStage(run.listener, audio['train'], sets['train'], texts)
    minutes = options.minutes * (1 - options.facts_share)
    held = (audio['validation'], sets['validation'], run.averaged)
    train_stage(answers, run, options, minutes, lambda: validated(answers, *held))


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML with the blocks')
    parser.add_argument('--data', type=Path, required=True, help='folder with train.jsonl.gz and validation.jsonl.gz')
    parser.add_argument('--out', type=Path, required=True, help='folder for log and checkpoint; resumes from it')
    parser.add_argument('--minutes', type=float, default=70, help='wall-clock budget of both stages together')
    parser.add_argument('--facts-share', type=float, default=0.4, help='of the budget for the first stage')
    parser.add_argument('--max-steps', type=int, default=10**9, help='of each stage')
    parser.add_argument('--ema-decay', type=float, default=0.99)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--validation-minutes', type=float, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)


if __name__ == '__main__':
    main()
