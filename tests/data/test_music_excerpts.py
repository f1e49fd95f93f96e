"""Excerpts of music: measured words, and which tracks are taken."""

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.data.corpus import Candidate, Limits, check_tracks, write_manifests
from nemo_audio_restore.data.music_excerpts import PERMISSIVE, Measured, excerpt_music, measure


def test_clicks_give_their_tempo_and_noise_gives_none():
    rate = 44100
    clicks = np.zeros((2, 9 * rate), np.float32)
    for start in np.arange(0, 9 * rate, rate // 2):
        clicks[:, start : start + 400] = np.random.default_rng(0).standard_normal(400) * np.linspace(1, 0, 400)
    # An octave below is a beat, too.
    assert min(abs(measure(clicks, rate).tempo - tempo) for tempo in (60, 120)) <= 3
    noise = np.random.default_rng(1).standard_normal((2, 9 * rate)).astype(np.float32)
    assert measure(0.1 * noise, rate).tempo is None


def test_level_and_tone_are_measured():
    time = np.arange(44100 * 3) / 44100
    low, high = (np.sin(2 * np.pi * hz * time)[None].astype(np.float32) for hz in (200, 6000))
    assert measure(low, 44100).level_db == pytest.approx(-3.01, abs=0.01)
    assert measure(0.01 * low, 44100).words[:2] == ('quiet and calm', 'dark')
    assert measure(high, 44100).words[:2] == ('loud and energetic', 'bright')


def test_words_stay_silent_between_the_extremes():
    assert Measured(-20.0, 2000.0, 100).words == ('', '', 'with a beat of 100 BPM')


@pytest.mark.parametrize(
    ('licence', 'taken'), [('CC-BY-SA-3.0', True), ('GPL-3 OR CC-BY-3.0', True), ('MIT', True), ('GPL-2+', False)]
)
def test_copyleft_for_software_alone_is_not_permissive(licence, taken):
    assert bool(PERMISSIVE.search(licence)) == taken


def test_known_packages_with_permissive_licences_give_four_excerpts_in_their_split(tmp_path):
    candidates = []
    for name, group, licence in (
        ('a', 'marsshooter-data/Band', 'CC-BY-SA-3.0'),
        ('b', 'marsshooter-data/Band', 'GPL-2'),
        ('c', 'unknown-package', 'CC0'),
    ):
        path = tmp_path / f'{name}.flac'
        noise = 0.1 * np.random.default_rng(ord(name)).standard_normal((60 * 8000, 2))
        soundfile.write(path, noise, 8000)
        candidates.append(Candidate(path, group, licence, 'validation'))
    tracks, rejected = check_tracks(candidates, Limits())
    manifests = write_manifests(tracks, rejected, tmp_path / 'corpus')
    clips = list(excerpt_music(manifests, tmp_path / 'audio'))
    assert [clip.name[-3:] for clip in clips] == ['a-0', 'a-1', 'a-2', 'a-3']
    assert {(clip.split, clip.kind, clip.licence) for clip in clips} == {('validation', 'metal song', 'CC-BY-SA-3.0')}
    assert soundfile.info(tmp_path / 'audio' / f'{clips[0].name}.flac').duration == pytest.approx(9.0)
