"""Held-out quality of a restoration model beside classical methods, as markdown and CSV.

    python examples/prepare_music.py ...            # makes the manifest of the held-out music, once
    python benchmarks/restoration_quality.py --manifest corpus/test.jsonl.gz --model a2sb_44k_small --steps 4 8 16

Every track gives a few clips at fixed places, mixed to mono. Bandwidth: a linear-phase Kaiser low-pass in the time
domain (100 Hz wide, centred on the cutoff, 100 dB down behind it). Gaps: samples set to zero. Scores for bandwidth are
taken over the whole clip, and LSD also above the cutoff ('high'): to half the sample rate, to where the track itself
ends (``bandwidth_hz`` of the manifest), and to 16 kHz. Lossy references hold next to nothing above their end, and
where that lies is a lottery. Scores for gaps are taken over each gap and half a second on both sides, LSD over the
frames that overlap the gap.

Scores are kept in the cache as they are made, so a run that was broken off goes on: those of a baseline under its
name, those of a model under the samples that it made.

A restorer of one's own is `--function module:name`, called as
`name(audio, sample_rate, cutoff_hz=..., gaps=..., steps=...)` with float32 samples (T,) and returning the same.
"""

import argparse
import csv
import gzip
import hashlib
import importlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nemo_audio_restore.evaluation import metrics
from nemo_audio_restore.evaluation.baselines import (
    average_spectrum,
    nothing,
    own_slope,
    shaped_noise,
    spectral_band_replication,
    straight_line,
)
from nemo_audio_restore.evaluation.gap_baselines import lpc_interpolation, pattern_copy
from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.files.audio import probe
from nemo_audio_restore.files.excerpts import read_excerpts

RATE = 44100
CUTOFFS_HZ = (4000, 8000)
GAPS_MS = (100, 300, 500)
LEAST_BAND_HZ = 500.0
# Bump when clips, degradations, metrics or baselines change: cached scores of other versions are not read.
CACHE_VERSION = 2


@dataclass(frozen=True)
class Clip:
    """An excerpt of a held-out track."""

    name: str
    package: str
    audio: np.ndarray
    bandwidth_hz: float


@dataclass(frozen=True)
class Damage:
    """A task: a missing band or missing samples."""

    name: str
    cutoff_hz: float | None
    gaps: tuple[tuple[float, float], ...]

    def apply(self, audio: np.ndarray) -> np.ndarray:
        """Returns the degraded samples (T,)."""
        if self.cutoff_hz is not None:
            return low_pass(audio, self.cutoff_hz)
        damaged = audio.copy()
        for start_s, end_s in self.gaps:
            damaged[round(start_s * RATE) : round(end_s * RATE)] = 0
        return damaged


Restore = Callable[[np.ndarray, Damage], np.ndarray]


def low_pass(audio: np.ndarray, cutoff_hz: float, *, width_hz: float = 100.0) -> np.ndarray:
    """Removes what lies above the cutoff with a linear-phase FIR filter, 6 dB down at the cutoff.

    Args:
        audio: samples (T,).
        cutoff_hz: middle of the transition.
        width_hz: width of the transition.

    Returns:
        (T,) float32, aligned with the input.
    """
    from scipy.signal import fftconvolve, firwin, kaiserord

    taps, beta = kaiserord(100.0, width_hz / (RATE / 2))
    kernel = firwin(taps | 1, cutoff_hz, window=('kaiser', beta), fs=RATE)
    return fftconvolve(audio.astype(np.float64), kernel, mode='same').astype(np.float32)


def clips(manifest: Path, *, count: int, seconds: float, limit: int | None) -> Iterator[Clip]:
    """Reads the clips of the tracks that a Lhotse manifest of cuts names."""
    opener = gzip.open if manifest.suffix == '.gz' else open
    with opener(manifest, 'rt') as lines:
        cuts = [json.loads(line) for line in lines]
    for cut in cuts[:limit]:
        path = manifest.parent / cut['recording']['sources'][0]['source']
        package = cut['custom']['group'].split('/')[0]
        info = probe(path)
        if info.duration_s <= (count + 2) * seconds:
            raise ValueError(
                f'{path} must last more than {(count + 2) * seconds} s for {count} clips of {seconds} s; '
                f'it lasts {info.duration_s:.1f} s'
            )
        # The first and the last excerpt are the very beginning and end, which tend to be silent.
        excerpts = list(read_excerpts(path, count=count + 2, excerpt_s=seconds))[1:-1]
        for index, (audio, _) in enumerate(excerpts):
            mono = at_rate(audio.mean(axis=0), info.sample_rate, round(seconds * RATE))
            yield Clip(f'{path.stem}#{index}', package, mono, cut['custom']['bandwidth_hz'])


def at_rate(audio: np.ndarray, rate: int, num_samples: int) -> np.ndarray:
    """Samples (T,) of another rate at ``RATE``, cut or padded to ``num_samples``; those of this rate as they are."""
    if rate == RATE:
        return audio
    import soxr

    resampled = soxr.resample(audio, rate, RATE)[:num_samples]
    return np.pad(resampled, (0, num_samples - len(resampled)))


def tasks(seconds: float) -> list[Damage]:
    """Two cutoffs, and three lengths of gaps with one gap in the middle of each three seconds."""
    found = [Damage(f'cutoff {hz // 1000} kHz', float(hz), ()) for hz in CUTOFFS_HZ]
    centres = np.arange(1.5, seconds - 1, 3.0)
    if len(centres) == 0:
        raise ValueError(f'clips must last at least 3 s, or gaps have no surroundings; got {seconds} s')
    for length_ms in GAPS_MS:
        half_s = length_ms / 2000
        found.append(Damage(f'gap {length_ms} ms', None, tuple((c - half_s, c + half_s) for c in centres)))
    return found


def baselines(damage: Damage) -> dict[str, Restore]:
    """Classical methods for a task."""
    if damage.cutoff_hz is None:
        return {
            'silence': lambda audio, damage: nothing(audio),
            'LPC': lambda audio, damage: lpc_interpolation(audio, RATE, damage.gaps),
            'pattern copy': lambda audio, damage: pattern_copy(audio, RATE, damage.gaps),
        }

    def with_envelope(method: Callable, envelope: Callable) -> Restore:
        return lambda audio, damage: method(audio, RATE, damage.cutoff_hz, envelope=envelope)

    def own(method: Callable) -> Restore:
        return lambda audio, damage: method(
            audio, RATE, damage.cutoff_hz, envelope=own_slope(audio, RATE, damage.cutoff_hz)
        )

    return {
        'nothing': lambda audio, damage: nothing(audio),
        'replication, own slope': own(spectral_band_replication),
        'shaped noise, own slope': own(shaped_noise),
        'replication': with_envelope(spectral_band_replication, straight_line),
        'shaped noise': with_envelope(shaped_noise, straight_line),
        'replication, average spectrum': with_envelope(spectral_band_replication, average_spectrum),
        'shaped noise, average spectrum': with_envelope(shaped_noise, average_spectrum),
    }


def model_restorer(name: str, *, steps: int | None, device: str) -> Restore:
    """A registered model, a local ``.nemo`` or a hub repository, at a number of steps."""
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel

    model = AudioRestoreModel.from_pretrained(name).to(device)
    settings = model.sampler if steps is None else replace(model.sampler, steps=steps)

    def restore(audio: np.ndarray, damage: Damage) -> np.ndarray:
        return model.restore(
            audio, sample_rate=RATE, cutoff_hz=damage.cutoff_hz, gaps=damage.gaps, settings=settings, seed=0
        )

    return restore


def function_restorer(spec: str, *, steps: int | None) -> Restore:
    """A function of the caller, ``module:name``."""
    module, _, name = spec.partition(':')
    sys.path.insert(0, os.getcwd())
    function = getattr(importlib.import_module(module), name)

    def restore(audio: np.ndarray, damage: Damage) -> np.ndarray:
        return np.asarray(function(audio, RATE, cutoff_hz=damage.cutoff_hz, gaps=damage.gaps, steps=steps))

    return restore


def measures(clip: Clip, estimate: np.ndarray, damage: Damage, *, visqol: bool) -> dict[str, Callable[[], float]]:
    """All metrics of one restored clip, each to be called when its value is needed."""
    reference = clip.audio
    if damage.cutoff_hz is not None:

        def high(end_hz: float | None) -> Callable[[], float]:
            return lambda: metrics.lsd(reference, estimate, RATE, low_hz=damage.cutoff_hz, high_hz=end_hz)

        found = {
            'LSD': lambda: metrics.lsd(reference, estimate, RATE),
            'LSD high': high(None),
            'LSD high to own end': high(max(clip.bandwidth_hz, damage.cutoff_hz + LEAST_BAND_HZ)),
            'LSD high to 16k': high(16000),
            'SiSpec': lambda: metrics.sispec(reference, estimate, RATE),
            'Zimtohrli': lambda: metrics.zimtohrli_mos(reference, estimate, RATE),
        }
        return found | ({'ViSQOL': lambda: metrics.visqol_mos(reference, estimate, RATE)} if visqol else {})

    def around_gaps(metric: Callable[[np.ndarray, np.ndarray, int], float]) -> Callable[[], float]:
        spans = [slice(round((start - 0.5) * RATE), round((end + 0.5) * RATE)) for start, end in damage.gaps]
        return lambda: float(np.mean([metric(reference[span], estimate[span], RATE) for span in spans]))

    def lsd() -> float:
        inside = [metrics.gap_lsd(reference, estimate, RATE, start_s=a, end_s=b) for a, b in damage.gaps]
        return float(np.mean(inside))

    found = {
        'LSD': lsd,
        'SiSpec': around_gaps(metrics.sispec),
        'Zimtohrli': around_gaps(metrics.zimtohrli_mos),
    }
    return found | ({'ViSQOL': around_gaps(metrics.visqol_mos)} if visqol else {})


class Cache:
    """Scores, one JSON object a line; a later line adds to what an earlier one says of the same key."""

    def __init__(self, path: Path):
        self._path = path
        self._scores: dict[str, dict[str, float]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                for key, scores in json.loads(line).items():
                    self._scores[key] = self._scores.get(key, {}) | scores

    def get(self, key: str) -> dict[str, float]:
        """Scores stored under the key, perhaps none."""
        return self._scores.get(key, {})

    def put(self, key: str, scores: dict[str, float]) -> None:
        """Stores and writes the scores."""
        self._scores[key] = self.get(key) | scores
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open('a') as file:
            file.write(json.dumps({key: scores}) + '\n')


def scored(
    clip: Clip, damage: Damage, restore: Restore, *, cache: Cache, name: str | None, visqol: bool
) -> tuple[dict[str, float], float]:
    """Scores of a restored clip, as far as possible from the cache.

    Args:
        clip: the reference.
        damage: the task.
        restore: the method; not called where the cache has everything under ``name``.
        cache: where scores are kept.
        name: under which they are kept; None goes by the restored samples themselves.
        visqol: also ViSQOL.

    Returns:
        Metric to value, and the seconds that the restoration took.
    """
    wanted = list(measures(clip, clip.audio, damage, visqol=visqol))
    if name is not None and all(metric in cache.get(name) for metric in wanted):
        return {metric: cache.get(name)[metric] for metric in wanted}, 0.0
    degraded = damage.apply(clip.audio)
    started = time.perf_counter()
    restored = np.asarray(restore(degraded, damage), dtype=np.float64)
    seconds = time.perf_counter() - started
    if name is None:
        digest = hashlib.sha256(clip.audio.tobytes() + restored.astype(np.float32).tobytes()).hexdigest()
        name = f'v{CACHE_VERSION} {digest} {damage.name}'
    missing = {
        metric: measure()
        for metric, measure in measures(clip, restored, damage, visqol=visqol).items()
        if metric not in cache.get(name)
    }
    if missing:
        cache.put(name, missing)
    return {metric: cache.get(name)[metric] for metric in wanted}, seconds


def run(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Scores every method on every clip and task."""
    cache = Cache(arguments.cache)
    models: dict[str, Restore] = {}
    for steps in arguments.steps or [None]:
        suffix = '' if steps is None else f', {steps} steps'
        for name in arguments.model:
            models[Path(name).name + suffix] = model_restorer(name, steps=steps, device=arguments.device)
        for spec in arguments.function:
            models[spec + suffix] = function_restorer(spec, steps=steps)
    rows = []
    for clip in clips(arguments.manifest, count=arguments.clips, seconds=arguments.seconds, limit=arguments.limit):
        for damage in tasks(arguments.seconds):
            if arguments.task and not any(word in damage.name for word in arguments.task):
                continue
            for method, restore in (baselines(damage) | models).items():
                place = f'{clip.package} {clip.name} {arguments.clips}x{arguments.seconds:g}s {damage.name}'
                name = None if method in models else f'v{CACHE_VERSION} {place} {method}'
                scores, seconds = scored(clip, damage, restore, cache=cache, name=name, visqol=arguments.visqol)
                rows.append(
                    {'package': clip.package, 'clip': clip.name, 'task': damage.name, 'method': method}
                    | scores
                    | ({'seconds': seconds} if method in models else {})
                )
        print(f'{clip.package} {clip.name}', file=sys.stderr, flush=True)
    return rows


def summary(rows: list[dict[str, object]]) -> str:
    """Markdown: for each task the mean and 95 % interval over tracks of each method, then LSD by package."""
    packages = sorted({row['package'] for row in rows})
    parts = []
    for task in dict.fromkeys(row['task'] for row in rows):
        of_task = [row for row in rows if row['task'] == task]
        names = [name for name in of_task[0] if name not in ('package', 'clip', 'task', 'method', 'seconds')]
        lsd_name = 'LSD high' if 'LSD high' in names else 'LSD'
        table = []
        for method in dict.fromkeys(row['method'] for row in of_task):
            of_method = [row for row in of_task if row['method'] == method]
            # Clips of one track resemble each other, so the track is what is drawn again.
            tracks = [row['clip'].split('#')[0] for row in of_method]
            line = {'method': method}
            for name in names:
                mean, half_width = bootstrap_interval([row[name] for row in of_method], tracks)
                line[name] = f'{mean:.2f} ± {half_width:.2f}'
            for package in packages:
                values = [row[lsd_name] for row in of_method if row['package'] == package]
                line[f'{lsd_name}: {package}'] = f'{np.mean(values):.2f}'
            table.append(line)
        parts.append(f'### {task}\n\n{markdown_table(table)}')
    return '\n\n'.join(parts)


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--manifest', type=Path, required=True, help='cuts of the held-out music (prepare_music.py)')
    parser.add_argument('--model', action='append', default=[], help='registered name, .nemo or org/name; repeat')
    parser.add_argument('--function', action='append', default=[], help='module:name of a restorer; repeat')
    parser.add_argument('--steps', type=int, nargs='+', help="network evaluations to try; default: the model's own")
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--task', nargs='+', help='only tasks whose name holds one of these words, such as "cutoff"')
    parser.add_argument('--clips', type=int, default=2, help='clips of each track')
    parser.add_argument('--seconds', type=float, default=6.0, help='length of a clip')
    parser.add_argument('--limit', type=int, help='only the first tracks of the manifest')
    parser.add_argument('--visqol', action='store_true', help='also ViSQOL: seconds of CPU for each clip')
    parser.add_argument('--cache', type=Path, default=Path('benchmarks/results/baselines.jsonl'))
    parser.add_argument('--output', type=Path, default=Path('benchmarks/results/restoration_quality'))
    arguments = parser.parse_args()
    rows = run(arguments)
    lines = [
        f'`{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`',
        f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, '
        f'{torch.get_num_threads()} threads; {len({row["clip"] for row in rows})} clips of {arguments.seconds:g} s.',
        'Mean ± half of the 95 % bootstrap interval over tracks. LSD: lower is better; the others: higher.',
    ]
    for method in dict.fromkeys(row['method'] for row in rows if 'seconds' in row):
        spent = np.mean([row['seconds'] for row in rows if row['method'] == method])
        lines.append(f'{method}: {spent:.2f} s a clip.')
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
