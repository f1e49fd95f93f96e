r"""Trains the small audio-language model with plain torch on a CPU: no NeMo trainer, no Lightning.

    python examples/prepare_questions.py --captions captions --sounds sounds --speech speech --sentences sentences \
        --out questions
    python examples/train_language_plain.py --config conf/audio_flamingo2_small.yaml --data questions \
        --out runs/audio_flamingo2_small --minutes 94 --facts-share 0.638 --threads 2

It reads the blocks of the same YAML as train.py and the manifests of prepare_questions.py, in two stages. First
tower, transform, and the keys and values of cross-attention learn to tell the facts apart, without any text. Then the
tower is frozen, and the rest learns to answer. What makes it fast: tokens of recordings are computed once, and so are
the hidden states of texts in front of the first block; logits are computed for answers alone. The same command again
resumes the run; export_plain.py packs its averaged weights. The same command with ``--texts-only`` on another core
saves the time that the texts take.
"""

import argparse
import copy
import dataclasses
import hashlib
import importlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from transformers import PreTrainedTokenizerFast

from nemo_audio_restore.checkpoints.packaged_language import (
    PACKAGED,
    load_packaged_language_model,
    load_packaged_tokenizer,
)
from nemo_audio_restore.data.level_pictures import Recording, as_bytes
from nemo_audio_restore.data.listening import Listening
from nemo_audio_restore.data.question_draws import facts_of, read_questions
from nemo_audio_restore.data.question_prompts import Prompt, Prompts, held_out_prompt
from nemo_audio_restore.data.question_text import QuestionFormat, QuestionTokenizer
from nemo_audio_restore.data.question_words import TASKS
from nemo_audio_restore.models.answer_trees import AnswerTree, answer_tree
from nemo_audio_restore.models.language_stages import AnswerStage, FactStage, Listener, validated
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.split_decoder import SplitDecoder, split_decoder

GATE_SPEED = 8.0


def build(block: Mapping[str, Any], default: type | None = None) -> Any:
    """Constructs what a YAML block describes: ``_target_``, or the default."""
    arguments = {key: value for key, value in (block or {}).items() if key != '_target_'}
    if block and '_target_' in block:
        module, name = block['_target_'].rsplit('.', 1)
        default = getattr(importlib.import_module(module), name)
    return default(**arguments)


def fingerprint(*blocks: Any) -> str:
    """A short name of blocks of the config: what was computed for others must not be used."""
    return hashlib.sha256(json.dumps(blocks, sort_keys=True).encode()).hexdigest()[:12]


def listener_of(config: Mapping[str, Any], width: int) -> Listener:
    """What is trained, for a language model of a width."""
    tower = build(config['audio_tower'])
    dim = tower.feature_dim
    return Listener(
        tower=tower,
        transform=AudioTransform(dim=dim, **config['audio_transform']),
        cross_attention=CrossAttentionLayers(dim=width, audio_dim=dim, **config['cross_attention']),
    )


@torch.no_grad()
def read_recordings(
    cuts: Mapping[str, dict], folder: Path, tower: nn.Module, listening: Listening, cache: Path, how: str
) -> dict[str, Recording]:
    """The recordings of a manifest by name; levels are kept in ``cache``, marked with ``how`` they were computed."""
    paths = {name: folder / cut['recording']['sources'][0]['source'] for name, cut in cuts.items()}
    # A corpus that was prepared again has other recordings of the same names.
    keys = {name: f'{name} {path.stat().st_size} {how}' for name, path in paths.items()}
    known: dict[str, np.ndarray] = {}
    if cache.exists():
        with np.load(cache) as kept:
            known = {key: kept[key] for key in set(kept.files) & set(keys.values())}
    missing = [name for name in cuts if keys[name] not in known]
    for name in missing:
        known[keys[name]] = as_bytes(tower.log_mel.decibels(listening.read(paths[name])).numpy())
    if missing:
        partial = cache.with_suffix('.partial.npz')
        np.savez(partial, **known)
        os.replace(partial, cache)
    return {
        name: Recording(known[keys[name]], facts_of(cut), cut['custom'].get('single', False), cut['custom']['source'])
        for name, cut in cuts.items()
    }


def read_trees(
    prompts: Sequence[Prompt], questions: QuestionTokenizer, decoder: SplitDecoder, cache: Path, how: str
) -> list[AnswerTree]:
    """What the language model makes of prompts, before it hears; kept in ``cache``, marked with ``how`` it reads."""
    known: dict[tuple[str, tuple[str, ...]], AnswerTree] = {}
    if cache.exists():
        kept = torch.load(cache, weights_only=True)
        if kept['how'] == how:
            known = {text: AnswerTree(**tree) for text, tree in zip(kept['texts'], kept['trees'], strict=True)}
    texts = [(prompt.text, prompt.answers) for prompt in prompts]
    if set(texts) <= set(known):
        return [known[text] for text in texts]
    trees = [known[text] if text in known else answer_tree(questions, decoder, *text) for text in texts]
    partial = cache.with_suffix('.partial')
    torch.save({'how': how, 'texts': texts, 'trees': [dataclasses.asdict(tree) for tree in trees]}, partial)
    os.replace(partial, cache)
    return trees


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
    run = Run(listener_of(config, width).to(memory_format=torch.channels_last), options.out)
    audio, captions, tasks = {}, {}, set()
    for split in ('train', 'validation'):
        asked, cuts = read_questions(options.data / f'{split}.jsonl.gz')
        captions[split] = {one.recording: one.label for one in asked if one.task == 'caption'}
        tasks |= {task for cut in cuts.values() for task in facts_of(cut)}
        if not options.texts_only:
            cache, how = options.out / f'{split}.npz', fingerprint(config['audio_tower'], config['listening'])
            audio[split] = read_recordings(cuts, options.data, run.listener.audio_tower, listening, cache, how)
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
    prompts = Prompts(sorted(set(captions['train'].values())), tasks=tasks, lists=options.lists)
    how = fingerprint(config['cross_attention']['layers'], config['question'])
    trees = read_trees(prompts.all, questions, decoder, options.out / 'texts.pt', how)
    if options.texts_only:
        return
    for listener in (run.listener, run.averaged):
        listener.cross_attention.attach(model)
    answers = AnswerStage(run.listener, audio['train'], captions['train'], prompts, trees, decoder)
    held_out = [held_out_prompt(task) for task in TASKS if task in tasks]
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
    if not 0 < options.facts_share < 1:
        parser.error(f'--facts-share must lie between 0 and 1, both stages need time; got {options.facts_share:g}')
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)


if __name__ == '__main__':
    main()
