"""Chunks and streams against one pass over the whole."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stand_in_codec import StandInCodec, voice

from nemo_audio_restore.codec import (
    CodecError,
    StreamingDecoder,
    StreamingEncoder,
    decode_chunked,
    encode_chunked,
)
from nemo_audio_restore.codec.streaming import MINIMUM_FRAMES

FRAME = StandInCodec.samples_per_frame


@torch.no_grad()
def whole(codec, audio):
    """Tokens and audio of one pass over everything, as NeMo does it."""
    frames = -(-audio.shape[1] // FRAME)
    audio = torch.nn.functional.pad(audio, (0, frames * FRAME - audio.shape[1]))
    tokens, lengths = codec.encode(audio=audio, audio_len=torch.full((len(audio),), audio.shape[1]))
    decoded, _ = codec.decode(tokens=tokens, tokens_len=lengths)
    return tokens, decoded


@pytest.mark.parametrize('chunk_frames', [1, 5, 16])
def test_chunks_equal_the_whole_in_double_precision(chunk_frames):
    codec = StandInCodec().double()
    audio = voice(37.4 * FRAME / 22050, channels=2).double()
    tokens, decoded = whole(codec, audio)
    assert len(tokens.unique()) > 20 and decoded.std() > 0.01
    chunked = encode_chunked(codec, audio, chunk_frames=chunk_frames)
    assert torch.equal(chunked, tokens)
    audio_again = decode_chunked(codec, chunked, num_samples=audio.shape[1], chunk_frames=chunk_frames)
    torch.testing.assert_close(audio_again, decoded[:, : audio.shape[1]], rtol=0, atol=1e-12)


def test_what_fits_into_one_chunk_has_the_bits_of_the_whole(codec):
    audio = voice(30.3 * FRAME / 22050)
    tokens, decoded = whole(codec, audio)
    chunked = encode_chunked(codec, audio)
    assert torch.equal(chunked, tokens)
    assert torch.equal(decode_chunked(codec, chunked, num_samples=audio.shape[1]), decoded[:, : audio.shape[1]])


def test_less_context_would_not_do():
    """The widths of context are not merely generous: with less, the result differs."""
    codec = StandInCodec().double()
    audio = voice(60 * FRAME / 22050).double()
    tokens, decoded = whole(codec, audio)
    codec.encode_context_frames = codec.decode_context_frames = 3
    assert not torch.equal(encode_chunked(codec, audio, chunk_frames=2), tokens)
    assert not torch.allclose(decode_chunked(codec, tokens, chunk_frames=2), decoded, atol=1e-9)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_division_into_blocks_gives_the_same_bits(codec, data):
    num_samples = data.draw(st.integers(1, 20 * FRAME))
    chunk_frames = data.draw(st.integers(2, 9))
    audio = voice(num_samples / 22050)
    offline = encode_chunked(codec, audio, chunk_frames=chunk_frames)
    encoder, tokens, start = StreamingEncoder(codec, chunk_frames=chunk_frames), [], 0
    while start < num_samples:
        size = data.draw(st.sampled_from([0, 1, 100, 255, 256, 1000, 9000]))
        block = audio[:, start : start + size].clone()
        tokens.append(encoder.push(block))
        block.fill_(float('nan'))  # the caller may use its memory again
        start += size
    tokens = torch.cat([*tokens, encoder.flush()], dim=2)
    assert torch.equal(tokens, offline)
    expected = decode_chunked(codec, offline, num_samples=num_samples, chunk_frames=chunk_frames)
    decoder, decoded, start = StreamingDecoder(codec, chunk_frames=chunk_frames), [], 0
    while start < offline.shape[2]:
        size = data.draw(st.sampled_from([0, 1, 2, 7, 30]))
        decoded.append(decoder.push(offline[:, :, start : start + size]))
        start += size
    decoded = torch.cat([*decoded, decoder.flush(num_samples)], dim=1)
    assert decoded.shape == audio.shape and torch.equal(decoded, expected)


@pytest.mark.parametrize('chunk_frames', [1, 4])
def test_the_stated_latency_is_the_largest_that_occurs(codec, chunk_frames):
    encoder = StreamingEncoder(codec, chunk_frames=chunk_frames)
    decoder = StreamingDecoder(codec, chunk_frames=chunk_frames)
    audio, ready, waits, decoded_waits, heard = voice(24 * FRAME / 22050), 0, [], [], 0
    for arrived in range(1, 25):
        tokens = encoder.push(audio[:, (arrived - 1) * FRAME : arrived * FRAME])
        # Frame k came in with block k + 1: how many blocks, itself included, had to be there?
        waits += [arrived - frame for frame in range(ready, ready + tokens.shape[2])]
        ready += tokens.shape[2]
        out = decoder.push(torch.zeros(1, codec.num_codebooks, 1, dtype=torch.int32)).shape[1] // FRAME
        decoded_waits += [arrived - frame for frame in range(heard, heard + out)]
        heard += out
    assert max(waits) * FRAME == encoder.latency_samples == (chunk_frames + 4) * FRAME
    assert max(decoded_waits) * FRAME == decoder.latency_samples == (chunk_frames + 4) * FRAME
    assert encoder.latency_s == pytest.approx(encoder.latency_samples / 22050)
    assert decoder.latency_s == pytest.approx(decoder.latency_samples / 22050)


def test_the_networks_never_see_more_than_a_chunk_and_its_context(codec):
    codec.calls.clear()
    tokens = encode_chunked(codec, voice(100 * FRAME / 22050), chunk_frames=10)
    assert len(codec.calls) == 10 and max(codec.calls) == 10 + 2 * 4
    codec.calls.clear()
    decode_chunked(codec, tokens, chunk_frames=10)
    assert len(codec.calls) == 10 and max(codec.calls) == 10 + 2 * 4


@pytest.mark.parametrize('num_samples', [1, 100, FRAME, 3 * FRAME, 3 * FRAME + 1])
def test_shorter_than_the_networks_can_see_is_continued_with_silence(codec, num_samples):
    audio = voice(1.0)[:, :num_samples]
    tokens = encode_chunked(codec, audio, chunk_frames=1)
    filled = torch.nn.functional.pad(audio, (0, MINIMUM_FRAMES * FRAME - num_samples))
    assert torch.equal(tokens, whole(codec, filled)[0])
    assert decode_chunked(codec, tokens, num_samples=num_samples).shape == (1, num_samples)


def test_an_empty_stream_has_no_tokens(codec):
    assert StreamingEncoder(codec).flush().shape == (1, 4, 0)
    assert StreamingDecoder(codec).flush().shape == (1, 0)


def test_channels_do_not_touch_each_other(codec):
    audio = voice(12 * FRAME / 22050, channels=2)
    both = encode_chunked(codec, audio, chunk_frames=4)
    for index in range(2):
        alone = encode_chunked(codec, audio[index : index + 1], chunk_frames=4)
        assert torch.equal(both[index : index + 1], alone)
        decoded = decode_chunked(codec, both, chunk_frames=4)[index : index + 1]
        assert torch.equal(decoded, decode_chunked(codec, alone, chunk_frames=4))


def test_audio_of_any_precision_is_encoded_in_that_of_the_networks(codec):
    audio = voice(8 * FRAME / 22050)
    assert torch.equal(encode_chunked(codec, audio.double()), encode_chunked(codec, audio))


def test_no_gradient_and_no_change_of_what_was_given(codec):
    audio = voice(8 * FRAME / 22050).requires_grad_(True)
    before = audio.detach().clone()
    tokens = encode_chunked(codec, audio)
    assert not decode_chunked(codec, tokens).requires_grad
    assert torch.equal(audio, before) and tokens.dtype == torch.int32


@pytest.mark.parametrize(
    ('act', 'message'),
    [
        (lambda codec: StreamingEncoder(codec, chunk_frames=0), 'chunk_frames must be at least 1'),
        (lambda codec: StreamingDecoder(codec, channels=0), 'channels must be at least 1'),
        (lambda codec: StreamingEncoder(codec).push(torch.zeros(2, 100)), r'must be \(1, n\) floats'),
        (lambda codec: StreamingEncoder(codec).push(torch.zeros(1, 9, dtype=torch.int16)), 'floats; got torch.int16'),
        (lambda codec: StreamingDecoder(codec).push(torch.zeros(1, 4, 3)), 'integers; got torch.float32'),
        (lambda codec: StreamingDecoder(codec).push(torch.zeros(1, 8, 3, dtype=torch.int32)), r'\(1, 4, n\) integers'),
        (lambda codec: decode_chunked(codec, torch.full((1, 4, 9), 63)), r'lie in 0..62; got 63..63'),
        (lambda codec: decode_chunked(codec, torch.full((1, 4, 9), -1)), 'got -1..-1'),
        (lambda codec: decode_chunked(codec, torch.zeros(1, 4, 3, dtype=torch.int64)), '4 frames at least; got 3'),
        (lambda codec: decode_chunked(codec, torch.zeros(1, 4, 5).int(), num_samples=9999), '9999 were asked for'),
        (lambda codec: flushed(codec, 5, 9999), '5 frames cannot be 9999 samples long'),
        (lambda codec: flushed(codec, 5, 100).push(torch.zeros(1, 4, 1).int()), 'the stream has ended'),
    ],
)
def test_misuse_is_explained(codec, act, message):
    with pytest.raises(CodecError, match=message):
        act(codec)


def flushed(codec, frames, num_samples):
    decoder = StreamingDecoder(codec)
    decoder.push(torch.zeros(1, 4, frames, dtype=torch.int32))
    assert decoder.flush(num_samples).shape == (1, num_samples)
    return decoder


def test_a_codec_in_training_mode_is_refused():
    codec = StandInCodec()
    codec.audio_decoder.train()
    for stream in (StreamingEncoder, StreamingDecoder):
        with pytest.raises(CodecError, match='training mode'):
            stream(codec)
