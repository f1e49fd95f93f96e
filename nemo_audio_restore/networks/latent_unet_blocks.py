"""Parts of the one-dimensional U-Net of Stable Audio 1.0; names are those of its published configuration's tensors."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_TRANSFORMER_GROUPS = 32


class NormedConv(nn.Module):
    """Group normalisation, SiLU and a convolution of three taps.

    Args:
        in_channels: C.
        out_channels: C'.
        groups: of the normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int):
        super().__init__()
        self.groupnorm = nn.GroupNorm(groups, in_channels)
        self.project = nn.Conv1d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """(B, C, L) to (B, C', L); ``scale`` and ``shift`` (B, C, 1) act on the normalised input."""
        x = self.groupnorm(x)
        if scale is not None:
            x = x * (1 + scale) + shift
        return self.project(functional.silu(x))


class ScaleShift(nn.Module):
    """Scale and shift of a clip's channels from its time.

    Args:
        mapping_dim: size M of the time mapping.
        channels: C.
    """

    def __init__(self, mapping_dim: int, channels: int):
        super().__init__()
        self.to_scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(mapping_dim, 2 * channels))

    def forward(self, mapping: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M) to scale and shift, each (B, C, 1)."""
        scale, shift = self.to_scale_shift(mapping)[..., None].chunk(2, dim=1)
        return scale, shift


class ResidualBlock(nn.Module):
    """Two normalised convolutions, the second scaled and shifted by the time, beside a shortcut.

    Args:
        in_channels: C.
        out_channels: C'.
        mapping_dim: size M of the time mapping.
        groups: of the normalisations.
    """

    def __init__(self, in_channels: int, out_channels: int, mapping_dim: int, groups: int):
        super().__init__()
        self.block1 = NormedConv(in_channels, out_channels, groups)
        self.to_scale_shift = ScaleShift(mapping_dim, out_channels)
        self.block2 = NormedConv(out_channels, out_channels, groups)
        self.to_out = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, mapping: Tensor) -> Tensor:
        """(B, C, L) and (B, M) to (B, C', L)."""
        scale, shift = self.to_scale_shift(mapping)
        return self.block2(self.block1(x), scale, shift) + self.to_out(x)


class Outer(nn.Module):
    """The residual block at either end, normalised over all channels together."""

    def __init__(self, in_channels: int, out_channels: int, mapping_dim: int):
        super().__init__()
        self.block = ResidualBlock(in_channels, out_channels, mapping_dim, groups=1)

    def forward(self, x: Tensor, mapping: Tensor) -> Tensor:
        """(B, C, L) and (B, M) to (B, C', L)."""
        return self.block(x, mapping)


class HeadMerge(nn.Module):
    """Scaled dot-product attention and the projection of its heads.

    Args:
        channels: C.
        num_heads: heads of C / num_heads dimensions.
    """

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_out = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, L, C) and twice (B, S, C) to (B, L, C)."""
        parts = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
        return self.to_out(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """Attention with a normalisation for the queries and another one for keys and values.

    Args:
        channels: C.
        num_heads: heads of C / num_heads dimensions.
        context_dim: E of the other sequence; None for self-attention.
    """

    def __init__(self, channels: int, num_heads: int, context_dim: int | None = None):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.norm_context = nn.LayerNorm(context_dim or channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_kv = nn.Linear(context_dim or channels, 2 * channels, bias=False)
        self.attention = HeadMerge(channels, num_heads)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attends.

        Args:
            x: (B, L, C).
            context: (B, S, E) for cross-attention.
            mask: (B, S); keys and values are multiplied by it, so padding takes part with a logit of 0, as it did in
                training.

        Returns:
            (B, L, C).
        """
        query = self.to_q(self.norm(x))
        key, value = self.to_kv(self.norm_context(x if context is None else context)).chunk(2, dim=-1)
        if mask is not None:
            keep = mask[..., None].to(key.dtype)
            key, value = key * keep, value * keep
        return self.attention(query, key, value)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each added to the stream; the feed-forward has no norm.

    Args:
        channels: C.
        num_heads: heads of C / num_heads dimensions.
        context_dim: E of the tokens.
        multiplier: of the width inside the feed-forward.
    """

    def __init__(self, channels: int, num_heads: int, context_dim: int, multiplier: int):
        super().__init__()
        self.attention = Attention(channels, num_heads)
        self.cross_attention = Attention(channels, num_heads, context_dim)
        inner = channels * multiplier
        self.feed_forward = nn.Sequential(nn.Linear(channels, inner), nn.GELU(), nn.Linear(inner, channels))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, C), tokens (B, S, E) and their mask (B, S) to (B, L, C)."""
        x = x + self.attention(x)
        x = x + self.cross_attention(x, tokens, mask)
        return x + self.feed_forward(x)


class Transformer(nn.Module):
    """Transformer blocks between two convolutions of one tap.

    Args:
        channels: C, a multiple of 32.
        depth: number of blocks.
        num_heads: heads of C / num_heads dimensions.
        context_dim: E of the tokens.
        multiplier: of the width inside the feed-forward.
    """

    def __init__(self, channels: int, depth: int, num_heads: int, context_dim: int, multiplier: int):
        super().__init__()
        if channels % _TRANSFORMER_GROUPS or channels % num_heads:
            raise ValueError(
                f'the width of a level with attention must be a multiple of {_TRANSFORMER_GROUPS} and of the '
                f'{num_heads} heads; got {channels}'
            )
        self.to_in = nn.Sequential(
            nn.GroupNorm(_TRANSFORMER_GROUPS, channels, eps=1e-6), nn.Conv1d(channels, channels, 1)
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, num_heads, context_dim, multiplier) for _ in range(depth)
        )
        self.to_out = nn.Sequential(nn.Identity(), nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, L), tokens (B, S, E) and their mask (B, S) to (B, C, L)."""
        x = self.to_in(x).transpose(1, 2)
        for block in self.blocks:
            x = block(x, tokens, mask)
        return self.to_out(x.transpose(1, 2))


class Downsample(nn.Conv1d):
    """A convolution that divides the length, padded so that the result is exactly L / factor.

    Args:
        in_channels: C.
        out_channels: C'.
        factor: divisor of the length.
        kernel_multiplier: taps for each step of the factor; one is added.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int, kernel_multiplier: int):
        super().__init__(in_channels, out_channels, factor * kernel_multiplier + 1, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) to (B, C', L / factor)."""
        total = self.kernel_size[0] - self.stride[0]
        return super().forward(functional.pad(x, (total - total // 2, total // 2)))


class Upsample(nn.ConvTranspose1d):
    """A transposed convolution that multiplies the length exactly.

    Args:
        in_channels: C.
        out_channels: C'.
        factor: of the length, at least 2.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int):
        super().__init__(in_channels, out_channels, 2 * factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) to (B, C', L * factor)."""
        factor = self.stride[0]
        left = factor - factor // 2
        return super().forward(x)[..., left : left + factor * x.shape[-1]]


class DownBlock(nn.Module):
    """A shorter length first, then residual blocks and the transformer; every one of them is a shortcut to the way up.

    Args:
        downsample: of the level.
        blocks: residual blocks.
        transformer: or None.
    """

    def __init__(self, downsample: nn.Module, blocks: list[ResidualBlock], transformer: Transformer | None):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.transformer = transformer

    def forward(self, x: Tensor, mapping: Tensor, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The level's output and its shortcuts in order."""
        x = self.downsample(x)
        shortcuts = []
        for block in self.blocks:
            x = block(x, mapping)
            shortcuts.append(x)
        if self.transformer is not None:
            x = self.transformer(x, tokens, mask)
            shortcuts.append(x)
        return x, shortcuts


class UpBlock(nn.Module):
    """Residual blocks that each take in a shortcut, the transformer, then a greater length.

    Args:
        blocks: residual blocks of twice the width at the input.
        transformer: or None.
        upsample: of the level.
        shortcut_scale: factor of the shortcuts.
    """

    def __init__(
        self,
        blocks: list[ResidualBlock],
        transformer: Transformer | None,
        upsample: nn.Module,
        shortcut_scale: float,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.transformer = transformer
        self.upsample = upsample
        self.shortcut_scale = shortcut_scale

    def forward(
        self, x: Tensor, shortcuts: list[Tensor], mapping: Tensor, tokens: Tensor, mask: Tensor | None
    ) -> Tensor:
        """The level's output; takes its shortcuts from the end of the list."""
        for block in self.blocks:
            x = block(torch.cat([x, shortcuts.pop() * self.shortcut_scale], dim=1), mapping)
        if self.transformer is not None:
            x = self.transformer(x, tokens, mask)
        return self.upsample(x)
