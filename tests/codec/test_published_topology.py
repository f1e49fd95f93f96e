"""The published topology with few channels and random weights: its context, its shortest audio, its kernels."""

import pytest
import torch
from nemo.collections.tts.modules.audio_codec_modules import (
    GroupFiniteScalarQuantizer,
    HiFiGANDecoder,
    HiFiGANEncoder,
)
from omegaconf import OmegaConf
from stand_in_codec import voice
from torch import nn

from nemo_audio_restore.codec import decode_chunked, encode_chunked
from nemo_audio_restore.codec.streaming import MINIMUM_FRAMES
from nemo_audio_restore.codec.weights import folded_weights
from nemo_audio_restore.models.speech_codec import SpeechCodecModel


class PublishedTopology(nn.Module):
    """1024 samples a frame, 8 codebooks of 2016, the context of the published networks."""

    sample_rate = 22050
    samples_per_frame = 1024
    num_codebooks = 8
    codebook_size = 2016
    encode_context_frames = 6
    decode_context_frames = 13

    def __init__(self):
        super().__init__()
        rates = [2, 2, 4, 8, 8]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.audio_encoder = HiFiGANEncoder(
                encoded_dim=32, down_sample_rates=rates, base_channels=2, resblock_dilation_sizes=[1]
            )
            self.vector_quantizer = GroupFiniteScalarQuantizer(num_groups=8, num_levels_per_group=[8, 7, 6, 6])
            self.audio_decoder = HiFiGANDecoder(
                input_dim=32, up_sample_rates=rates[::-1], base_channels=32, resblock_dilation_sizes=[1]
            )
            # Random networks answer with almost nothing: louder, so that tokens and samples move.
            with torch.no_grad():
                for name, parameter in self.named_parameters():
                    parameter.mul_(3 if name.endswith('original0') else 0 if name.endswith('bias') else 1)
        self.eval()

    @property
    def device(self):
        return next(self.parameters()).device

    def encode(self, *, audio, audio_len):
        encoded, encoded_len = self.audio_encoder(audio=audio, audio_len=audio_len)
        tokens = self.vector_quantizer.encode(inputs=encoded.float(), input_len=encoded_len)
        return tokens.transpose(0, 1), encoded_len

    def decode(self, *, tokens, tokens_len):
        values = self.vector_quantizer.decode(indices=tokens.transpose(0, 1), input_len=tokens_len)
        dtype = next(self.audio_decoder.parameters()).dtype
        return self.audio_decoder(inputs=values.to(dtype), input_len=tokens_len)


@torch.no_grad()
def whole(codec, audio):
    """Tokens and audio of one pass over everything, as NeMo does it."""
    tokens, lengths = codec.encode(audio=audio, audio_len=torch.tensor([audio.shape[1]]))
    return tokens, codec.decode(tokens=tokens, tokens_len=lengths)[0]


def test_chunks_have_the_tokens_and_in_double_precision_the_bits_of_the_whole():
    for codec, atol in ((PublishedTopology(), 1e-5), (PublishedTopology().double(), 1e-12)):
        audio = voice(40 * 1024 / 22050).to(next(codec.parameters()).dtype)
        tokens, decoded = whole(codec, audio)
        assert len(tokens.unique()) > 20 and decoded.std() > 0.01
        chunked = encode_chunked(codec, audio, chunk_frames=9)
        assert torch.equal(chunked, tokens)
        torch.testing.assert_close(decode_chunked(codec, chunked, chunk_frames=9), decoded, rtol=0, atol=atol)


def test_what_fits_into_one_chunk_has_the_bits_of_the_whole():
    codec, audio = PublishedTopology(), voice(20 * 1024 / 22050)
    tokens, decoded = whole(codec, audio)
    assert torch.equal(encode_chunked(codec, audio), tokens)
    assert torch.equal(decode_chunked(codec, tokens), decoded)


def test_folding_reaches_every_kernel_and_changes_no_bit():
    codec, audio = PublishedTopology(), voice(8 * 1024 / 22050)
    tokens, decoded = whole(codec, audio)
    with folded_weights(codec):
        again = whole(codec, audio)
        kernels = [module.conv.weight for module in codec.modules() if hasattr(module, 'conv')]
        assert len(kernels) > 30
        assert all(
            kernel is module.conv.weight
            for kernel, module in zip(kernels, (m for m in codec.modules() if hasattr(m, 'conv')), strict=True)
        )
    assert torch.equal(again[0], tokens) and torch.equal(again[1], decoded)


def test_the_shortest_audio_is_as_long_as_the_networks_demand():
    codec = PublishedTopology()
    assert encode_chunked(codec, voice(0.01)).shape == (1, 8, MINIMUM_FRAMES)
    with pytest.raises(RuntimeError, match='[Pp]adding'):
        whole(codec, torch.zeros(1, (MINIMUM_FRAMES - 1) * 1024))


def test_the_model_class_is_a_codec_of_the_engine():
    """The networks of ``speech_codec_22k_small``, narrow: contexts, lengths and tokens through the real model."""
    widths = {'channels': 8, 'num_blocks': 1, 'frame_channels': 8, 'num_frame_blocks': 1}
    networks = 'nemo_audio_restore.networks.spectral_codec.Spectral'
    config = {
        'sample_rate': 22050,
        'samples_per_frame': 1024,
        'audio_encoder': {'_target_': f'{networks}Encoder', 'encoded_dim': 32, **widths},
        'vector_quantizer': {'num_groups': 8, 'num_levels_per_group': [8, 7, 6, 6]},
        'audio_decoder': {'_target_': f'{networks}Decoder', 'encoded_dim': 32, **widths},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = SpeechCodecModel(OmegaConf.create(config)).eval()
    audio = voice(30.5 * 1024 / 22050)
    tokens, lengths = codec.encode(audio, torch.tensor([audio.shape[1]]))
    decoded, _ = codec.decode(tokens, lengths)
    chunked = encode_chunked(codec, audio, chunk_frames=4)
    assert chunked.shape == tokens.shape and (chunked == tokens).float().mean() > 0.999
    again = decode_chunked(codec, tokens, num_samples=audio.shape[1], chunk_frames=4)
    torch.testing.assert_close(again, decoded[:, : audio.shape[1]], rtol=0, atol=1e-5)
