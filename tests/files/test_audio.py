"""Reading and writing: what goes in comes out, and what cannot is said in one sentence."""

import os
import struct
import sys

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.files.audio import AudioFileError, probe, read_audio, read_blocks
from nemo_audio_restore.files.resample import resample_blocks, resampled_length
from nemo_audio_restore.files.writer import AudioWriter, write_audio


def _audio(samples: int = 3000, channels: int = 2, rms: float = 0.1) -> np.ndarray:
    return (rms * np.random.default_rng(0).standard_normal((channels, samples))).astype(np.float32)


@pytest.mark.parametrize(
    ('suffix', 'bits'), [('wav', '16'), ('wav', '24'), ('flac', '16'), ('flac', '24'), ('wav', 'float')]
)
def test_what_was_read_is_written_bit_for_bit(tmp_path, suffix, bits):
    first, second = tmp_path / f'a.{suffix}', tmp_path / f'b.{suffix}'
    write_audio(first, _audio(), 44100, bits=bits)
    audio, rate = read_audio(first)
    write_audio(second, audio, rate, bits=bits)
    assert np.array_equal(read_audio(second)[0], audio)
    assert np.abs(audio - _audio()).max() <= {'16': 2**-16, '24': 2**-23, 'float': 0}[bits]
    assert probe(first).encoding == {'16': 'PCM_16', '24': 'PCM_24', 'float': 'FLOAT'}[bits]


def test_defaults_are_float_in_wav_and_24_bits_in_flac(tmp_path):
    for name, encoding in (('a.wav', 'FLOAT'), ('a.flac', 'PCM_24')):
        write_audio(tmp_path / name, _audio(), 44100)
        assert probe(tmp_path / name).encoding == encoding


@pytest.mark.parametrize('options', [{}, {'clip': 'rescale'}])
def test_a_float_wav_keeps_its_peak_but_not_the_time_of_writing(tmp_path, options):
    audio = _audio()
    write_audio(tmp_path / 'a.wav', audio, 44100, **options)
    content = (tmp_path / 'a.wav').read_bytes()
    version, written_at, peak = struct.unpack_from('<IIf', content, content.index(b'PEAK') + 8)
    assert (version, written_at) == (1, 0)
    assert peak == np.abs(audio[0]).max()


@pytest.mark.parametrize('suffix', ['wav', 'flac', 'ogg', 'mp3'])
def test_blocks_together_are_the_whole_file(tmp_path, suffix):
    path = tmp_path / f'a.{suffix}'
    soundfile.write(path, _audio(20000).T, 44100)
    blocks = list(read_blocks(path, block_samples=777))
    assert all(block.dtype == np.float32 and block.shape[0] == 2 for block in blocks)
    whole, _ = soundfile.read(path, dtype='float32', always_2d=True)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole.T)


def _broken_files(folder):
    wav = folder / 'good.wav'
    soundfile.write(wav, _audio().T, 44100, 'FLOAT')
    flac = folder / 'good.flac'
    soundfile.write(flac, _audio(50000).T, 44100)
    nan = _audio()
    nan[1, 500] = np.nan
    cases = {
        'missing.wav': (None, 'does not exist'),
        'empty.wav': (b'', 'empty'),
        'text.wav': (b'this is a letter, not a recording\n' * 50, 'not an audio file'),
        'text.mp3': (b'this is a letter, not a recording\n' * 50, 'not an audio file'),
        'raw.raw': (b'0' * 500, 'not an audio file'),
        'truncated.wav': (wav.read_bytes()[:-9000], 'truncated'),
        'header.wav': (wav.read_bytes()[:20], 'not an audio file|holds no samples'),
        'truncated.flac': (flac.read_bytes()[: flac.stat().st_size // 2], 'truncated|damaged'),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (folder / name).write_bytes(data)
        yield folder / name, message
    soundfile.write(folder / 'nan.wav', nan.T, 44100, 'FLOAT')
    yield folder / 'nan.wav', 'not a number at 0.011 s'
    soundfile.write(folder / 'huge.wav', nan.T * 0 + 1e20, 44100, 'FLOAT')
    yield folder / 'huge.wav', 'not a number|times full scale'
    soundfile.write(folder / 'none.wav', np.zeros((0, 2)), 44100)
    yield folder / 'none.wav', 'no samples'
    (folder / 'folder.wav').mkdir()
    yield folder / 'folder.wav', 'is a folder'


def test_every_broken_file_is_refused_with_its_name_and_the_reason(tmp_path):
    for path, message in _broken_files(tmp_path):
        with pytest.raises(AudioFileError, match=message) as caught:
            read_audio(path)
        text = str(caught.value)
        assert path.name in text and '\n' not in text, path


def test_a_wav_from_a_pipe_has_no_size_and_is_read(tmp_path):
    path = tmp_path / 'pipe.wav'
    soundfile.write(path, _audio().T, 44100, 'PCM_16')
    data = bytearray(path.read_bytes())
    at = data.index(b'data') + 4
    data[at : at + 4] = data[4:8] = struct.pack('<I', 0xFFFFFFFF)
    path.write_bytes(data)
    assert read_audio(path)[0].shape == (2, 3000)


@pytest.mark.parametrize(
    ('name', 'options', 'channels', 'message'),
    [
        ('a.mp3', {}, 2, 'must end in .wav or .flac'),
        ('a', {}, 2, 'must end in .wav or .flac'),
        ('a.flac', {'bits': 'float'}, 2, 'choose from 16, 24'),
        ('a.wav', {'bits': '20'}, 2, 'choose from 16, 24, float'),
        ('a.wav', {'clip': 'squash'}, 2, 'choose from none, clamp, rescale'),
        ('a.flac', {}, 12, 'at most 8 channels'),
    ],
)
def test_formats_that_cannot_hold_the_audio_are_refused(tmp_path, name, options, channels, message):
    with pytest.raises(AudioFileError, match=message):
        write_audio(tmp_path / name, _audio(channels=channels), 44100, **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_survives_unless_overwriting_is_allowed(tmp_path):
    path = tmp_path / 'a.wav'
    path.write_text('precious')
    with pytest.raises(AudioFileError, match='exists'):
        write_audio(path, _audio(), 44100)
    assert path.read_text() == 'precious'
    write_audio(path, _audio(), 44100, overwrite=True)
    assert read_audio(path)[0].shape == (2, 3000)


@pytest.mark.parametrize('clip', ['none', 'rescale'])
def test_a_failure_half_way_leaves_nothing_new_and_the_old_file_untouched(tmp_path, clip):
    path = tmp_path / 'a.wav'
    path.write_text('precious')
    with pytest.raises(KeyboardInterrupt):
        with AudioWriter(
            path, sample_rate=44100, channels=2, num_samples=6000, clip=clip, overwrite=True
        ) as writer:  # fmt: skip
            writer.write(_audio())
            assert len(list(tmp_path.iterdir())) == 2
            raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ['a.wav'] and path.read_text() == 'precious'


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(AudioFileError, match='cannot be'):
        write_audio(tmp_path / 'file' / 'a.wav', _audio(), 44100)


@pytest.mark.skipif(not os.path.exists('/dev/full') or sys.platform != 'linux', reason='needs /dev/full')
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / 'a.wav'
    writer = AudioWriter(path, sample_rate=44100, channels=2, num_samples=100000)
    monkeypatch.setattr(writer, '_part', type(path)('/dev/full'))
    monkeypatch.setattr(type(path), 'unlink', lambda self, missing_ok=False: None)
    with pytest.raises(AudioFileError, match='cannot be written'):
        with writer:
            for _ in range(20):
                writer.write(_audio(65536))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == 'win32', reason='limits the size of files, which Windows cannot')
@pytest.mark.parametrize('suffix', ['wav', 'flac'])
@pytest.mark.parametrize('limit', [150_000, 250_000])
def test_a_file_that_cannot_grow_never_gets_its_name(tmp_path, suffix, limit):
    """Also if only the end is missing, which libsndfile does not report."""
    import resource

    audio = _audio(50_000)
    write_audio(tmp_path / f'whole.{suffix}', audio, 44100, bits='24')
    limit = min(limit, (tmp_path / f'whole.{suffix}').stat().st_size - 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(AudioFileError, match='cannot be written'):
            write_audio(tmp_path / f'a.{suffix}', audio, 44100, bits='24')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == [f'whole.{suffix}']


def test_clip_policies_saturate_limit_or_turn_down(tmp_path):
    loud = _audio(rms=0.6)
    peak = np.abs(loud).max()
    assert peak > 1.5
    results = {}
    for clip in ('none', 'clamp', 'rescale'):
        for bits in ('16', 'float'):
            path = tmp_path / f'{clip}{bits}.wav'
            with AudioWriter(
                path, sample_rate=44100, channels=2, num_samples=3000, bits=bits, clip=clip
            ) as writer:  # fmt: skip
                writer.write(loud)
            results[clip, bits] = read_audio(path)[0]
            assert writer.clipped_samples == (np.abs(loud) > 1).sum() and writer.peak == peak
            assert (writer.rescale_db < 0) == (clip == 'rescale')
    np.testing.assert_array_equal(results['none', 'float'], loud)
    np.testing.assert_array_equal(results['clamp', 'float'], np.clip(loud, -1, 1))
    np.testing.assert_allclose(results['none', '16'], np.clip(loud, -1, 1), atol=2**-15)
    np.testing.assert_allclose(results['rescale', '16'], loud / peak, atol=2**-14)
    np.testing.assert_allclose(results['rescale', 'float'], loud / peak, atol=1e-6)


def test_more_than_four_gigabytes_become_an_rf64(tmp_path):
    path = tmp_path / 'a.wav'
    with AudioWriter(path, sample_rate=44100, channels=2, num_samples=1 << 30) as writer:
        writer.write(_audio())
    assert path.read_bytes()[:4] == b'RF64'
    np.testing.assert_array_equal(read_audio(path)[0], _audio())


@pytest.mark.parametrize(('from_hz', 'to_hz'), [(8000, 44100), (48000, 44100), (44100, 96000), (44100, 44100)])
def test_resampling_a_stream_equals_resampling_the_whole_and_keeps_time(from_hz, to_hz):
    seconds = 0.3
    time = np.arange(round(from_hz * seconds)) / from_hz
    tone = np.sin(2 * np.pi * 1000 * time)[None].astype(np.float32)
    length = resampled_length(len(time), from_hz, to_hz)
    parts = (tone[:, start : start + 100] for start in range(0, len(time), 100))
    streamed = np.concatenate(
        list(resample_blocks(parts, from_hz, to_hz, channels=1, num_samples=length)), axis=1
    )  # fmt: skip
    assert streamed.shape == (1, length)
    expected = np.sin(2 * np.pi * 1000 * np.arange(length) / to_hz)
    middle = slice(length // 4, -length // 4)
    np.testing.assert_allclose(streamed[0, middle], expected[middle], atol=1e-4)
