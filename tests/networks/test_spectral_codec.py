"""The small speech codec's networks: exact in chunks, blind to padding."""

import pytest
import torch

from nemo_audio_restore.networks.spectral_codec import SpectralDecoder, SpectralEncoder

SAMPLES = 64


def tiny_encoder(**changes) -> SpectralEncoder:
    settings = {
        'encoded_dim': 5,
        'samples_per_frame': SAMPLES,
        'channels': 12,
        'num_blocks': 2,
        'frame_channels': 10,
        'num_frame_blocks': 1,
        'expansion': 2,
    }
    torch.manual_seed(0)
    return awake(SpectralEncoder(**(settings | changes)))


def tiny_decoder(**changes) -> SpectralDecoder:
    settings = {
        'encoded_dim': 5,
        'samples_per_frame': SAMPLES,
        'channels': 12,
        'num_blocks': 2,
        'frame_channels': 10,
        'num_frame_blocks': 1,
        'expansion': 2,
    }
    torch.manual_seed(1)
    return awake(SpectralDecoder(**(settings | changes)))


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """In double precision, with residuals and biases large enough to be seen."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(('scale', 'bias')):
                parameter.uniform_(0.5, 1.0)
    return network.double().eval()


def speech(batch: int, samples: int) -> torch.Tensor:
    return 0.3 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def lengths(*values: int) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize('samples', [1, SAMPLES, SAMPLES + 1, 5 * SAMPLES - 1])
def test_a_started_frame_is_a_whole_frame(samples):
    encoded, encoded_len = tiny_encoder()(audio=speech(1, samples), audio_len=lengths(samples))
    assert encoded.shape == (1, 5, -(-samples // SAMPLES))
    assert encoded_len.tolist() == [-(-samples // SAMPLES)]


def test_every_frame_of_tokens_becomes_as_many_samples():
    audio, audio_len = tiny_decoder()(inputs=speech(1, 35).reshape(1, 5, 7), input_len=lengths(7))
    assert audio.shape == (1, 7 * SAMPLES)
    assert audio_len.tolist() == [7 * SAMPLES]


@pytest.mark.parametrize('first', [0, 3, 9, 20])
def test_encoding_a_chunk_with_context_equals_encoding_the_whole(first):
    encoder = tiny_encoder()
    audio = speech(1, 24 * SAMPLES)
    whole, _ = encoder(audio=audio, audio_len=lengths(audio.shape[1]))
    begin, end = max(0, first - encoder.context_frames), min(24, first + 4 + encoder.context_frames)
    chunk = audio[:, begin * SAMPLES : end * SAMPLES]
    encoded, _ = encoder(audio=chunk, audio_len=lengths(chunk.shape[1]))
    torch.testing.assert_close(
        encoded[:, :, first - begin :][:, :, :4], whole[:, :, first : first + 4], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize('first', [0, 3, 9, 20])
def test_decoding_a_chunk_with_context_equals_decoding_the_whole(first):
    decoder = tiny_decoder()
    inputs = speech(1, 120).reshape(1, 5, 24)
    whole, _ = decoder(inputs=inputs, input_len=lengths(24))
    begin, end = max(0, first - decoder.context_frames), min(24, first + 4 + decoder.context_frames)
    audio, _ = decoder(inputs=inputs[:, :, begin:end], input_len=lengths(end - begin))
    expected = whole[:, first * SAMPLES : (first + 4) * SAMPLES]
    torch.testing.assert_close(audio[:, (first - begin) * SAMPLES :][:, : 4 * SAMPLES], expected, rtol=0, atol=1e-12)


def test_one_frame_less_of_context_is_not_enough_to_encode():
    encoder = tiny_encoder()
    audio = speech(1, 24 * SAMPLES)
    changed = audio.clone()
    changed[:, : (12 - encoder.context_frames + 1) * SAMPLES] += 0.1
    frames = [encoder(audio=x, audio_len=lengths(x.shape[1]))[0][0, :, 12] for x in (audio, changed)]
    assert (frames[0] - frames[1]).abs().max() > 0


def test_one_frame_less_of_context_is_not_enough_to_decode():
    decoder = tiny_decoder()
    inputs = speech(1, 120).reshape(1, 5, 24)
    changed = inputs.clone()
    changed[:, :, 12 - decoder.context_frames] += 1
    frames = [decoder(inputs=x, input_len=lengths(24))[0][0, 12 * SAMPLES : 13 * SAMPLES] for x in (inputs, changed)]
    assert (frames[0] - frames[1]).abs().max() > 0


def test_what_lies_beyond_an_item_does_not_change_its_encoding():
    encoder = tiny_encoder()
    audio = speech(2, 9 * SAMPLES)
    together, encoded_len = encoder(audio=audio, audio_len=lengths(9 * SAMPLES, 5 * SAMPLES - 7))
    alone, _ = encoder(audio=audio[1:, : 5 * SAMPLES - 7], audio_len=lengths(5 * SAMPLES - 7))
    assert encoded_len.tolist() == [9, 5]
    torch.testing.assert_close(together[1:, :, :5], alone, rtol=0, atol=1e-12)
    assert not together[1, :, 5:].any()


def test_what_lies_beyond_an_item_does_not_change_its_decoding():
    decoder = tiny_decoder()
    inputs = speech(2, 45).reshape(2, 5, 9)
    together, audio_len = decoder(inputs=inputs, input_len=lengths(9, 4))
    alone, _ = decoder(inputs=inputs[1:, :, :4], input_len=lengths(4))
    assert audio_len.tolist() == [9 * SAMPLES, 4 * SAMPLES]
    torch.testing.assert_close(together[1:, : 4 * SAMPLES], alone, rtol=0, atol=1e-12)
    assert not together[1, 4 * SAMPLES :].any()


def test_inputs_are_left_alone():
    encoder, decoder = tiny_encoder(), tiny_decoder()
    audio, inputs = speech(2, 3 * SAMPLES), speech(2, 15).reshape(2, 5, 3)
    copies = audio.clone(), inputs.clone()
    encoder(audio=audio, audio_len=lengths(3 * SAMPLES, SAMPLES))
    decoder(inputs=inputs, input_len=lengths(3, 1))
    assert torch.equal(audio, copies[0])
    assert torch.equal(inputs, copies[1])


def test_every_parameter_receives_a_gradient():
    encoder, decoder = tiny_encoder(), tiny_decoder()
    encoded, encoded_len = encoder(audio=speech(2, 6 * SAMPLES), audio_len=lengths(6 * SAMPLES, 4 * SAMPLES))
    audio, _ = decoder(inputs=encoded, input_len=encoded_len)
    audio.square().mean().backward()
    for network in (encoder, decoder):
        silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent


def test_frames_of_equal_content_continue_each_other():
    """A constant phase at one bin is a sinusoid that runs through all windows."""
    decoder = tiny_decoder()
    log_magnitude = torch.full((1, 48, decoder.num_bins), -30.0, dtype=torch.float64)
    log_magnitude[:, :, 3] = 4.0
    phase = decoder.phase_offset.repeat(12, 1)[None]
    audio, _ = decoder.synthesize(log_magnitude, phase, lengths(12))
    audio = audio[0]
    middle = audio[4 * SAMPLES : -4 * SAMPLES]
    power = torch.fft.rfft(middle[: 2 * SAMPLES]).abs().square()
    assert power.argmax() == 6
    assert power[6] / power.sum() > 0.999


@pytest.mark.parametrize(
    ('change', 'named'),
    [({'samples_per_frame': 100}, 'samples_per_frame'), ({'kernel_size': 4}, 'kernel_size')]
    + [({'frame_kernel_size': 2}, 'frame_kernel_size')],
)
@pytest.mark.parametrize('build', [tiny_encoder, tiny_decoder])
def test_impossible_sizes_are_refused(build, change, named):
    with pytest.raises(ValueError, match=f'^{named} must be'):
        build(**change)


@pytest.mark.parametrize('build', [tiny_encoder, tiny_decoder])
@pytest.mark.parametrize(
    ('change', 'wider'),
    [({'kernel_size': 11}, 1), ({'frame_kernel_size': 5}, 1), ({'num_blocks': 5}, 1), ({'num_frame_blocks': 3}, 2)],
)
def test_context_follows_the_blocks(build, change, wider):
    assert build(**change).context_frames >= build().context_frames + wider


def test_default_networks_fit_sixteen_megabytes_in_half_precision():
    with torch.device('meta'):
        networks = SpectralEncoder(), SpectralDecoder()
    assert 2 * sum(p.numel() for network in networks for p in network.parameters()) < 15 * 2**20
