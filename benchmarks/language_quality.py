r"""Measures what the small audio-language model hears: accuracy of every task on held-out recordings, with baselines.

    python examples/prepare_questions.py --captions captions --sounds sounds --speech speech --sentences sentences \
        --out questions
    python benchmarks/language_quality.py --data questions --model audio_flamingo2_small --json quality.json

Questions are in words that were never trained. "Options" is the choice among up to four, every rotation of the list
averaged as ``ask`` does it; "in words" means that every token of the right answer is the likeliest, so that greedy
writing gives it. Beside both stand: the same model with the recordings of other items of the task ("text only": four
others among options, one in words), the most frequent label, and a logistic regression on the tokens of the same
tower, trained on the same recordings.
Intervals are 95 %, from resampling items.
"""

import argparse
import gzip
import json
import platform
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.data.question_text import with_options
from nemo_audio_restore.data.question_words import TASKS, distractors
from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.models.answer_trees import AnswerTree, answer_tree
from nemo_audio_restore.models.audio_language import AudioLanguageModel
from nemo_audio_restore.networks.split_decoder import split_decoder

# Tasks that must reach something are measured on more items.
TARGETS = ('instrument', 'sound', 'count', 'order')


@dataclass(frozen=True)
class Item:
    """A fact of a recording, to be asked about.

    Attributes:
        recording: its name.
        path: its file.
        task: of ``TASKS``.
        label: what is true.
        present: other labels in the recording.
        part: which held-out material it belongs to.
        source: package, kit, or soundfont.
    """

    recording: str
    path: Path
    task: str
    label: str
    present: tuple[str, ...]
    part: str
    source: str


PARTS = {
    ('instrument', False): 'other soundfont',
    ('drum', False): 'other kits',
    ('sound', False): 'other packages',
    ('sound', True): 'other sounds of the trained packages',
    ('count', False): 'other kits',
    ('order', False): 'other soundfont, kits, packages',
    ('order', True): 'other soundfont, kits, sounds',
    ('tempo', False): 'other soundfont',
    ('key', False): 'other soundfont',
    ('language', False): 'other voices and package',
    ('language', True): 'trained voices, other words',
    ('kind', False): 'other packages',
    ('kind', True): 'trained packages',
}


def read_items(manifest: Path) -> list[Item]:
    """One item for every fact of every recording of a manifest."""
    items = {}
    with gzip.open(manifest, 'rt', encoding='utf-8') as lines:
        for line in lines:
            cut = json.loads(line)
            custom, name = cut['custom'], cut['recording']['id']
            if custom['task'] in TASKS:
                items[name, custom['task']] = Item(
                    recording=name,
                    path=manifest.parent / cut['recording']['sources'][0]['source'],
                    task=custom['task'],
                    label=custom['label'],
                    present=tuple(custom['present']),
                    part=PARTS[custom['task'], custom['near']],
                    source=custom['source'],
                )
    return list(items.values())


def balanced(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items of a task and part, the labels in turn, and of each label the sources in turn."""
    chosen = []
    for key in dict.fromkeys((item.task, item.part) for item in items):
        own = [item for item in items if (item.task, item.part) == key]
        random.Random(str(key)).shuffle(own)
        own = in_turn(own, lambda item: (item.label, item.source))
        chosen += in_turn(own, lambda item: item.label)[:most]
    return chosen


def in_turn(items: Sequence[Item], group: Callable[[Item], Hashable]) -> list[Item]:
    """The first of every group, then the second of every group, and so on."""
    ranks: Counter[Hashable] = Counter()
    ranked = []
    for item in items:
        ranked.append((ranks[group(item)], item))
        ranks[group(item)] += 1
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])]


class Scorer:
    """Likelihoods of answers; what text alone determines is computed once for every text."""

    def __init__(self, model: AudioLanguageModel):
        self.model = model.eval()
        first = min(map(int, model.cross_attention.blocks))
        self.decoder = split_decoder(model.language_model, first)
        self.known: dict[tuple[str, tuple[str, ...]], AnswerTree] = {}
        self.heard: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def tokens(self, item: Item) -> tuple[Tensor, Tensor]:
        """Features (1, W, N, D) and mask of a recording."""
        if item.recording not in self.heard:
            windows = self.model.listening.read(item.path)[None]
            mask = torch.ones(windows.shape[:2], dtype=torch.bool)
            self.heard[item.recording] = self.model.encode_audio(windows, mask).half(), mask
        return self.heard[item.recording]

    def tree(self, question: str, answers: tuple[str, ...]) -> AnswerTree:
        """A question with answers, computed when it first comes."""
        if (question, answers) not in self.known:
            self.known[question, answers] = answer_tree(self.model.questions, self.decoder, question, answers)
        return self.known[question, answers]

    @torch.no_grad()
    def answers(self, item: Item, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[tuple[float, bool]]]:
        """Log-likelihood of every answer to every question about a recording, and whether it would be written."""
        trees = [self.tree(question, tuple(answers)) for question, answers in asked]
        longest = max(len(tree.places) for tree in trees)
        hidden = torch.zeros(len(trees), longest, trees[0].hidden.shape[1])
        places = torch.zeros(len(trees), longest, dtype=torch.long)
        allowed = torch.eye(longest, dtype=torch.bool).repeat(len(trees), 1, 1, 1)  # padding attends to itself
        wanted = torch.zeros(len(trees), longest, dtype=torch.bool)
        for index, tree in enumerate(trees):
            size = len(tree.places)
            hidden[index, :size], places[index, :size] = tree.hidden.float(), tree.places
            allowed[index, 0, :size, :size] = tree.allowed
            wanted[index, [place for answer in range(len(tree.branches)) for place in tree.before(answer)]] = True
        features, window_mask = self.tokens(item)
        with self.model.hearing(features.float(), window_mask):
            likelihoods = self.decoder.logits(hidden, allowed, wanted, places).log_softmax(dim=1)
        numbers = torch.full(wanted.shape, -1)
        numbers[wanted] = torch.arange(len(likelihoods))
        best = likelihoods.argmax(dim=1)
        results = []
        for index, tree in enumerate(trees):
            own = [(numbers[index, tree.before(i)], torch.tensor(said)) for i, said in enumerate(tree.branches)]
            results.append([(float(likelihoods[at, to].sum()), bool((best[at] == to).all())) for at, to in own])
        return results

    def ask(
        self, item: Item, question: str, options: Sequence[str], others: Sequence[tuple[str, Sequence[str]]]
    ) -> tuple[str, list[list[tuple[float, bool]]]]:
        """The likeliest option, scored as the model's ``ask`` does it; and other answers."""
        count = len(options)
        orders = [[(start + place) % count for place in range(count)] for start in range(count)]
        answer, unlisted = self.model.question_format.option_answer, self.model.question_format.unlisted_weight
        asked = []
        for order in orders:
            listed = [options[index] for index in order]
            asked.append((with_options(question, listed), [answer(option, at) for at, option in enumerate(listed)]))
        orders.append(list(range(count)))
        asked.append((question, options))
        weights = [(1 - unlisted) / count] * count + [unlisted]
        results = self.answers(item, [*asked, *others])
        sums = np.zeros(count)
        for order, weight, likelihoods in zip(orders, weights, results, strict=False):
            chances = torch.tensor([likelihood for likelihood, _ in likelihoods]).double().softmax(dim=0)
            sums[order] += weight * chances.numpy()
        return options[int(sums.argmax())], results[len(orders) :]


@dataclass(frozen=True)
class Outcome:
    """What became of an item: right or wrong in every way of asking; a share where several recordings were heard."""

    item: Item
    options: bool
    words: bool
    yes_no: bool
    options_shuffled: float
    words_shuffled: bool
    yes_no_shuffled: bool
    probe_options: bool = False
    probe_words: bool = False


def options_of(item: Item) -> list[str]:
    """Right and wrong answers; the wrong ones depend on the label alone, and for two sounds are the other sound."""
    generator = random.Random(f'{item.task}/{item.label}')
    return sorted([item.label, *distractors(item.task, item.label, present=item.present, generator=generator)])


def measured(scorer: Scorer, items: Sequence[Item], num_others: int) -> list[Outcome]:
    """Asks about every item, with its recording and with those of other items of its task and part."""
    outcomes = []
    for key in dict.fromkeys((item.task, item.part) for item in items):
        own = [item for item in items if (item.task, item.part) == key]
        mixed = random.Random(f'shuffle/{key}').sample(own, len(own))
        for place, item in enumerate(mixed):
            others = [mixed[(place + number) % len(own)] for number in range(1, num_others + 1)]
            results = []
            task = TASKS[item.task]
            options = options_of(item)
            generator = random.Random(f'claim/{item.recording}/{item.task}')
            true = generator.random() < 0.5
            claimed = item.label if true else next(option for option in options if option != item.label)
            asked = [(task.questions[-1], (item.label,)), (task.claims[-1].format(claimed), ('yes', 'no'))]
            for source in (item, others[0]):
                chosen, ((words,), (yes, no)) = scorer.ask(source, task.questions[-1], options, asked)
                results += [chosen == item.label, words[1], (yes[0] > no[0]) == true]
            outcome = Outcome(item, *results)
            # The choice decides about what the model must reach: chance is averaged away.
            chosen = [scorer.ask(other, task.questions[-1], options, [])[0] for other in others[1:]]
            shuffled = np.mean([outcome.options_shuffled, *(one == item.label for one in chosen)])
            outcomes.append(replace(outcome, options_shuffled=float(shuffled)))
        right = np.mean([outcome.options for outcome in outcomes if outcome.item in own])
        print(f'{key[0]}, {key[1]}: {len(own)} items, {right:.3f}', flush=True)
    return outcomes


def pooled(features: Tensor) -> np.ndarray:
    """Mean and maximum of all tokens, and the means of both halves of the first window: (4 D,)."""
    tokens = features[0].flatten(0, 1).float()
    first = features[0, 0].float()
    half = len(first) // 2
    parts = [tokens.mean(dim=0), tokens.amax(dim=0), first[:half].mean(dim=0), first[half:].mean(dim=0)]
    return torch.cat(parts).numpy()


def probed(scorer: Scorer, trained: Sequence[Item], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Adds what logistic regressions on the tower's tokens would have said."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for task in dict.fromkeys(outcome.item.task for outcome in outcomes):
        own = balanced([item for item in trained if item.task == task], 1200)
        inputs = np.stack([pooled(scorer.tokens(item)[0]) for item in own])
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, class_weight='balanced'))
        probe.fit(inputs, [item.label for item in own])
        classes = list(probe.classes_)
        for outcome in (outcome for outcome in outcomes if outcome.item.task == task):
            scores = probe.predict_proba(pooled(scorer.tokens(outcome.item)[0])[None])[0]
            likely = dict(zip(classes, scores, strict=True))
            best = max(options_of(outcome.item), key=lambda option: likely.get(option, 0.0))
            right = outcome.item.label
            found.append(
                replace(outcome, probe_options=best == right, probe_words=max(likely, key=likely.get) == right)
            )
    return found


def table(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The rows of the table: percentages."""
    rows = []
    parts: dict[str, list[str]] = {}
    for outcome in outcomes:
        known = parts.setdefault(outcome.item.task, [])
        known += [outcome.item.part] if outcome.item.part not in known else []
    groups = [(task, (part,)) for task, own in parts.items() for part in own]
    groups += [(task, tuple(own)) for task, own in parts.items() if len(own) > 1 and task in TARGETS]
    for task, included in groups:
        part = included[0] if len(included) == 1 else 'both together'
        rows.append(row(part, [one for one in outcomes if one.item.task == task and one.item.part in included]))
    return rows


def packages(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The rows of every package that sounds were never trained of."""
    far = [one for one in outcomes if one.item.task == 'sound' and one.item.part == PARTS['sound', False]]
    sources = sorted({one.item.source for one in far})
    return [row(source, [one for one in far if one.item.source == source]) for source in sources]


def row(held_out: str, own: Sequence[Outcome]) -> dict[str, object]:
    """One row: percentages of outcomes of one task."""
    share = {
        name: round(100 * float(np.mean([getattr(outcome, name) for outcome in own])))
        for name in Outcome.__dataclass_fields__
        if name != 'item'
    }
    gains = [100.0 * (outcome.options - outcome.options_shuffled) for outcome in own]
    gain, half = bootstrap_interval(gains, [outcome.item.recording for outcome in own])
    labels = Counter(outcome.item.label for outcome in own)
    return {
        'task': own[0].item.task,
        'held out': held_out,
        'items': len(own),
        'options': share['options'],
        'options, text only': share['options_shuffled'],
        'gain': f'{gain:+.0f} ± {half:.0f}',
        'options, chance': round(100 * float(np.mean([1 / len(options_of(one.item)) for one in own]))),
        'options, probe': share['probe_options'],
        'in words': share['words'],
        'in words, text only': share['words_shuffled'],
        'in words, majority': round(100 * max(labels.values()) / len(own)),
        'in words, probe': share['probe_words'],
        'yes or no': share['yes_no'],
        'yes or no, text only': share['yes_no_shuffled'],
    }


def main(arguments: Sequence[str] | None = None) -> list[dict[str, object]]:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder of prepare_questions.py')
    parser.add_argument('--model', default='audio_flamingo2_small', help='name or .nemo file')
    parser.add_argument('--items', type=int, default=160, help='most of a task and part; others get half; default 160')
    parser.add_argument(
        '--others', type=int, default=4, help='other recordings whose mean is "text only" among options; default 4'
    )
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS))
    parser.add_argument('--json', type=Path, help='also write the numbers here')
    options = parser.parse_args(arguments)
    if options.others < 1:
        parser.error(f'--others must be 1 or more; got {options.others}')
    model = AudioLanguageModel.from_pretrained(options.model)
    items = [item for item in read_items(options.data / 'test.jsonl.gz') if item.task in options.tasks]
    trained = [item for item in read_items(options.data / 'train.jsonl.gz') if item.task in options.tasks]
    scorer = Scorer(model)
    chosen = balanced([item for item in items if item.task in TARGETS], options.items)
    chosen += balanced([item for item in items if item.task not in TARGETS], options.items // 2)
    outcomes = probed(scorer, trained, measured(scorer, chosen, options.others))
    rows, single = table(outcomes), packages(outcomes)
    print(markdown_table(rows))
    if single:
        print(f'\nSounds of single packages:\n\n{markdown_table(single)}')
    print(
        f'\n{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads'
    )
    if options.json is not None:
        options.json.write_text(json.dumps({'parts': rows, 'packages': single}, indent=1), encoding='utf-8')
    return rows


if __name__ == '__main__':
    main()
