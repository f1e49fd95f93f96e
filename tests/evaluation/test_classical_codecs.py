"""Codecs with command-line programs; those that are not installed are skipped."""

import struct

import numpy as np
import pytest

from nemo_audio_restore.evaluation.alignment import aligned, estimate_delay
from nemo_audio_restore.evaluation.classical_codecs import CLASSICAL_CODECS, CodecProgramError, ogg_packet_sizes

BY_NAME = {codec.name: codec for codec in CLASSICAL_CODECS}


def page(*segments: int) -> bytes:
    """An Ogg page whose packets are cut into these segments."""
    head = b'OggS' + struct.pack('<BBQIIIB', 0, 0, 0, 0, 0, 0, len(segments))
    return head + bytes(segments) + bytes(sum(segments))


def test_packets_of_an_ogg_stream_may_span_segments_and_pages():
    assert ogg_packet_sizes(page(19) + page(255, 3, 10) + page(255) + page(255, 0)) == [19, 258, 10, 510]


@pytest.mark.parametrize('stream', [b'RIFF' + bytes(40), page(19)[:-1], page(19) + b'Ogg'])
def test_a_damaged_ogg_stream_is_refused(stream):
    with pytest.raises(ValueError, match='Ogg page'):
        ogg_packet_sizes(stream)


def test_a_missing_program_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv('PATH', '')
    codec = BY_NAME['Opus']
    assert codec.missing_programs() == ['opusenc', 'opusdec']
    with pytest.raises(CodecProgramError, match='apt-get install opus-tools'):
        codec.code(np.zeros(100), 8000)


@pytest.mark.parametrize(
    ('name', 'kbps'),
    [('codec2 1600', 1.6), ('codec2 2400', 2.4), ('codec2 3200', 3.2), ('Speex 8 kHz', 2.2), ('Opus', 6.0)],
)
def test_a_second_of_sound_comes_back_at_about_the_nominal_rate(name, kbps):
    codec = BY_NAME[name]
    if missing := codec.missing_programs():
        pytest.skip(f'needs {" ".join(missing)}: apt-get install {codec.package}')
    time = np.arange(2 * 22050) / 22050
    # A voice-like buzz of 120 Hz that comes and goes.
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 25)) * (0.6 + 0.4 * np.sin(9 * time)) * 0.1
    coded = codec.code(buzz, 22050)
    # Opus varies its rate.
    assert coded.payload_bytes * 8e-3 / coded.duration_s == pytest.approx(kbps, rel=0.35 if name == 'Opus' else 0.06)
    assert coded.file_bytes >= coded.payload_bytes
    delay = estimate_delay([(buzz, coded.audio)], 22050)
    decoded = aligned(coded.audio, delay=delay, num_samples=len(buzz))
    levels = [np.abs(one.reshape(-1, 2205)).mean(axis=1) for one in (buzz, decoded)]
    assert np.corrcoef(*levels)[0, 1] > 0.5
