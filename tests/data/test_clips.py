"""Captioned clips: levels, lengths and manifests."""

import numpy as np
import pytest
from lhotse import CutSet

from nemo_audio_restore.data.clips import Clip, prepare_audio, save_clip, write_clip_manifests


def tone(seconds: float, rate: int = 44100, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def clip(**changes) -> Clip:
    facts = {
        'name': 'a',
        'split': 'train',
        'task': 'effect',
        'kind': 'bell',
        'caption': 'a bell',
        'licence': 'CC0',
        'group': 'kit',
        'tags': {'Sound': 'bell'},
    }
    return Clip(**{**facts, **changes})


@pytest.mark.parametrize(('level', 'peak'), [(3.0, 0.95), (0.5, 0.5), (0.01, 0.25)])
def test_levels_end_between_a_quarter_and_full_scale(level, peak):
    assert np.abs(prepare_audio(tone(0.2, level=level)[None], 44100)).max() == pytest.approx(peak, rel=0.01)


def test_a_clip_lasts_exactly_what_is_asked():
    assert prepare_audio(tone(1.0)[None], 44100, seconds=0.5).shape == (1, 22050)
    longer = prepare_audio(tone(1.0)[None], 44100, seconds=1.5)
    assert longer.shape == (1, 66150) and not longer[:, 44100:].any()


def test_the_pitch_survives_resampling():
    spectrum = np.abs(np.fft.rfft(prepare_audio(tone(1.0, rate=96000)[None], 96000)[0]))
    assert spectrum.argmax() == 440


def test_equal_channels_become_one_and_different_ones_stay():
    left = tone(0.1)
    assert prepare_audio(np.stack([left, left]), 44100).shape[0] == 1
    assert prepare_audio(np.stack([left, -left, left]), 44100).shape[0] == 2


def test_a_clip_ends_without_a_click_and_the_input_is_kept():
    audio = np.ones((1, 4410), np.float32)
    assert prepare_audio(audio, 44100)[0, -1] == 0
    assert (audio == 1).all()


def test_silence_is_refused():
    with pytest.raises(ValueError, match='silent'):
        prepare_audio(np.zeros((1, 100)), 44100)


@pytest.mark.parametrize('changes', [{'split': 'dev'}, {'task': 'speech'}, {'caption': ' '}])
def test_an_incomplete_clip_is_refused(changes):
    with pytest.raises(ValueError, match='a clip needs'):
        clip(**changes)


def test_manifests_hold_caption_tags_and_class_and_load_from_their_folder(tmp_path, monkeypatch):
    for item in (clip(), clip(name='b', split='test')):
        save_clip(item, prepare_audio(tone(0.3)[None], 44100), tmp_path / 'audio')
    manifests = write_clip_manifests([clip(), clip(name='b', split='test')], tmp_path / 'audio', tmp_path)
    assert sorted(manifests) == ['test', 'train']
    cut = next(iter(CutSet.from_file(manifests['train'])))
    assert cut.supervisions[0].text == 'a bell'
    assert (cut.custom['class'], cut.custom['tags'], cut.custom['licence']) == ('bell', {'Sound': 'bell'}, 'CC0')
    monkeypatch.chdir(tmp_path)
    assert cut.load_audio().shape == (1, 13230)


def test_no_clip_and_a_name_used_twice_are_refused(tmp_path):
    with pytest.raises(ValueError, match='no clip'):
        write_clip_manifests([], tmp_path, tmp_path)
    with pytest.raises(ValueError, match='share the name'):
        write_clip_manifests([clip(), clip()], tmp_path, tmp_path)
