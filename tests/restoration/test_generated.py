"""What is said about a restoration is what was asked and done."""

from dataclasses import replace

import soundfile
from fake_restorer import FakeRestorer, noise_audio

from nemo_audio_restore.files.tags import read_tags
from nemo_audio_restore.restoration import SamplerSettings, restore_file
from nemo_audio_restore.restoration.generated import generated_parts, in_words

SETTINGS = SamplerSettings(steps=1, tile_frames=32, tile_hop_frames=32)


def test_parts_and_words_follow_the_restoration_and_reach_the_tags(tmp_path):
    source, target = tmp_path / 'in.flac', tmp_path / 'out.flac'
    with soundfile.SoundFile(source, 'w', 44100, 1) as file:
        file.title = 'Tape 7'
        file.write(noise_audio(0.3).T)
    gaps = [(0.2, 0.21), (0.1, 0.12)]
    report = restore_file(FakeRestorer(), source, target, cutoff_hz=6000, gaps=gaps, settings=SETTINGS, seed=5)
    bandwidth, first, second = generated_parts(report)
    assert (bandwidth['kind'], bandwidth['low_hz'], bandwidth['high_hz']) == ('bandwidth', 6000, 22050)
    assert bandwidth['fade_hz'] > 0 and bandwidth['end_s'] == report.duration_s
    assert [(part['start_s'], part['end_s'], part['low_hz']) for part in (first, second)] == [
        (0.1, 0.12, 0),
        (0.2, 0.21, 0),
    ]
    words = in_words(report)
    assert 'everything above 6000 Hz and 0.1-0.12 s, 0.2-0.21 s; seed 5' in words
    tags = read_tags(target)
    assert tags.fields['TITLE'] == ('Tape 7',) and tags.fields['RESTORATION'] == (words,)
    many = replace(report, gaps=tuple((i / 10, i / 10 + 0.05) for i in range(100)))
    assert 'and 92 more gaps' in in_words(many)
    assert generated_parts(replace(report, cutoff_hz=None, gaps=())) == []
    assert 'generated nothing' in in_words(replace(report, cutoff_hz=None, gaps=()))
