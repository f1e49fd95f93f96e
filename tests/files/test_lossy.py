import numpy as np
import pytest

from nemo_audio_restore.files.lossy import lossy_round_trip

RATE = 44100


def music(seconds=1.0):
    """A chord with noise around it, mono (1, T)."""
    time = np.arange(int(RATE * seconds)) / RATE
    tones = sum(np.sin(2 * np.pi * hz * time) for hz in (220, 277, 330, 4400))
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.05 * tones + 0.02 * noise)[None].astype(np.float32)


def error_db(codec, compression):
    clean = music()
    decoded = lossy_round_trip(clean, RATE, codec=codec, compression=compression)
    return 10 * np.log10(np.mean((decoded - clean) ** 2) / np.mean(clean**2))


@pytest.mark.parametrize('codec', ['mp3', 'vorbis'])
def test_the_result_is_aligned_with_the_input(codec):
    # One sample of shift would leave an error of about -3 dB in the noise; the tones alone would reach -10 dB.
    assert error_db(codec, 0.0) < -18


@pytest.mark.parametrize('codec', ['mp3', 'vorbis'])
def test_more_compression_damages_more(codec):
    assert error_db(codec, 0.9) > error_db(codec, 0.0) + 3


def test_length_and_channels_stay():
    clean = np.concatenate([music(0.37), -0.5 * music(0.37)])
    assert lossy_round_trip(clean, RATE, codec='vorbis', compression=0.5).shape == clean.shape


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'codec': 'aac', 'compression': 0.5}, 'codec must be one of mp3, vorbis'),
        ({'codec': 'mp3', 'compression': 1.0}, 'compression'),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lossy_round_trip(music(), RATE, **arguments)


def test_a_rate_without_mp3_is_refused():
    with pytest.raises(ValueError, match='no sample rate of 96000 Hz'):
        lossy_round_trip(music(), 96000, codec='mp3', compression=0.5)
