import pytest
from lhotse import CutSet, MonoCut, Recording

from nemo_audio_restore.data.crops import Crop


def cuts(*durations, rate=16000):
    made = []
    for index, duration in enumerate(durations):
        recording = Recording(f'r{index}', [], rate, int(duration * rate), duration)
        made.append(MonoCut(f'c{index}', 0.0, duration, 0, recording=recording))
    return CutSet.from_cuts(made)


def starts(crop, times=20):
    return [cut.start for _ in range(times) for cut in crop(cuts(10.0))]


def test_random_crops_lie_inside_and_spread_over_the_cut():
    found = starts(Crop(2.0, seed=1), times=200)
    assert min(found) >= 0 and max(found) <= 8.0
    assert min(found) < 1.0 and max(found) > 7.0


def test_all_crops_have_the_wanted_length():
    assert {cut.duration for cut in Crop(2.0)(cuts(2.0, 3.7, 100.0))} == {2.0}


def test_shorter_cuts_stay_as_they_are():
    (cut,) = Crop(2.0)(cuts(1.5))
    assert (cut.start, cut.duration) == (0.0, 1.5)


def test_same_seed_gives_the_same_crops_and_another_seed_others():
    assert starts(Crop(2.0, seed=3)) == starts(Crop(2.0, seed=3))
    assert starts(Crop(2.0, seed=3)) != starts(Crop(2.0, seed=4))


def test_middle_crops_are_always_the_same():
    assert set(starts(Crop(2.0, position='middle'))) == {4.0}


def test_crops_of_a_cut_start_from_its_own_beginning():
    (cut,) = Crop(1.0, position='middle')(CutSet.from_cuts([list(cuts(10.0))[0].truncate(offset=6.0, duration=3.0)]))
    assert cut.start == pytest.approx(7.0)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match='longer than 0 s'):
        Crop(0.0)
    with pytest.raises(ValueError, match='random or middle'):
        Crop(1.0, position='start')
