"""Claims about what a language model hears of a recording."""

import warnings

import numpy as np
import pytest
import soundfile
import torch

from nemo_audio_restore.data.listening import InputWarning, Listening, NothingToHearError

RATE = 16000
HEARD = Listening(window_s=0.5, max_windows=3)


def tone(seconds, rate=RATE, level=0.25):
    return level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_loudest_sample_is_one_and_the_end_is_zero():
    windows = HEARD.windows(tone(0.7), RATE)
    assert windows.shape == (2, 8000)
    assert windows.abs().max() == 1
    assert not windows[1, 3200:].any()


def test_silence_stays_silent_and_is_told():
    with pytest.warns(InputWarning, match='is silent'):
        windows = HEARD.windows(np.zeros(4000), RATE)
    assert windows.shape == (1, 8000)
    assert not windows.any()
    published = Listening(window_s=0.5, published_numerics=True)
    with pytest.warns(InputWarning, match='is silent'):
        assert not published.windows(np.zeros(4000), RATE).any()


def test_three_samples_make_one_window_and_are_told():
    with pytest.warns(InputWarning, match=r'the audio lasts 0\.068 ms: there is next to nothing to hear'):
        windows = HEARD.windows(np.float32([0.1, -0.2, 0.1]), 44100)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        HEARD.windows(tone(0.03), RATE)
    assert windows.shape == (1, 8000)
    assert torch.isfinite(windows).all()


def test_audio_that_is_too_long_is_cut_with_a_warning():
    with pytest.warns(InputWarning, match=r'lasts 2\.0 s; the model hears the first 1\.5 s'):
        cut = HEARD.windows(tone(2.0), RATE)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        whole = HEARD.windows(tone(1.5), RATE)
    assert torch.equal(cut, whole)


def test_all_channels_are_heard_unless_published_numerics_are_asked_for():
    stereo = np.stack([np.zeros(8000, np.float32), tone(0.5)])
    assert HEARD.windows(stereo, RATE).any()
    with pytest.warns(InputWarning, match='is silent'):
        assert not Listening(window_s=0.5, published_numerics=True).windows(stereo, RATE).any()


def test_only_published_numerics_shift_what_has_no_negative_samples():
    audio = np.float32([0.0, 0.25, 0.5])
    assert HEARD.windows(audio, RATE)[0, :3].tolist() == [0, 0.5, 1]
    assert Listening(published_numerics=True).windows(audio, RATE)[0, :3].tolist() == [-1, 0, 1]


def test_only_published_numerics_cut_fractions_of_16_bits_off():
    rounded = Listening(window_s=0.5, published_numerics=True).windows(tone(0.5), RATE) * 32767
    assert torch.allclose(rounded, rounded.round(), atol=2e-3)
    exact = HEARD.windows(tone(0.5), RATE) * 32767
    assert not torch.allclose(exact, exact.round(), atol=2e-3)
    assert (exact.abs() - rounded.abs()).min() > -2e-3


def test_windows_overlap_as_asked():
    windows = Listening(window_s=0.5, overlap_s=0.25).windows(tone(0.75), RATE)
    assert windows.shape == (2, 8000)
    assert torch.equal(windows[0, 4000:], windows[1, :4000])


def test_files_are_read_like_arrays_and_not_beyond_the_last_window(tmp_path):
    path = tmp_path / 'long.wav'
    stereo = np.stack([tone(2.0, 44100), 0.5 * tone(2.0, 44100)], axis=1)
    soundfile.write(path, stereo, 44100, subtype='FLOAT')
    with pytest.warns(InputWarning, match=r'long\.wav lasts 2\.0 s') as caught:
        read = HEARD.read(path)
    assert len(caught) == 1
    assert torch.equal(read, HEARD.windows(stereo.T[:, : round(1.5 * 44100)], 44100))


@pytest.mark.parametrize(
    ('audio', 'message'),
    [
        (np.zeros(0), r'must be \(T,\) or \(C, T\) samples; got the shape \(0,\)'),
        (np.zeros((2, 3, 4)), r'got the shape \(2, 3, 4\)'),
        (np.float32([0, np.nan]), 'not finite'),
    ],
)
def test_what_is_no_audio_is_refused(audio, message):
    with pytest.raises(NothingToHearError, match=message):
        HEARD.windows(audio, RATE)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match='overlap_s less than a window; got 16000, 10.0, 10.0'):
        Listening(overlap_s=10.0)
    with pytest.raises(ValueError, match='max_windows must be at least 1'):
        Listening(max_windows=0)
