"""Delay and level of a codec."""

import numpy as np
import pytest

from nemo_audio_restore.evaluation.alignment import aligned, estimate_delay, level_difference_db

RATE = 8000


def bursts(seed: int, *, carrier: int) -> np.ndarray:
    """A second of noise in random bursts: ``seed`` makes the envelope, ``carrier`` what is under it."""
    envelope = np.repeat(np.random.default_rng(seed).random(40) ** 3, RATE // 40)
    return envelope * np.random.default_rng(carrier).normal(0, 0.3, RATE)


@pytest.mark.parametrize('delay', [0, 1, 37, 400, -120])
def test_the_delay_of_a_waveform_codec_is_exact(delay):
    pairs = []
    for seed in range(2):
        audio = bursts(seed, carrier=seed)
        late = np.concatenate([np.zeros(max(0, delay)), audio[max(0, -delay) :]])
        pairs.append((audio, 0.5 * late + 0.01 * np.random.default_rng(9).normal(size=len(late))))
    assert estimate_delay(pairs, RATE) == delay


def test_the_delay_of_a_codec_that_keeps_only_the_envelope_is_found_to_three_milliseconds():
    pairs = [(bursts(seed, carrier=seed), np.roll(bursts(seed, carrier=50 + seed), 160)) for seed in range(4)]
    assert estimate_delay(pairs, RATE) == pytest.approx(160, abs=0.003 * RATE)


def test_delays_beyond_the_limit_are_not_looked_for():
    pairs = [(audio := bursts(0, carrier=0), np.concatenate([np.zeros(1600), audio]))]
    assert abs(estimate_delay(pairs, RATE, most_s=0.05)) <= 0.053 * RATE
    assert estimate_delay(pairs, RATE, most_s=0.3) == 1600


def test_level_differences_are_those_of_the_energies():
    audio = bursts(0, carrier=0)
    assert level_difference_db([(audio, 0.5 * audio), (2 * audio, audio)]) == pytest.approx(-6.02, abs=0.01)


def test_silence_has_neither_delay_nor_level():
    silence = np.zeros(RATE)
    for measure in (lambda pairs: estimate_delay(pairs, RATE), level_difference_db):
        with pytest.raises(ValueError, match='sound'):
            measure([(silence, silence)])
        with pytest.raises(ValueError, match='sound'):
            measure([])


def test_aligned_takes_the_delay_off_and_fits_the_length():
    coded = np.arange(1.0, 6.0)
    np.testing.assert_array_equal(aligned(coded, delay=2, num_samples=3), [3, 4, 5])
    np.testing.assert_array_equal(aligned(coded, delay=2, num_samples=5), [3, 4, 5, 0, 0])
    np.testing.assert_array_equal(aligned(coded, delay=-2, num_samples=4), [0, 0, 1, 2])
    np.testing.assert_array_equal(aligned(coded, delay=-9, num_samples=2), [0, 0])
    np.testing.assert_array_equal(coded, np.arange(1.0, 6.0))
