"""A small spectrogram U-Net for laptop CPUs: bins and frames are folded into channels before the first convolution.

The published U-Net spends most of its work on 128 and 256 channels at full resolution. Here a cell of 8 bins x 4
frames becomes one position, so the widest maps are 128 x 32 instead of 1024 x 128. Measured on two CPU cores, plain
3x3 convolutions beat depthwise ones: the latter have fewer multiplications but wait for memory.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.networks.level_prior import LevelPrior


class TimeEmbedding(nn.Module):
    """Sines and cosines of the bridge time, then a two-layer perceptron: (B,) to (B, channels)."""

    def __init__(self, channels: int, *, num_frequencies: int = 32, max_frequency: float = 100.0):
        super().__init__()
        frequencies = torch.logspace(0, math.log10(max_frequency), num_frequencies)
        self.register_buffer('frequencies', frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * num_frequencies, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, t: Tensor) -> Tensor:
        """Embeds times in [0, 1]."""
        phase = t.float()[:, None] * self.frequencies
        return self.layers(torch.cat([phase.sin(), phase.cos()], dim=1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a scale and shift that depend on the time: (B, C, H, W) to the same shape.

    The first convolution also sees the average over all rows of each frame: the level of a generated band follows the
    known one, hundreds of rows away, and this path has it in one step.
    """

    def __init__(self, channels: int, embedding_channels: int, *, groups: int = 16):
        super().__init__()
        self.norm_in = nn.GroupNorm(groups, channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.frame = nn.Conv2d(channels, channels, 1, bias=False)
        self.modulation = nn.Linear(embedding_channels, 2 * channels)
        self.norm_out = nn.GroupNorm(groups, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.frame.weight)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Adds the residual to ``x``."""
        active = functional.silu(self.norm_in(x))
        hidden = self.conv_in(active) + self.frame(active.mean(dim=2, keepdim=True))
        scale, shift = self.modulation(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm_out(hidden) * (1 + scale) + shift
        return x + self.conv_out(functional.silu(hidden))


class SelfAttention(nn.Module):
    """Residual self-attention over all positions: (B, C, H, W) to the same shape."""

    def __init__(self, channels: int, *, num_heads: int, groups: int = 16):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Adds what the positions tell each other to ``x``."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.num_heads, channels // self.num_heads, height * width)
        query, key, value = qkv.transpose(-1, -2).unbind(1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return x + self.project(mixed.transpose(-1, -2).reshape(batch, channels, height, width))


class Downsample(nn.Module):
    """Halves both axes: 2x2 cells to channels, then a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / 2, W / 2)."""
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles both axes: a 1x1 convolution, then channels to 2x2 cells."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2 H, 2 W)."""
        return functional.pixel_shuffle(self.conv(x), 2)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by self-attention where it is affordable."""

    def __init__(self, channels: int, embedding_channels: int, *, num_blocks: int, num_heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, embedding_channels) for _ in range(num_blocks))
        self.attention = nn.ModuleList(
            SelfAttention(channels, num_heads=num_heads) if num_heads else nn.Identity() for _ in range(num_blocks)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        for block, attention in zip(self.blocks, self.attention, strict=True):
            x = attention(block(x, embedding))
        return x


class FoldedUNet(nn.Module):
    """U-Net on folded magnitude-phase spectrograms that is told which region to generate.

    The output is ``gain(t) * (x_t - prior)`` plus what the layers add. The first term carries the noise of x_t, which
    the target (x_t - x_0) / std contains in full at every time, past the folded layers: without it they spend their
    width on copying noise. The prior of the magnitude channel is a :class:`LevelPrior`, so that the layers only learn
    what differs from an average spectrum at the level of the known bins; the prior of a phase is 0.

    Args:
        num_bins: rows F of the spectrogram; a multiple of ``fold_bins * 2**(len(channels) - 1)``.
        fold_bins: rows that become channels.
        fold_frames: frames that become channels.
        channels: width of each level, finest first; multiples of 16.
        num_blocks: residual blocks of each level, on the way down and again on the way up.
        attention_levels: indices of the levels with self-attention.
        num_heads: heads of the self-attention.
        embedding_channels: width of the time embedding.
    """

    spectrogram_channels = 3

    def __init__(
        self,
        *,
        num_bins: int = 1024,
        fold_bins: int = 8,
        fold_frames: int = 4,
        channels: Sequence[int] = (96, 128, 160, 176),
        num_blocks: Sequence[int] = (1, 2, 2, 2),
        attention_levels: Sequence[int] = (2, 3),
        num_heads: int = 4,
        embedding_channels: int = 192,
    ):
        super().__init__()
        if len(channels) != len(num_blocks):
            raise ValueError(f'channels and num_blocks must have one entry a level; got {channels} and {num_blocks}')
        rows_multiple = fold_bins * 2 ** (len(channels) - 1)
        if num_bins % rows_multiple:
            raise ValueError(f'num_bins must be a multiple of {rows_multiple}; got {num_bins}')
        self.num_bins = num_bins
        self.fold_bins = fold_bins
        self.fold_frames = fold_frames
        self.frames_multiple = fold_frames * 2 ** (len(channels) - 1)

        cell = fold_bins * fold_frames
        self.time = TimeEmbedding(embedding_channels)
        self.gain = nn.Linear(embedding_channels, self.spectrogram_channels)
        self.prior = LevelPrior(num_bins=num_bins)
        # State, mask and prior.
        self.input = nn.Conv2d((self.spectrogram_channels + 2) * cell, channels[0], 3, padding=1)
        self.rows = nn.Parameter(0.02 * torch.randn(1, channels[0], num_bins // fold_bins, 1))
        heads = [num_heads if level in attention_levels else 0 for level in range(len(channels))]
        settings = list(zip(channels, num_blocks, heads, strict=True))
        self.encoder = nn.ModuleList(
            Level(width, embedding_channels, num_blocks=blocks, num_heads=head) for width, blocks, head in settings
        )
        self.decoder = nn.ModuleList(
            Level(width, embedding_channels, num_blocks=blocks, num_heads=head) for width, blocks, head in settings
        )
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.down = nn.ModuleList(Downsample(fine, coarse) for fine, coarse in pairs)
        self.up = nn.ModuleList(Upsample(coarse, fine) for fine, coarse in pairs)
        self.output = nn.Sequential(
            nn.GroupNorm(16, channels[0]),
            nn.SiLU(),
            nn.Conv2d(channels[0], self.spectrogram_channels * cell, 3, padding=1),
        )
        nn.init.zeros_(self.output[-1].weight)
        nn.init.zeros_(self.output[-1].bias)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predicts the bridge's target.

        Args:
            x_t: (B, 3, F, N), state at time ``t``.
            t: (B,) in [0, 1].
            condition: (B, 1, F, N), 1 where the spectrogram is to be generated.

        Returns:
            (B, 3, F, N); meaningful where ``condition`` is 1.

        Raises:
            ValueError: F is not ``num_bins`` or N is not a multiple of ``frames_multiple``.
        """
        if x_t.shape[2] != self.num_bins or x_t.shape[3] % self.frames_multiple:
            raise ValueError(
                f'x_t must have {self.num_bins} bins and a multiple of {self.frames_multiple} frames; '
                f'got {x_t.shape[2]} and {x_t.shape[3]}'
            )
        embedding = self.time(t)
        condition = condition.to(x_t.dtype)
        prior = self.prior(x_t[:, :1], condition)
        x = self.input(self._fold(torch.cat([x_t, condition, prior], dim=1))) + self.rows
        skips = []
        for level, down in zip(self.encoder[:-1], self.down, strict=True):
            x = level(x, embedding)
            skips.append(x)
            x = down(x)
        x = self.decoder[-1](self.encoder[-1](x, embedding), embedding)
        for level, up, skip in zip(self.decoder[-2::-1], self.up[::-1], skips[::-1], strict=True):
            x = level(up(x) + skip, embedding)
        gain = self.gain(embedding)[:, :, None, None]
        centred = torch.cat([x_t[:, :1] - prior, x_t[:, 1:]], dim=1)
        return gain * centred + self._unfold(self.output(x))

    def _fold(self, x: Tensor) -> Tensor:
        batch, channels, bins, frames = x.shape
        rows, columns = bins // self.fold_bins, frames // self.fold_frames
        x = x.reshape(batch, channels, rows, self.fold_bins, columns, self.fold_frames).permute(0, 1, 3, 5, 2, 4)
        folded = x.reshape(batch, channels * self.fold_bins * self.fold_frames, rows, columns)
        # Channels last runs the 3x3 convolutions of a CPU about a third faster.
        return folded.contiguous(memory_format=torch.channels_last)

    def _unfold(self, x: Tensor) -> Tensor:
        batch, _, rows, columns = x.shape
        x = x.reshape(batch, self.spectrogram_channels, self.fold_bins, self.fold_frames, rows, columns)
        x = x.permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, self.spectrogram_channels, rows * self.fold_bins, columns * self.fold_frames)
