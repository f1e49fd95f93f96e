"""Folded kernels and the hash of a codec."""

import threading

import torch
from stand_in_codec import StandInCodec, voice

from nemo_audio_restore.codec import encode_chunked, weights_hash
from nemo_audio_restore.codec.weights import folded_weights, is_folded


def test_folded_kernels_have_the_same_bits_and_are_kept_from_their_second_use(monkeypatch):
    codec, audio = StandInCodec(), voice(0.5)[:, None]
    with torch.no_grad():
        expected = codec.audio_encoder(audio)
    counted = []
    norm = codec.audio_encoder[0].parametrizations.weight[0]
    forward = type(norm).forward
    monkeypatch.setattr(type(norm), 'forward', lambda self, *given: counted.append(self) or forward(self, *given))
    with torch.no_grad(), folded_weights(codec):
        first = codec.audio_encoder(audio)
        assert len(counted) == len(set(map(id, counted))) == 3
        second = codec.audio_encoder(audio)
        third = codec.audio_encoder(audio)
    assert torch.equal(first, expected) and torch.equal(second, expected) and torch.equal(third, expected)
    assert len(counted) == 6


def test_behind_the_block_new_weights_count_and_gradients_flow():
    codec = StandInCodec()
    names = list(codec.state_dict())
    conv = codec.audio_encoder[0]
    with folded_weights(codec):
        assert conv.weight is not conv.weight
        before = conv.weight
        with folded_weights(codec):
            assert conv.weight is before
        assert conv.weight is before and is_folded(codec.audio_encoder)
    assert list(codec.state_dict()) == names and not is_folded(codec.audio_encoder)
    with torch.no_grad():
        conv.parametrizations.weight.original0.mul_(2)
    torch.testing.assert_close(conv.weight, 2 * before)
    conv.weight.sum().backward()
    assert conv.parametrizations.weight.original0.grad is not None


def test_another_codec_is_not_touched():
    """What another thread trains meanwhile must see its own new weights."""
    folded, trained = StandInCodec(), StandInCodec()
    conv = trained.audio_encoder[0]

    def change():
        before = conv.weight.detach().clone()
        with torch.no_grad():
            conv.parametrizations.weight.original0.add_(1)
        seen.append(not torch.equal(conv.weight, before))

    seen = []
    with folded_weights(folded):
        thread = threading.Thread(target=change)
        thread.start()
        thread.join()
    assert seen == [True]


def test_the_hash_depends_on_the_weights_alone():
    codec = StandInCodec()
    digest = weights_hash(codec)
    assert len(digest) == 32 and digest == weights_hash(StandInCodec()) != weights_hash(StandInCodec(seed=1))
    encode_chunked(codec, voice(0.3))
    with folded_weights(codec):
        assert weights_hash(codec) == digest
    codec.discriminator = torch.nn.Linear(2, 2)
    assert weights_hash(codec) == digest
    with torch.no_grad():
        codec.audio_decoder[0].bias.add_(1e-6)
    assert weights_hash(codec) != digest
