"""What the detector of cutoffs remembers: independent of level and block size, bounded, and telling."""

import numpy as np
import pytest

from nemo_audio_restore.signal.cutoff_statistics import (
    FEATURES,
    NUM_CELLS,
    SpectrumStatistics,
    cell_centres_hz,
    cell_matrix,
    features,
    frame_power,
    frame_sums,
    loud_blocks,
    with_holes,
)

RATE = 44100


def noise(seconds, *, channels=1, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, int(seconds * RATE)))).astype(np.float32)


def row(audio, name, rate=RATE):
    power = frame_power(audio, 4096)[0]
    return features(frame_sums(power, cell_matrix(rate, 4096)))[FEATURES.index(name)]


def read(audio, block=None, **options):
    statistics = SpectrumStatistics(len(audio), RATE, **options)
    for start in range(0, audio.shape[1], block or audio.shape[1]):
        statistics.add(audio[:, start : start + (block or audio.shape[1])])
    return statistics.blocks()


def test_a_cell_is_a_mean_of_bins_and_empty_above_half_the_sample_rate():
    np.testing.assert_allclose(cell_matrix(RATE, 4096).sum(axis=0), 1, rtol=1e-5)
    total = cell_matrix(16000, 1024).sum(axis=0)
    np.testing.assert_array_equal(total[cell_centres_hz() > 8200], 0)
    np.testing.assert_allclose(total[cell_centres_hz() < 7900], 1, rtol=1e-5)


def test_the_size_of_the_blocks_changes_nothing():
    audio = noise(2.5, channels=2)
    whole, energies = read(audio)
    pieces, energies_of_pieces = read(audio, 777)
    assert whole.shape[:2] == (3, 3)
    # Only the first frame's rise depends on whether its predecessor came in the same call.
    np.testing.assert_allclose(pieces, whole, rtol=1e-5)
    np.testing.assert_allclose(energies_of_pieces, energies, rtol=1e-6)


def test_memory_is_bounded_and_merging_keeps_the_sums():
    audio = noise(20)
    few, few_energies = read(audio, max_blocks=4)
    many, _ = read(audio)
    assert few.shape[1] <= 5 < many.shape[1] and len(few_energies) == few.shape[1]
    np.testing.assert_allclose(few.sum(axis=1), many.sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize('gain', [1e-3, 8.0])
def test_level_does_not_matter(gain):
    audio = noise(1)
    for name in FEATURES:
        np.testing.assert_allclose(row(gain * audio, name), row(audio, name), atol=1e-3)


def test_silence_does_not_matter():
    audio = noise(1)
    longer = np.concatenate([np.zeros((1, 20 * 2048), np.float32), audio], axis=1)
    np.testing.assert_allclose(row(longer, 'mean'), row(audio, 'mean'), atol=0.05)
    assert not frame_sums(np.zeros((3, 2049), np.float32), cell_matrix(RATE, 4096)).any()


def test_frames_with_a_hole_do_not_count():
    low = np.sin(np.arange(2 * RATE) * 2 * np.pi * 1000 / RATE)[None].astype(np.float32)
    broken = low.copy()
    broken[:, 30000:30441] = 0
    np.testing.assert_array_equal(np.flatnonzero(with_holes(broken, 4096, RATE)), [13, 14])
    (sums, _), (whole, _) = read(broken), read(low)
    assert whole[0, :, 0, 0].sum() > sums[0, :, 0, 0].sum() > 0.9 * whole[0, :, 0, 0].sum()
    above = cell_centres_hz() > 5000
    mean = [features(x[0].sum(axis=0))[FEATURES.index('mean')][above] for x in (sums, whole)]
    np.testing.assert_allclose(*mean, atol=0.1)


def test_a_brick_wall_shows_in_all_levels():
    power = frame_power(noise(1), 4096)[0] * (np.arange(2049) * RATE / 4096 < 5000)
    rows = features(frame_sums(power, cell_matrix(RATE, 4096)))
    below, above = cell_centres_hz() < 4800, cell_centres_hz() > 5200
    for name in ('mean', 'mean of dB', 'onsets'):
        levels = rows[FEATURES.index(name)]
        assert levels[below].min() > levels[above].max() + 3


def test_tones_are_tonal_and_noise_is_not():
    time = np.arange(RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 5000 * time))[None].astype(np.float32)
    cell = int(np.argmin(np.abs(cell_centres_hz() - 5000)))
    assert row(tone + 1e-3 * noise(1), 'tonality')[cell] < row(noise(1), 'tonality')[cell] - 0.5


def test_a_steady_floor_moves_against_the_low_end_and_its_overtones_with_it():
    audio = noise(4)
    envelope = np.exp(np.sin(np.arange(audio.shape[1]) * 2 * np.pi / RATE) * 2)
    power = frame_power((audio * envelope).astype(np.float32), 4096)[0]
    floor = frame_power(noise(4, seed=1), 4096)[0]
    high = np.arange(2049) * RATE / 4096 > 8000
    sums = frame_sums(np.where(high, floor, power), cell_matrix(RATE, 4096))
    activity, centres = features(sums)[FEATURES.index('activity')], cell_centres_hz()
    assert activity[(centres > 2000) & (centres < 7000)].mean() > 0.5
    assert activity[centres > 9000].mean() < -0.5


def test_what_comes_and_goes_deviates_and_shows_in_the_onsets():
    power = frame_power(noise(4), 4096)[0]
    high = np.arange(2049) * RATE / 4096 > 6000
    bursts = np.where(high & (np.arange(len(power)) % 8 > 0)[:, None], 1e-3 * power, power)
    steady, changing = (features(frame_sums(x, cell_matrix(RATE, 4096))) for x in (power, bursts))
    above = cell_centres_hz() > 6500
    deviation, onsets, mean = (FEATURES.index(name) for name in ('deviation', 'onsets', 'mean'))
    assert changing[deviation, above].mean() > steady[deviation, above].mean() + 0.5
    assert (changing[onsets] - changing[mean])[above].mean() > (steady[onsets] - steady[mean])[above].mean() + 0.1


def test_quiet_and_silent_blocks_are_not_loud():
    energies = np.array([1.0, 0.5, 2e-3, 1e-4, 0.0])
    np.testing.assert_array_equal(loud_blocks(energies), [True, True, True, False, False])
    assert not loud_blocks(np.zeros(3)).any()


def test_less_than_a_frame_is_no_block():
    sums, energies = read(noise(0.05))
    assert sums.shape == (1, 0, 9, NUM_CELLS) and energies.shape == (0,)
