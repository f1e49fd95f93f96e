"""Claims about which recordings are asked about, and what is never trained."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from nemo_audio_restore.data import question_material, question_renders
from nemo_audio_restore.data.instruments import Phrase
from nemo_audio_restore.data.midi import Note
from nemo_audio_restore.data.question_material import (
    TESTED_FONT,
    TRAINED_FONT,
    chord_recordings,
    counted_recordings,
    effect_recordings,
    instrument_recordings,
    music_recordings,
    ordered_recordings,
    parts_of,
    speech_recordings,
)
from nemo_audio_restore.data.question_renders import render_together

RATE = 16000


def manifest(folder, name, clips):
    """Cuts of (id, custom, language, seconds)."""
    cuts = []
    for identity, custom, language, seconds in clips:
        rng = np.random.default_rng(len(cuts))
        soundfile.write(folder / f'{identity}.wav', 0.3 * rng.uniform(-1, 1, round(seconds * RATE)), RATE)
        recording = Recording.from_file(folder / f'{identity}.wav')
        segment = SupervisionSegment(identity, identity, 0.0, seconds, text='x', language=language)
        cuts.append(MonoCut(identity, 0.0, seconds, 0, [segment], recording=recording, custom=custom))
    CutSet.from_cuts(cuts).to_file(folder / name)
    return folder / name


def clip(kind, group, task='effect', count='one'):
    return {'class': kind, 'group': group, 'task': task, 'licence': 'CC0', 'tags': {'Count': count}}


def test_tested_kits_and_packages_are_never_trained_and_their_relatives_are_left_out(tmp_path):
    clips = [
        ('a', clip('kick drum', 'hydrogen-drumkits/BJA_Pacific'), 'en', 0.5),
        ('b', clip('kick drum', 'hydrogen-drumkits/Millo_MultiLayered2'), 'en', 0.5),
        ('c', clip('kick drum', 'hydrogen-drumkits/Gimme A Hand 1.0'), 'en', 0.5),
        ('d', clip('sword and metal hit', 'wesnoth-1.16-data'), 'en', 0.5),
        ('e', clip('kick drum', 'sonic-pi-samples', count='several'), 'en', 0.5),
        ('f', clip('electronic blip', 'sonic-pi-samples'), 'en', 0.5),
        ('g', clip('vinyl scratch', 'sonic-pi-samples'), 'en', 0.5),
    ]
    found = list(effect_recordings({'train': manifest(tmp_path, 'm.jsonl.gz', clips)}, tmp_path / 'out'))
    splits = {known.name[-1]: (known.split, known.near, known.single) for known in found}
    assert splits == {
        'a': ('train', False, True),
        'c': ('test', False, True),
        'd': ('test', False, True),
        'e': ('test', False, False),
        'f': ('train', False, True),
    }
    labels = {known.name[-1]: {fact.task: fact.label for fact in known.facts} for known in found}
    assert labels['d'] == {'sound': 'metal', 'kind': 'sound effect'} and labels['a'] == {'drum': 'kick drum'}
    assert all((tmp_path / 'out' / f'{known.name}.flac').exists() for known in found)


def test_held_out_sounds_of_a_trained_package_are_marked_as_near(tmp_path):
    clips = [('a', clip('bird', '0ad-data'), 'en', 0.5)]
    (known,) = effect_recordings({'test': manifest(tmp_path, 'm.jsonl.gz', clips)}, tmp_path / 'out')
    assert known.split == 'test' and known.near


def test_a_package_that_is_only_tested_on_is_not_near(tmp_path):
    clips = [('a', clip('bird', 'berusky2-data'), 'en', 0.5)]
    (known,) = effect_recordings({'test': manifest(tmp_path, 'm.jsonl.gz', clips)}, tmp_path / 'out')
    assert known.split == 'test' and not known.near


@pytest.mark.parametrize(
    ('name', 'kind', 'asked'),
    [
        ('effect-0ad-data-weapon-bow_attack_01-0', 'bow and arrow', True),
        ('series-0ad-data-bow-and-arrow-sling-attack-0', 'bow and arrow', False),
        ('effect-0ad-data-impact-sling_metal_01-0', 'sword and metal hit', True),
        ('effect-wesnoth-1-16-data-sounds-axe-0', 'sword and metal hit', True),
        ('effect-wesnoth-1-16-data-sounds-axe-miss-0', 'sword and metal hit', False),
        ('series-wesnoth-1-16-data-sword-and-metal-hit-axe-0', 'sword and metal hit', False),
    ],
)
def test_clips_that_do_not_sound_like_their_class_are_not_asked_about(tmp_path, name, kind, asked):
    file = manifest(tmp_path, 'm.jsonl.gz', [(name, clip(kind, '0ad-data'), 'en', 0.5)])
    assert len(list(effect_recordings({'train': file}, tmp_path / 'out'))) == asked


def test_accompaniments_are_trained_with_one_soundfont_and_tested_with_the_other(tmp_path):
    clips = [
        (f'{font}{i}', clip('tango', font, 'groove'), 'en', 0.2) for font in ('FluidR3', 'MuseScore') for i in range(9)
    ]
    file = manifest(tmp_path, 'm.jsonl.gz', clips)
    for split, font in (('train', TRAINED_FONT), ('test', TESTED_FONT)):
        found = list(music_recordings({split: file}, tmp_path / 'out'))
        assert found and {known.source for known in found} == {font.name}


def test_other_packages_test_voices_and_whole_takes_are_held_out(tmp_path):
    def take(group):
        return {'group': group, 'licence': 'GPL-2'}

    clips = [(f't{index}', take('tuxpaint/fr'), 'fr', 10.5) for index in range(16)]
    clips += [('k', take('ktuberling/fr'), 'fr', 5.5), ('x', take('tuxpaint/ko'), 'ko', 5.5)]
    found = list(speech_recordings(manifest(tmp_path, 'm.jsonl.gz', clips), None, tmp_path / 'out'))
    splits = {known.name: (known.split, known.near) for known in found}
    assert splits.pop('speech-k-0') == ('test', False)
    assert len(splits) == 32 and ('test', True) in splits.values() and ('train', False) in splits.values()
    for index in range(16):  # both halves of a take are on the same side
        assert len({splits[f'speech-t{index}-{half}'][0] == 'test' for half in (0, 1)}) == 1


@pytest.fixture
def played(monkeypatch):
    """In place of the synthesizer: noise, and silence for one program."""

    def render(phrases, soundfont, *, program, drums=False):
        rng = np.random.default_rng(program)
        return [(0.3 * rng.uniform(-1, 1, round(0.2 * RATE)) * (program != 43), RATE) for _ in phrases]

    monkeypatch.setattr(question_material, 'render_together', render)


def test_solos_of_the_other_soundfont_test_and_silent_ones_are_dropped(played, tmp_path):
    splits = {}
    for font in (TRAINED_FONT, TESTED_FONT):
        found = list(instrument_recordings(font, Path('x.sf2'), tmp_path, per_family=8, seed=0))
        splits[font.name] = {known.split for known in found}
        assert len({known.facts[0].label for known in found}) == 16
        assert not any('-0043-' in known.name for known in found)
    assert splits == {'FluidR3': {'train', 'validation'}, 'MuseScore': {'test'}}


def test_every_tempo_and_mode_is_played_as_often(played, tmp_path):
    found = list(chord_recordings(TRAINED_FONT, Path('x.sf2'), tmp_path, number=6, seed=0))
    kinds = [tuple(fact.label for fact in known.facts[:2]) for known in found]
    assert len(found) == 48 and {kinds.count(kind) for kind in kinds} == {8}


def test_scenes_are_made_of_sounds_of_their_own_split(tmp_path):
    clips = [
        ('a', clip('kick drum', 'hydrogen-drumkits/BJA_Pacific'), 'en', 0.5),
        ('b', clip('cowbell', 'hydrogen-drumkits/BJA_Pacific'), 'en', 0.5),
        ('c', clip('kick drum', 'hydrogen-drumkits/Gimme A Hand 1.0'), 'en', 0.5),
        ('d', clip('snare drum', 'hydrogen-drumkits/Gimme A Hand 1.0'), 'en', 0.5),
        ('e', clip('bird', '0ad-data'), 'en', 0.5),
    ]
    effects = list(effect_recordings({'train': manifest(tmp_path, 'm.jsonl.gz', clips)}, tmp_path))
    parts = parts_of(effects, tmp_path)
    counted = list(counted_recordings(parts, tmp_path, numbers={'train': 10, 'test': 5}))
    assert [known.facts[0].label for known in counted[:6]] == ['one', 'two', 'three', 'four', 'five', 'one']
    assert {(known.split, known.source[-3:]) for known in counted} == {('train', 'fic'), ('test', '1.0')}
    ordered = list(ordered_recordings(parts, tmp_path, numbers={'train': 12, 'test': 3}))
    assert all(known.facts[0].label not in known.facts[0].present for known in ordered)
    assert {label for known in ordered if known.split == 'test' for label in known.caption.split(', then ')} == {
        'kick drum',
        'snare drum',
    }


def test_phrases_played_together_are_taken_apart_at_their_own_tempo(monkeypatch):
    written = {}

    def write(notes, path, *, tempo, program, drums):
        written.update(notes=list(notes), tempo=tempo)

    def render(midi, soundfont, wav):
        soundfile.write(wav, np.repeat(np.arange(8) / 10, RATE), RATE)  # the tenth of each second

    monkeypatch.setattr(question_renders, 'write_midi', write)
    monkeypatch.setattr(question_renders, 'render_midi', render)
    phrases = [Phrase((Note(60, 1.0, 2.0),), tempo, 'a melody', 'C major', 2.0) for tempo in (60, 120)]
    (first, rate), (second, _) = render_together(phrases, Path('x.sf2'), program=0)
    assert rate == RATE and len(first) == len(second) == 2 * RATE
    assert (first[0], second[-1]) == pytest.approx((0.0, 0.4), abs=1e-3)
    assert [(note.start, note.beats) for note in written['notes']] == [(1.0, 2.0), (3.5, 1.0)]
    assert written['tempo'] == 60
