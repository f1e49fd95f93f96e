import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nemo_audio_restore.evaluation.plots import level_db, save_spectrogram_sheet, spectrogram_sheet

pytest.importorskip('matplotlib')
RATE = 16000


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)


def test_the_loudest_row_is_at_the_frequency_of_the_tone():
    level = level_db(tone(2000), RATE)
    assert abs(level.mean(axis=1).argmax() / (level.shape[0] - 1) * RATE / 2 - 2000) < RATE / 512


def test_stereo_is_mixed_to_mono():
    stereo = np.stack([tone(1000), -tone(1000)])
    assert level_db(stereo, RATE).max() < -100


def test_long_recordings_are_reduced_to_what_a_picture_can_show():
    assert level_db(tone(1000, seconds=20), RATE).shape[1] == 1200


def test_panels_share_their_scale_and_mark_cutoff_and_gap():
    figure = spectrogram_sheet(
        {'before': 0.01 * tone(500), 'after': tone(500)}, RATE, cutoff_hz=4000.0, gaps=[(0.2, 0.4)]
    )
    before, after = figure.axes[:2]
    assert before.images[0].get_clim() == after.images[0].get_clim()
    assert [line.get_ydata()[0] for line in before.lines][0] == 4.0
    assert [line.get_xdata()[0] for line in after.lines][1:] == [0.2, 0.4]


def test_a_region_is_marked_by_a_box_in_every_panel():
    figure = spectrogram_sheet({'a': tone(500), 'b': tone(500)}, RATE, regions=[(0.2, 0.4, 1000.0, 3000.0)])
    for panel in figure.axes[:2]:
        (box,) = panel.lines
        assert (min(box.get_xdata()), max(box.get_xdata())) == (0.2, 0.4)
        assert (min(box.get_ydata()), max(box.get_ydata())) == (1.0, 3.0)
        assert panel.get_xlim() == (0, 1) and panel.get_ylim() == (0, RATE / 2000)


def test_a_picture_is_written(tmp_path: Path):
    save_spectrogram_sheet(tmp_path / 'sheet.png', {'original': tone(500)}, RATE)
    assert (tmp_path / 'sheet.png').read_bytes().startswith(b'\x89PNG')


def test_drawing_leaves_pyplot_alone():
    code = (
        'import sys, numpy, nemo_audio_restore.evaluation.plots as p; assert "matplotlib" not in sys.modules; '
        'p.spectrogram_sheet({"a": numpy.ones(4000)}, 8000); assert "matplotlib.pyplot" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match='at least one'):
        spectrogram_sheet({}, RATE)
    with pytest.raises(ValueError, match='not empty'):
        level_db(np.zeros(0), RATE)
