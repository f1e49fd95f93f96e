r"""Trains the small audio-language model with plain torch on one CPU core: no NeMo trainer, no Lightning.

    python examples/prepare_questions.py --captions captions --speech speech --sentences sentences --out questions
    python examples/train_language_plain.py --config conf/audio_flamingo2_small.yaml --data questions \\
        --out runs/audio_flamingo2_small --minutes 70

It reads the blocks of the same YAML as train.py and the same cut manifests, in two stages. First the audio tower and
the transform learn to tell the facts apart, without any text. Then the tower is frozen, and the transform and the
blocks of cross-attention learn to answer. What makes it fast: tokens of recordings are computed once, and so are the
hidden states of texts in front of the first block; logits are computed for answers alone. The same command again
resumes the run; export_plain.py packs its averaged weights. The same command with ``--texts-only`` on another core
saves the time that the texts take.
"""

import argparse
import copy
import dataclasses
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
from nemo_audio_restore.data.level_pictures import Recording, Scenes, as_bytes, decibels, roughened
from nemo_audio_restore.data.listening import Listening
from nemo_audio_restore.data.question_draws import Draws, fact_labels, facts_of, read_questions
from nemo_audio_restore.data.question_prompts import Prompt, Prompts, fact_items, held_out_prompt
from nemo_audio_restore.data.question_text import IGNORED, QuestionFormat, QuestionTokenizer
from nemo_audio_restore.data.question_words import TASKS, labels_of
from nemo_audio_restore.models.answer_trees import AnswerTree, answer_tree
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.fact_heads import FactHeads
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.split_decoder import SplitDecoder, split_decoder

# How often a task is drawn when facts are learned, and when answers are.
FACT_SHARES = {'instrument': 3.0, 'drum': 1.5, 'sound': 3.0, 'count': 2.5, 'order': 3.5, 'tempo': 1.0, 'language': 1.0}
SHARES = {'instrument': 3.0, 'drum': 2.0, 'sound': 3.0, 'count': 3.0, 'order': 3.5, 'language': 1.0}
OTHER_SHARE, GATE_SPEED, FACT_WEIGHT = 0.7, 8.0, 0.3
SCENE_SHARE, ENCODED_SCENES, ROUGH_VERSIONS = 0.6, 1500, 2
FORM_SHARES = {'words': 0.4, 'yes or no': 0.2, 'options': 0.4}
COMMON_TOKENS, ALL_TOKENS_EVERY = 4096, 8
FACTS = ('instrument', 'drum', 'sound', 'count', 'order', 'second', 'tempo', 'key', 'language', 'kind')


def build(block: Mapping[str, Any], default: type | None = None) -> Any:
    """Constructs what a YAML block describes: ``_target_``, or the default."""
    arguments = {key: value for key, value in (block or {}).items() if key != '_target_'}
    if block and '_target_' in block:
        module, name = block['_target_'].rsplit('.', 1)
        default = getattr(importlib.import_module(module), name)
    return default(**arguments)


class Listener(nn.Module):
    """The trained parts of the model, and the heads that tell facts from its keys and values."""

    def __init__(self, config: Mapping[str, Any], width: int):
        super().__init__()
        self.audio_tower = build(config['audio_tower'])
        dim = self.audio_tower.feature_dim
        self.audio_transform = AudioTransform(dim=dim, **config['audio_transform'])
        self.cross_attention = CrossAttentionLayers(dim=width, audio_dim=dim, **config['cross_attention'])
        self.heads = FactHeads(self.cross_attention, {fact: len(fact_labels(fact)) for fact in FACTS})

    def told(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits (blocks, B, labels) of every fact for windows (B, F, N)."""
        tokens = self.audio_tower.encode_pictures(pictures)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        return self.heads(self.cross_attention, self.audio_transform(tokens, mask), mask)


def fact_loss(told: Mapping[str, Tensor], facts: Sequence[Mapping[str, str]]) -> Tensor:
    """Surprise at what is known of a batch, per recording and block."""
    losses = []
    for fact, logits in told.items():
        rows = [index for index, own in enumerate(facts) if fact in own]
        if rows:
            labels = torch.tensor([fact_labels(fact).index(facts[index][fact]) for index in rows])
            known = logits[:, rows].flatten(0, 1)
            repeated = labels.repeat(len(logits))
            losses.append(functional.cross_entropy(known, repeated, reduction='sum', label_smoothing=0.05))
    return torch.stack(losses).sum() / (len(facts) * len(logits))


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
        known[name] = as_bytes(tower.log_mel.decibels(windows).numpy())
    if missing:
        partial = cache.with_suffix('.partial.npz')
        np.savez(partial, **known)
        os.replace(partial, cache)
    return {name: Recording(known[name], facts_of(cut), cut['custom']['single']) for name, cut in cuts.items()}


class FactStage:
    """The first stage: tower, transform, keys and values learn facts, told by the heads."""

    name, batch_size = 'facts', 48

    def __init__(self, listener: Listener, audio: Mapping[str, Recording]):
        self.listener = listener
        facts = [(fact, label, one) for one in audio.values() for fact, label in fact_items(one.facts)]
        self.draws = Draws(facts, FACT_SHARES, other_share=OTHER_SHARE)
        self.scenes = scenes_of(audio)
        self.rates = {'audio_tower': 2e-3, 'audio_transform': 2e-3, 'cross_attention': 2e-3, 'heads': 2e-3}

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch: the mean over what is known."""
        levels, facts, whole = [], [], []
        for _ in range(self.batch_size):
            task, one = self.draws.draw(rng)
            scene = self.scenes and {'count': self.scenes.counted, 'order': self.scenes.ordered}.get(task)
            if scene and rng.random() < SCENE_SHARE:
                one = scene(rng)
            # What is counted or ordered is whole in the first window.
            whole.append(task in ('count', 'order'))
            levels.append(one.levels[0 if whole[-1] else rng.integers(len(one.levels))])
            facts.append(one.facts)
        rough = roughened(decibels(levels), rng, whole=whole)
        return fact_loss(self.listener.told(self.listener.audio_tower.log_mel.relative(rough)), facts)

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
                for one, best in zip(some, logits.mean(dim=0).argmax(dim=1).tolist(), strict=True):
                    if fact in one.facts:
                        right.setdefault(fact, []).append(fact_labels(fact)[best] == one.facts[fact])
        return {fact: round(float(np.mean(values)), 3) for fact, values in sorted(right.items())}


def scenes_of(audio: Mapping[str, Recording]) -> Scenes | None:
    """Scenes where there are single sounds to make them of."""
    try:
        return Scenes(list(audio.values()))
    except ValueError:
        return None


def read_trees(
    prompts: Sequence[Prompt], questions: QuestionTokenizer, decoder: SplitDecoder, cache: Path
) -> list[AnswerTree]:
    """What the language model makes of prompts, before it hears; kept in ``cache``."""
    if cache.exists():
        kept = torch.load(cache, weights_only=True)
        if kept['texts'] == [(prompt.text, prompt.answers) for prompt in prompts]:
            return [AnswerTree(**tree) for tree in kept['trees']]
    trees = [answer_tree(questions, decoder, prompt.text, prompt.answers) for prompt in prompts]
    partial = cache.with_suffix('.partial')
    texts = [(prompt.text, prompt.answers) for prompt in prompts]
    torch.save({'texts': texts, 'trees': [dataclasses.asdict(tree) for tree in trees]}, partial)
    os.replace(partial, cache)
    return trees


@dataclass(frozen=True)
class Heard:
    """Tokens (M, D) of a recording from the frozen tower, in half precision, and what is true of it."""

    tokens: Tensor
    facts: Mapping[str, str]


class AnswerStage:
    """The second stage: transform and cross-attention learn to answer, with everything else frozen."""

    name = 'answers'
    batch_sizes = {'words': 48, 'yes or no': 64, 'options': 32}

    def __init__(
        self,
        listener: Listener,
        audio: Mapping[str, Recording],
        captions: Mapping[str, str],
        prompts: Prompts,
        trees: Sequence[AnswerTree],
        decoder: SplitDecoder,
    ):
        self.listener, self.prompts, self.trees, self.decoder = listener, prompts, trees, decoder
        # The tower has learned on the same recordings: roughened, they are as hard as unknown ones.
        rng = np.random.default_rng(5)
        heard = encoded(listener, audio)
        items = [(fact, label, one) for one in heard.values() for fact, label in fact_items(one.facts)]
        # Descriptions count as one label.
        items += [('caption', '', Heard(heard[name].tokens, {'caption': text})) for name, text in captions.items()]
        for _ in range(ROUGH_VERSIONS):
            rough = encoded(listener, audio, rng).values()
            items += [(fact, label, one) for one in rough for fact, label in fact_items(one.facts)]
        scenes = scenes_of(audio)
        if scenes is not None:
            made = [make(rng) for make in (scenes.counted, scenes.ordered) for _ in range(ENCODED_SCENES)]
            made = encoded(listener, dict(enumerate(made)), rng, whole=True).values()
            items += [(fact, label, one) for one in made for fact, label in fact_items(one.facts)]
        self.draws = Draws(items, SHARES, other_share=OTHER_SHARE)
        self.common = common_tokens(trees, decoder.head.weight.shape[0])
        self.steps = 0
        # Transform, keys and values know the facts: large steps while the rest knows nothing would make them forget.
        self.rates = {'audio_transform': 2e-4, 'key_value': 2e-4, 'heads': 2e-4, 'cross_attention': 2e-3}

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch: surprise at the tokens of answers, and at the facts."""
        # Texts of one form are about as long as each other.
        form = list(FORM_SHARES)[rng.choice(len(FORM_SHARES), p=list(FORM_SHARES.values()))]
        texts, tokens, facts = [], [], []
        while len(texts) < self.batch_sizes[form]:
            task, one = self.draws.draw(rng)
            if task == 'caption' and form != 'words':
                continue
            second = one.facts.get('second') if task == 'order' else None
            place, answer = self.prompts.draw(task, one.facts[task], form, rng, second=second)
            texts.append(self.trees[place].text(answer))
            tokens.append(one.tokens)
            facts.append(one.facts)
        hidden = nn.utils.rnn.pad_sequence([states for states, _ in texts], batch_first=True).float()
        labels = nn.utils.rnn.pad_sequence([row for _, row in texts], batch_first=True, padding_value=IGNORED)
        lengths = torch.tensor([len(row) for _, row in texts])
        mask = (torch.arange(labels.shape[1]) < lengths[:, None]).long()
        heard, heard_mask = padded_tokens(tokens)
        heard = self.listener.audio_transform(heard, heard_mask)
        wanted = labels != IGNORED
        with self.listener.cross_attention.hearing(heard, heard_mask):
            states = self.decoder.states(hidden, mask, wanted)
        self.steps += 1
        known = [fact for fact in facts if 'caption' not in fact]
        told = self.listener.heads(self.listener.cross_attention, heard, heard_mask)
        loss = FACT_WEIGHT * fact_loss(told, facts) if len(known) == len(facts) else 0.0
        return loss + self._surprise(states, labels[wanted])

    def _surprise(self, states: Tensor, labels: Tensor) -> Tensor:
        """Among all tokens now and then, else among those that answers are made of and the most common ones."""
        if self.steps % ALL_TOKENS_EVERY == 0:
            return functional.cross_entropy(self.decoder.head(states), labels)
        logits = states @ self.decoder.head.weight[self.common].T
        return functional.cross_entropy(logits, torch.searchsorted(self.common, labels))


def common_tokens(trees: Sequence[AnswerTree], size: int) -> Tensor:
    """Sorted numbers of the tokens of all answers, and of those that the vocabulary begins with."""
    said = {token for tree in trees for branch in tree.branches for token in branch}
    return torch.tensor(sorted(said | set(range(min(size, COMMON_TOKENS)))))


@torch.no_grad()
def encoded(
    listener: Listener,
    audio: Mapping[Any, Recording],
    rng: np.random.Generator | None = None,
    *,
    whole: bool = False,
) -> dict[Any, Heard]:
    """What the frozen tower hears of recordings; ``rng`` roughens them, so that nothing is lost if they are whole."""
    tower, names = listener.audio_tower.eval(), list(audio)
    found = {}
    for first in range(0, len(names), 32):
        some = names[first : first + 32]
        levels = [audio[name].levels for name in some]
        pictures = decibels(list(np.concatenate(levels)))
        if rng is not None:
            scenes = [bool({'count', 'order'} & set(audio[name].facts)) for name in some]
            keep = [whole or scene for scene, level in zip(scenes, levels, strict=True) for _ in level]
            pictures = roughened(pictures, rng, whole=keep)
        tokens = tower.encode_pictures(tower.log_mel.relative(pictures)).half()
        for name, own in zip(some, tokens.split([len(level) for level in levels]), strict=True):
            found[name] = Heard(own.flatten(0, 1).clone(), audio[name].facts)
    return found


def padded_tokens(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, M, D) in single precision, and the mask (B, M)."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True).float()
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


@torch.no_grad()
def validated(
    held: Mapping[str, Recording], averaged: Listener, trees: Mapping[str, AnswerTree], decoder: SplitDecoder
) -> dict[str, float]:
    """Share of facts that are the likeliest answer in the words that are never trained, and with other recordings."""
    averaged.eval()
    heard = list(encoded(averaged, held).values())
    right: dict[str, list[bool]] = {}
    for task, tree in trees.items():
        own = [one for one in heard if task in one.facts][:60]
        wanted = torch.zeros(len(tree.hidden), dtype=torch.bool)
        wanted[[place for index in range(len(tree.branches)) for place in tree.before(index)]] = True
        numbers = torch.cumsum(wanted, dim=0) - 1
        for first in range(0, len(own), 20):
            some = own[first : first + 20]
            tokens, mask = padded_tokens([one.tokens for one in some])
            with averaged.cross_attention.hearing(averaged.audio_transform(tokens, mask), mask):
                likely = decoder.logits(
                    tree.hidden.float().expand(len(some), -1, -1),
                    tree.allowed.expand(len(some), 1, -1, -1),
                    wanted.expand(len(some), -1),
                    tree.places.expand(len(some), -1),
                ).log_softmax(dim=1)
            likely = likely.unflatten(0, (len(some), -1))
            scores = torch.stack(
                [
                    likely[:, numbers[tree.before(index)], torch.tensor(branch)].sum(dim=1)
                    for index, branch in enumerate(tree.branches)
                ]
            )
            for number, best in enumerate(scores.argmax(dim=0).tolist()):
                said = labels_of(task)[best]
                right.setdefault(task, []).append(said == some[number].facts[task])
                other = own[(first + number + len(own) // 2) % len(own)]
                right.setdefault(f'{task} shuffled', []).append(said == other.facts[task])
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
    everything = list(run.listener.named_parameters())
    for part, rate in stage.rates.items():
        # The first part that a name holds counts.
        named = [item for item in everything if next((p for p in stage.rates if p in item[0]), None) == part]
        for _, weight in named:
            weight.requires_grad_()
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
    audio, captions = {}, {}
    for split in ('train', 'validation'):
        asked, cuts = read_questions(options.data / f'{split}.jsonl.gz')
        captions[split] = {one.recording: one.label for one in asked if one.task == 'caption'}
        if not options.texts_only:
            cache = options.out / f'{split}.npz'
            audio[split] = read_recordings(cuts, options.data, run.listener.audio_tower, listening, cache)
            print(f'{split}: {len(cuts)} recordings', flush=True)
    if run.stage == 'facts' and not options.texts_only:
        stage = FactStage(run.listener, audio['train'])
        minutes = options.minutes * options.facts_share
        train_stage(stage, run, options, minutes, lambda: stage.validate(audio['validation'], run.averaged))
        run.next_stage()
    model = load_packaged_language_model()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=load_packaged_tokenizer(), eos_token=config['tokenizer']['eos_token']
    )
    questions = QuestionTokenizer(tokenizer, build(config['question'], QuestionFormat))
    decoder = split_decoder(model, min(config['cross_attention']['layers']))
    prompts = Prompts(sorted(set(captions['train'].values())), lists=options.lists)
    trees = read_trees(prompts.all, questions, decoder, options.out / 'texts.pt')
    if options.texts_only:
        return
    for listener in (run.listener, run.averaged):
        listener.cross_attention.attach(model)
    answers = AnswerStage(run.listener, audio['train'], captions['train'], prompts, trees, decoder)
    held_out = [held_out_prompt(task) for task in TASKS]
    kept = {one.task: answer_tree(questions, decoder, one.text, one.answers) for one in held_out}
    minutes = options.minutes * (1 - options.facts_share)
    train_stage(answers, run, options, minutes, lambda: validated(audio['validation'], run.averaged, kept, decoder))


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML with the blocks')
    parser.add_argument('--data', type=Path, required=True, help='folder with train.jsonl.gz and validation.jsonl.gz')
    parser.add_argument('--out', type=Path, required=True, help='folder for log and checkpoint; resumes from it')
    parser.add_argument('--minutes', type=float, default=70, help='wall-clock budget of both stages together')
    parser.add_argument('--facts-share', type=float, default=0.5, help='of the budget for the first stage')
    parser.add_argument('--lists', type=int, default=60, help='lists of options for each label; default 60')
    parser.add_argument(
        '--texts-only', action='store_true', help='read the texts alone and end: beside the first stage it saves time'
    )
    parser.add_argument('--max-steps', type=int, default=10**9, help='of each stage')
    parser.add_argument('--ema-decay', type=float, default=0.99)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--validation-minutes', type=float, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)


if __name__ == '__main__':
    main()
