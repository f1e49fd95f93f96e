"""Generated audio files and cut manifests for the tests of the data path."""

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording


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


@pytest.fixture(scope='session')
def tracks_folder(tmp_path_factory):
    """Twelve short tracks whose constant level tells them apart, and their manifest ``cuts.jsonl.gz``."""
    folder = tmp_path_factory.mktemp('tracks')
    cuts = []
    for index in range(12):
        path = folder / f'track{index:02d}.wav'
        audio = np.full(16000, (index + 1) / 100) + np.arange(16000) * 1e-7
        soundfile.write(path, audio, 8000, subtype='FLOAT')
        cut = Recording.from_file(path, recording_id=path.stem).to_cut()
        cut.recording.sources[0].source = path.name
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(folder / 'cuts.jsonl.gz')
    return folder
