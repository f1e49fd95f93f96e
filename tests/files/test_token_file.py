"""Token files: what goes in comes out, and nothing else is accepted."""

import zlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_audio_restore.files.audio import AudioFileError
from nemo_audio_restore.files.token_file import TokenWriter, probe_tokens, read_token_blocks, read_tokens
from nemo_audio_restore.files.token_header import BLOCK_FRAMES, CRC, HEAD, TokenInfo

INFO = TokenInfo(
    sample_rate=22050,
    samples_per_frame=1024,
    num_codebooks=8,
    codebook_size=2016,
    channels=1,
    source_rate=44100,
    num_samples=0,
    num_frames=0,
    model_name='speech_codec_22k_small',
    model_hash='0123456789abcdef' * 2,
)


def write(path, tokens, info=INFO, *, num_samples=None, step=10**9):
    channels, codebooks, frames = tokens.shape
    info = replace(info, channels=channels, num_codebooks=codebooks)
    with TokenWriter(path, info, overwrite=True) as writer:
        for start in range(0, frames, step):
            writer.write(tokens[:, :, start : start + step])
        writer.finish(2048 * (frames - 1) + 1 if num_samples is None else num_samples)
    return path


def random_tokens(frames, *, channels=1, codebooks=8, size=2016, seed=0):
    return np.random.default_rng(seed).integers(0, size, (channels, codebooks, frames), dtype=np.int32)


def test_a_minute_of_speech_is_within_two_percent_of_the_bitrate(tmp_path):
    path = write(tmp_path / 'a.nac', random_tokens(1292), num_samples=60 * 44100)
    ideal = 60 * 22050 / 1024 * 8 * np.log2(2016) / 8
    assert ideal / 60 * 8 == pytest.approx(1891, abs=0.5)
    assert abs(path.stat().st_size / ideal - 1) < 0.02


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_tokens_and_header_come_back_as_they_went_in(tmp_path, data):
    size = data.draw(st.sampled_from([2, 3, 1024, 2016, 2048, 65536]))
    shape = {'channels': data.draw(st.integers(1, 3)), 'codebooks': data.draw(st.integers(1, 9))}
    frames = data.draw(st.sampled_from([1, 2, 7, BLOCK_FRAMES - 1, BLOCK_FRAMES, BLOCK_FRAMES + 1, 2500]))
    tokens = random_tokens(frames, size=size, **shape)
    info = replace(
        INFO, codebook_size=size, model_name=data.draw(st.sampled_from(['', 'x', 'Sprëchkodek', 'n' * 255]))
    )
    path = write(
        tmp_path / 'a.nac', tokens, info, step=data.draw(st.sampled_from([1, 100, 1024, 9999])) if frames < 50 else 999
    )
    found, header = read_tokens(path)
    np.testing.assert_array_equal(found, tokens)
    assert found.dtype == np.int32 and header.size_bytes == path.stat().st_size
    expected = replace(
        info, channels=shape['channels'], num_codebooks=shape['codebooks'], num_frames=frames,
        num_samples=2048 * (frames - 1) + 1,
    )  # fmt: skip
    assert header == probe_tokens(path) == expected


def test_how_the_tokens_were_written_does_not_show(tmp_path):
    tokens = random_tokens(2100)
    paths = [write(tmp_path / f'{step}.nac', tokens, step=step) for step in (1, 700, 1024, 5000)]
    assert all(a.read_bytes() == b.read_bytes() for a, b in pairwise(paths))


def test_the_layout_is_the_documented_one(tmp_path):
    content = write(tmp_path / 'a.nac', np.array([[[1, 2015], [2, 0]]]), num_samples=2049).read_bytes()
    name = INFO.model_name.encode()
    assert content[:8] == b'NAC\x1a' + (1).to_bytes(2, 'little') + (61 + len(name) + 4).to_bytes(2, 'little')
    numbers = [(8, 4, 22050), (12, 4, 1024), (16, 4, 2016), (20, 2, 2), (22, 2, 1), (24, 4, 44100), (28, 8, 2049)]
    for offset, size, value in [*numbers, (36, 8, 2), (60, 1, len(name))]:
        assert int.from_bytes(content[offset : offset + size], 'little') == value
    assert content[44:60].hex() == INFO.model_hash and content[61 : 61 + len(name)] == name
    end = 61 + len(name)
    assert zlib.crc32(content[:end]) == int.from_bytes(content[end : end + 4], 'little')
    bits = f'{1:011b}{2:011b}{2015:011b}{0:011b}0000'
    block = int(bits, 2).to_bytes(6, 'big')
    assert content[end + 4 :] == block + zlib.crc32(block).to_bytes(4, 'little')


def test_blocks_are_read_one_by_one_and_not_given_away_before_they_are_checked(tmp_path):
    tokens = random_tokens(3 * BLOCK_FRAMES)
    path = write(tmp_path / 'a.nac', tokens)
    content = bytearray(path.read_bytes())
    content[-10_000] ^= 1  # in the last block
    path.write_bytes(content)
    blocks = read_token_blocks(path)
    np.testing.assert_array_equal(next(blocks), tokens[:, :, :BLOCK_FRAMES])
    next(blocks)
    with pytest.raises(AudioFileError, match=r'damaged: what belongs after 95\.11 s'):
        next(blocks)


def test_blocks_cannot_trade_places(tmp_path):
    path = write(tmp_path / 'a.nac', random_tokens(2 * BLOCK_FRAMES))
    info, content = probe_tokens(path), path.read_bytes()
    size = info.block_bytes(BLOCK_FRAMES)
    path.write_bytes(content[: -2 * size] + content[-size:] + content[-2 * size : -size])
    with pytest.raises(AudioFileError, match='damaged'):
        read_tokens(path)


CONTENT = {}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_damage_is_refused_with_a_reason(tmp_path, data):
    if not CONTENT:
        CONTENT['good'] = write(tmp_path / 'good.nac', random_tokens(1300, seed=3)).read_bytes()
    content = bytearray(CONTENT['good'])
    kind = data.draw(st.sampled_from(['cut', 'append', 'change', 'insert', 'delete', 'zero']))
    # Half of the damage hits the header, which decides more.
    at = data.draw(st.one_of(st.integers(0, 90), st.integers(0, len(content) - 1)))
    if kind == 'cut':
        del content[at:]
    elif kind == 'append':
        content += data.draw(st.binary(min_size=1, max_size=30))
    elif kind == 'insert':
        content[at:at] = data.draw(st.binary(min_size=1, max_size=5))
    elif kind == 'delete':
        del content[at : at + data.draw(st.integers(1, 2000))]
    elif kind == 'zero':
        content[at:] = bytes(len(content) - at)
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[at] ^= data.draw(st.integers(1, 255))
            at = data.draw(st.integers(0, len(content) - 1))
    path = tmp_path / 'bad.nac'
    path.write_bytes(content)
    if bytes(content) == CONTENT['good']:
        return
    with pytest.raises(AudioFileError, match='bad.nac'):
        read_tokens(path)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(changes=st.lists(st.tuples(st.integers(8, 70), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_forged_header_with_a_right_checksum_is_refused_or_harmless(tmp_path, changes):
    content = bytearray(write(tmp_path / 'a.nac', random_tokens(20)).read_bytes())
    size = HEAD.unpack_from(content)[2]
    for at, value in changes:
        content[at] = value
    content[size - CRC.size : size] = CRC.pack(zlib.crc32(content[: size - CRC.size]))
    path = tmp_path / 'b.nac'
    path.write_bytes(content)
    try:
        tokens, info = read_tokens(path)
    except AudioFileError as error:
        assert str(path) in str(error)
    else:
        assert tokens.shape == (info.channels, info.num_codebooks, info.num_frames)
        assert tokens.max() < info.codebook_size and tokens.nbytes < 100_000


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', r'empty \(0 bytes\)'),
        (b'NA', 'truncated: 2 bytes'),
        (b'RIFF\x00\x00\x00\x00WAVEfmt ', 'not a token file'),
        (b'dear archive', 'not a token file'),
        (b'NAC\x1a\x02\x00\x60\x00' + bytes(200), 'version 2 of the format; this program reads version 1'),
        (b'NAC\x1a\x01\x00\xff\xff' + bytes(200), 'cannot have 65535 bytes'),
        (b'NAC\x1a\x01\x00\x60\x00' + bytes(20), 'truncated: 28 bytes are there, its header has 96'),
        (b'NAC\x1a\x01\x00\x60\x00' + bytes(200), 'header has another checksum'),
    ],
)
def test_foreign_files_are_refused_with_the_reason(tmp_path, content, message):
    path = tmp_path / 'a.nac'
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match=message):
        probe_tokens(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(AudioFileError, match='does not exist'):
        probe_tokens(tmp_path / 'none.nac')
    with pytest.raises(AudioFileError, match='is a folder'):
        probe_tokens(tmp_path)


def test_nothing_half_written_is_left_and_an_older_file_stays(tmp_path):
    path = write(tmp_path / 'a.nac', random_tokens(5))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), TokenWriter(path, INFO, overwrite=True) as writer:
        writer.write(random_tokens(2000))
        raise KeyboardInterrupt
    with pytest.raises(AudioFileError, match='not finished'), TokenWriter(path, INFO, overwrite=True) as writer:
        writer.write(random_tokens(3))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ['a.nac']


@pytest.mark.parametrize(
    ('act', 'message'),
    [
        (lambda path: TokenWriter(path, INFO), 'exists; allow overwriting'),
        (lambda path: TokenWriter(path.with_suffix('.wav'), INFO), r'ends in \.nac'),
        (lambda path: TokenWriter(path, replace(INFO, codebook_size=1), overwrite=True), 'a codebook of 1'),
        (lambda path: TokenWriter(path, replace(INFO, codebook_size=65537), overwrite=True), 'a codebook of 65537'),
        (lambda path: TokenWriter(path, replace(INFO, channels=65), overwrite=True), '65 channels'),
        (lambda path: TokenWriter(path, replace(INFO, model_name='a\nb'), overwrite=True), 'not printable'),
        (lambda path: TokenWriter(path, replace(INFO, model_name='n' * 256), overwrite=True), 'too long'),
        (lambda path: TokenWriter(path, replace(INFO, model_hash='abc'), overwrite=True), '32 hexadecimal digits'),
        (lambda path: write(path, np.full((1, 8, 3), 2016)), r'tokens in 0\.\.2015; got 2016\.\.2016'),
        (lambda path: write(path, np.full((1, 8, 3), -1)), r'got -1\.\.-1'),
        (lambda path: write(path, random_tokens(2), num_samples=2 * 2048 + 2), '2 frames cannot hold 4098 samples'),
        (lambda path: write(path, random_tokens(2), num_samples=0), '0 samples are not possible'),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, act, message):
    path = write(tmp_path / 'a.nac', random_tokens(5))
    before = path.read_bytes()
    with pytest.raises(AudioFileError, match=message):
        act(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ['a.nac']
