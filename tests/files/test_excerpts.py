import numpy as np
import pytest
import soundfile

from nemo_audio_restore.files.audio import AudioFileError
from nemo_audio_restore.files.excerpts import read_excerpts


def ramp(path, seconds, rate=1000):
    audio = np.arange(int(seconds * rate)) / (seconds * rate)
    soundfile.write(path, audio, rate, subtype='FLOAT')
    return audio


def test_excerpts_cover_both_ends_of_a_long_file(tmp_path):
    audio = ramp(tmp_path / 'a.wav', 60)
    excerpts = [excerpt for excerpt, _ in read_excerpts(tmp_path / 'a.wav', count=3, excerpt_s=5)]
    assert [excerpt.shape for excerpt in excerpts] == [(1, 5000)] * 3
    np.testing.assert_allclose(excerpts[0][0, 0], audio[0])
    np.testing.assert_allclose(excerpts[-1][0, -1], audio[-1])


def test_a_short_file_is_read_whole(tmp_path):
    audio = ramp(tmp_path / 'a.wav', 8)
    ((excerpt, missing),) = read_excerpts(tmp_path / 'a.wav', count=3, excerpt_s=5)
    np.testing.assert_allclose(excerpt[0], audio, rtol=1e-6)
    assert missing == 0


def test_a_truncated_file_is_refused(tmp_path):
    soundfile.write(tmp_path / 'a.flac', np.random.default_rng(0).standard_normal(200000) * 0.1, 8000)
    whole = (tmp_path / 'a.flac').read_bytes()
    (tmp_path / 'a.flac').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioFileError):
        list(read_excerpts(tmp_path / 'a.flac', count=2, excerpt_s=1))
