"""A killed restoration goes on where it stopped, and nothing of it shows in the result."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fake_restorer import FakeRestorer, noise_audio

from nemo_audio_restore.files.audio import AudioFileError
from nemo_audio_restore.restoration import SamplerSettings, journal, restore_file

SETTINGS = SamplerSettings(steps=3, tile_frames=32, tile_hop_frames=16, batch_size=2)
REQUEST = {'cutoff_hz': 6000.0, 'gaps': [(0.3, 0.31)], 'seed': 7, 'settings': SETTINGS}


class Stop(Exception):
    """What interrupts a restoration in these tests."""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'in.wav'
    soundfile.write(path, noise_audio(0.4, channels=2).T, 44100, 'FLOAT')
    return path


@pytest.fixture(autouse=True)
def checkpoint_always(monkeypatch):
    monkeypatch.setattr(journal, 'CHECKPOINT_S', 0.0)
    monkeypatch.setattr(journal.time, 'monotonic', lambda: 0.0)  # checkpoints take no time


def stop_after(evaluations):
    def on_progress(done, total):
        if done >= evaluations:
            raise Stop

    return on_progress


def restored(restorer, source, target, **request):
    report = restore_file(restorer, source, target, **{**REQUEST, **request})
    return soundfile.read(target, dtype='float32')[0], report


def unfinished(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith('.unfinished'))


@pytest.mark.parametrize(
    ('share', 'stereo'), [(0.1, 'shared'), (0.5, 'shared'), (0.95, 'shared'), (0.5, 'mid-side'), (0.5, 'independent')]
)
def test_a_resumed_file_equals_an_uninterrupted_one_and_repeats_nothing(tmp_path, source, share, stereo):
    first = FakeRestorer()
    expected, _ = restored(first, source, tmp_path / 'whole.wav', stereo=stereo)
    total = first.network.tiles
    stopped, resumed = FakeRestorer(), FakeRestorer()
    with pytest.raises(Stop):
        restored(stopped, source, tmp_path / 'out.wav', stereo=stereo, on_progress=stop_after(share * total))
    assert not (tmp_path / 'out.wav').exists() and len(unfinished(tmp_path)) == 1
    seen = []
    actual, _ = restored(
        resumed, source, tmp_path / 'out.wav', stereo=stereo, on_progress=lambda done, total: seen.append(done)
    )
    assert np.array_equal(actual, expected)
    assert stopped.network.tiles + resumed.network.tiles == total
    assert seen[0] == stopped.network.tiles and seen[-1] == total
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.wav', 'out.wav', 'whole.wav']


def test_a_sampler_of_the_second_order_goes_on_with_its_last_estimates(tmp_path, source):
    settings = dataclasses.replace(REQUEST['settings'], steps=4, order=2)
    first = FakeRestorer()
    expected, _ = restored(first, source, tmp_path / 'whole.wav', settings=settings)
    with pytest.raises(Stop):
        halfway = stop_after(first.network.tiles // 2)
        restored(FakeRestorer(), source, tmp_path / 'out.wav', settings=settings, on_progress=halfway)
    actual, _ = restored(FakeRestorer(), source, tmp_path / 'out.wav', settings=settings)
    assert np.array_equal(actual, expected)


def test_a_restoration_that_is_stopped_twice_still_ends_the_same(tmp_path, source):
    expected, _ = restored(FakeRestorer(), source, tmp_path / 'whole.wav')
    for evaluations in (20, 40):
        with pytest.raises(Stop):
            restored(FakeRestorer(), source, tmp_path / 'out.wav', on_progress=stop_after(evaluations))
    actual, _ = restored(FakeRestorer(), source, tmp_path / 'out.wav')
    assert np.array_equal(actual, expected)


def test_the_tile_batch_may_change_between_runs(tmp_path, source):
    expected, _ = restored(FakeRestorer(), source, tmp_path / 'whole.wav')
    with pytest.raises(Stop):
        restored(FakeRestorer(), source, tmp_path / 'out.wav', on_progress=stop_after(50))
    restorer = FakeRestorer()
    settings = dataclasses.replace(SETTINGS, batch_size=8)
    actual, _ = restored(restorer, source, tmp_path / 'out.wav', settings=settings)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert restorer.network.largest == 8


@pytest.mark.parametrize(
    'change',
    [
        {'seed': 8},
        {'cutoff_hz': 6001.0},
        {'gaps': []},
        {'stereo': 'independent'},
        {'settings': dataclasses.replace(SETTINGS, eta=0.5)},
        {'settings': dataclasses.replace(SETTINGS, steps=4)},
    ],
)
def test_a_changed_request_never_goes_on_with_other_work(tmp_path, source, change):
    expected, _ = restored(FakeRestorer(), source, tmp_path / 'whole.wav', **change)
    with pytest.raises(Stop):
        restored(FakeRestorer(), source, tmp_path / 'out.wav', on_progress=stop_after(50))
    actual, _ = restored(FakeRestorer(), source, tmp_path / 'out.wav', **change)
    assert np.array_equal(actual, expected)
    assert unfinished(tmp_path) == []  # the target is there: what was unfinished is of no use any more


def test_the_key_knows_content_model_and_version(tmp_path, source, monkeypatch):
    request = journal.Request.make(**REQUEST)

    def key(restorer, path=source):
        return journal.job_key(restorer, path, request, {})

    def with_linear(**changes):
        restorer = FakeRestorer()
        restorer.network = torch.nn.Linear(300, 300)
        with torch.no_grad():
            restorer.network.weight.fill_(0.5)
            restorer.network.bias.fill_(changes.get('bias', 0.0))
            restorer.network.weight[7, 7] = changes.get('one', 0.5)
        return restorer

    keys = [key(with_linear()), key(with_linear(bias=1.0)), key(with_linear(one=0.25)), key(FakeRestorer())]
    assert len(set(keys)) == 4 and keys[0] == key(with_linear())
    other = FakeRestorer(hop_length=128)
    assert key(other) != key(FakeRestorer())
    copy = tmp_path / 'copy.wav'
    copy.write_bytes(source.read_bytes())
    assert key(FakeRestorer(), copy) == keys[3]
    copy.write_bytes(source.read_bytes()[:-4] + b'\0\0\0\0')
    assert key(FakeRestorer(), copy) != keys[3]
    monkeypatch.setattr(journal, '__version__', '99')
    assert key(FakeRestorer()) != keys[3]


@pytest.mark.parametrize('damage', ['state', 'finished'])
def test_damaged_leftovers_mean_a_new_start(tmp_path, source, damage):
    expected, _ = restored(FakeRestorer(), source, tmp_path / 'whole.wav')
    with pytest.raises(Stop):
        restored(FakeRestorer(), source, tmp_path / 'out.wav', on_progress=stop_after(70))
    leftover = tmp_path / unfinished(tmp_path)[0] / damage
    leftover.write_bytes(leftover.read_bytes()[:100])
    actual, _ = restored(FakeRestorer(), source, tmp_path / 'out.wav')
    assert np.array_equal(actual, expected)


def test_without_resume_nothing_is_kept_or_read(tmp_path, source):
    with pytest.raises(Stop):
        restored(FakeRestorer(), source, tmp_path / 'out.wav', resume=False, on_progress=stop_after(70))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.wav']
    with pytest.raises(Stop):
        restored(FakeRestorer(), source, tmp_path / 'out.wav', on_progress=stop_after(70))
    restorer = FakeRestorer()
    _, report = restored(restorer, source, tmp_path / 'out.wav', resume=False)
    assert restorer.network.tiles == report.tiles * report.steps


def test_a_failure_before_the_first_checkpoint_leaves_nothing(tmp_path, source, monkeypatch):
    monkeypatch.setattr(journal, 'CHECKPOINT_S', 10.0)
    with pytest.raises(Stop):
        restored(FakeRestorer(), source, tmp_path / 'out.wav', on_progress=stop_after(70))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.wav']


def test_two_processes_never_share_unfinished_work(tmp_path):
    with journal.Journal(tmp_path / 'out.wav', '0' * 32):
        with pytest.raises(AudioFileError, match='another process'):
            journal.Journal(tmp_path / 'out.wav', '0' * 32).__enter__()
    with journal.Journal(tmp_path / 'out.wav', '0' * 32):
        pass


@pytest.mark.skipif(sys.platform == 'win32', reason='limits the size of files, which Windows cannot')
def test_a_full_disk_is_one_sentence_and_keeps_what_is_finished(tmp_path):
    import resource

    source, target = tmp_path / 'in.wav', tmp_path / 'out.wav'
    soundfile.write(source, noise_audio(0.8, channels=2).T, 44100, 'FLOAT')
    expected, _ = restored(FakeRestorer(), source, tmp_path / 'whole.wav')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    try:
        with pytest.raises(AudioFileError) as caught:
            restored(FakeRestorer(), source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(caught.value)
    assert 'out.' in message and 'is kept' in message and '\n' not in message
    assert not target.exists() and len(unfinished(tmp_path)) == 1
    restorer = FakeRestorer()
    actual, report = restored(restorer, source, target)
    assert np.array_equal(actual, expected)
    assert restorer.network.tiles < report.tiles * report.steps


_PROGRAM = """
import sys, time
from fake_restorer import FakeNetwork, FakeRestorer
from nemo_audio_restore.restoration import SamplerSettings, journal, restore_file
journal.CHECKPOINT_S, journal.time.monotonic = 0.0, lambda: 0.0
restorer = FakeRestorer()
evaluate = FakeNetwork.__call__
def slow(self, *inputs):
    time.sleep(0.02)
    return evaluate(self, *inputs)
FakeNetwork.__call__ = slow
settings = SamplerSettings(steps=3, tile_frames=32, tile_hop_frames=16, batch_size=2)
restore_file(restorer, sys.argv[1], sys.argv[2], cutoff_hz=6000.0, gaps=[(0.3, 0.31)], seed=7, settings=settings,
             on_progress=lambda done, total: print(done, total, flush=True))
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGKILL')
def test_after_kill_9_the_same_command_goes_on(tmp_path, source):
    here = Path(__file__).resolve()
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(here.parent), str(here.parents[2])])}
    command = [sys.executable, '-c', _PROGRAM, str(source), str(tmp_path / 'out.wav')]
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    for line in killed.stdout:
        done, total = map(int, line.split())
        if done >= total / 2:
            killed.send_signal(signal.SIGKILL)
            break
    killed.stdout.read()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / 'out.wav').exists()
    again = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert int(again.stdout.split()[0]) >= total / 2
    expected, _ = restored(FakeRestorer(), source, tmp_path / 'whole.wav')
    actual, _ = soundfile.read(tmp_path / 'out.wav', dtype='float32')
    assert np.array_equal(actual, expected)
    assert (tmp_path / 'out.wav').read_bytes() == (tmp_path / 'whole.wav').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.wav', 'out.wav', 'whole.wav']
