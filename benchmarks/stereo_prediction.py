"""How well the coherence of a removed treble can be known: from the band that is left, and from another passage.

    python benchmarks/stereo_prediction.py --cuts corpus/train.jsonl.gz

No model takes part. Two excerpts of every stereo recording have a coherence between the channels above the cutoff, up
to 16 kHz. It is predicted by the mean of all other recordings; from coherence and side share of four bands below the
cutoff, by ridge regression over folds of recordings; and by the other excerpt, whose treble is all there. The last is
what a perfect memory for recordings would know, and so about the best that a restoration can reach.
"""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
from stereo import HIGH_HZ, LEAST_SIDE_SHARE, RATE, WITHIN, excerpts

from nemo_audio_restore.evaluation.report import markdown_table
from nemo_audio_restore.evaluation.stereo import band_coherence, band_side_share

BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
"""Below the cutoff, as shares of it."""
FOLDS = 6
RIDGE = 10.0


def features(audio: np.ndarray, cutoff_hz: float) -> list[float]:
    """Coherence and level of the side signal, in nepers, of the bands below a cutoff of (2, T) samples."""
    row: list[float] = []
    for low, high in BANDS:
        band = {'low_hz': low * cutoff_hz, 'high_hz': high * cutoff_hz}
        share = band_side_share(audio, RATE, **band)
        row += [band_coherence(audio, RATE, **band), float(np.log(share + 1e-4))]
    return row


def predicted(rows: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Ridge regression from (N, D) features to (N,) values; each group is predicted from the other folds."""
    result = np.zeros(len(truth))
    for fold in range(FOLDS):
        test = groups % FOLDS == fold
        centre, spread = rows[~test].mean(axis=0), rows[~test].std(axis=0) + 1e-9
        x = (rows - centre) / spread
        mean = truth[~test].mean()
        gram = x[~test].T @ x[~test] + RIDGE * np.eye(rows.shape[1])
        result[test] = x[test] @ np.linalg.solve(gram, x[~test].T @ (truth[~test] - mean)) + mean
    return result


def line(cutoff_hz: float, name: str, estimate: np.ndarray, truth: np.ndarray) -> dict[str, str]:
    """One row of the table."""
    error = np.abs(estimate - truth)
    return {
        'cutoff': f'{cutoff_hz / 1000:g} kHz',
        'predicted from': name,
        'mean absolute error': f'{error.mean():.3f}',
        f'within {WITHIN}': f'{np.mean(error <= WITHIN):.0%}',
        'excerpts': str(len(truth)),
    }


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cuts', type=Path, required=True, help='Lhotse cuts of music')
    parser.add_argument('--cutoff', type=float, nargs='+', default=[4000.0, 8000.0], help='in Hz')
    parser.add_argument('--seconds', type=float, default=6.0, help='length of an excerpt')
    parser.add_argument('--limit', type=int, help='only the first tracks of the manifest')
    arguments = parser.parse_args()
    measured: dict[float, list[tuple[str, float, list[float]]]] = {cutoff: [] for cutoff in arguments.cutoff}
    for excerpt in excerpts(arguments.cuts, count=2, seconds=arguments.seconds, limit=arguments.limit):
        for cutoff, rows in measured.items():
            if band_side_share(excerpt.audio, RATE, low_hz=cutoff, high_hz=HIGH_HZ) < LEAST_SIDE_SHARE:
                continue
            coherence = band_coherence(excerpt.audio, RATE, low_hz=cutoff, high_hz=HIGH_HZ)
            rows.append((excerpt.track, coherence, features(excerpt.audio, cutoff)))
    table = []
    for cutoff, rows in measured.items():
        rows = [row for row in rows if np.isfinite([row[1], *row[2]]).all()]
        names = sorted({row[0] for row in rows})
        groups, truth = np.array([names.index(row[0]) for row in rows]), np.array([row[1] for row in rows])
        others = np.array([truth[groups != group].mean() for group in groups])
        known = predicted(np.array([row[2] for row in rows]), truth, groups)
        table += [line(cutoff, 'nothing', others, truth), line(cutoff, 'the band below', known, truth)]
        pairs = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        first, second = np.array([pair for pair in pairs if len(pair) == 2]).T
        both = np.concatenate([first, second]), np.concatenate([second, first])
        table.append(line(cutoff, 'another excerpt of the recording', truth[both[0]], truth[both[1]]))
    print(f'`{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`\n\n{markdown_table(table)}')


if __name__ == '__main__':
    main()
