"""Grooves and solo phrases: what is planned, composed and said; the programs that render are replaced."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.data import rendered
from nemo_audio_restore.data.grooves import groove_clip, groove_names, plan_takes, styles
from nemo_audio_restore.data.instruments import compose, instruments, phrase_clip, program_names
from nemo_audio_restore.data.midi import Note, write_midi
from nemo_audio_restore.data.rendered import SOUNDFONTS, render_grooves, render_phrases

STYLE = {style.kind: style for style in styles()}
SOLO = [row for row in instruments() if row.family]


@pytest.fixture
def library(tmp_path) -> Path:
    for style in styles():
        for file in style.files:
            path = tmp_path / f'{file}.mma'
            path.parent.mkdir(parents=True, exist_ok=True)
            name = file.split('/')[1]
            variants = ''.join(f'DefGroove {name}{index} A variant.\n' for index in range(6))
            path.write_text(f'{variants}  defgroove {name}Intro No style yet.\nDefGroove {name}End\n')
    return tmp_path


@pytest.fixture
def silent_programs(monkeypatch):
    """mma and FluidSynth, replaced by a note and a tone."""
    rendered_with = []

    def run_mma(source, path):
        write_midi([Note(60, 0.0, 1.0)], path, tempo=120, program=0)

    def render_midi(midi, soundfont, wav):
        rendered_with.append((midi, soundfont))
        soundfile.write(wav, np.stack([np.full(44100, 0.1), np.linspace(0, 0.2, 44100)], axis=1), 44100)

    monkeypatch.setattr(rendered, 'run_mma', run_mma)
    monkeypatch.setattr(rendered, 'render_midi', render_midi)
    return rendered_with


def test_introductions_and_endings_are_no_grooves(library):
    assert groove_names(library / 'stdlib/samba.mma') == [f'samba{index}' for index in range(6)]


def test_a_groove_is_in_one_split_and_every_class_is_tested(library):
    for style in styles():
        takes = plan_takes(style, library, count=40)
        by_split = {
            split: {(take.file, take.groove) for take in takes if take.split == split} for split in ('train', 'test')
        }
        assert by_split['test'] and not by_split['test'] & by_split['train']


def test_takes_depend_on_the_seed_only(library):
    first, again, other = (plan_takes(STYLE['funk'], library, count=8, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_tempo_and_length_are_those_of_the_class(library):
    for take in plan_takes(STYLE['waltz'], library, count=40):
        low, high = STYLE['waltz'].tempi
        assert low <= take.tempo <= high and 6 <= take.seconds <= 10
        assert f'Tempo {take.tempo}' in take.source
        bars = [line for line in take.source.splitlines() if line[0].isdigit()]
        # Even measures of two beats last until the end of the clip.
        assert len(bars) * 2 * 60 / take.tempo >= take.seconds


def test_blues_has_twelve_bars_and_minor_keys_only_where_the_table_says(library):
    assert len(plan_takes(STYLE['blues'], library, count=1)[0].chords) == 12
    assert {take.mode for take in plan_takes(STYLE['march'], library, count=30)} == {'major'}
    assert {take.mode for take in plan_takes(STYLE['tango'], library, count=30)} == {'major', 'minor'}


def test_a_missing_library_names_the_package(tmp_path):
    with pytest.raises(FileNotFoundError, match='install Debian package mma'):
        plan_takes(STYLE['samba'], tmp_path, count=2)


def test_drums_alone_have_no_key(library):
    for take in plan_takes(STYLE['hip hop'], library, count=20):
        drums = groove_clip(take, [None], 'FluidR3', 'MIT')
        assert 'Key' not in drums.tags and 'major' not in drums.caption
        assert groove_clip(take, [None, 0], 'FluidR3', 'MIT').tags['Key'] == f'{take.key} {take.mode}'


def test_captions_of_grooves_name_the_style_and_the_true_tempo(library):
    for style in styles():
        for take in plan_takes(style, library, count=10):
            clip = groove_clip(take, [None, 24], 'FluidR3', 'MIT')
            assert any(caption in clip.caption for caption in style.captions)
            assert 'BPM' not in clip.caption or f'{take.tempo} BPM' in clip.caption
            assert clip.tags['Instruments'] == 'drums, nylon-string guitar'


def test_every_general_midi_program_has_a_name():
    assert sorted(program_names()) == list(range(128))


@pytest.mark.parametrize('instrument', SOLO[::5], ids=lambda row: row.name)
def test_phrases_keep_to_the_range_and_the_time(instrument):
    for seed in range(20):
        phrase = compose(instrument, seed)
        assert phrase.notes and all(instrument.low <= note.pitch <= instrument.high for note in phrase.notes)
        assert min(note.start for note in phrase.notes) == 0
        assert max(note.start for note in phrase.notes) * 60 / phrase.tempo < phrase.seconds
        assert 2.5 <= phrase.seconds <= 6


def test_phrases_depend_on_their_seed():
    assert compose(SOLO[0], 1) == compose(SOLO[0], 1) != compose(SOLO[0], 2)


def test_every_family_has_held_out_programs_and_others():
    for family in {row.family for row in SOLO}:
        assert len({bool(row.held_out) for row in SOLO if row.family == family}) == 2


def test_an_instrument_held_out_with_one_soundfont_is_tested_with_that_one_only():
    row = next(row for row in SOLO if row.held_out == 'musescore')
    clips = {
        name: [phrase_clip(row, compose(row, i), i, name, 'MIT') for i in range(20)]
        for name in ('MuseScore', 'FluidR3')
    }
    assert {clip.split for clip in clips['MuseScore']} == {'test'}
    assert 'test' not in {clip.split for clip in clips['FluidR3']}


def test_captions_of_phrases_name_the_family():
    for row in SOLO:
        clip = phrase_clip(row, compose(row, 0), 0, 'FluidR3', 'MIT')
        assert row.family in clip.caption and clip.kind == row.family


def test_test_grooves_are_rendered_with_every_soundfont_and_others_with_one(library, silent_programs, tmp_path):
    fonts = {font: tmp_path / font.name for font in SOUNDFONTS}
    clips = render_grooves(fonts, tmp_path / 'audio', library=library, per_class=8, workers=1)
    stems = {}
    for clip in clips:
        stems.setdefault((clip.split, clip.name.rsplit('-', 1)[0]), set()).add(clip.group)
    assert all(len(groups) == (2 if split == 'test' else 1) for (split, _), groups in stems.items())
    assert {clip.group for clip in clips if clip.split == 'train'} == {'FluidR3', 'MuseScore'}
    done = len(silent_programs)
    assert render_grooves(fonts, tmp_path / 'audio', library=library, per_class=8, workers=1) == clips
    assert len(silent_programs) == done


def test_phrases_of_a_family_are_as_many_as_asked(silent_programs, tmp_path):
    fonts = {font: tmp_path / font.name for font in SOUNDFONTS}
    clips = render_phrases(fonts, tmp_path / 'audio', per_family=4, workers=1)
    counts = [sum(clip.kind == family for clip in clips) for family in {row.family for row in SOLO}]
    # At least one for each program and soundfont.
    assert min(counts) >= 4
    assert len({clip.name for clip in clips}) == len(clips)


def test_a_take_that_fails_is_reported_and_the_others_are_made(library, silent_programs, monkeypatch, tmp_path):
    working = rendered.run_mma

    def run_mma(source, path):
        if 'samba' in source:
            raise RuntimeError('no such groove')
        working(source, path)

    monkeypatch.setattr(rendered, 'run_mma', run_mma)
    messages = []
    fonts = {SOUNDFONTS[0]: tmp_path / 'font.sf2'}
    clips = render_grooves(fonts, tmp_path / 'audio', library=library, per_class=1, workers=1, report=messages.append)
    assert messages and 'samba' not in {clip.kind for clip in clips}
    assert len(clips) == len(styles()) - 1


def test_a_program_that_is_not_installed_stops_the_work(library, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(RuntimeError, match='not installed'):
        render_grooves({SOUNDFONTS[0]: tmp_path / 'a'}, tmp_path / 'audio', library=library, per_class=1)
