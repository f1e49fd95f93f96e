"""Trains the network of the cutoff detector; on one core half an hour, most of it for the examples.

    python examples/prepare_music.py ...            # makes the manifest of the music, once
    python examples/train_cutoff.py --cuts corpus/train.jsonl.gz --cache runs/cutoff --out knee_network.npz

Every track gives examples behind random low-passes, codecs and equalisers, which are kept in the cache, a file for
each track; so does plain noise, an eighth as often. `benchmarks/cutoff.py --weights knee_network.npz` tells how good
the network became; the one that ships lies in nemo_audio_restore/signal/knee_network.npz. It was made from the 103
tracks of the training music at 44.1 kHz (CC-BY, CC-BY-SA and the like) in three rounds, `--filtered 30 --coded 5`,
`--round 1 --filtered 0 --coded 12` and `--round 2 --filtered 24 --coded 8 --epochs 14`; the last one trains on all.
"""

import argparse
import gzip
import json
import multiprocessing
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cutoff_cases import LOWEST_HZ, RATE, TrackCases, random_noise, read_track

from nemo_audio_restore.signal.cutoff import FULL_BAND_HZ
from nemo_audio_restore.signal.cutoff_statistics import CELLS_PER_OCTAVE, FEATURES, FIRST_HZ, NUM_CELLS
from nemo_audio_restore.signal.knee_network import FIRST_CANDIDATE, KneeNetwork, save_weights

LABEL_CELLS = 0.5
"""Standard deviation of the target, in cells: 1.5 %."""
LEVELS = [FEATURES.index(name) for name in ('mean', 'mean of dB', 'onsets')]


def make_examples(job: tuple[int, Path | None, float, Path], *, filtered: int, coded: int, round_number: int) -> None:
    """Writes the examples of one track, or of noise where it has no path, unless they are there."""
    number, path, bandwidth_hz, target = job
    if target.exists():
        return
    rng = np.random.default_rng([29, number, *([round_number] if round_number else [])])
    cases = TrackCases(read_track(path) if path else random_noise(rng), bandwidth_hz, rng)
    drawn = []
    if cases.is_usable:
        drawn = [cases.filtered() for _ in range(filtered)] + [cases.coded() for _ in range(coded)]
    examples = [example for example in drawn if example is not None]
    unfinished = target.with_suffix('.unfinished')
    with open(unfinished, 'wb') as file:
        np.savez(
            file,
            features=np.array([example.features for example in examples], np.float16),
            knee_hz=np.array([example.knee_hz for example in examples]),
            width=np.array([example.width for example in examples], np.float32),
        )
    unfinished.rename(target)
    print(f'{target.stem}: {len(examples)} examples', flush=True)


def read_examples(folder: Path) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """All cached features (B, 6, n), knees in Hz and widths."""
    parts = [np.load(path) for path in sorted(folder.glob('*.npz'))]
    parts = [part for part in parts if len(part['knee_hz'])]
    read = {name: np.concatenate([part[name] for part in parts]) for name in ('features', 'knee_hz', 'width')}
    return torch.from_numpy(read['features'].astype(np.float32)), read['knee_hz'], torch.from_numpy(read['width'])


def targets(knee_hz: np.ndarray) -> torch.Tensor:
    """Probabilities (B, M + 1): a bell around the knee, or all on none."""
    candidates = np.arange(FIRST_CANDIDATE, NUM_CELLS) + 0.5
    full = np.isinf(knee_hz)
    cell = np.log2(np.where(full, FIRST_HZ, knee_hz) / FIRST_HZ) * CELLS_PER_OCTAVE
    bell = np.exp(-0.5 * ((candidates - cell[:, None]) / LABEL_CELLS) ** 2)
    bell = np.where(full[:, None], 0, bell / np.maximum(bell.sum(axis=1, keepdims=True), 1e-9))
    return torch.from_numpy(np.concatenate([bell, full[:, None]], axis=1).astype(np.float32))


def varied(features: torch.Tensor, knee_hz: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """Plays examples up to 9 % faster or slower, and through another mild equaliser."""
    count = len(features)
    shift = rng.integers(-3, 4, count)
    moved = knee_hz * 2 ** (shift / CELLS_PER_OCTAVE)
    shift[np.isfinite(knee_hz) & ((moved > FULL_BAND_HZ) | (moved < LOWEST_HZ))] = 0
    source = np.clip(np.arange(NUM_CELLS) - shift[:, None], 0, NUM_CELLS - 1)
    x = np.take_along_axis(features.numpy(), source[:, None], axis=2)
    octave = np.arange(NUM_CELLS) / CELLS_PER_OCTAVE
    level = rng.normal(0, 0.8, (count, 1)) * (octave - 2)
    for _ in range(2):
        middle, width = rng.uniform(0, 5.5, (count, 1)), rng.uniform(0.5, 1.5, (count, 1))
        level += rng.normal(0, 1.2, (count, 1)) * np.exp(-0.5 * ((octave - middle) / width) ** 2)
    x[:, LEVELS] += (level / 20)[:, None].astype(np.float32)
    x += rng.normal(0, 0.02, x.shape).astype(np.float32)
    return torch.from_numpy(x), knee_hz * 2 ** (shift / CELLS_PER_OCTAVE)


def losses(
    network: KneeNetwork, features: torch.Tensor, target: torch.Tensor, width: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy, and the squared error of the width where the knee is, in hundredths of an octave."""
    log_probability, found = network(features)
    knee = target[:, :-1]
    return (
        -(target * log_probability).sum(dim=1).mean(),
        (knee * (100 * (found - width[:, None])).square()).sum(dim=1).mean(),
    )


def train(
    folder: Path, *, epochs: int, batch: int, learning_rate: float, seed: int, validation: Path | None
) -> KneeNetwork:
    """Trains on the cache."""
    features, knee_hz, width = read_examples(folder)
    torch.manual_seed(seed)
    network = KneeNetwork().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * (len(features) // batch) + 1, pct_start=0.1
    )
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    held_out = read_examples(validation) if validation else None
    started = time.perf_counter()
    for epoch in range(epochs):
        network.train()
        order = torch.randperm(len(features), generator=generator)
        total = 0.0
        for chosen in order[: len(order) // batch * batch].split(batch):
            x, knees = varied(features[chosen], knee_hz[chosen.numpy()], rng)
            entropy, error = losses(network, x, targets(knees), width[chosen])
            optimizer.zero_grad()
            (entropy + 0.02 * error).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += entropy.item()
        network.eval()
        line = f'epoch {epoch + 1}: cross entropy {total / (len(features) // batch):.3f}'
        if held_out is not None:
            with torch.no_grad():
                entropy, error = losses(network, held_out[0], targets(held_out[1]), held_out[2])
            line += f', validation {entropy:.3f}, width off by {error.sqrt():.1f} % of an octave'
        print(f'{line}, {time.perf_counter() - started:.0f} s', flush=True)
    return network


def cache_cuts(cuts: Path, folder: Path, *, filtered: int, coded: int, round_number: int, processes: int) -> None:
    """Makes the examples of all tracks of a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    with (gzip.open if cuts.suffix == '.gz' else open)(cuts, 'rt') as lines:
        entries = [json.loads(line) for line in lines]
    jobs = [
        (number, cuts.parent / cut['recording']['sources'][0]['source'], cut['custom']['bandwidth_hz'],
         folder / f'{cut["id"]}-{round_number}.npz')
        for number, cut in enumerate(entries) if cut['recording']['sampling_rate'] == RATE
    ]  # fmt: skip
    jobs += [
        (len(entries) + index, None, RATE / 2, folder / f'noise-{index}-{round_number}.npz')
        for index in range(len(entries) // 8)
    ]
    np.random.default_rng(0).shuffle(jobs)  # so that a part of the examples is already a fair choice
    with multiprocessing.get_context('spawn').Pool(processes) as pool:
        for _ in pool.imap_unordered(
            partial(make_examples, filtered=filtered, coded=coded, round_number=round_number), jobs
        ):
            pass


def main() -> None:
    """Runs the recipe from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cuts', type=Path, required=True, help='Lhotse cuts of the music to train on')
    parser.add_argument('--validation', type=Path, help='Lhotse cuts of other music; its cross entropy is printed')
    parser.add_argument('--cache', type=Path, required=True, help='folder for the examples')
    parser.add_argument('--out', type=Path, required=True, help='where the weights go (.npz)')
    parser.add_argument('--filtered', type=int, default=30, help='examples of each track made by filters')
    parser.add_argument('--coded', type=int, default=15, help='examples of each track made by codecs')
    parser.add_argument('--round', type=int, default=0, help='another number adds other examples to the cache')
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--learning-rate', type=float, default=3e-3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--processes', type=int, default=2)
    options = parser.parse_args()
    size = {
        'filtered': options.filtered, 'coded': options.coded, 'round_number': options.round,
        'processes': options.processes,
    }  # fmt: skip
    cache_cuts(options.cuts, options.cache / 'train', **size)
    validation = options.cache / 'validation' if options.validation else None
    if validation is not None:
        cache_cuts(options.validation, validation, **size)
    network = train(
        options.cache / 'train', epochs=options.epochs, batch=options.batch, learning_rate=options.learning_rate,
        seed=options.seed, validation=validation,
    )  # fmt: skip
    save_weights(network, options.out)


if __name__ == '__main__':
    main()
