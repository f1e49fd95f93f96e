import csv
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.evaluation import report
from nemo_audio_restore.evaluation.report import EvaluationError, bootstrap_interval, evaluate_pairs

RATE = 16000


def noise(seed: int = 0, samples: int = RATE, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (samples, channels)).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype='FLOAT' if path.suffix == '.wav' else None)
    return path


def test_files_are_paired_by_relative_stem_whatever_their_suffix(tmp_path: Path):
    for name in ('a', 'deep/b'):
        write(tmp_path / 'original' / f'{name}.flac', noise())
    write(tmp_path / 'restored' / 'a.wav', noise())
    write(tmp_path / 'restored' / 'deep' / 'b.restored.wav', noise(1))
    results = evaluate_pairs(tmp_path / 'original', tmp_path / 'restored', perceptual=False)
    assert [result.name for result in results] == ['a.wav', str(Path('deep/b.restored.wav'))]
    assert results[0].scores['lsd'] < 0.1 < results[1].scores['lsd']


def test_band_and_perceptual_columns_appear_when_asked_for(tmp_path: Path):
    pytest.importorskip('zimtohrli')
    original, restored = write(tmp_path / 'a.wav', noise()), write(tmp_path / 'b.wav', noise(1))
    (result,) = evaluate_pairs(original, restored, low_hz=4000.0)
    assert list(result.scores) == ['lsd', 'lsd_above_4000_hz', 'sispec_db', 'si_sdr_db', 'zimtohrli_mos']
    (plain,) = evaluate_pairs(original, restored, perceptual=False)
    assert list(plain.scores) == ['lsd', 'sispec_db', 'si_sdr_db']


def test_visqol_is_opt_in(tmp_path: Path):
    pytest.importorskip('visqol')
    path = write(tmp_path / 'a.wav', noise(samples=20000))
    (result,) = evaluate_pairs(path, path, perceptual=False, visqol=True)
    assert result.scores['visqol_mos'] > 4


def test_channels_are_scored_one_by_one(tmp_path: Path):
    stereo = noise(channels=2)
    half_wrong = stereo.copy()
    half_wrong[:, 1] = noise(5)[:, 0]
    original, restored = write(tmp_path / 'a.wav', stereo), write(tmp_path / 'b.wav', half_wrong)
    (result,) = evaluate_pairs(original, restored, perceptual=False)
    alone = report.metrics.lsd(stereo[:, 1], half_wrong[:, 1], RATE)
    assert result.scores['lsd'] == pytest.approx(alone / 2)


def test_a_few_surplus_samples_are_cut_with_a_note(tmp_path: Path):
    original = write(tmp_path / 'a.wav', noise())
    restored = write(tmp_path / 'b.wav', np.concatenate([noise(), noise(9, samples=300)]))
    (result,) = evaluate_pairs(original, restored, perceptual=False)
    assert result.scores['lsd'] < 1e-6
    assert '300 samples' in result.notes[0]


def test_mono_and_stereo_are_compared_in_mono_with_a_note(tmp_path: Path):
    original = write(tmp_path / 'a.wav', np.repeat(noise(), 2, axis=1))
    (result,) = evaluate_pairs(original, write(tmp_path / 'b.wav', noise()), perceptual=False)
    assert result.scores['lsd'] < 1e-6
    assert 'mono' in result.notes[0]


@pytest.mark.parametrize(
    ('audio', 'rate', 'message'),
    [(noise(samples=RATE // 2), RATE, 'at most 0.1 s'), (noise(), 8000, 'resample'), (noise(channels=3), RATE, 'mix')],
)
def test_recordings_that_cannot_be_compared_are_refused(tmp_path: Path, audio: np.ndarray, rate: int, message: str):
    original = write(tmp_path / 'a.wav', noise(channels=2))
    with pytest.raises(EvaluationError, match=message):
        evaluate_pairs(original, write(tmp_path / 'b.wav', audio, rate), perceptual=False)


def test_missing_and_ambiguous_originals_are_named(tmp_path: Path):
    write(tmp_path / 'restored' / 'a.wav', noise())
    (tmp_path / 'original').mkdir()
    with pytest.raises(EvaluationError, match='found: none'):
        evaluate_pairs(tmp_path / 'original', tmp_path / 'restored')
    for suffix in ('wav', 'flac'):
        write(tmp_path / 'original' / f'a.{suffix}', noise())
    with pytest.raises(EvaluationError, match=r'a\.flac.*a\.wav'):
        evaluate_pairs(tmp_path / 'original', tmp_path / 'restored')


def test_paths_that_hold_nothing_to_compare_are_refused(tmp_path: Path):
    path = write(tmp_path / 'a.wav', noise())
    (tmp_path / 'empty').mkdir()
    for reference, estimate, message in (
        (path, tmp_path / 'nowhere.wav', 'does not exist'),
        (path, tmp_path / 'empty', 'one of each'),
        (tmp_path, tmp_path / 'empty', 'no audio file'),
    ):
        with pytest.raises(EvaluationError, match=message):
            evaluate_pairs(reference, estimate)


def test_csv_and_markdown_hold_every_file_and_markdown_the_mean(tmp_path: Path):
    for name in ('a', 'b'):
        write(tmp_path / 'original' / f'{name}.wav', noise())
        write(tmp_path / 'restored' / f'{name}.wav', noise(samples=RATE - 10) * (1 if name == 'a' else 10))
    seen = []
    folders = tmp_path / 'original', tmp_path / 'restored'
    results = evaluate_pairs(*folders, perceptual=False, on_file=seen.append)
    assert seen == results
    rows = list(csv.DictReader(io.StringIO(report.to_csv(results))))
    assert [row['file'] for row in rows] == ['a.wav', 'b.wav']
    assert float(rows[1]['lsd']) == pytest.approx(2, abs=0.01)
    assert '| **mean** | 1.0' in report.to_markdown(results)
    assert '10 samples' in report.to_markdown(results)


def test_a_silent_original_has_no_si_sdr_but_other_scores(tmp_path: Path):
    original = write(tmp_path / 'a.wav', np.zeros((RATE, 1), np.float32))
    (result,) = evaluate_pairs(original, write(tmp_path / 'b.wav', noise()), perceptual=False)
    assert np.isnan(result.scores['si_sdr_db'])
    assert result.scores['lsd'] > 10


def test_the_interval_covers_the_spread_of_groups_not_of_their_members():
    values = [0.0] * 50 + [1.0] * 50
    mean, by_group = bootstrap_interval(values, ['first'] * 50 + ['second'] * 50)
    _, by_value = bootstrap_interval(values, [str(i) for i in range(100)])
    assert mean == 0.5
    assert by_group == pytest.approx(0.5)
    assert by_value == pytest.approx(1.96 * 0.05, rel=0.15)
