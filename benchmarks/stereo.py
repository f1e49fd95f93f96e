"""Inter-channel coherence of the generated band against the original's, on held-out stereo music, as markdown.

    python benchmarks/stereo.py --cuts corpus/test.jsonl.gz --model a2sb_44k_small

Excerpts whose channels are (nearly) equal are left out: there every mode but 'independent' is right by construction.
Each excerpt is low-passed, restored in every mode, and compared with the original above the cutoff, up to 16 kHz: the
coherence of the channels, and the share of the energy in their difference. What is measured is kept in ``--cache``: a
run that was broken off goes on.
"""

import argparse
import csv
import gzip
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from restoration_quality import RATE, Cache, low_pass

from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.evaluation.stereo import band_coherence, band_side_share
from nemo_audio_restore.files.audio import probe
from nemo_audio_restore.files.excerpts import read_excerpts
from nemo_audio_restore.restoration.stereo import STEREO_MODES

HIGH_HZ = 16000.0
WITHIN = 0.1
LEAST_SIDE_SHARE = 1e-3
CACHE_VERSION = 1


@dataclass(frozen=True)
class Excerpt:
    """A few seconds of a stereo track."""

    track: str
    index: int
    audio: np.ndarray


def excerpts(cuts: Path, *, count: int, seconds: float, limit: int | None) -> Iterator[Excerpt]:
    """Reads excerpts of the stereo tracks that a Lhotse manifest of cuts names."""
    with (gzip.open if cuts.suffix == '.gz' else open)(cuts, 'rt') as lines:
        entries = [json.loads(line) for line in lines]
    for entry in entries[:limit]:
        path = cuts.parent / entry['recording']['sources'][0]['source']
        info = probe(path)
        if info.channels != 2 or info.sample_rate != RATE:
            continue
        for index, (audio, _) in enumerate(list(read_excerpts(path, count=count + 2, excerpt_s=seconds))[1:-1]):
            yield Excerpt(path.stem, index, audio)


def run(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Restores and scores every excerpt."""
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel

    model = AudioRestoreModel.from_pretrained(arguments.model).to(arguments.device)
    settings = model.sampler if arguments.steps is None else replace(model.sampler, steps=arguments.steps)
    weights = AudioRestoreModel.from_pretrained(arguments.model, return_model_file=True)
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
    cache = Cache(arguments.cache)
    rows = []
    for excerpt in excerpts(
        arguments.cuts, count=arguments.clips, seconds=arguments.seconds, limit=arguments.limit
    ):  # fmt: skip
        for cutoff in arguments.cutoff:
            band = {'low_hz': cutoff, 'high_hz': HIGH_HZ}
            share = band_side_share(excerpt.audio, RATE, **band)
            if not share >= LEAST_SIDE_SHARE:
                continue
            degraded = np.stack([low_pass(channel, cutoff) for channel in excerpt.audio])
            for mode in arguments.stereo:
                place = f'{excerpt.track} {excerpt.index} of {arguments.clips}, {arguments.seconds:g} s, {cutoff:g} Hz'
                key = f'stereo v{CACHE_VERSION} {digest} {json.dumps(vars(settings))} {place} {mode}'
                if not cache.get(key):
                    started = time.perf_counter()
                    restored = model.restore(
                        degraded, sample_rate=RATE, cutoff_hz=cutoff, settings=settings, stereo=mode, seed=0
                    )
                    seconds = time.perf_counter() - started
                    cache.put(
                        key,
                        {
                            'coherence_original': band_coherence(excerpt.audio, RATE, **band),
                            'coherence': band_coherence(restored, RATE, **band),
                            'side_share_original': share,
                            'side_share': band_side_share(restored, RATE, **band),
                            'seconds': seconds,
                        },
                    )
                rows.append({'track': excerpt.track, 'cutoff_hz': cutoff, 'stereo': mode} | cache.get(key))
        print(excerpt.track, file=sys.stderr, flush=True)
    return rows


def summary(rows: list[dict[str, object]]) -> str:
    """Markdown: one line for each cutoff and mode."""
    table = []
    for cutoff, mode in dict.fromkeys((row['cutoff_hz'], row['stereo']) for row in rows):
        of = [row for row in rows if (row['cutoff_hz'], row['stereo']) == (cutoff, mode)]
        tracks = [row['track'] for row in of]
        errors = [row['coherence'] - row['coherence_original'] for row in of]
        change, half_width = bootstrap_interval(errors, tracks)
        table.append(
            {
                'cutoff': f'{cutoff / 1000:g} kHz',
                'stereo': mode,
                'coherence, original': f'{np.mean([row["coherence_original"] for row in of]):.2f}',
                'restored': f'{np.mean([row["coherence"] for row in of]):.2f}',
                'change': f'{change:+.3f} ± {half_width:.3f}',
                'mean absolute change': f'{np.mean(np.abs(errors)):.3f}',
                f'within {WITHIN}': f'{np.mean(np.abs(errors) <= WITHIN):.0%}',
                'side share, original': f'{np.mean([row["side_share_original"] for row in of]):.2f}',
                'side share, restored': f'{np.mean([row["side_share"] for row in of]):.2f}',
            }
        )
    return markdown_table(table)


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cuts', type=Path, required=True, help='Lhotse cuts of the held-out music')
    parser.add_argument('--model', required=True, help='registered name, .nemo or org/name')
    parser.add_argument('--stereo', nargs='+', choices=STEREO_MODES, default=STEREO_MODES[1:])
    parser.add_argument('--cutoff', type=float, nargs='+', default=[4000.0, 8000.0], help='in Hz')
    parser.add_argument('--steps', type=int, help="network evaluations for each tile; default: the model's")
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--clips', type=int, default=1, help='excerpts of each track')
    parser.add_argument('--seconds', type=float, default=6.0, help='length of an excerpt')
    parser.add_argument('--limit', type=int, help='only the first tracks of the manifest')
    parser.add_argument('--cache', type=Path, default=Path('benchmarks/results/stereo.jsonl'))
    parser.add_argument('--output', type=Path, default=Path('benchmarks/results/stereo'))
    arguments = parser.parse_args()
    rows = run(arguments)
    if not rows:
        raise SystemExit('no stereo track with a side signal in the band was found')
    lines = [
        f'`{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`',
        f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}; '
        f'{len({row["track"] for row in rows})} tracks; band from the cutoff to {HIGH_HZ:g} Hz; '
        'mean ± half of the 95 % bootstrap interval over tracks.',
    ]
    text = '\n\n'.join([*lines, summary(rows)]) + '\n'
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix('.md').write_text(text)
    with arguments.output.with_suffix('.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(text)


if __name__ == '__main__':
    main()
