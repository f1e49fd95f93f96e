"""A small audio tower of a language model that keeps time: a token for every 160 ms, trained on a laptop."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nemo_audio_restore.networks.audio_tower import ConvolutionalBlock, LogMel

_PATCH = 4
_HOP_S = 0.02
_TOKEN_FRAMES = 8
_POSITION_BASE = 1000.0


class FrameTower(nn.Module):
    """Log-mel patches through four stages of separable convolutions; time is halved once, pitch at every stage.

    Sines of the place in the window are added to the tokens: without them nothing after it knew what came first.

    Args:
        feature_dim: D of the tokens.
        sample_rate: of the windows, in Hz.
        window_s: length of a window in seconds, a whole number of tokens of 0.16 s.
        num_mels: bands, a multiple of 32.
        widths: channels of the four stages.
        depths: blocks of the four stages.
        dropout: of the tokens, in training.

    Raises:
        ValueError: a window or a number of bands that does not fit, or not four stages.

    Source: blocks after ConvNeXt (arXiv 2201.03545), section 2; sines: arXiv 1706.03762, section 3.5.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 256,
        sample_rate: int = 16000,
        window_s: float = 5.12,
        num_mels: int = 64,
        widths: Sequence[int] = (32, 64, 128, 192),
        depths: Sequence[int] = (2, 2, 3, 2),
        dropout: float = 0.1,
    ):
        super().__init__()
        hop = round(_HOP_S * sample_rate)
        self.window_samples = round(window_s * sample_rate)
        if self.window_samples % (hop * _TOKEN_FRAMES) or num_mels % 32 or num_mels < 32:
            raise ValueError(
                f'window_s must be a multiple of {_HOP_S * _TOKEN_FRAMES:g} and num_mels of 32; '
                f'got {window_s}, {num_mels}'
            )
        if len(widths) != 4 or len(depths) != 4:
            raise ValueError(f'widths and depths must name four stages; got {list(widths)} and {list(depths)}')
        self.sample_rate, self.feature_dim = sample_rate, feature_dim
        self.num_tokens = self.window_samples // (hop * _TOKEN_FRAMES)
        self.log_mel = LogMel(
            sample_rate=sample_rate,
            n_fft=2 ** round(math.log2(0.06 * sample_rate)),
            hop_length=hop,
            num_mels=num_mels,
            high_hz=sample_rate / 2,
        )
        self.stem = nn.Conv2d(1, widths[0], _PATCH, stride=_PATCH)
        # Convolutions do not know how high they are, and timbre depends on it.
        self.height = nn.Parameter(torch.zeros(widths[0], num_mels // _PATCH, 1))
        stages = []
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if index:
                stride = (2, 2) if index == 1 else (2, 1)
                stages.append(nn.Conv2d(widths[index - 1], width, stride, stride=stride))
            stages += [ConvolutionalBlock(width) for _ in range(depth)]
        self.stages = nn.Sequential(*stages)
        rows = num_mels // 32
        self.projection = nn.Linear(rows * widths[-1], feature_dim)
        self.norm = nn.LayerNorm(feature_dim)
        self.dropout = nn.Dropout(dropout)
        # Not in the state: the arguments determine them.
        self.register_buffer('places', _sines(self.num_tokens, feature_dim), persistent=False)

    def pictures(self, windows: Tensor) -> Tensor:
        """What the network sees, to be computed once and given to :meth:`encode_pictures`.

        Args:
            windows: (M, ``window_samples``) samples in [-1, 1].

        Returns:
            (M, F, N) levels in [-1, 1].

        Raises:
            ValueError: windows of another length.
        """
        if windows.shape[1] != self.window_samples:
            raise ValueError(f'windows must have {self.window_samples} samples; got {windows.shape[1]}')
        return self.log_mel(windows)

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Tokens (M, ``num_tokens``, D) of :meth:`pictures` (M, F, N)."""
        maps = self.stages(self.stem(pictures[:, None]) + self.height)
        tokens = self.norm(self.projection(maps.flatten(1, 2).transpose(1, 2)))
        return self.dropout(tokens) + self.places

    def forward(self, windows: Tensor) -> Tensor:
        """Features of windows.

        Args:
            windows: (M, ``window_samples``) samples in [-1, 1].

        Returns:
            (M, ``num_tokens``, D).
        """
        return self.encode_pictures(self.pictures(windows))


def _sines(count: int, dim: int) -> Tensor:
    """Sines and cosines (count, dim) of place over wave lengths from 2 pi to 2 pi * base."""
    rates = _POSITION_BASE ** -(torch.arange(0, dim, 2) / dim)
    angles = torch.outer(torch.arange(count).float(), rates)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
