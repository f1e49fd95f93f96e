"""Tags and covers reach the restored file, whatever the formats are, and never cost the audio."""

import struct

import numpy as np
import pytest
import soundfile
import tinytag

from nemo_audio_restore.files.audio import AudioFileError
from nemo_audio_restore.files.tag_writing import append_wav_tags, replace_flac_tags
from nemo_audio_restore.files.tags import Picture, keep_tags, read_tags

RATE = 44100
COVER = Picture(3, 'image/png', 'front', b'\x89PNG\r\n\x1a\n' + bytes(range(256)))
FIELDS = {
    'TITLE': ('Señor Ω',),
    'ARTIST': ('First', 'Second'),
    'ALBUM': ('Tape',),
    'ALBUMARTIST': ('Various',),
    'DATE': ('1971-05-01',),
    'TRACKNUMBER': ('3',),
    'TRACKTOTAL': ('12',),
    'GENRE': ('Jazz',),
    'COMMENT': ('from the archive',),
    'ISRC': ('DEA123456789',),
    'BARCODE': ('4006381333931',),
    'SHELF': ('B 17',),
}


def write(path, *, channels=2, rate=RATE, subtype=None):
    audio = 0.1 * np.random.default_rng(0).standard_normal((500, channels))
    soundfile.write(path, audio, rate, subtype)
    return path


def tagged(path, **options):
    """A file with all of FIELDS and a cover."""
    write(path, **options)
    if path.suffix == '.flac':
        assert replace_flac_tags(path, FIELDS, [COVER]) == []
    elif path.suffix == '.wav':
        assert append_wav_tags(path, FIELDS, [COVER], broadcast=b'', software='test') == []
    else:  # an ID3 tag in front of the first frame, as every MP3 tagger writes it
        wav = tagged(path.with_suffix('.id3.wav'))
        content = wav.read_bytes()
        path.write_bytes(content[content.index(b'ID3\x04') :] + path.read_bytes())
    return path


@pytest.mark.parametrize('target', ['out.wav', 'out.flac'])
@pytest.mark.parametrize('source', ['in.wav', 'in.flac', 'in.mp3'])
def test_all_fields_and_the_cover_survive(tmp_path, source, target):
    source, target = tagged(tmp_path / source), write(tmp_path / target, subtype='PCM_24')
    before = soundfile.read(target)[0]
    assert keep_tags(source, target, note='treble generated') == []
    kept = read_tags(target)
    assert kept.fields == {**FIELDS, 'RESTORATION': ('treble generated',)}
    assert kept.pictures == (COVER,)
    np.testing.assert_array_equal(soundfile.read(target)[0], before)


def test_ogg_comments_survive(tmp_path):
    source = tmp_path / 'in.ogg'
    with soundfile.SoundFile(source, 'w', RATE, 1, format='OGG', subtype='VORBIS') as file:
        file.title, file.artist, file.tracknumber = 'Señor', 'First', '3'
        file.write(np.zeros(500))
    target = write(tmp_path / 'out.wav')
    assert keep_tags(source, target, note='x') == []
    fields = read_tags(target).fields
    assert (fields['TITLE'], fields['ARTIST'], fields['TRACKNUMBER']) == (('Señor',), ('First',), ('3',))
    assert 'ENCODER' not in fields


def test_plain_players_find_the_title_of_a_wav(tmp_path):
    target = write(tmp_path / 'out.wav')
    keep_tags(tagged(tmp_path / 'in.flac'), target, note='treble generated')
    with soundfile.SoundFile(target) as file:  # libsndfile reads LIST INFO, not ID3
        assert (file.title, file.album, file.software) == ('Señor Ω', 'Tape', 'treble generated')


def test_an_untagged_file_gets_the_note_alone(tmp_path):
    source = write(tmp_path / 'in.wav')
    for name in ('out.wav', 'out.flac'):
        target = write(tmp_path / name)
        assert keep_tags(source, target, note='treble generated') == []
        assert 'treble generated' in str(tinytag.TinyTag.get(target).as_dict())
        assert b'id3 ' not in target.read_bytes()


def test_restoring_twice_keeps_both_notes(tmp_path):
    first, second = write(tmp_path / 'a.flac'), write(tmp_path / 'b.flac')
    keep_tags(tagged(tmp_path / 'in.flac'), first, note='one')
    keep_tags(first, second, note='two')
    assert read_tags(second).fields['RESTORATION'] == ('one', 'two')


def test_the_start_time_of_a_broadcast_wave_follows_the_rate(tmp_path):
    body = bytearray(602)
    body[:4] = b'Tape'
    struct.pack_into('<Q', body, 338, 22050 * 3600)
    source, target = write(tmp_path / 'in.wav', rate=22050), write(tmp_path / 'out.wav', rate=44100)
    append_wav_tags(source, {}, (), broadcast=bytes(body), software='recorder')
    assert keep_tags(source, target, note='x') == []
    kept = read_tags(target).broadcast
    assert kept[:4] == b'Tape' and struct.unpack_from('<Q', kept, 338) == (44100 * 3600,)


def test_the_size_in_the_header_of_an_rf64_file_follows(tmp_path):
    target = tmp_path / 'out.wav'
    soundfile.write(target, np.zeros((501, 1)), RATE, 'PCM_24', format='RF64')
    append_wav_tags(target, FIELDS, [COVER], broadcast=b'', software='x')
    content = target.read_bytes()
    assert struct.unpack_from('<Q', content, 20) == (len(content) - 8,)
    assert soundfile.read(target)[0].shape == (501,)


def test_damaged_tags_are_reported_and_the_audio_is_left(tmp_path):
    source, target = tagged(tmp_path / 'in.flac'), write(tmp_path / 'out.wav')
    content = bytearray(source.read_bytes())
    at = content.index(b'TITLE=') - 4
    content[at : at + 4] = b'\xff\xff\xff\x7f'
    source.write_bytes(content)
    before = soundfile.read(target)[0]
    problems = keep_tags(source, target, note='x')
    assert len(problems) == 1 and 'cannot be read' in problems[0]
    np.testing.assert_array_equal(soundfile.read(target)[0], before)


def test_a_picture_that_flac_cannot_hold_is_reported(tmp_path):
    target = write(tmp_path / 'out.flac')
    large = Picture(3, 'image/png', '', COVER.data + bytes(1 << 24))
    problems = replace_flac_tags(target, FIELDS, [large])
    assert len(problems) == 1 and '16 MB' in problems[0]
    assert read_tags(target).fields['TITLE'] == FIELDS['TITLE'] and len(soundfile.read(target)[0]) == 500
    assert [path.name for path in tmp_path.iterdir()] == ['out.flac']


def test_what_describes_the_old_file_is_left_behind(tmp_path):
    source = write(tmp_path / 'in.flac')
    replace_flac_tags(source, {'ENCODER': ('LAME',), 'ITUNSMPB': ('0 0 840',), 'TITLE': ('a',)}, ())
    assert read_tags(source).fields == {'TITLE': ('a',)}


@pytest.mark.parametrize('name', ['a.wav', 'a.flac', 'a.mp3'])
def test_mutated_tags_are_read_or_refused_but_never_crash_or_hang(tmp_path, name):
    source, target = tagged(tmp_path / name), write(tmp_path / 'out.wav')
    content = source.read_bytes()
    start = content.index(b'LIST') if name == 'a.wav' else 0
    rng = np.random.default_rng(1)
    for _ in range(100):
        mutated = bytearray(content)
        for at in rng.integers(start, min(start + 1500, len(content)), rng.integers(1, 8)):
            mutated[at] = rng.integers(0, 256)
        source.write_bytes(mutated[: rng.integers(start + 20, len(mutated))])
        try:
            tags = read_tags(source)
        except AudioFileError:
            continue
        # Whatever was read can be written.
        assert append_wav_tags(target, tags.fields, tags.pictures, broadcast=b'', software='x') == []
    assert len(soundfile.read(target)[0]) == 500
