r"""Trains the small text-audio model with plain torch on one CPU core: no NeMo trainer, no Lightning.

    python examples/prepare_captions.py --out captions
    python examples/train_text_audio_plain.py --config conf/text_audio_small.yaml --data captions \\
        --out runs/text_audio_small --minutes 18 --nemo text_audio_small.nemo

It reads the towers from the same YAML as train.py and the same cut manifests. What makes it fast: spectrograms and
sentences are computed once and stay in memory. What makes it general: a recording is described now by its caption, now
by a random choice of its tags, now by its class alone, and a text that is also true of other recordings of the batch
does not push them away. The same command again resumes the run; --nemo packs the averaged weights at its end.
"""

import argparse
import copy
import gzip
import importlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.evaluation.retrieval import text_audio_scores, zero_shot_accuracy
from nemo_audio_restore.losses.contrastive import ContrastiveLoss

INFERENCE_BLOCKS = ('target', 'audio_tower', 'text_tower', 'loss', 'card')
# Not in prompts made of tags: hard to hear to the digit. The captions say them.
NOT_HEARD = ('caption', 'BPM', 'Key', 'Count')
FLOOR_DB, STEP_DB = -140.0, 0.75  # levels are kept as bytes


@dataclass(frozen=True)
class Text:
    """A text and what it says, as pairs of type and value."""

    words: str
    facts: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Clip:
    """One recording.

    Attributes:
        levels: (F, N) of the whole recording in steps of STEP_DB above FLOOR_DB.
        caption: in natural language.
        name: of its class.
        task: instrument, groove, effect or music.
        facts: all that is known of it.
    """

    levels: np.ndarray
    caption: str
    name: str
    task: str
    facts: frozenset[tuple[str, str]]


def facts_of(cut: dict) -> frozenset[tuple[str, str]]:
    """What the tags of a cut say, one pair for each value."""
    custom = cut.get('custom') or {}
    pairs = {('class', str(custom['class'])), ('caption', cut['supervisions'][0]['text'])}
    for kind, value in (custom.get('tags') or {}).items():
        pairs |= {(kind, one) for one in str(value).split(', ')}
    return frozenset(pairs)


def load_clips(manifest: Path, tower: nn.Module, cache: Path) -> list[Clip]:
    """Every recording of a cut manifest as a spectrogram; the bytes are kept in ``cache``."""
    with gzip.open(manifest, 'rt') as lines:
        cuts = [json.loads(line) for line in lines]
    known: dict[str, np.ndarray] = {}
    if cache.exists():
        with np.load(cache) as kept:
            known = {name: kept[name] for name in kept.files}
    missing = [cut for cut in cuts if cut['id'] not in known]
    for cut in missing:
        known[cut['id']] = levels_of(read_mono(cut, manifest.parent, tower.sample_rate), tower.log_mel)
    if missing:
        partial = cache.with_suffix('.partial.npz')
        np.savez(partial, **known)
        os.replace(partial, cache)
    return [
        Clip(
            levels=known[cut['id']],
            caption=cut['supervisions'][0]['text'],
            name=str(cut['custom']['class']),
            task=str(cut['custom']['task']),
            facts=facts_of(cut),
        )
        for cut in cuts
    ]


def read_mono(cut: dict, folder: Path, sample_rate: int) -> np.ndarray:
    """(T,) samples of a cut: the mean of its channels."""
    path = folder / cut['recording']['sources'][0]['source']
    rate = cut['recording']['sampling_rate']
    start, frames = round(cut['start'] * rate), round(cut['duration'] * rate)
    audio, rate = soundfile.read(path, start=start, frames=frames, dtype='float32', always_2d=True)
    mono = audio.mean(axis=1)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate)


@torch.no_grad()
def levels_of(mono: np.ndarray, log_mel: nn.Module) -> np.ndarray:
    """(F, N) bytes: levels of the bands."""
    hop = log_mel.hop_length
    padded = functional.pad(torch.from_numpy(mono), (0, -len(mono) % hop))
    decibels = log_mel.decibels(padded[None])[0]
    return ((decibels - FLOOR_DB) / STEP_DB).round().clamp(0, 255).to(torch.uint8).numpy()


def window(levels: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    """(F, frames) bytes: a random place of a long recording, a short one repeated as often as it fits."""
    length = levels.shape[1]
    if length <= frames:
        repeated = np.tile(levels, frames // length)
        return np.pad(repeated, ((0, 0), (0, frames - repeated.shape[1])))
    begin = rng.integers(0, length - frames + 1)
    return levels[:, begin : begin + frames]


def pictures(clips: Sequence[Clip], frames: int, rng: np.random.Generator) -> Tensor:
    """Decibels (B, F, N) of one window of each recording."""
    stacked = np.stack([window(clip.levels, frames, rng) for clip in clips])
    return torch.from_numpy(stacked).float() * STEP_DB + FLOOR_DB


def masked(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Features with one stripe of bands and one of frames silenced in each item.

    Source: SpecAugment (arXiv 1904.08779), section 2.
    """
    features = features.clone()
    _, bands, frames = features.shape
    for item in features:
        height, width = rng.integers(0, bands // 8 + 1), rng.integers(0, frames // 6 + 1)
        low, first = rng.integers(0, bands - height + 1), rng.integers(0, frames - width + 1)
        item[low : low + height] = -1
        item[:, first : first + width] = -1
    return features


def prepared_texts(clip: Clip, count: int, rng: np.random.Generator) -> list[Text]:
    """Random choices of the tags of a recording as prompts, half of them with the types.

    Source: Stable Audio (arXiv 2402.04825), section 4.1 (prompt preparation).
    """
    known = sorted(fact for fact in clip.facts if fact[0] not in NOT_HEARD)
    texts = []
    for _ in range(count):
        chosen = [known[i] for i in rng.permutation(len(known))[: rng.integers(1, len(known) + 1)]]
        if rng.random() < 0.5:
            words = ', '.join(value for _, value in chosen)
        else:
            values: dict[str, list[str]] = {}
            for kind, value in chosen:
                values.setdefault(kind, []).append(value)
            words = '|'.join(f'{kind.capitalize()}: {", ".join(those)}' for kind, those in values.items())
        texts.append(Text(words, frozenset(chosen)))
    return texts


class Texts:
    """What is said about each recording, with the sentence vectors of all of it."""

    def __init__(self, clips: Sequence[Clip], tower: nn.Module, cache: Path, *, variants: int, templates: list[str]):
        rng = np.random.default_rng(7)
        self.captions = [Text(clip.caption, frozenset({('caption', clip.caption)})) for clip in clips]
        self.prepared = [prepared_texts(clip, variants, rng) for clip in clips]
        self.labels = [
            [Text(template.format(clip.name), frozenset({('class', clip.name)})) for template in templates]
            for clip in clips
        ]
        lists = [self.captions, *self.prepared, *self.labels]
        words = sorted({text.words for texts in lists for text in texts})
        self.vectors = sentence_vectors(words, tower, cache)

    def draw(self, index: int, rng: np.random.Generator) -> Text:
        """One of the texts of a recording: half captions, a quarter tags, a quarter classes."""
        draw = rng.random()
        if draw < 0.5:
            return self.captions[index]
        choices = self.prepared[index] if draw < 0.75 and self.prepared[index] else self.labels[index]
        return choices[rng.integers(len(choices))]


def sentence_vectors(words: Sequence[str], tower: nn.Module, cache: Path) -> dict[str, np.ndarray]:
    """(D,) of each text; what was computed before is read from ``cache``."""
    known: dict[str, np.ndarray] = {}
    if cache.exists():
        with np.load(cache) as kept:
            known = dict(zip(kept['words'].tolist(), kept['vectors'].astype(np.float32), strict=True))
    missing = sorted(set(words) - set(known), key=len)  # of one length, so that little is padded
    for first in range(0, len(missing), 64):
        part = missing[first : first + 64]
        known |= dict(zip(part, tower.sentences(part).numpy(), strict=True))
    if missing:
        partial = cache.with_suffix('.partial.npz')
        np.savez(partial, words=np.array(list(known)), vectors=np.stack(list(known.values())).astype(np.float16))
        os.replace(partial, cache)
    return known


def alike(texts: Sequence[Text], clips: Sequence[Clip]) -> Tensor:
    """(B, B) bool: whether text j is also true of recording i, as far as is known."""
    return torch.tensor([[text.facts <= clip.facts for text in texts] for clip in clips])


class Model(nn.Module):
    """Both towers and the loss of a YAML's model block."""

    def __init__(self, config: dict):
        super().__init__()
        self.audio_tower = build(config['audio_tower'])
        self.text_tower = build(config['text_tower'])
        self.loss = ContrastiveLoss(**config.get('loss', {}))

    def embed(self, decibels: Tensor, sentences: Tensor, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        """Embeddings (B, E) of unit length of windows (B, F, N) and sentences (B, D); ``rng`` masks them."""
        features = self.audio_tower.log_mel.relative(decibels)
        features = features if rng is None else masked(features, rng)
        audio = self.audio_tower.embed_features(features)
        text = self.text_tower.embed_sentences(sentences)
        return functional.normalize(audio, dim=-1), functional.normalize(text, dim=-1)


def build(block: dict) -> nn.Module:
    """Constructs what a YAML block names in ``_target_`` from the block's other keys."""
    module, name = block['_target_'].rsplit('.', 1)
    return getattr(importlib.import_module(module), name)(**{k: v for k, v in block.items() if k != '_target_'})


@torch.no_grad()
def validate(model: Model, clips: Sequence[Clip], texts: Texts, frames: int) -> dict[str, float]:
    """Retrieval over all recordings, and zero-shot accuracy of each task."""
    model.eval()
    audio, text = [], []
    for first in range(0, len(clips), 64):
        part = clips[first : first + 64]
        sentences = torch.from_numpy(np.stack([texts.vectors[clip.caption] for clip in part]))
        heard, read = model.embed(pictures(part, frames, np.random.default_rng(first)), sentences, None)
        audio.append(heard)
        text.append(read)
    audio, text = torch.cat(audio), torch.cat(text)
    found = text_audio_scores(audio, text, [clip.caption for clip in clips])
    scores = {name: found[f'text_to_audio_{name}'] for name in ('r@1', 'r@10', 'map@10')}
    for task in sorted({clip.task for clip in clips}):
        rows = [i for i, clip in enumerate(clips) if clip.task == task]
        names = sorted({clips[i].name for i in rows})
        if len(names) < 2:
            continue
        labels = torch.from_numpy(np.stack([texts.vectors[name] for name in names]))
        embedded = functional.normalize(model.text_tower.embed_sentences(labels), dim=-1)
        own = [clips[i].name for i in rows]
        scores[f'{task} of {len(names)}'] = zero_shot_accuracy(audio[rows] @ embedded.T, names, own)
    model.train()
    return {name: round(value, 4) for name, value in scores.items()}


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first fiftieth, then down to 1 % along a cosine."""
    return min(1.0, max(progress / 0.02, 0.02)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def save(path: Path, state: dict) -> None:
    """Writes a checkpoint under its final name only when it is complete."""
    partial = path.with_suffix('.partial')
    torch.save(state, partial)
    os.replace(partial, path)


def train(options: argparse.Namespace) -> None:
    """The loop."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = yaml.safe_load(options.config.read_text())['model']
    model = Model(config).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).requires_grad_(False)
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{'params': decayed, 'weight_decay': 0.05}, {'params': others, 'weight_decay': 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=True)
    step, seconds_before, last = 0, 0.0, options.out / 'last.pt'
    if last.exists():
        state = torch.load(last, weights_only=True)
        model.load_state_dict(state['model'])
        averaged.load_state_dict(state['averaged'])
        optimizer.load_state_dict(state['optimizer'])
        step, seconds_before = state['step'], state['seconds']
    tower = model.audio_tower
    frames = tower.window_samples // tower.log_mel.hop_length
    sets = {
        name: load_clips(options.data / f'{name}.jsonl.gz', tower, options.out / f'{name}.npz')
        for name in ('train', 'validation')
    }
    texts = {
        name: Texts(
            clips,
            model.text_tower.eval(),
            options.out / f'sentences_{name}.npz',
            variants=options.variants if name == 'train' else 0,
            templates=options.templates if name == 'train' else ['{}'],
        )
        for name, clips in sets.items()
    }
    model.train()
    clips = sets['train']
    # Every task is drawn with the square root of its share, so that the many do not drown the few.
    shares = {task: sum(clip.task == task for clip in clips) for task in {clip.task for clip in clips}}
    chances = np.array([shares[clip.task] ** -0.5 for clip in clips])
    chances /= chances.sum()
    print(f'{len(clips)} recordings: {shares}; {len(texts["train"].vectors)} texts', flush=True)
    rng = np.random.default_rng([1, step])
    began = validated = time.monotonic()
    losses = []
    with (options.out / 'log.jsonl').open('a') as log:
        while True:
            seconds = seconds_before + time.monotonic() - began
            progress = max(seconds / (60 * options.minutes), step / options.max_steps)
            if time.monotonic() - validated > 60 * options.validation_minutes or progress >= 1:
                state = {'model': model.state_dict(), 'averaged': averaged.state_dict()}
                save(last, state | {'optimizer': optimizer.state_dict(), 'step': step, 'seconds': seconds})
                row = {
                    'step': step,
                    'minutes': round(seconds / 60, 1),
                    'loss': round(float(np.mean(losses or [0])), 4),
                }
                found = validate(averaged, sets['validation'], texts['validation'], frames)
                print(json.dumps(row | {'scale': round(float(model.loss.scale), 2)} | found), file=log, flush=True)
                validated, losses = time.monotonic(), []
            if progress >= 1:
                return
            for group in optimizer.param_groups:
                group['lr'] = options.lr * learning_rate_factor(progress)
            chosen = rng.choice(len(clips), options.batch_size, replace=False, p=chances)
            batch = [clips[index] for index in chosen]
            said = [texts['train'].draw(index, rng) for index in chosen]
            sentences = torch.from_numpy(np.stack([texts['train'].vectors[text.words] for text in said]))
            heard, read = model.embed(pictures(batch, frames, rng), sentences, rng)
            loss = model.loss(heard, read, alike=alike(said, batch))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            losses.append(loss.item())
            with torch.no_grad():
                decay = min(options.ema_decay, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def export(options: argparse.Namespace) -> None:
    """Packs the averaged weights into a .nemo file for inference, in half precision."""
    from omegaconf import OmegaConf

    from nemo_audio_restore.models.text_audio import TextAudioModel

    config = OmegaConf.load(options.config).model
    model = TextAudioModel(OmegaConf.masked_copy(config, [name for name in INFERENCE_BLOCKS if name in config]))
    model.load_state_dict(torch.load(options.out / 'last.pt', weights_only=True)['averaged'])
    model.save_to(str(options.nemo), half_precision=True)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML with the towers')
    parser.add_argument('--data', type=Path, required=True, help='folder with train.jsonl.gz and validation.jsonl.gz')
    parser.add_argument('--out', type=Path, required=True, help='folder for log and checkpoint; resumes from it')
    parser.add_argument('--minutes', type=float, default=18, help='wall-clock budget, resumed runs included')
    parser.add_argument('--max-steps', type=int, default=10**9, help='of resumed runs too')
    parser.add_argument('--batch-size', type=int, default=96)
    parser.add_argument('--lr', type=float, default=1.5e-3)
    parser.add_argument('--variants', type=int, default=2, help='prompts made of the tags of each recording')
    parser.add_argument('--templates', nargs='+', default=['{}', 'the sound of {}'], help='texts of a class alone')
    parser.add_argument('--ema-decay', type=float, default=0.998)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--validation-minutes', type=float, default=3)
    parser.add_argument('--nemo', type=Path, help='also write the averaged weights to this .nemo file')
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)
    if options.nemo is not None:
        export(options)


if __name__ == '__main__':
    main()
