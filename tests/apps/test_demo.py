"""Claims about ``audio-restore demo``."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_audio_restore.apps import cli, commands_demo


@pytest.fixture(scope='module')
def clips():
    folder = commands_demo.CLIP_FOLDER
    original, rate = soundfile.read(folder / 'original.flac')
    damaged, damaged_rate = soundfile.read(folder / 'dull_with_gap.flac')
    assert rate == damaged_rate and original.shape == damaged.shape
    return original, damaged, rate


def test_clip_has_a_silent_gap_exactly_where_the_demo_says(clips):
    original, damaged, rate = clips
    start, stop = (round(second * rate) for second in commands_demo.GAP_S)
    assert not damaged[start:stop].any()
    assert damaged[start - 10 : start].any() and damaged[stop : stop + 10].any()
    assert np.square(original[start:stop]).mean() > 1e-4


def test_clip_has_lost_everything_above_the_cutoff_and_nothing_below(clips):
    original, damaged, rate = clips
    stop = round(4.9 * rate)  # in front of the gap, whose edges click
    frequencies = np.fft.rfftfreq(stop, 1 / rate)
    window = np.blackman(stop)[:, None]
    before, after = (np.abs(np.fft.rfft(window * x[:stop], axis=0)) ** 2 for x in (original, damaged))
    above, below = frequencies > commands_demo.CUTOFF_HZ, frequencies < commands_demo.CUTOFF_HZ - 250
    assert 10 * np.log10(after[above].sum() / before[above].sum()) < -50
    assert 10 * np.log10(after[below].sum() / before[below].sum()) == pytest.approx(0, abs=0.01)


def test_comparison_scores_the_original_perfectly_and_the_damaged_clip_worse():
    folder = commands_demo.CLIP_FOLDER
    original, damaged = folder / 'original.flac', folder / 'dull_with_gap.flac'
    lines = commands_demo.comparison(original, damaged, original)
    distances = [list(map(float, line.split()[-2:])) for line in lines[1:3]]
    for before, after in distances:
        assert before > 2 and after == pytest.approx(0, abs=1e-6)


def test_picture_shows_three_spectrograms(tmp_path):
    pytest.importorskip('matplotlib')
    folder = commands_demo.CLIP_FOLDER
    files = [shutil.copy(folder / name, tmp_path) for name in ('original.flac', 'dull_with_gap.flac')]
    picture = tmp_path / 'sheet.png'
    commands_demo.draw(files[0], files[1], files[0], picture)
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    assert pixels.shape[0] > 600
    # Before, the upper part of the first panel is black; the other two panels are not.
    third = pixels.shape[0] // 3
    assert pixels[third // 4 : third // 2, 200:700].mean() < 0.1 < pixels[2 * third + third // 3 :, 200:700].mean()


def test_demo_writes_sounds_and_picture_and_prints_both_columns(tmp_path, fake_model):
    # The clip's gap must fit into one tile of the stand-in.
    fake_model.sampler = replace(fake_model.sampler, tile_frames=256, tile_hop_frames=128)
    result = CliRunner().invoke(cli.app, ['demo', '-o', str(tmp_path / 'out'), '--steps', '1'])
    assert result.exit_code == 0, result.output
    written = {path.name for path in (tmp_path / 'out').iterdir()}
    assert written == {'original.flac', 'dull_with_gap.flac', 'restored.flac', 'before_after.png'}
    assert 'before   after' in result.stdout and 'above 4 kHz' in result.stdout
    restored, rate = soundfile.read(tmp_path / 'out' / 'restored.flac')
    start, stop = (round(second * rate) for second in commands_demo.GAP_S)
    assert restored[start:stop].any()


def test_demo_on_a_device_that_is_not_there_ends_in_one_sentence(tmp_path):
    result = CliRunner().invoke(cli.app, ['demo', '-o', str(tmp_path / 'out'), '--device', 'cuda:99'])
    assert result.exit_code == 2
    assert 'cuda:99 is not available' in result.stderr
    assert not (tmp_path / 'out').exists()
