"""How often the detector of cutoffs is right, beside the 99 % roll-off rule, on music that is damaged on purpose.

    python examples/prepare_music.py ...            # makes the manifest of the held-out music, once
    python benchmarks/cutoff.py --cuts corpus/test.jsonl.gz

Every track gives a few clips; every clip is damaged in several ways that are drawn at random: a filter (sharp or
soft) at 2 to 16 kHz, MP3 at 64 to 128 kbit/s, MP3 alone, up to half of the time silence (digital, or dithered). A
cutoff is drawn only where the music reaches at least 10 % above. The true cutoff is the filter's -3 dB point, or the
frequency above which the encoder takes 6 dB or more, whichever is lower. Full-band clips reach 18.5 kHz and are left
as they are or darkened by 6 and 12 dB per octave above 500 Hz, in float and in 16 bits. A hit is a cutoff within 5 %
of the truth, or 'full band' for full-band clips.

Tables of their own, outside the total: slopes so gentle that music of unknown colour hides them (24 and 12 dB per
octave: 5 % off the knee is 1.7 and 0.8 dB), a wide FIR transition, clips of which 60 to 80 % end at one frequency and
the rest at another or nowhere (the truth is the majority's), and channels with different ends.
"""

import argparse
import gzip
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from scipy.fft import irfft, next_fast_len, rfft

from nemo_audio_restore.evaluation.report import markdown_table
from nemo_audio_restore.files.audio import probe
from nemo_audio_restore.files.excerpts import read_spans
from nemo_audio_restore.files.lossy import lossy_round_trip
from nemo_audio_restore.signal.bandwidth import long_term_spectrum
from nemo_audio_restore.signal.cutoff import FULL_BAND_HZ, CutoffDetector
from nemo_audio_restore.signal.knee_network import load_weights

RATE = 44100
MP3_KBITS = (64, 96, 128)
FILTERS = ('brick wall', 'resampler', 'Butterworth 24', 'Butterworth 12', 'Butterworth 8')
"""Sharp: 100 Hz wide. The second falls from 3.5 % below the cutoff to 3.5 % above, as a resampler does."""
OTHER_FILTERS = ('FIR, 40 % wide', 'Butterworth 4', 'Butterworth 2')
HALF_WIDTHS = {'brick wall': 0.0, 'resampler': 0.035, 'FIR, 40 % wide': 0.2}
FULL_BAND_SOURCE_HZ = 18500.0
TOLERANCE = 0.05
LONGEST_SHARE = 0.8
"""Of a track that a clip takes: beginning and end are left out."""


@dataclass(frozen=True)
class Case:
    """One damaged clip.

    Attributes:
        track: name of the track.
        package: where it comes from.
        kind: name of the filter, 'MP3 only', a kind of full-band clip, 'changes' or 'channels differ'.
        mp3: kbit/s, or 0.
        silence: share of the time.
        truth_hz: the true cutoff; infinite for full-band clips.
        audio: (C, T) float32.
        channels_hz: the true cutoff of each channel, where they differ.
    """

    track: str
    package: str
    kind: str
    mp3: int
    silence: float
    truth_hz: float
    audio: np.ndarray
    channels_hz: tuple[float, ...] = ()


def gain_of(kind: str, frequency: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """Magnitude of a filter at frequencies in Hz; -3 dB at the cutoff."""
    if kind.startswith('Butterworth'):
        order = int(kind.split()[1])
        return (1 + (frequency / cutoff_hz) ** (2 * order)) ** -0.5
    half_width = max(50.0, HALF_WIDTHS[kind] * cutoff_hz)
    middle = cutoff_hz + half_width * 2 / np.pi * np.arcsin(2**0.5 - 1)
    return 0.5 - 0.5 * np.sin(np.clip((frequency - middle) / half_width, -1, 1) * np.pi / 2)


class Filters:
    """Magnitudes without phase for one clip (C, T), whose spectrum is computed once."""

    def __init__(self, audio: np.ndarray):
        self.length, self.size = audio.shape[1], next_fast_len(audio.shape[1] + RATE, real=True)
        self.spectrum = rfft(audio, self.size)
        self.frequency = np.fft.rfftfreq(self.size, 1 / RATE)

    def __call__(self, gain: np.ndarray) -> np.ndarray:
        """The clip times a gain at each of ``frequency``."""
        return irfft(self.spectrum * gain.astype(np.float32), self.size)[:, : self.length].astype(np.float32)


def mp3(audio: np.ndarray, kbits: int) -> np.ndarray:
    """Encodes and decodes at a constant rate."""
    # libsndfile maps compression 0 .. 1 to 320 .. 32 kbit/s.
    return lossy_round_trip(audio, RATE, codec='mp3', compression=(320 - kbits) / 288)


def lost_above_hz(clean: np.ndarray, coded: np.ndarray) -> float:
    """The frequency above which coded audio is 6 dB or more below the clean one everywhere."""
    before, after = (
        torch.nn.functional.avg_pool1d(long_term_spectrum(torch.from_numpy(x))[None], 9, stride=1, padding=4)[0]
        for x in (clean, coded)
    )
    kept = (before > before.max() * 1e-10) & (after > before * 10**-0.6)
    return float(torch.nonzero(kept)[-1] + 1) * RATE / (2 * (len(before) - 1))


def with_silence(audio: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Appends silence until it takes a share of the time: digital, or the noise of 16 bit dither."""
    missing = round(audio.shape[1] * share / (1 - share))
    quiet = np.zeros((len(audio), missing), np.float32)
    if rng.random() < 0.5:
        quiet += (rng.triangular(-1, 0, 1, quiet.shape) / 32768).astype(np.float32)
    half = missing // 2
    return np.concatenate([quiet[:, :half], audio, quiet[:, half:]], axis=1)


def faded(audio: np.ndarray) -> np.ndarray:
    """Fades a third of the clip in and a third out."""
    position = np.linspace(0, 3, audio.shape[1], dtype=np.float32)
    return audio * np.minimum(np.minimum(position, 3 - position), 1)


def random_cutoff(bandwidth_hz: float, rng: np.random.Generator) -> float:
    """A frequency at which a filter still takes something."""
    return float(np.exp(rng.uniform(np.log(2000), np.log(min(16000, bandwidth_hz / 1.1)))))


def damaged(audio: np.ndarray, bandwidth_hz: float, count: int, rng: np.random.Generator) -> Iterator[Case]:
    """Draws cases from one clip; their track and package are still empty."""
    filters = Filters(audio)
    for index in range(count):
        kind = FILTERS[index % len(FILTERS)]
        cutoff_hz = random_cutoff(bandwidth_hz, rng)
        kbits = int(rng.choice([0, 0, 0, *MP3_KBITS]))
        silence = float(rng.choice([0.0, 0.25, 0.5]))
        result = filters(gain_of(kind, filters.frequency, cutoff_hz))
        result = faded(result) if rng.random() < 0.25 else result
        result = with_silence(result, silence, rng) if silence else result
        if kbits:
            coded = mp3(result, kbits)
            cutoff_hz = min(cutoff_hz, lost_above_hz(result, coded))
            result = coded
        yield Case('', '', kind, kbits, silence, cutoff_hz, result)
    kbits, silence = int(rng.choice(MP3_KBITS)), float(rng.choice([0.0, 0.25, 0.5]))
    clean = with_silence(audio, silence, rng)
    coded = mp3(clean, kbits)
    lost_hz = lost_above_hz(clean, coded)
    if bandwidth_hz > 1.1 * lost_hz:
        yield Case('', '', 'MP3 only', kbits, silence, lost_hz, coded)
    for slope in (0, 6, 12) if bandwidth_hz >= FULL_BAND_SOURCE_HZ else ():
        silence = float(rng.choice([0.0, 0.25, 0.5]))
        tilt = np.maximum(filters.frequency / 500, 1) ** (-slope / 6.02)
        result = with_silence(filters(tilt), silence, rng)
        if rng.random() < 0.5:
            dither = rng.triangular(-1, 0, 1, result.shape)
            result = (np.round(result * 32768 + dither) / 32768).astype(np.float32)
        yield Case('', '', f'full band, {slope} dB/octave', 0, silence, np.inf, result)


def further(audio: np.ndarray, bandwidth_hz: float, rng: np.random.Generator) -> Iterator[Case]:
    """Draws the cases that count in tables of their own from one clip."""
    filters = Filters(audio)

    def cut(kind: str, cutoff_hz: float) -> np.ndarray:
        return filters(gain_of(kind, filters.frequency, cutoff_hz))

    for kind in OTHER_FILTERS:
        cutoff_hz = random_cutoff(bandwidth_hz, rng)
        yield Case('', '', kind, 0, 0.0, cutoff_hz, cut(kind, cutoff_hz))
    most, rest = random_cutoff(bandwidth_hz, rng), random_cutoff(bandwidth_hz, rng)
    kinds = rng.choice(FILTERS[:4], 2)
    first = cut(kinds[0], most)
    to_full_band = bandwidth_hz >= FULL_BAND_SOURCE_HZ and rng.random() < 0.4
    second = audio if to_full_band else cut(kinds[1], rest)
    split = int(rng.uniform(0.6, 0.8) * audio.shape[1])
    yield Case('', '', 'changes', 0, 0.0, most, np.concatenate([first[:, :split], second[:, split:]], axis=1))
    if len(audio) == 2:
        both = np.stack([first[0], cut(kinds[1], rest)[1]])
        yield Case('', '', 'channels differ', 0, 0.0, np.nan, both, (most, rest))


def cases(cuts: Path, *, clips: int, seconds: float, count: int, limit: int | None, stride: int) -> Iterator[Case]:
    """Damaged clips of the tracks that a Lhotse manifest of cuts names."""
    opener = gzip.open if cuts.suffix == '.gz' else open
    with opener(cuts, 'rt') as lines:
        entries = [json.loads(line) for line in lines][::stride][:limit]
    for number, cut in enumerate(entries):
        path = cuts.parent / cut['recording']['sources'][0]['source']
        if probe(path).sample_rate != RATE:
            continue
        length = min(seconds, LONGEST_SHARE * probe(path).duration_s)
        starts = np.linspace(0, probe(path).duration_s - length, clips + 2)[1:-1]
        for index, audio in enumerate(read_spans(path, [(start, start + length) for start in starts])):
            if np.sqrt(np.mean(np.square(audio))) < 1e-3:
                continue
            bandwidth_hz, package = cut['custom']['bandwidth_hz'], cut['custom']['group'].split('/')[0]
            drawn = chain(
                damaged(audio, bandwidth_hz, count, np.random.default_rng([number, index])),
                further(audio, bandwidth_hz, np.random.default_rng([number, index, 1])),
            )
            yield from (replace(case, track=f'{path.stem}#{index}', package=package) for case in drawn)


def rolloff_hz(audio: np.ndarray) -> float:
    """The frequency below which 99 % of the magnitude of (T,) samples lies: the published program's cutoff."""
    spectrum = torch.stft(
        torch.from_numpy(np.ascontiguousarray(audio)), 2048, 512, window=torch.hann_window(2048), return_complex=True
    ).abs()
    total = spectrum.cumsum(0)
    first = (total < 0.99 * total[-1:]).sum(0)
    return float(first.double().mean()) * RATE / 2048


def is_hit(truth_hz: float, found_hz: float | None) -> bool:
    """Whether an estimate counts; None is 'full band'."""
    if np.isinf(truth_hz):
        return found_hz is None
    return found_hz is not None and abs(found_hz / truth_hz - 1) <= TOLERANCE


def run(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Detects the cutoff of every case."""
    network = load_weights(arguments.weights) if arguments.weights else None
    rows = []
    stream = cases(
        arguments.cuts, clips=arguments.clips, seconds=arguments.seconds, count=arguments.cases,
        limit=arguments.limit, stride=arguments.stride,
    )  # fmt: skip
    for case in stream:
        started = time.perf_counter()
        detector = CutoffDetector(len(case.audio), RATE, network=network)
        detector.add(case.audio)
        estimate = detector.estimate()
        seconds = time.perf_counter() - started
        simple = [rolloff_hz(audio) for audio in (case.audio if case.channels_hz else [case.audio.mean(axis=0)])]
        simple = [None if hz >= FULL_BAND_HZ else hz for hz in simple]
        found = estimate.channels_hz if case.channels_hz else [estimate.cutoff_hz]
        truths = case.channels_hz or [case.truth_hz]
        rows.append(
            {
                'track': case.track, 'package': case.package, 'kind': case.kind, 'mp3': case.mp3,
                'silence': case.silence, 'truth': case.truth_hz, 'truths': truths, 'found': estimate.cutoff_hz,
                'confidence': estimate.confidence, 'hit': all(map(is_hit, truths, found)),
                'rolloff hit': all(map(is_hit, truths, simple)), 'speed': case.audio.shape[1] / RATE / seconds,
                'channel hits': [is_hit(case.truth_hz, hz) for hz in estimate.channels_hz],
            }
        )  # fmt: skip
        if arguments.verbose and not rows[-1]['hit']:
            print(
                f'{case.track:34} {case.kind:24} mp3 {case.mp3:3} silence {case.silence:.2f} '
                f'truth {case.truth_hz:7.0f} found {estimate.cutoff_hz or 0:7.0f} ({estimate.confidence:.2f}) '
                f'{estimate.reason}',
                file=sys.stderr,
                flush=True,
            )
    return rows


def rate(members: list[dict[str, object]], name: str) -> str:
    """Share of hits in percent, and half of its 95 % bootstrap interval over tracks."""
    tracks = sorted({row['track'].split('#')[0] for row in members})
    own = [[row[name] for row in members if row['track'].split('#')[0] == track] for track in tracks]
    hits, counts = np.array([sum(x) for x in own]), np.array([len(x) for x in own])
    drawn = np.random.default_rng(0).integers(len(tracks), size=(1000, len(tracks)))
    low, high = np.quantile(hits[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return f'{100 * hits.sum() / counts.sum():.1f} ± {50 * (high - low):.1f} %'


def table(title: str, groups: dict[str, list[dict[str, object]]]) -> str:
    """Hit rates of groups of rows as markdown."""
    lines = []
    for name, members in groups.items():
        if members:
            errors = [
                abs(row['found'] / row['truth'] - 1) for row in members if row['found'] and np.isfinite(row['truth'])
            ]
            lines.append(
                {
                    title: name,
                    'cases': len(members),
                    'detector': rate(members, 'hit'),
                    '99 % roll-off': rate(members, 'rolloff hit'),
                    'median error': f'{100 * np.median(errors):.1f} %' if errors else '',
                }
            )
    return markdown_table(lines)


def summary(every: list[dict[str, object]]) -> str:
    """All tables."""
    special = {*OTHER_FILTERS, 'changes', 'channels differ'}
    rows = [row for row in every if row['kind'] not in special]
    cut = [row for row in rows if np.isfinite(row['truth'])]
    full = [row for row in rows if not np.isfinite(row['truth'])]

    def by(name: str, source: list[dict[str, object]]) -> dict[str, list[dict[str, object]]]:
        values = sorted({row[name] for row in source})
        return {str(value): [row for row in source if row[name] == value] for value in values}

    bands = [(2000, 4000), (4000, 8000), (8000, 12000), (12000, 18000)]
    by_cutoff = {f'{a} to {b} Hz': [row for row in cut if a <= row['truth'] < b] for a, b in bands}
    steps = [(0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.01)]
    by_confidence = {f'{a} to {min(b, 1)}': [row for row in rows if a <= row['confidence'] < b] for a, b in steps}
    channels = [{**row, 'hit': hit} for row in cut for hit in row['channel hits'] if len(row['channel hits']) > 1]
    parts = [
        table('all', {'low-passed': cut, 'full band': full, 'each channel of low-passed': channels}),
        table('filter', by('kind', cut)),
        table('true cutoff', by_cutoff),
        table('MP3 kbit/s (0: none)', by('mp3', cut)),
        table('share of silence', by('silence', cut)),
        table('package', by('package', rows)),
        table('full band', by('kind', full)),
        table('confidence', by_confidence),
        table('not in the total', by('kind', [row for row in every if row['kind'] in special])),
    ]
    return '\n\n'.join(part for part in parts if part)


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cuts', type=Path, required=True, help='Lhotse cuts of the music (prepare_music.py)')
    parser.add_argument('--clips', type=int, default=2, help='clips of each track')
    parser.add_argument(
        '--seconds', type=float, default=60.0, help='of a clip before silence is added; at most 80 %% of its track'
    )
    parser.add_argument('--cases', type=int, default=10, help='filtered versions of each clip')
    parser.add_argument('--limit', type=int, help='only the first tracks')
    parser.add_argument('--stride', type=int, default=1, help='only every n-th track')
    parser.add_argument('--weights', type=Path, help='of train_cutoff.py; default: those that ship')
    parser.add_argument('--verbose', action='store_true', help='name the misses')
    parser.add_argument('--output', type=Path, help='write the tables to this markdown file too')
    arguments = parser.parse_args()
    rows = run(arguments)
    lines = [
        f'`{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`',
        f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, '
        f'{torch.get_num_threads()} threads; {len(rows)} cases of {len({row["track"] for row in rows})} clips; '
        f'the detector reads {np.median([row["speed"] for row in rows]):.0f} s of audio a second.',
    ]
    text = '\n\n'.join([*lines, summary(rows)]) + '\n'
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)


if __name__ == '__main__':
    main()
