"""Precision and recall of the gap detector on defects that are planted into music.

    python examples/prepare_music.py ...            # makes the manifest of the held-out music, once
    python benchmarks/gap_detection.py --cuts corpus/test.jsonl.gz

Every track is read from its start (fade-in and leading silence included) and at its end. Digital silence, drop-outs
(40 to 60 dB quieter within a millisecond) and stuck samples of 5 to 400 ms are planted at random places where the
music is louder than -50 dB re full scale. A finding is right where it overlaps a defect; a defect is found when half
of it is. False alarms are also counted on the same music without defects.
"""

import argparse
import gzip
import json
import os
import platform
import shlex
import sys
from pathlib import Path

import numpy as np

from nemo_audio_restore.files.excerpts import read_excerpts
from nemo_audio_restore.signal.gap_detection import Gap, GapDetector

KINDS = ('silence', 'drop-out', 'stuck')


def detect(audio: np.ndarray, rate: int) -> list[Gap]:
    """The gaps of (C, T) samples."""
    detector = GapDetector(len(audio), rate)
    detector.add(audio)
    return detector.gaps()


def planted(audio: np.ndarray, rate: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Gap]]:
    """Damages (C, T) samples at ``count`` places, a second or more apart; fewer where the music is quiet."""
    audio, gaps = audio.copy(), []
    for place in range(count):
        length = int(rate * np.exp(rng.uniform(np.log(0.005), np.log(0.4))))
        slot = audio.shape[1] // count
        start = place * slot + int(rng.integers(rate // 2, slot - length - rate // 2))
        around = audio[:, start - rate // 50 : start + length + rate // 50]
        edges = audio[:, start - rate // 100 : start], audio[:, start + length : start + length + rate // 100]
        if min(np.mean(np.square(edge)) for edge in (around, *edges)) < 1e-5:
            continue
        kind = KINDS[int(rng.integers(3))]
        inside = audio[:, start : start + length]
        if kind == 'silence':
            inside[:] = 0
        elif kind == 'stuck':
            inside[:] = inside[:, :1]
        else:
            slope = np.clip(np.minimum(np.arange(length), np.arange(length)[::-1]) * 1000 / rate, 0, 1)
            inside *= 10 ** (-rng.uniform(40, 60) / 20 * slope).astype(np.float32)
        gaps.append(Gap(start / rate, (start + length) / rate, kind))
    return audio, gaps


def overlap_s(a: Gap, b: Gap) -> float:
    """How long both last together."""
    return max(min(a.end_s, b.end_s) - max(a.start_s, b.start_s), 0.0)


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cuts', type=Path, required=True, help='Lhotse cuts of the music (prepare_music.py)')
    parser.add_argument('--seconds', type=float, default=30.0, help='length of each excerpt')
    parser.add_argument('--defects', type=int, default=10, help='defects in each excerpt')
    parser.add_argument('--limit', type=int, help='only the first tracks')
    parser.add_argument('--stride', type=int, default=1, help='only every n-th track')
    parser.add_argument('--verbose', action='store_true', help='name the mistakes')
    arguments = parser.parse_args()
    with (gzip.open if arguments.cuts.suffix == '.gz' else open)(arguments.cuts, 'rt') as lines:
        entries = [json.loads(line) for line in lines][:: arguments.stride][: arguments.limit]
    found = {kind: [] for kind in KINDS}
    right, wrong_clean, minutes = [], 0, 0.0
    for number, cut in enumerate(entries):
        path = arguments.cuts.parent / cut['recording']['sources'][0]['source']
        rate = cut['recording']['sampling_rate']
        for index, (audio, _) in enumerate(read_excerpts(path, count=2, excerpt_s=arguments.seconds)):
            rng = np.random.default_rng([number, index])
            alarms = detect(audio, rate)
            wrong_clean, minutes = wrong_clean + len(alarms), minutes + audio.shape[1] / rate / 60
            damaged, gaps = planted(audio, rate, arguments.defects, rng)
            findings = [gap for gap in detect(damaged, rate) if not any(overlap_s(gap, alarm) for alarm in alarms)]
            for gap in gaps:
                share = sum(overlap_s(gap, finding) for finding in findings) / (gap.end_s - gap.start_s)
                found[gap.kind].append(share >= 0.5)
                if arguments.verbose and share < 0.5:
                    print(f'missed {path.name}#{index} {gap}', file=sys.stderr, flush=True)
            right += [any(overlap_s(finding, gap) for gap in gaps) for finding in findings] + [False] * len(alarms)
            if arguments.verbose:
                for alarm in alarms:
                    print(f'false alarm {path.name}#{index} {alarm}', file=sys.stderr, flush=True)
    print(f'`{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`\n')
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs; {minutes:.1f} min of music\n')
    every = [hit for kind in KINDS for hit in found[kind]]
    print('| | defects | recall |\n|---|---|---|')
    for name, hits in {**found, 'all': every}.items():
        print(f'| {name} | {len(hits)} | {100 * np.mean(hits) if hits else 0:.1f} % |')
    print(f'\nprecision {100 * np.mean(right) if right else 0:.1f} % of {len(right)} findings')
    print(f'false alarms on the undamaged music: {wrong_clean} in {minutes:.1f} min')


if __name__ == '__main__':
    main()
