"""MIDI files: what is written is what is read; missing programs are named."""

import pytest

from nemo_audio_restore.data.midi import Note, read_programs, render_midi, run_mma, write_midi


def test_a_written_file_names_its_instrument(tmp_path):
    write_midi([Note(60, 0.0, 1.0), Note(64, 1.0, 200.0)], tmp_path / 'a.mid', tempo=97, program=40)
    assert read_programs(tmp_path / 'a.mid') == [40]


def test_drums_are_told_from_instruments(tmp_path):
    write_midi([Note(36, 0.0, 1.0)], tmp_path / 'a.mid', tempo=120, program=25, drums=True)
    assert read_programs(tmp_path / 'a.mid') == [None]


def test_instruments_that_never_play_are_not_named(tmp_path):
    write_midi([], tmp_path / 'a.mid', tempo=120, program=3)
    assert read_programs(tmp_path / 'a.mid') == []


def test_running_status_and_other_events_are_read(tmp_path):
    # Text and system-exclusive events, a program change, two notes with running status (the second without sound),
    # channel pressure and a pitch bend, then a note of another channel.
    track = bytes.fromhex('00ff0102616200f0024344' + '00c005' + '00903c40' + '10' + '3e00' + '00d010' + '00e00040')
    track += bytes.fromhex('00913c40' + '00ff2f00')
    header = b'MThd' + (6).to_bytes(4, 'big') + bytes((0, 1, 0, 1, 0, 96))
    (tmp_path / 'a.mid').write_bytes(header + b'MTrk' + len(track).to_bytes(4, 'big') + track)
    assert sorted(read_programs(tmp_path / 'a.mid')) == [0, 5]


@pytest.mark.parametrize('note', [Note(128, 0, 1), Note(60, 0, 1, velocity=0)])
def test_a_note_outside_midi_is_refused(tmp_path, note):
    with pytest.raises(ValueError, match='0 to 127'):
        write_midi([note], tmp_path / 'a.mid', tempo=120, program=0)


def test_a_program_outside_midi_is_refused(tmp_path):
    with pytest.raises(ValueError, match='program must be 0 to 127'):
        write_midi([], tmp_path / 'a.mid', tempo=120, program=128)


def test_another_file_is_not_read_as_midi(tmp_path):
    (tmp_path / 'a.mid').write_bytes(b'RIFFabcdefgh')
    with pytest.raises(ValueError, match='not a MIDI file'):
        read_programs(tmp_path / 'a.mid')


def test_a_missing_program_is_named_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(RuntimeError, match='mma is not installed.*Debian package mma'):
        run_mma('Tempo 120', tmp_path / 'a.mid')
    with pytest.raises(RuntimeError, match='fluidsynth is not installed'):
        render_midi(tmp_path / 'a.mid', tmp_path / 'a.sf2', tmp_path / 'a.wav')


def test_what_a_program_says_reaches_the_user(tmp_path, monkeypatch):
    (tmp_path / 'mma').write_text('#!/bin/sh\necho "unknown groove" >&2\nexit 1\n')
    (tmp_path / 'mma').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin:/usr/bin')
    with pytest.raises(RuntimeError, match='unknown groove'):
        run_mma('Tempo 120', tmp_path / 'a.mid')
