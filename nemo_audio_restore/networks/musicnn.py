"""MusiCNN: a music tagger whose hidden features describe three seconds of music; for the published weights."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE = 16000
NUM_FRAMES = 187  # 3 s
NUM_MELS = 96
_N_FFT, _HOP = 512, 256
# TensorFlow's default, in which the published weights were trained.
_EPS = 1e-3
_TIMBRE = ((7, 38), (7, 67))
_TEMPO = (128, 64, 32)


class MusicNN(nn.Module):
    """Convolutions of musical shapes, then along time, then pooling and two dense layers.

    Args:
        num_tags: outputs.
        timbre_channels: filters of each kind that span frequencies.
        tempo_channels: filters of each kind that span time.
        mid_channels: of the three layers along time.
        hidden: D of the embedding.

    Source: Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging"
    (arXiv 1909.06654), section 2.
    """

    def __init__(
        self,
        *,
        num_tags: int = 50,
        timbre_channels: int = 204,
        tempo_channels: int = 51,
        mid_channels: int = 64,
        hidden: int = 200,
    ):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            _N_FFT // 2 + 1, NUM_MELS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm='slaney', mel_scale='slaney'
        )
        self.register_buffer('filters', torch.from_numpy(np.ascontiguousarray(filters)).float(), persistent=False)
        self.register_buffer('window', torch.hann_window(_N_FFT), persistent=False)
        self.input_norm = nn.BatchNorm2d(1, eps=_EPS)
        self.timbre = nn.ModuleList(_Front(shape, timbre_channels) for shape in _TIMBRE)
        self.tempo = nn.ModuleList(_Front((length, 1), tempo_channels) for length in _TEMPO)
        front = len(_TIMBRE) * timbre_channels + len(_TEMPO) * tempo_channels
        self.mid = nn.ModuleList(_Mid(width, mid_channels) for width in (front, mid_channels, mid_channels))
        pooled = 2 * (front + 3 * mid_channels)
        self.pool_norm, self.hidden = nn.BatchNorm1d(pooled, eps=_EPS), nn.Linear(pooled, hidden)
        self.hidden_norm, self.tags = nn.BatchNorm1d(hidden, eps=_EPS), nn.Linear(hidden, num_tags)

    @property
    def window_samples(self) -> int:
        """Samples at 16 kHz that give one embedding: 187 frames."""
        return (NUM_FRAMES - 1) * _HOP

    def features(self, audio: Tensor) -> Tensor:
        """Log-mel spectrograms as the network knows them.

        Args:
            audio: (B, T) samples at 16 kHz.

        Returns:
            (B, N, 96), N = 1 + T / 256.
        """
        spectrum = torch.stft(
            audio.float(), _N_FFT, _HOP, window=self.window, pad_mode='constant', return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log10(10000 * (power.transpose(1, 2) @ self.filters) + 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Tags and embedding of pieces.

        Args:
            features: (B, 187, 96), see :meth:`features`.

        Returns:
            Logits (B, ``num_tags``) and embedding (B, ``hidden``).
        """
        x = self.input_norm(features[:, None])
        wide = functional.pad(x, (0, 0, 3, 3))
        parts = [front(wide) for front in self.timbre]
        for front, length in zip(self.tempo, _TEMPO, strict=True):
            before = (length - 1) // 2
            parts.append(front(functional.pad(x, (0, 0, before, length - 1 - before))))
        maps = [torch.cat(parts, dim=1)]
        for index, layer in enumerate(self.mid):
            found = layer(maps[-1])
            maps.append(found if index == 0 else found + maps[-1])
        everything = torch.cat(maps, dim=1)
        pooled = torch.stack([everything.amax(dim=2), everything.mean(dim=2)], dim=2).flatten(1)
        embedding = self.hidden_norm(functional.relu(self.hidden(self.pool_norm(pooled))))
        return self.tags(embedding), embedding


class _Front(nn.Module):
    """(B, 1, N, F) to (B, C, N): one shape of filter, its strongest answer over the frequencies."""

    def __init__(self, shape: tuple[int, int], channels: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, channels, shape), nn.BatchNorm2d(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(functional.relu(self.conv(x))).amax(dim=3)


class _Mid(nn.Module):
    """(B, C, N) to (B, C, N): seven frames."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, out_channels, 7, padding=3)
        self.norm = nn.BatchNorm1d(out_channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(functional.relu(self.conv(x)))
