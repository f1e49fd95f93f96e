"""A codec as small as one can be: three convolutions each way, weight-normalised, that reflect at the edges."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

LEVELS = (9, 7)


class StandInCodec(nn.Module):
    """256 samples a frame, 4 codebooks of 63."""

    sample_rate = 22050
    samples_per_frame = 256
    num_codebooks = 4
    codebook_size = LEVELS[0] * LEVELS[1]
    encode_context_frames = 4
    decode_context_frames = 4

    def __init__(self, seed=0):
        super().__init__()
        size = self.samples_per_frame
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.audio_encoder = nn.Sequential(
                _conv(1, 3, 7),
                nn.ELU(),
                weight_norm(nn.Conv1d(3, 8, 2 * size, size, size // 2, padding_mode='reflect')),
                nn.ELU(),
                _conv(8, 2 * self.num_codebooks, 7),
            )
            self.vector_quantizer = Rounding()
            self.audio_decoder = nn.Sequential(
                _conv(2 * self.num_codebooks, 8, 7),
                nn.ELU(),
                weight_norm(nn.ConvTranspose1d(8, 3, 2 * size, size, size // 2)),
                nn.ELU(),
                _conv(3, 1, 7),
                nn.Tanh(),
            )
            # Random networks answer with almost nothing: louder, so that tokens and samples move.
            with torch.no_grad():
                self.audio_encoder[-1].parametrizations.weight.original0.mul_(60)
                self.audio_decoder[-2].parametrizations.weight.original0.mul_(8)
        self.calls = []
        self.eval()

    @property
    def device(self):
        return next(self.parameters()).device

    def encode(self, *, audio, audio_len):
        frames = audio.shape[1] // self.samples_per_frame
        assert (audio_len == frames * self.samples_per_frame).all()
        self.calls.append(frames)
        return self.vector_quantizer.encode(self.audio_encoder(audio[:, None])), audio_len // self.samples_per_frame

    def decode(self, *, tokens, tokens_len):
        self.calls.append(tokens.shape[2])
        values = self.vector_quantizer.decode(tokens).to(next(self.parameters()).dtype)
        return self.audio_decoder(values)[:, 0], tokens_len * self.samples_per_frame


class Rounding(nn.Module):
    """Two values to one token."""

    def __init__(self):
        super().__init__()
        self.register_buffer('levels', torch.tensor(LEVELS)[:, None])

    def encode(self, values):
        steps = (self.levels - 1) / 2
        pairs = torch.round(values.unflatten(1, (-1, 2)).tanh() * steps + steps).int()
        return pairs[:, :, 0] + self.levels[0, 0].int() * pairs[:, :, 1]

    def decode(self, tokens):
        pairs = torch.stack([tokens % self.levels[0, 0], tokens // self.levels[0, 0]], dim=2)
        return (pairs / ((self.levels - 1) / 2) - 1).flatten(1, 2)


def _conv(in_channels, out_channels, kernel_size):
    conv = nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, padding_mode='reflect')
    return weight_norm(conv)


def voice(seconds, *, channels=1, seed=0, rate=22050):
    """(C, T) float32: noise and tones that come and go."""
    generator = torch.Generator().manual_seed(seed)
    num_samples = round(seconds * rate)
    time = torch.arange(num_samples) / rate
    noise = torch.randn(channels, num_samples, generator=generator)
    tones = torch.sin(2 * torch.pi * torch.tensor([[130.0], [210.0], [170.0]])[:channels] * time)
    return (0.1 * noise + 0.3 * tones) * (0.6 + 0.4 * torch.sin(2 * torch.pi * 3 * time))
