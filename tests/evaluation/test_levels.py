"""Levels measured in a stream are those of the whole."""

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.evaluation.levels import file_levels, stream_levels
from nemo_audio_restore.evaluation.plots import level_db, spectrogram_sheet

RATE = 16000
NOISE = np.random.default_rng(0).standard_normal((2, 3 * RATE + 77)).astype(np.float32)


@pytest.mark.parametrize('size', [100, 5000, 1 << 20])
def test_streamed_levels_equal_those_of_the_whole(size):
    blocks = (NOISE[:, start : start + size] for start in range(0, NOISE.shape[1], size))
    levels = stream_levels(blocks, RATE, expected_samples=NOISE.shape[1])
    np.testing.assert_allclose(levels.level_db, level_db(NOISE, RATE), atol=1e-3)
    assert levels.duration_s == NOISE.shape[1] / RATE


def test_a_long_file_keeps_its_loudest_frame_in_few_columns(tmp_path):
    audio = np.zeros(60 * RATE, np.float32)
    audio[40 * RATE] = 1.0
    soundfile.write(tmp_path / 'a.wav', audio, RATE)
    levels = file_levels(tmp_path / 'a.wav')
    assert 900 < levels.level_db.shape[1] <= 1201
    assert levels.level_db.max() == pytest.approx(level_db(audio, RATE).max(), abs=0.1)
    assert levels.level_db.max(axis=0).argmax() / levels.level_db.shape[1] == pytest.approx(40 / 60, abs=0.003)


def test_recordings_with_different_rates_share_one_axis():
    figure = spectrogram_sheet({'before': stream_levels([NOISE], 8000, expected_samples=100), 'after': NOISE}, RATE)
    before, after = figure.axes[:2]
    assert before.get_ylim() == after.get_ylim() == (0, 8)
    assert before.images[0].get_extent()[3] == 4


def test_no_audio_is_refused():
    with pytest.raises(ValueError, match='no audio'):
        stream_levels([], RATE, expected_samples=0)
