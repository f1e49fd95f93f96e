"""Classes heard by a classifier of mel statistics."""

import numpy as np
import pytest

from nemo_audio_restore.evaluation.naming import ClassNamer, class_features, score_names

RATE = 44100


def tone(hz: float, seconds: float = 1.0, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)[None]


def pulses(bpm: float, seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    audio = 0.001 * rng.standard_normal(round(seconds * RATE))
    for start in np.arange(0.0, seconds, 60 / bpm):
        first = round(start * RATE)
        room = audio[first : first + 2000]
        room += 0.3 * rng.standard_normal(len(room)) * np.linspace(1, 0, len(room))
    return audio.astype(np.float32)[None]


def test_features_do_not_depend_on_level_channels_or_silence_at_the_end():
    audio = pulses(120, 3.0, 0)
    plain = class_features(audio, RATE)
    np.testing.assert_allclose(class_features(0.1 * audio, RATE), plain, atol=1e-3)
    np.testing.assert_allclose(class_features(np.concatenate([audio, audio]), RATE), plain, atol=1e-4)
    timbre = class_features(np.pad(audio, ((0, 0), (0, RATE))), RATE)[:256] - plain[:256]
    assert np.abs(timbre).mean() < 1.0


def test_features_follow_the_pitch_at_every_rate():
    low, high = class_features(tone(200), RATE), class_features(tone(5000), RATE)
    assert low[:64].argmax() < high[:64].argmax()
    slow = np.sin(2 * np.pi * 200 * np.arange(22050) / 22050)[None]
    assert abs(int(class_features(slow, 22050)[:64].argmax()) - int(low[:64].argmax())) <= 1


@pytest.mark.parametrize('audio', [np.zeros((1, 0)), np.full((1, 5000), np.nan)])
def test_nothing_to_hear_is_refused(audio):
    with pytest.raises(ValueError, match='finite sample'):
        class_features(audio, RATE)


def test_silence_and_a_few_samples_have_finite_features():
    for audio in (np.zeros((1, 5000)), tone(440, 0.005)):
        assert np.isfinite(class_features(audio, RATE)).all()


def test_timbre_and_rhythm_are_named_in_recordings_never_heard():
    kinds = {'low': lambda i: tone(150 + 9 * i), 'high': lambda i: tone(3000 + 60 * i)}
    kinds |= {'slow': lambda i: pulses(70 + i, 4.0, i), 'fast': lambda i: pulses(180 + i, 4.0, i)}
    train = [(name, make(i)) for name, make in kinds.items() for i in range(6)]
    namer = ClassNamer.fit(np.stack([class_features(audio, RATE) for _, audio in train]), [name for name, _ in train])
    assert namer.classes == ('fast', 'high', 'low', 'slow')
    test = [
        (name, make(i + 0.5)) for name, make in kinds.items() for i in (7,) for make in [lambda j, m=make: m(int(j))]
    ]
    named = namer.name(np.stack([class_features(audio, RATE) for _, audio in test]))
    assert named == [name for name, _ in test]


def test_training_needs_two_classes_and_a_name_for_each():
    with pytest.raises(ValueError, match='two or more classes'):
        ClassNamer.fit(np.zeros((3, 2)), ['a'] * 3)
    with pytest.raises(ValueError, match='a name for each'):
        ClassNamer.fit(np.zeros((3, 2)), ['a', 'b'])


def test_scores_are_shares_with_their_chance_and_certainty():
    score = score_names(list('aabb'), list('aaba'), ['a', 'b', 'c', 'd', 'e'])
    assert (score.right, score.count, score.accuracy) == (3, 4, 0.75)
    assert score.times_chance == pytest.approx(3.75)
    assert score.low < 0.75 < score.high
    # 4 * 0.2 ** 3 * 0.8 + 0.2 ** 4
    assert score.p_value == pytest.approx(0.0272)


def test_a_score_needs_recordings():
    with pytest.raises(ValueError, match='each recording'):
        score_names([], [], ['a'])
    with pytest.raises(ValueError, match='1 for 2'):
        score_names(['a'], ['a', 'b'], ['a', 'b'])
