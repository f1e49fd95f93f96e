import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.data.corpus import (
    Limits,
    Rejected,
    Track,
    check_tracks,
    choose_splits,
    find_audio,
    write_manifests,
)

ROOT = Path(__file__).parents[2]


def prepare(*options):
    command = [sys.executable, str(ROOT / 'examples' / 'prepare_music.py'), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})


def track(group, seconds=100.0, split=None):
    return Track(
        path=Path(f'{group}.wav'),
        group=group,
        licence='CC0',
        split=split,
        sample_rate=100,
        num_samples=int(100 * seconds),
        num_channels=1,
        bandwidth_hz=50.0,
        peak=1.0,
        rms=0.1,
        sha256='0' * 64,
    )


@pytest.fixture
def music(tmp_path, write_noise):
    """A folder with good files of several kinds and one file for each thing that can be wrong."""
    folder = tmp_path / 'music'
    write_noise(folder / 'anna' / 'wide.wav', seed=1)
    write_noise(folder / 'anna' / 'narrow.flac', cutoff_hz=5000.0, seed=2)
    write_noise(folder / 'bert' / 'stereo.ogg', rate=48000, channels=2, seed=3)
    write_noise(folder / 'carl' / 'deep' / 'low.mp3', rate=32000, seed=4)
    write_noise(folder / 'bert' / 'short.wav', seconds=1.0)
    (folder / 'bert' / 'copy.wav').write_bytes((folder / 'anna' / 'wide.wav').read_bytes())
    soundfile.write(folder / 'bert' / 'silent.wav', np.zeros(200000), 44100)
    soundfile.write(folder / 'bert' / 'nan.wav', np.full(200000, np.nan), 44100, subtype='FLOAT')
    (folder / 'bert' / 'text.wav').write_text('not audio')
    whole = (folder / 'anna' / 'narrow.flac').read_bytes()
    (folder / 'bert' / 'cut.flac').write_bytes(whole[: len(whole) // 2])
    (folder / 'anna' / 'cover.png').write_bytes(b'png')
    return folder


def reasons(rejected):
    return {item.path.name: item.reason for item in rejected}


def test_every_unusable_file_is_left_out_with_its_reason(music):
    tracks, rejected = check_tracks(find_audio(music), Limits())
    assert sorted(item.path.name for item in tracks) == ['low.mp3', 'narrow.flac', 'stereo.ogg', 'wide.wav']
    why = reasons(rejected)
    assert 'too short' in why['short.wav']
    assert 'same bytes' in why['copy.wav']
    assert 'silent' in why['silent.wav']
    assert 'NaN' in why['nan.wav']
    assert 'unreadable' in why['text.wav']
    assert 'unreadable' in why['cut.flac']
    assert 'cover.png' not in why


def test_measured_facts_are_the_files(music):
    tracks, _ = check_tracks(find_audio(music, licence='CC0'), Limits())
    by_name = {item.path.name: item for item in tracks}
    assert by_name['narrow.flac'].bandwidth_hz == pytest.approx(5000, abs=150)
    assert by_name['wide.wav'].bandwidth_hz == 22050
    assert by_name['wide.wav'].duration_s == pytest.approx(4.0)
    assert by_name['wide.wav'].rms == pytest.approx(0.1, rel=0.02)
    assert by_name['stereo.ogg'].num_channels == 2 and by_name['stereo.ogg'].sample_rate == 48000
    assert {item.group for item in tracks} == {'anna', 'bert', 'carl'}
    assert {item.licence for item in tracks} == {'CC0'}


def test_limits_decide_what_is_kept(music):
    tracks, rejected = check_tracks(find_audio(music), Limits(min_duration_s=0.5, min_bandwidth_hz=8000, min_peak=2.0))
    assert tracks == []
    tracks, rejected = check_tracks(find_audio(music), Limits(min_duration_s=0.5, min_bandwidth_hz=8000))
    assert 'too narrow: 50' in reasons(rejected)['narrow.flac']
    assert 'short.wav' in [item.path.name for item in tracks]


def test_progress_sees_every_file(music):
    seen = []
    tracks, rejected = check_tracks(find_audio(music), Limits(), on_track=seen.append)
    assert len(seen) == len(tracks) + len(rejected)
    assert any(isinstance(item, Rejected) for item in seen)


def test_a_group_is_never_split():
    tracks = [track(f'artist{index % 10}') for index in range(40)]
    splits = choose_splits(tracks, validation_share=0.2, test_share=0.1)
    counts = [list(splits.values()).count(name) for name in ('train', 'validation', 'test')]
    assert counts == [7, 2, 1]


def test_splits_do_not_depend_on_the_order_of_the_files():
    tracks = [track(f'artist{index}') for index in range(10)]
    assert choose_splits(tracks) == choose_splits(tracks[::-1])


def test_a_single_group_is_for_training():
    assert choose_splits([track('only')]) == {'only': 'train'}


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match='shares'):
        choose_splits([track('a')], validation_share=0.6, test_share=0.5)


def test_manifests_hold_relative_paths_and_facts(music, tmp_path):
    from lhotse import CutSet

    tracks, rejected = check_tracks(find_audio(music, licence='CC0'), Limits())
    manifests = write_manifests(tracks, rejected, tmp_path / 'out', validation_share=0.3, test_share=0.3)
    cuts = {split: list(CutSet.from_file(path)) for split, path in manifests.items()}
    assert sorted(cuts) == ['test', 'train', 'validation']
    every = [cut for members in cuts.values() for cut in members]
    assert len({cut.id for cut in every}) == 4
    for cut in every:
        source = cut.recording.sources[0].source
        assert (tmp_path / 'out' / source).exists() and not Path(source).is_absolute()
        assert {'bandwidth_hz', 'rms', 'licence', 'group', 'sha256'} <= set(cut.custom)
    with (tmp_path / 'out' / 'rejected.csv').open() as file:
        assert len(list(csv.DictReader(file))) == len(rejected)


def test_a_split_that_was_given_is_kept(tmp_path, music):
    tracks, _ = check_tracks(find_audio(music), Limits())
    tracks = [Track(**{**vars(item), 'split': 'test'}) for item in tracks]
    assert list(write_manifests(tracks, [], tmp_path / 'out')) == ['test']


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='no usable track'):
        write_manifests([], [Rejected(Path('a.wav'), 'silent')], tmp_path)
    with pytest.raises(FileNotFoundError, match='no such folder'):
        find_audio(tmp_path / 'missing')
    with pytest.raises(ValueError, match='no audio file'):
        find_audio(tmp_path)


def test_script_prepares_a_folder(music, tmp_path):
    out = tmp_path / 'corpus'
    done = prepare('--folder', music, '--licence', 'CC0', '--out', out)
    assert '4 tracks' in done.stdout and '6 files left out' in done.stdout
    with gzip.open(out / 'train.jsonl.gz', 'rt') as lines:
        assert json.loads(next(lines))['custom']['licence'] == 'CC0'


def test_script_says_what_is_wrong_with_a_folder(tmp_path):
    done = prepare('--folder', tmp_path / 'missing', '--out', tmp_path)
    assert done.returncode == 1 and 'no such folder' in done.stderr and 'Traceback' not in done.stderr
