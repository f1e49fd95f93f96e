"""Own against shuffled texts, lengths, and noise that says nothing."""

import numpy as np
import pytest

from nemo_audio_restore.evaluation.adherence import shaped_noise, shuffle_test, sounding_seconds, within


def test_recordings_that_fit_their_texts_are_told_from_chance():
    rng = np.random.default_rng(0)
    similarity = 0.1 * rng.standard_normal((40, 40))
    chance = shuffle_test(similarity, permutations=999)
    assert 0.02 < chance.p_value < 0.98 and chance.better_than == pytest.approx(0.5, abs=0.1)
    fitting = shuffle_test(similarity + 0.2 * np.eye(40), permutations=999)
    assert fitting.p_value == pytest.approx(1 / 1000)
    assert fitting.own - fitting.shuffled == pytest.approx(0.2, abs=0.05)
    assert fitting.better_than > 0.9


def test_equal_similarities_are_never_significant():
    result = shuffle_test(np.full((5, 5), 0.3), permutations=200)
    assert result.p_value == 1.0 and result.deviation == pytest.approx(0)


def test_p_values_of_chance_are_spread_evenly():
    rng = np.random.default_rng(1)
    values = [shuffle_test(rng.standard_normal((12, 12)), permutations=99, seed=i).p_value for i in range(200)]
    assert np.mean(np.array(values) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_the_seed_decides_the_permutations():
    similarity = np.random.default_rng(2).standard_normal((6, 6))
    first, again, other = (shuffle_test(similarity, permutations=50, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize('similarity', [np.zeros((2, 3)), np.zeros((1, 1)), np.full((3, 3), np.nan)])
def test_other_than_square_and_finite_is_refused(similarity):
    with pytest.raises(ValueError, match='N >= 2, finite'):
        shuffle_test(similarity)


def test_a_recording_sounds_until_its_last_loud_frame():
    rate = 8000
    audio = np.zeros((2, 5 * rate))
    audio[:, : 2 * rate] = 0.5
    audio[:, 2 * rate :] = 0.5 * 10 ** (-50 / 20)
    assert sounding_seconds(audio, rate) == pytest.approx(2.0, abs=0.02)
    assert sounding_seconds(audio, rate, floor_db=-60.0) == pytest.approx(5.0)
    assert sounding_seconds(np.zeros((1, 100)), rate) == 0
    assert sounding_seconds(np.zeros((1, 0)), rate) == 0


def test_lengths_may_differ_by_a_tenth():
    assert within(1.8, 2.0) and within(2.2, 2.0) and not within(1.79, 2.0) and within(1.5, 2.0, tolerance=0.3)


def test_noise_has_the_spectrum_and_level_of_the_recordings():
    rate, seconds = 8000, 4
    time = np.arange(rate * seconds) / rate
    recordings = [0.2 * np.sin(2 * np.pi * hz * time)[None] for hz in (900, 1100)]
    noise = shaped_noise(recordings, rate * 2, seed=1)
    assert noise.shape == (1, 2 * rate) and noise.dtype == np.float32
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(0.2 / np.sqrt(2), rel=0.01)
    power = np.abs(np.fft.rfft(noise[0])) ** 2
    frequency = np.fft.rfftfreq(noise.shape[1], 1 / rate)
    assert power[(frequency > 850) & (frequency < 1150)].sum() > 0.98 * power.sum()
    assert not np.allclose(noise, shaped_noise(recordings, rate * 2, seed=2))
    with pytest.raises(ValueError, match='one recording at least'):
        shaped_noise([], 10)
