"""From audio file to token file and back."""

import numpy as np
import pytest
import soundfile
import torch
from stand_in_codec import StandInCodec, voice

from nemo_audio_restore.codec import (
    CodecError,
    decode_chunked,
    decode_file,
    encode_chunked,
    encode_file,
    weights_hash,
)
from nemo_audio_restore.files.audio import AudioFileError, read_audio
from nemo_audio_restore.files.resample import resample_blocks, resample_stream, resampled_length
from nemo_audio_restore.files.token_file import read_tokens


def make(path, seconds=0.7, *, rate=22050, channels=1, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = voice(seconds, channels=channels, rate=rate).numpy() * 0.5
    soundfile.write(path, audio.T, rate, subtype)
    return path


def test_files_hold_what_arrays_give(codec, tmp_path):
    source = make(tmp_path / 'in.wav', 1.3, subtype='FLOAT')
    audio = torch.from_numpy(read_audio(source)[0])
    report = encode_file(codec, source, tmp_path / 'a.nac', model_name='tiny', chunk_frames=5)
    tokens, info = read_tokens(tmp_path / 'a.nac')
    np.testing.assert_array_equal(tokens, encode_chunked(codec, audio, chunk_frames=5).numpy())
    assert (
        (info.model_name, info.model_hash) == ('tiny', weights_hash(codec)) == (report.model_name, report.model_hash)
    )
    assert report.size_bytes == (tmp_path / 'a.nac').stat().st_size and report.frames == info.num_frames == 112
    assert report.as_dict()['bits_per_second'] == pytest.approx(8 * report.size_bytes / 1.3, rel=1e-3)
    done = decode_file(codec, tmp_path / 'a.nac', tmp_path / 'out.wav', chunk_frames=5)
    decoded, rate = read_audio(tmp_path / 'out.wav')
    expected = decode_chunked(codec, torch.from_numpy(tokens), num_samples=audio.shape[1], chunk_frames=5)
    np.testing.assert_array_equal(decoded, expected.numpy())
    assert rate == done.output_rate == 22050 and done.peak == pytest.approx(np.abs(decoded).max())


@pytest.mark.parametrize(
    ('name', 'rate', 'channels'),
    [('a.flac', 44100, 2), ('a.wav', 8000, 1), ('a.wav', 48000, 3), ('a.mp3', 44100, 1), ('a.ogg', 16000, 2)],
)
def test_any_rate_and_channels_come_back_at_their_length(codec, tmp_path, name, rate, channels):
    source = make(tmp_path / name, rate=rate, channels=channels)
    length = read_audio(source)[0].shape[1]
    for mode, expected in (('mono', 1), ('each', channels)):
        report = encode_file(codec, source, tmp_path / 'a.nac', channels=mode, overwrite=True)
        assert (report.input_rate, report.input_channels, report.channels) == (rate, channels, expected)
        for output_rate in (None, rate):
            decode_file(codec, tmp_path / 'a.nac', tmp_path / 'out.wav', sample_rate=output_rate, overwrite=True)
            info = soundfile.info(tmp_path / 'out.wav')
            assert (info.channels, info.samplerate) == (expected, output_rate or 22050)
            assert info.frames == resampled_length(length, rate, output_rate or 22050)


def test_mono_is_the_mean_and_each_keeps_channels_apart(codec, tmp_path):
    stereo = voice(0.6, channels=2).numpy()
    mono = stereo.mean(axis=0, keepdims=True, dtype=np.float32)
    for name, audio in (('stereo', stereo), ('mono', mono), ('left', stereo[:1]), ('right', stereo[1:])):
        soundfile.write(tmp_path / f'{name}.wav', audio.T, 22050, 'FLOAT')
        encode_file(codec, tmp_path / f'{name}.wav', tmp_path / f'{name}.nac')
    encode_file(codec, tmp_path / 'stereo.wav', tmp_path / 'each.nac', channels='each')
    tokens = {path.stem: read_tokens(path)[0] for path in tmp_path.glob('*.nac')}
    np.testing.assert_array_equal(tokens['stereo'], tokens['mono'])
    np.testing.assert_array_equal(tokens['each'], np.concatenate([tokens['left'], tokens['right']]))
    assert not np.array_equal(tokens['left'], tokens['right'])


def test_resampling_happens_once_and_the_pad_of_the_last_frame_stays_out(codec, tmp_path):
    source = make(tmp_path / 'in.wav', 0.51, rate=44100, subtype='FLOAT')
    encode_file(codec, source, tmp_path / 'a.nac')
    tokens, info = read_tokens(tmp_path / 'a.nac')
    audio, _ = read_audio(source)
    at_codec = np.concatenate(list(resample_stream([audio], 44100, 22050, channels=1)), axis=1)
    assert at_codec.shape[1] == resampled_length(audio.shape[1], 44100, 22050)
    np.testing.assert_array_equal(tokens, encode_chunked(codec, torch.from_numpy(at_codec)).numpy())
    decode_file(codec, tmp_path / 'a.nac', tmp_path / 'out.wav', sample_rate=48000)
    own = decode_chunked(codec, torch.from_numpy(tokens), num_samples=at_codec.shape[1]).numpy()
    length = resampled_length(info.num_samples, 44100, 48000)
    expected = np.concatenate(list(resample_blocks([own], 22050, 48000, channels=1, num_samples=length)), axis=1)
    np.testing.assert_allclose(read_audio(tmp_path / 'out.wav')[0], expected, atol=1e-6)


@pytest.mark.parametrize(('from_hz', 'to_hz'), [(44100, 22050), (8000, 22050), (48000, 22050), (22050, 22050)])
def test_a_stream_of_unknown_length_is_resampled_like_one_of_known_length(from_hz, to_hz):
    audio = voice(0.4, channels=2, rate=from_hz).numpy()
    length = resampled_length(audio.shape[1], from_hz, to_hz)
    blocks = [audio[:, start : start + 777] for start in range(0, audio.shape[1], 777)]
    known = np.concatenate(list(resample_blocks(blocks, from_hz, to_hz, channels=2, num_samples=length)), axis=1)
    unknown = np.concatenate(list(resample_stream(blocks, from_hz, to_hz, channels=2)), axis=1)
    np.testing.assert_array_equal(unknown, known)
    for count in (1, 2, 3, 10, 101):
        short = list(resample_stream([audio[:, :count]], from_hz, to_hz, channels=2))
        assert sum(block.shape[1] for block in short) == resampled_length(count, from_hz, to_hz)


def test_progress_reaches_the_end(codec, tmp_path):
    seen = []
    encode_file(codec, make(tmp_path / 'in.wav', 2.0), tmp_path / 'a.nac', on_progress=lambda *at: seen.append(at))
    assert seen and seen[-1][0] == seen[-1][1] == 172
    seen.clear()
    decode_file(codec, tmp_path / 'a.nac', tmp_path / 'out.wav', on_progress=lambda *at: seen.append(at))
    assert seen[-1] == (173, 173)


def test_bits_reach_the_file(codec, tmp_path):
    encode_file(codec, make(tmp_path / 'in.wav'), tmp_path / 'a.nac')
    for target, bits, subtype in (('a.flac', None, 'PCM_24'), ('b.wav', '16', 'PCM_16'), ('c.wav', None, 'FLOAT')):
        decode_file(codec, tmp_path / 'a.nac', tmp_path / target, bits=bits)
        assert soundfile.info(tmp_path / target).subtype == subtype


def test_samples_that_an_integer_file_clips_are_counted(tmp_path):
    codec = StandInCodec()
    codec.audio_decoder[-1] = torch.nn.Identity()  # what comes out is no longer limited
    with torch.no_grad():
        codec.audio_decoder[-2].parametrizations.weight.original0.mul_(30)
    encode_file(codec, make(tmp_path / 'in.wav'), tmp_path / 'a.nac')
    whole = decode_file(codec, tmp_path / 'a.nac', tmp_path / 'a.wav')
    decoded, _ = read_audio(tmp_path / 'a.wav')
    assert whole.peak == np.abs(decoded).max() > 1 and whole.clipped_samples == 0
    clipped = decode_file(codec, tmp_path / 'a.nac', tmp_path / 'b.wav', bits='16')
    assert clipped.clipped_samples == (np.abs(decoded) > 1).sum() > 0


def test_tokens_of_another_codec_are_refused(codec, tmp_path):
    encode_file(codec, make(tmp_path / 'in.wav'), tmp_path / 'a.nac', model_name='one')
    with pytest.raises(CodecError, match='made by "one", weights [0-9a-f]{12}; this codec has the weights'):
        decode_file(StandInCodec(seed=1), tmp_path / 'a.nac', tmp_path / 'out.wav')
    other = StandInCodec()
    other.codebook_size = 1000
    with pytest.raises(CodecError, match='with 63 codes in a codebook; this codec has 1000'):
        decode_file(other, tmp_path / 'a.nac', tmp_path / 'out.wav')
    assert not (tmp_path / 'out.wav').exists()


def test_a_file_damaged_far_behind_leaves_nothing(codec, tmp_path):
    encode_file(codec, make(tmp_path / 'in.wav', 1.5), tmp_path / 'a.nac')
    content = bytearray((tmp_path / 'a.nac').read_bytes())
    content[-20] ^= 4
    (tmp_path / 'a.nac').write_bytes(content)
    with pytest.raises(AudioFileError, match='damaged'):
        decode_file(codec, tmp_path / 'a.nac', tmp_path / 'out.wav')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.nac', 'in.wav']


def test_requests_that_cannot_be_met_leave_everything_as_it_was(codec, tmp_path):
    source = make(tmp_path / 'in.wav')
    encode_file(codec, source, tmp_path / 'a.nac')
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for act, error, message in (
        (
            lambda: encode_file(codec, source, tmp_path / 'b.nac', channels='left'),
            CodecError,
            'choose from mono, each',
        ),
        (lambda: encode_file(codec, source, tmp_path / 'a.nac'), AudioFileError, 'exists'),
        (lambda: encode_file(codec, source, tmp_path / 'a.wav'), AudioFileError, r'ends in \.nac'),
        (lambda: encode_file(codec, tmp_path / 'a.nac', tmp_path / 'b.nac'), AudioFileError, 'not an audio file'),
        (lambda: decode_file(codec, source, tmp_path / 'b.wav'), AudioFileError, 'not a token file'),
        (lambda: decode_file(codec, tmp_path / 'a.nac', source), AudioFileError, 'exists'),
        (lambda: decode_file(codec, tmp_path / 'a.nac', tmp_path / 'b.mp3'), AudioFileError, r'\.wav or \.flac'),
    ):
        with pytest.raises(error, match=message):
            act()
    (tmp_path / 'link.nac').symlink_to(source)
    with pytest.raises(AudioFileError, match='is the input'):
        encode_file(codec, source, tmp_path / 'link.nac', overwrite=True)
    (tmp_path / 'link.nac').unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
