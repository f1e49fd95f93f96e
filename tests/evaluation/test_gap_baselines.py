"""Gap filling against signals whose continuation is known."""

import numpy as np
import pytest

from nemo_audio_restore.evaluation import metrics
from nemo_audio_restore.evaluation.gap_baselines import burg, lpc_interpolation, pattern_copy

RATE = 16000
GAP = (0.5, 0.6)
SLICE = slice(8000, 9600)


def chord() -> np.ndarray:
    time = np.arange(2 * RATE) / RATE
    return sum(0.1 * np.sin(2 * np.pi * hz * time + hz) for hz in (220.0, 277.2, 329.6, 1318.5))


def beat() -> np.ndarray:
    """A quarter of a second of decaying noise, repeated: nothing that a linear model could continue."""
    decay = np.exp(-np.arange(RATE // 4) / 800)
    return np.roll(np.tile(0.3 * decay * np.random.default_rng(0).normal(size=RATE // 4), 8), 500)


def with_gap(audio: np.ndarray) -> np.ndarray:
    damaged = audio.copy()
    damaged[..., SLICE] = 0
    return damaged


def relative_error(estimate: np.ndarray, reference: np.ndarray) -> float:
    return np.linalg.norm(estimate[SLICE] - reference[SLICE]) / np.linalg.norm(reference[SLICE])


def test_burg_finds_the_poles_of_an_autoregressive_process():
    from scipy.signal import lfilter

    true = np.array([1.0, -1.6, 0.81])
    samples = lfilter([1.0], true, np.random.default_rng(0).normal(size=20000))
    np.testing.assert_allclose(burg(samples, 2), true, atol=0.02)


def test_burg_models_are_stable():
    noisy = chord()[:2000] + 0.01 * np.random.default_rng(0).normal(size=2000)
    assert np.abs(np.roots(burg(noisy, 40))).max() < 1


def test_lpc_continues_a_chord():
    restored = lpc_interpolation(with_gap(chord()), RATE, [GAP], order=200, context_s=0.25)
    assert relative_error(restored, chord()) < 0.1


def test_a_higher_order_and_more_context_continue_a_chord_better():
    good, low_order, short = (
        relative_error(lpc_interpolation(with_gap(chord()), RATE, [GAP], order=order, context_s=seconds), chord())
        for order, seconds in ((200, 0.25), (6, 0.25), (200, 0.01))
    )
    assert good < low_order
    assert good < short


def test_pattern_copy_finds_the_repetition():
    restored = pattern_copy(with_gap(beat()), RATE, [GAP])
    assert relative_error(restored, beat()) < 0.15
    assert relative_error(restored, beat()) < relative_error(lpc_interpolation(with_gap(beat()), RATE, [GAP]), beat())


def test_pattern_copy_needs_a_template_that_tells_passages_apart():
    noisy = beat() + 0.02 * np.random.default_rng(1).normal(size=len(beat()))
    errors = [
        relative_error(pattern_copy(with_gap(noisy), RATE, [GAP], template_s=seconds), noisy)
        for seconds in (0.1, 0.0005)
    ]
    assert errors[0] < errors[1]


def test_pattern_copy_joins_smoothly_only_with_a_crossfade():
    time = np.arange(2 * RATE) / RATE
    chirp = 0.3 * np.sin(2 * np.pi * (100 * time + 150 * time**2))
    jumps = []
    for crossfade_s in (0.01, 0.0):
        restored = pattern_copy(with_gap(chirp), RATE, [GAP], crossfade_s=crossfade_s)
        jumps.append(np.abs(np.diff(restored, 2)[[7998, 7999, 9598, 9599]]).max())
    assert jumps[0] < 0.5 * jumps[1]


@pytest.mark.parametrize('method', [lpc_interpolation, pattern_copy])
def test_filling_beats_silence_and_leaves_the_rest_alone(method):
    reference = np.stack([chord() + 0.1 * beat(), chord()[::-1]])
    damaged = with_gap(reference)
    before = damaged.copy()
    restored = method(damaged, RATE, [GAP])
    np.testing.assert_array_equal(damaged, before)
    outside = np.ones(restored.shape[-1], dtype=bool)
    outside[SLICE] = False
    np.testing.assert_array_equal(restored[:, outside], damaged[:, outside])
    filled, silent = (
        metrics.gap_lsd(reference[0], estimate[0], RATE, start_s=GAP[0], end_s=GAP[1])
        for estimate in (restored, damaged)
    )
    assert filled < 0.5 * silent


@pytest.mark.parametrize('method', [lpc_interpolation, pattern_copy])
def test_what_a_gap_holds_makes_no_difference(method):
    loud = with_gap(chord())
    loud[SLICE] = 10.0
    np.testing.assert_array_equal(method(loud, RATE, [GAP]), method(with_gap(chord()), RATE, [GAP]))


@pytest.mark.parametrize('method', [lpc_interpolation, pattern_copy])
def test_gaps_at_the_ends_are_filled_from_the_one_side_that_is_known(method):
    restored = method(chord(), RATE, [(0.0, 0.05), (1.95, 2.0)])
    assert np.isfinite(restored).all()
    assert np.abs(restored[:700]).max() > 0.05
    assert np.abs(restored[-700:]).max() > 0.05


@pytest.mark.parametrize(('gaps', 'message'), [([(1.9, 2.1)], 'inside'), ([(0.5, 0.6), (0.55, 0.7)], 'overlap')])
def test_impossible_gaps_are_refused(gaps: list[tuple[float, float]], message: str):
    with pytest.raises(ValueError, match=message):
        lpc_interpolation(chord(), RATE, gaps)


def test_nothing_known_on_either_side_is_refused():
    with pytest.raises(ValueError, match='nothing is known'):
        lpc_interpolation(chord(), RATE, [(0.0, 2.0)])
