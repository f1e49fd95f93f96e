"""Generated audio files for the tests of the data path."""

import numpy as np
import pytest
import soundfile


def _write_noise(path, *, seconds=4.0, rate=44100, channels=1, cutoff_hz=None, seed=0, level=0.1):
    rng = np.random.default_rng(seed)
    count = int(seconds * rate)
    audio = level * rng.standard_normal((count, channels))
    if cutoff_hz is not None:
        spectrum = np.fft.rfft(audio, axis=0)
        spectrum[np.fft.rfftfreq(count, 1 / rate) > cutoff_hz] = 0
        audio = np.fft.irfft(spectrum, count, axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(audio, -1, 1), rate)
    return path


@pytest.fixture(scope='session')
def write_noise():
    """Writes white noise, if wanted with nothing above a cutoff; the suffix chooses the format."""
    return _write_noise
