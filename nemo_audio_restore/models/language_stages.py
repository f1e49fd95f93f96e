"""How the small audio-language model learns: first facts, then answers; networks and losses of both stages.

First tower, transform, and the keys and values of cross-attention learn to tell facts apart, without any text. Then
the tower is frozen, and the rest learns to answer. Everything frozen is computed once: tokens of recordings, and
hidden states of texts in front of the first block that hears.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.data.level_pictures import Recording, Scenes, decibels, roughened
from nemo_audio_restore.data.question_draws import Draws, fact_labels
from nemo_audio_restore.data.question_prompts import Prompts, fact_items
from nemo_audio_restore.data.question_text import IGNORED
from nemo_audio_restore.data.question_words import labels_of
from nemo_audio_restore.models.answer_trees import AnswerTree
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.fact_heads import FactHeads
from nemo_audio_restore.networks.frame_tower import FrameTower
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.split_decoder import SplitDecoder

# How often a task is drawn when facts are learned, and when answers are.
FACT_SHARES = {'instrument': 2.2, 'drum': 1.5, 'sound': 6.0, 'count': 1.8, 'order': 3.2, 'tempo': 1.0, 'language': 1.0}
SHARES = {'instrument': 2.5, 'drum': 2.0, 'sound': 5.0, 'count': 2.5, 'order': 3.5, 'language': 1.0}
OTHER_SHARE, FACT_WEIGHT = 0.7, 0.3
SCENE_SHARE, ENCODED_SCENES, ROUGH_VERSIONS = 0.6, 1500, 2
FORM_SHARES = {'words': 0.4, 'yes or no': 0.1, 'options': 0.5}
COMMON_TOKENS, ALL_TOKENS_EVERY = 4096, 8
FACTS = ('instrument', 'drum', 'sound', 'count', 'order', 'second', 'tempo', 'key', 'language', 'kind')


class Listener(nn.Module):
    """The trained parts of the model, and the heads that tell facts from its keys and values.

    Args:
        tower: of the audio.
        transform: of its tokens.
        cross_attention: blocks of the language model.
    """

    def __init__(self, tower: FrameTower, transform: AudioTransform, cross_attention: CrossAttentionLayers):
        super().__init__()
        self.audio_tower, self.audio_transform, self.cross_attention = tower, transform, cross_attention
        self.heads = FactHeads(self.cross_attention, {fact: len(fact_labels(fact)) for fact in FACTS})

    def told(self, pictures: Tensor) -> dict[str, Tensor]:
        """What the heads say of windows.

        Args:
            pictures: (B, F, N) relative levels, see :meth:`FrameTower.pictures`.

        Returns:
            Fact to logits (blocks, B, labels).
        """
        tokens = self.audio_tower.encode_pictures(pictures)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        return self.heads(self.cross_attention, self.audio_transform(tokens, mask), mask)


def fact_loss(told: Mapping[str, Tensor], facts: Sequence[Mapping[str, str]]) -> Tensor:
    """Surprise at what is known of a batch.

    Args:
        told: fact to logits (blocks, B, labels).
        facts: (B,) what is known; one fact at least.

    Returns:
        () the sum over facts, per recording and block.
    """
    losses = []
    for fact, logits in told.items():
        rows = [index for index, own in enumerate(facts) if fact in own]
        if rows:
            labels = torch.tensor([fact_labels(fact).index(facts[index][fact]) for index in rows])
            known = logits[:, rows].flatten(0, 1)
            repeated = labels.repeat(len(logits))
            losses.append(functional.cross_entropy(known, repeated, reduction='sum', label_smoothing=0.05))
    return torch.stack(losses).sum() / (len(facts) * len(logits))


class FactStage:
    """The first stage: tower, transform, keys and values learn facts, told by the heads.

    Args:
        listener: what learns.
        audio: recordings of the training by name.
    """

    name, batch_size = 'facts', 48

    def __init__(self, listener: Listener, audio: Mapping[str, Recording]):
        self.listener = listener
        self.draws = Draws(_known_facts(audio.values()), FACT_SHARES, other_share=OTHER_SHARE)
        self.scenes = scenes_of(audio)
        self.rates = {'audio_tower': 2e-3, 'audio_transform': 2e-3, 'cross_attention': 2e-3, 'heads': 2e-3}

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch.

        Args:
            rng: of the draws.

        Returns:
            () see :func:`fact_loss`.
        """
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
        """Accuracy on recordings that were not trained.

        Args:
            held: recordings by name.
            averaged: what is measured.

        Returns:
            Fact to share in [0, 1].
        """
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


def _known_facts(recordings: Iterable[Any]) -> list[tuple[str, str, str, Any]]:
    """Facts, labels, sources and recordings; scenes are made of several sources, and count as one."""
    return [
        (fact, label, '' if fact in ('count', 'order') else one.source, one)
        for one in recordings
        for fact, label in fact_items(one.facts)
    ]


def scenes_of(audio: Mapping[str, Recording]) -> Scenes | None:
    """Scenes to count in and to order.

    Args:
        audio: recordings by name.

    Returns:
        Scenes, or None where there are too few single sounds to make them of.
    """
    try:
        return Scenes(list(audio.values()))
    except ValueError:
        return None


@dataclass(frozen=True)
class Heard:
    """Tokens (M, D) of a recording from the frozen tower, in half precision, what is true of it, and its source."""

    tokens: Tensor
    facts: Mapping[str, str]
    source: str


class AnswerStage:
    """The second stage: transform and cross-attention learn to answer, with everything else frozen.

    Args:
        listener: what learns; its tower is as the first stage left it.
        audio: recordings of the training by name.
        captions: descriptions of some of them.
        prompts: the questions.
        trees: of every prompt.
        decoder: the language model in two parts, with the blocks attached.
    """

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
        items = _known_facts(heard.values())
        # Descriptions count as one label.
        items += [
            ('caption', '', heard[name].source, replace(heard[name], facts={**heard[name].facts, 'caption': text}))
            for name, text in captions.items()
        ]
        for _ in range(ROUGH_VERSIONS):
            items += _known_facts(encoded(listener, audio, rng).values())
        scenes = scenes_of(audio)
        if scenes is not None:
            made = [make(rng) for make in (scenes.counted, scenes.ordered) for _ in range(ENCODED_SCENES)]
            items += _known_facts(encoded(listener, dict(enumerate(made)), rng, whole=True).values())
        self.draws = Draws(items, SHARES, other_share=OTHER_SHARE)
        self.common = common_tokens(trees, decoder.head.weight.shape[0])
        self.steps = 0
        # Transform, keys and values know the facts: large steps while the rest knows nothing would make them forget.
        self.rates = {'audio_transform': 2e-4, 'key_value': 2e-4, 'heads': 2e-4, 'cross_attention': 2e-3}

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch.

        Args:
            rng: of the draws.

        Returns:
            () surprise at the tokens of answers, and in part at the facts.
        """
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
        told = self.listener.heads(self.listener.cross_attention, heard, heard_mask)
        return FACT_WEIGHT * fact_loss(told, facts) + self._surprise(states, labels[wanted])

    def _surprise(self, states: Tensor, labels: Tensor) -> Tensor:
        """Among all tokens now and then, else among those that answers are made of and the most common ones."""
        if self.steps % ALL_TOKENS_EVERY == 0:
            return functional.cross_entropy(self.decoder.head(states), labels)
        logits = states @ self.decoder.head.weight[self.common].T
        return functional.cross_entropy(logits, torch.searchsorted(self.common, labels))


def common_tokens(trees: Sequence[AnswerTree], size: int) -> Tensor:
    """Tokens among which the right one is sought in most steps.

    Args:
        trees: of every prompt.
        size: of the vocabulary.

    Returns:
        (C,) sorted numbers: tokens of all answers, and those that the vocabulary begins with.
    """
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
    """What the frozen tower hears.

    Args:
        listener: its tower is put into evaluation mode.
        audio: recordings by name.
        rng: roughens the recordings; None leaves them as they are.
        whole: of no recording anything may be lost; else of none in which something is counted or ordered.

    Returns:
        Name to tokens of all windows.
    """
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
            found[name] = Heard(own.flatten(0, 1).clone(), audio[name].facts, audio[name].source)
    return found


def padded_tokens(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens of several recordings as one batch.

    Args:
        rows: B of (M, D), in any precision.

    Returns:
        (B, M, D) in single precision, and the mask (B, M), False for padding.
    """
    lengths = torch.tensor([len(row) for row in rows])
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True).float()
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


@torch.no_grad()
def validated(
    held: Mapping[str, Recording], averaged: Listener, trees: Mapping[str, AnswerTree], decoder: SplitDecoder
) -> dict[str, float]:
    """How often the true label is the likeliest answer to the question that is never trained.

    Args:
        held: recordings by name; sixty of a task are asked about.
        averaged: what is measured.
        trees: the question of every task, with all labels as answers.
        decoder: the language model in two parts, with the blocks of ``averaged`` attached.

    Returns:
        Task to share in [0, 1], and for comparison how often the label of another recording is.
    """
    averaged.eval()
    heard = list(encoded(averaged, held).values())
    right: dict[str, list[bool]] = {}
    for task, tree in trees.items():
        rng = np.random.default_rng(0)
        known = [one for one in heard if task in one.facts]
        own = [known[index] for index in rng.permutation(len(known))[:60]]
        others = rng.permutation(len(own))
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
                other = own[others[first + number]]
                right.setdefault(f'{task} shuffled', []).append(said == other.facts[task])
    return {task: round(float(np.mean(values)), 3) for task, values in sorted(right.items())}
