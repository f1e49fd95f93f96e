"""Quality against network evaluations: the published samplers beside ours, as markdown and CSV.

    python benchmarks/samplers.py --manifest corpus/validation.jsonl.gz --model a2sb_44k_small
    python benchmarks/samplers.py --manifest corpus/validation.jsonl.gz --model a2sb_44k_small --vary phase_rounds=0,16

Meant for validation music: it is what the default of a model is chosen by, and the held-out music should not have a
say in that. Every track gives short excerpts; 'cutoff' is a low-pass at 4 kHz, 'gap' one of 300 ms in the middle.

The two references are the published program's: its stochastic sampler and its deterministic one ('ODE'), K evaluations
evenly spaced from 1 down to 1 / K, tiles as the model's. Every other line is ``SamplerSettings`` of the engine.
Phases, gains and all that comes behind the sampler are the same for all lines. 'time' is CPU seconds of the whole
restoration as a share of the first line's. Scores are kept in ``--cache``: a run that was broken off goes on.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from restoration_quality import RATE, Cache, Clip, Damage, clips, measures

from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.models.audio_restore import AudioRestoreModel
from nemo_audio_restore.restoration.blend import GapGate, overlap_add
from nemo_audio_restore.restoration.consistency import consistent
from nemo_audio_restore.restoration.engine import CROSSFADE_S
from nemo_audio_restore.restoration.plan import make_plan
from nemo_audio_restore.restoration.protocol import SamplerSettings
from nemo_audio_restore.restoration.request import level_gain_db
from nemo_audio_restore.restoration.scan import scan
from nemo_audio_restore.restoration.spectrum_runs import Frames, Generated
from nemo_audio_restore.signal.corruption import fill_with_noise

CACHE_VERSION = 1
MOST_REMEMBERED = 16


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: what it is called.
        evaluations: of the network for each tile.
        reference: 'stochastic' or 'ODE' for the published samplers, '' for the engine.
        changes: of the model's sampler settings, for the engine.
    """

    name: str
    evaluations: int
    reference: str = ''
    changes: dict[str, float] = field(default_factory=dict)


def table_rows(evaluations: list[int], *, references: int) -> Iterator[Row]:
    """The published samplers, then the members of the family."""
    if references:
        yield Row('published, stochastic', references, 'stochastic')
        yield Row('published, ODE', references, 'ODE')
    for count in evaluations:
        yield Row('first order', count, changes={'eta': 0.0})
        if count < 4:
            continue
        yield Row('second order', count, changes={'eta': 0.0, 'order': 2})  # its first two moves are of the first
        yield Row('first order, eta 1', count, changes={'eta': 1.0})
        if count < 10:
            yield Row('first order, eta 0.5', count, changes={'eta': 0.5})
            yield Row('first order, to t = 0.05', count, changes={'t_min': 0.05})
            yield Row('first order, late steps shorter', count, changes={'time_power': 2.0})


def varied(wishes: list[str], settings: SamplerSettings) -> Iterator[Row]:
    """The model's settings, then each wish ('name=value,value') by itself."""
    yield Row('as the model has them', settings.steps)
    for wish in wishes:
        name, _, values = wish.partition('=')
        for value in values.split(','):
            yield Row(f'{name} {value}', settings.steps, changes={name: type(getattr(settings, name))(value)})


def task(name: str, cutoff_hz: float, seconds: float) -> Damage:
    """The damage of a task."""
    if name == 'cutoff':
        return Damage(f'cutoff {cutoff_hz / 1000:g} kHz', cutoff_hz, ())
    return Damage('gap 300 ms', None, ((seconds / 2 - 0.15, seconds / 2 + 0.15),))


def restored(model: AudioRestoreModel, degraded: np.ndarray, damage: Damage, row: Row, seed: int) -> np.ndarray:
    """The clip (T,) restored as a row asks."""
    if row.reference:
        return published(model, degraded, damage, row, seed)
    settings = replace(model.sampler, **{'steps': row.evaluations} | row.changes)
    return model.restore(
        degraded, sample_rate=RATE, cutoff_hz=damage.cutoff_hz, gaps=damage.gaps, settings=settings, seed=seed
    )


def published(model: AudioRestoreModel, degraded: np.ndarray, damage: Damage, row: Row, seed: int) -> np.ndarray:
    """The published sampler; what lies behind it is the engine's."""
    representation, settings = model.representation, model.sampler
    audio = torch.from_numpy(degraded)[None]
    num_frames = representation.num_frames(len(degraded))
    seen = scan(iter([degraded[None]]), cell_samples=representation.hop_length)
    gain = 10 ** (level_gain_db(seen, settings) / 20)
    spans = [(round(start * RATE), round(end * RATE)) for start, end in damage.gaps]
    plan = make_plan(
        representation,
        num_samples=len(degraded),
        cutoff_hz=damage.cutoff_hz,
        gaps=spans,
        silent=np.zeros(num_frames, bool),
        tile_frames=settings.tile_frames,
        tile_hop_frames=settings.tile_hop_frames,
    )
    generator = torch.Generator().manual_seed(seed)
    spectrum = representation.stft(audio)
    mask = plan.mask(0, num_frames)
    clean = representation.from_complex(spectrum[:, 1:] * gain)
    start = fill_with_noise(clean, mask, torch.randn(clean.shape, generator=generator))
    times = torch.linspace(1.0, 0.0, row.evaluations + 1, dtype=torch.float64)
    estimate = model.sample(
        degraded=start, mask=mask, times=times, stochastic=row.reference == 'stochastic', generator=generator
    )
    band = plan.rows * (1 - plan.gap_mask(0, num_frames))
    magnitude = representation.to_complex(estimate) / gain * 10 ** (settings.band_gain_db / 20 * band)
    used = mask[0, 0]
    difference = torch.cat([-spectrum[:, :1] * plan.gap_mask(0, num_frames), (magnitude - spectrum[:, 1:]) * used], 1)
    frames = Frames(num_frames, difference, Generated(spectrum[:, 1:], magnitude.abs(), used))
    runs = consistent([frames], representation, rounds=settings.phase_rounds)
    added = torch.cat(list(overlap_add(runs, representation, channels=1, num_samples=len(degraded))), dim=1)
    gate = GapGate(spans, fade_samples=math.ceil(CROSSFADE_S * RATE))(0, len(degraded)) if spans else 1.0
    return degraded + gate * added[0].numpy()


class Remembered:
    """A network that knows its results at t = 1, where all samplers of a clip begin alike.

    Args:
        forward: the network.

    Attributes:
        saved: CPU seconds that were not spent again.
    """

    def __init__(self, forward: Callable[..., torch.Tensor]):
        self._forward = forward
        self._known: dict[bytes, tuple[torch.Tensor, float]] = {}
        self.saved = 0.0

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The network's prediction."""
        if t.min() < 1:
            return self._forward(x_t, t, condition)
        key = hashlib.sha256(x_t.numpy().tobytes() + condition.numpy().tobytes()).digest()
        if key in self._known:
            self.saved += self._known[key][1]
        else:
            started = time.process_time()
            self._known = dict(list(self._known.items())[-MOST_REMEMBERED:])
            self._known[key] = self._forward(x_t, t, condition), time.process_time() - started
        return self._known[key][0]


def run(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Restores and scores every excerpt with every row."""
    cache = Cache(arguments.cache)
    model = AudioRestoreModel.from_pretrained(arguments.model).eval()
    weights = AudioRestoreModel.from_pretrained(arguments.model, return_model_file=True)
    model.network.forward = Remembered(model.network.forward)
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
    rows = list(table_rows(arguments.evaluations, references=arguments.references))
    if arguments.vary:
        rows = list(varied(arguments.vary, model.sampler))
    found = []
    for clip in clips(arguments.manifest, count=arguments.clips, seconds=arguments.seconds, limit=arguments.limit):
        for name in arguments.task:
            damage = task(name, arguments.cutoff, arguments.seconds)
            degraded = damage.apply(clip.audio)
            for row in rows:
                settings = json.dumps([row.evaluations, row.reference, row.changes, vars(model.sampler)])
                place = f'{clip.package} {clip.name} {arguments.clips}x{arguments.seconds:g}s {damage.name}'
                key = f'v{CACHE_VERSION} {digest} {place} {settings}'
                scores = cache.get(key) or scored(model, clip, degraded, damage, row)
                if not cache.get(key):
                    cache.put(key, scores)
                found.append({'clip': clip.name, 'task': damage.name, 'sampler': row.name} | scores)
        print(clip.name, file=sys.stderr, flush=True)
    return found


def scored(model: AudioRestoreModel, clip: Clip, degraded: np.ndarray, damage: Damage, row: Row) -> dict[str, float]:
    """Scores of one restoration, and the CPU seconds it took."""
    started, model.network.forward.saved = time.process_time(), 0.0
    estimate = np.asarray(restored(model, degraded, damage, row, 0), dtype=np.float64)
    seconds = time.process_time() - started + model.network.forward.saved
    scores = {name: measure() for name, measure in measures(clip, estimate, damage, visqol=False).items()}
    return {'evaluations': row.evaluations, 'seconds': seconds} | scores


def summary(rows: list[dict[str, object]]) -> str:
    """Markdown: for each task a line for every row; differences from the first line are paired."""
    parts = []
    for damage in dict.fromkeys(row['task'] for row in rows):
        of_task = [row for row in rows if row['task'] == damage]
        distance = 'LSD high' if 'LSD high' in of_task[0] else 'LSD'
        shown = [distance, *(['LSD high to own end'] if distance == 'LSD high' else []), 'Zimtohrli']
        lines: dict[tuple, list[dict]] = {}
        for row in of_task:
            lines.setdefault((row['sampler'], row['evaluations']), []).append(row)
        first = next(iter(lines.values()))
        table = []
        for (sampler, evaluations), of_line in lines.items():
            line = {'sampler': sampler, 'evaluations': evaluations}
            for metric in shown:
                values = [row[metric] for row in of_line]
                less = [row[metric] - base[metric] for row, base in zip(of_line, first, strict=True)]
                _, half_width = bootstrap_interval(less, [row['clip'].split('#')[0] for row in of_line])
                line[metric] = f'{np.mean(values):.2f}'
                line[f'{metric}, change'] = f'{np.mean(less):+.2f} ± {half_width:.2f}'
            spent = [sum(row['seconds'] for row in some) for some in (of_line, first)]
            line['time'] = f'{spent[0] / spent[1]:.2f}'
            table.append(line)
        parts.append(f'### {damage}\n\n{markdown_table(table)}')
    return '\n\n'.join(parts)


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--manifest', type=Path, required=True, help='cuts of validation music (prepare_music.py)')
    parser.add_argument('--model', required=True, help='registered name, .nemo or org/name')
    parser.add_argument('--task', nargs='+', choices=['cutoff', 'gap'], default=['cutoff', 'gap'])
    parser.add_argument('--cutoff', type=float, default=4000.0, help='in Hz')
    parser.add_argument('--evaluations', type=int, nargs='+', default=[1, 2, 4, 6, 10, 20, 49])
    parser.add_argument('--references', type=int, default=49, help='evaluations of the published samplers; 0: none')
    parser.add_argument(
        '--vary', nargs='+', metavar='NAME=VALUES', help='instead: settings to change, such as tile_hop_frames=32,128'
    )
    parser.add_argument('--clips', type=int, default=1, help='excerpts of each track')
    parser.add_argument('--seconds', type=float, default=2.2, help='length of an excerpt')
    parser.add_argument('--limit', type=int, help='only the first tracks of the manifest')
    parser.add_argument('--cache', type=Path, default=Path('benchmarks/results/samplers.jsonl'))
    parser.add_argument('--output', type=Path, default=Path('benchmarks/results/samplers'))
    arguments = parser.parse_args()
    rows = run(arguments)
    lines = [
        f'`{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`',
        f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}; '
        f'{len({row["clip"] for row in rows})} excerpts of {arguments.seconds:g} s. Change: from the first line, '
        '± half of the 95 % bootstrap interval over tracks. LSD: lower is better; Zimtohrli: higher.',
    ]
    text = '\n\n'.join([*lines, summary(rows)]) + '\n'
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix('.md').write_text(text)
    with arguments.output.with_suffix('.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    print(text)


if __name__ == '__main__':
    main()
