"""The U-Net of A2SB: convolutions at every level, attention in place of a residual block's output at the coarse ones.

Module names are those of the published checkpoints, so that their tensors load without renaming.

Source: A2SB (arXiv 2501.11311), section 3 and appendix; the layout follows the published tensors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nemo_audio_restore.networks.group_norm import GroupNorm, is_channels_last

_NORM_GROUPS = 32
_ROTARY_AXES = 2
_ROTARY_DIMS = 32  # rotated dimensions of a head for each axis: 16 pairs


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """Sines and cosines of the bridge time.

    Args:
        t: (B,) in [0, 1].
        channels: size D of the embedding, even.

    Returns:
        (B, D) float32: sines, then cosines, of frequencies 0.5 to 16 radians.
    """
    frequencies = torch.linspace(0.5, 16.0, channels // 2, device=t.device)
    # Elementwise: a matrix product would be rounded to TF32 where that is switched on.
    angle = t.float()[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def band_embedding(rows: int, channels: int, device: torch.device) -> Tensor:
    """Sines and cosines that tell the rows of a level apart (convolutions alone do not know the frequency).

    Args:
        rows: number H of rows.
        channels: size D of the embedding, even.
        device: where the result is made.

    Returns:
        (1, D, H, 1) float32: cosines, then sines, of 1..D/2 thirds of a turn over the height.
    """
    harmonics = torch.arange(1, channels // 2 + 1, device=device)
    # The published networks were trained with 3.14.
    angle = harmonics[:, None] * torch.arange(rows, device=device) * 2 * 3.14 / (3 * rows)
    return torch.cat([angle.cos(), angle.sin()])[None, :, :, None]


class ResBlock(nn.Module):
    """Two convolutions around a normalisation that is scaled and shifted by row and time.

    Args:
        channels: C, in and out.
        embedding_channels: E of the embedding of row and time.
        dropout: before the second convolution.
    """

    def __init__(self, channels: int, embedding_channels: int, dropout: float):
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(channels, _NORM_GROUPS), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Conv2d(embedding_channels, 2 * channels, 1))
        self.out_norm = GroupNorm(channels, _NORM_GROUPS)
        self.out_rest = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(channels, channels, 3, padding=1))
        nn.init.zeros_(self.out_rest[2].weight)
        nn.init.zeros_(self.out_rest[2].bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W) and the float32 embedding (B, E, H, 1) to (B, C, H, W)."""
        # The embedding does not depend on the frame, so one column is enough: 1/W of the work and of the memory.
        linear = self.emb_layers[1]
        with torch.autocast(x.device.type, enabled=False):
            activated = self.emb_layers[0](embedding)[..., 0].transpose(1, 2)
            condition = functional.linear(activated, linear.weight.float().flatten(1), linear.bias.float())
        scale, shift = condition.transpose(1, 2)[..., None].chunk(2, dim=1)
        return x + self.out_rest(self.out_norm(self.in_layers(x), scale, shift))


class AxialRotary(nn.Module):
    """Rotates pairs of a head's first 64 dimensions by angles proportional to row (32) and column (32).

    Positions run from -1 to 1 over the input whatever its size: another length of the input is another scale.

    Source: RoFormer (arXiv 2104.09864), equation 34, once for each axis.
    """

    def __init__(self):
        super().__init__()
        # From half a turn to 16 turns between the two ends of an axis.
        self.freqs = nn.Parameter(torch.pi * torch.linspace(1.0, 32.0, _ROTARY_DIMS // 2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, D, H, W) to the same shape and dtype; the rotation itself is in float32."""
        with torch.autocast(x.device.type, enabled=False):
            turning = x[:, :, : _ROTARY_AXES * _ROTARY_DIMS].float()
            by_row, by_column = turning.split(_ROTARY_DIMS, dim=2)
            height, width = x.shape[-2:]
            by_row = _rotate(by_row, self._angles(height, x.device)[:, :, None])
            by_column = _rotate(by_column, self._angles(width, x.device)[:, None, :])
            turned = torch.cat([by_row, by_column], dim=2).to(x.dtype)
            return torch.cat([turned, x[:, :, _ROTARY_AXES * _ROTARY_DIMS :]], dim=2)

    def _angles(self, size: int, device: torch.device) -> Tensor:
        """(16, size)."""
        return self.freqs.float()[:, None] * torch.linspace(-1.0, 1.0, size, device=device)


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotates the pairs (2 j, 2 j + 1) of dimension 2 of (B, heads, 32, H, W) by ``angle[j]``, (H, 1) or (1, W)."""
    pairs = x.unflatten(2, (-1, 2))
    even, odd = pairs.unbind(3)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=3).flatten(2, 3)


class Attention(nn.Module):
    """Self-attention over all rows and columns of a level. Its output *replaces* the stream: there is no residual.

    Args:
        channels: C, in and out.
        num_heads: heads of C / num_heads dimensions, at least 64.
    """

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        if channels % num_heads or channels // num_heads < _ROTARY_AXES * _ROTARY_DIMS:
            raise ValueError(
                f'{channels} channels cannot be split into {num_heads} heads of at least '
                f'{_ROTARY_AXES * _ROTARY_DIMS} dimensions: take fewer heads'
            )
        self.num_heads = num_heads
        self.gnorm = GroupNorm(channels, _NORM_GROUPS)
        self.q_proj = nn.Conv2d(channels, channels, 1)
        self.k_proj = nn.Conv2d(channels, channels, 1)
        self.v_proj = nn.Conv2d(channels, channels, 1)
        self.pos_emb = AxialRotary()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        y = self.gnorm(x)
        query, key, value = (
            projection(y).unflatten(1, (self.num_heads, -1)) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = self.pos_emb(query), self.pos_emb(key)
        query, key, value = (part.flatten(3).transpose(2, 3).contiguous() for part in (query, key, value))
        y = functional.scaled_dot_product_attention(query, key, value)
        return y.transpose(2, 3).reshape(x.shape)


class Downsample(nn.Module):
    """Halves rows and columns by a strided convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.op = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / 2, W / 2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Doubles rows and columns by repetition, then a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2 H, 2 W); without gradients in four phases, which is 2.25 times cheaper."""
        if torch.is_grad_enabled():
            return self.conv(functional.interpolate(x, scale_factor=2.0, mode='nearest'))
        return self._in_phases(x)

    def _in_phases(self, x: Tensor) -> Tensor:
        # In the doubled image the three taps of a row meet two different input rows: for even rows the one before
        # (tap 0) and this one (taps 1 + 2), for odd rows this one (0 + 1) and the next (2). The same for columns.
        # So each of the four phases of the output is a 2x2 convolution of the small image.
        weight = self.conv.weight.float()
        first, middle, last = weight.unbind(2)
        by_row = (torch.stack([first, middle + last], 2), torch.stack([first + middle, last], 2))
        height, width = x.shape[-2:]
        out = None
        for row, kernel in enumerate(by_row):
            left, centre, right = kernel.unbind(3)
            by_column = (torch.stack([left, centre + right], 3), torch.stack([left + centre, right], 3))
            for column, phase_kernel in enumerate(by_column):
                # One row and one column more than a phase has: the last ones belong to odd phases, the first to even.
                phase = functional.conv2d(x, phase_kernel.to(self.conv.weight.dtype), self.conv.bias, padding=1)
                if out is None:
                    out = _empty_like(phase, 2 * height, 2 * width)
                out[:, :, row::2, column::2] = phase[:, :, row : row + height, column : column + width]
        return out


def _empty_like(x: Tensor, height: int, width: int) -> Tensor:
    """Room for (B, C, height, width) with dtype, device and memory format of x."""
    shape = (*x.shape[:2], height, width)
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


class SpectrogramUNet(nn.Module):
    """A2SB's network: predicts (x_t - x_0) / sqrt(s2(t)) from the state and the time.

    The defaults are the published model, 565,544,851 parameters.

    Args:
        in_channels: channels of the state.
        out_channels: channels of the prediction.
        hidden_channels: width of every level, from full resolution to the bottom; each level halves F and N.
        time_embedding_dim: size of the embedding of the time, even.
        band_embedding_dim: size of the embedding of the row, even.
        num_heads: attention heads, each of at least 64 dimensions.
        attention_levels: levels with attention after every residual block; the bottom always has it. On the way up
            attention sits one level deeper: {3, 4} means levels 3 and 4 going down, 5 and 4 going up.
        num_res_blocks: residual blocks of a level and side.
        dropout: inside the residual blocks, in training.
        gradient_checkpointing: in training, keep one activation for each block and recompute the others.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        hidden_channels: Sequence[int] = (128, 256, 512, 768, 1024, 2048),
        time_embedding_dim: int = 128,
        band_embedding_dim: int = 16,
        num_heads: int = 8,
        attention_levels: Sequence[int] = (3, 4),
        num_res_blocks: int = 2,
        dropout: float = 0.1,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        widths = tuple(hidden_channels)
        levels = len(widths) - 1
        self._check(widths, attention_levels, time_embedding_dim, band_embedding_dim)
        self.in_channels = in_channels
        self.time_embedding_dim = time_embedding_dim
        self.band_embedding_dim = band_embedding_dim
        self.gradient_checkpointing = gradient_checkpointing
        self.frames_multiple = 2**levels
        embedding_channels = time_embedding_dim + band_embedding_dim

        def blocks(channels: int, *, attention: bool) -> nn.ModuleList:
            children: list[nn.Module] = []
            for _ in range(num_res_blocks):
                children.append(ResBlock(channels, embedding_channels, dropout))
                if attention:
                    children.append(Attention(channels, num_heads))
            return nn.ModuleList(children)

        # Decoder block i has the width of level (levels - i), but the attention of level (levels - 1 - i).
        decoder_attention = [levels - 1 - i in attention_levels for i in range(levels)]
        self.enc_blocks = nn.ModuleList(blocks(widths[i], attention=i in attention_levels) for i in range(levels))
        self.ds_layers = nn.ModuleList(Downsample(widths[i], widths[i + 1]) for i in range(levels))
        self.us_layers = nn.ModuleList(Upsample(widths[levels - i], widths[levels - 1 - i]) for i in range(levels))
        self.dec_blocks = nn.ModuleList(
            blocks(widths[levels - i], attention=decoder_attention[i]) for i in range(levels)
        )
        self.input_projection = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.middle_block = nn.ModuleList(
            [
                ResBlock(widths[-1], embedding_channels, dropout),
                Attention(widths[-1], num_heads),
                ResBlock(widths[-1], embedding_channels, dropout),
            ]
        )
        self.output_projection = nn.Sequential(
            GroupNorm(widths[0], _NORM_GROUPS), nn.SiLU(), nn.Conv2d(widths[0], out_channels, 3, padding=1)
        )

    @staticmethod
    def _check(widths: tuple[int, ...], attention_levels: Sequence[int], time_dim: int, band_dim: int) -> None:
        if len(widths) < 2 or any(width % _NORM_GROUPS for width in widths):
            raise ValueError(
                f'hidden_channels must be two or more multiples of {_NORM_GROUPS} (normalisation groups); got {widths}'
            )
        if any(not 0 <= level < len(widths) - 1 for level in attention_levels):
            raise ValueError(f'attention_levels must lie in 0..{len(widths) - 2}; got {tuple(attention_levels)}')
        if time_dim < 2 or time_dim % 2 or band_dim < 2 or band_dim % 2:
            raise ValueError(f'embedding sizes must be even and positive; got time {time_dim} and band {band_dim}')

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predicts the bridge's regression target.

        Args:
            x_t: (B, in_channels, F, N); F and N multiples of ``frames_multiple``.
            t: (B,) bridge times in [0, 1].
            condition: not used: what is to be generated shows in the state, where it is pure noise at t = 1.

        Returns:
            (B, out_channels, F, N).
        """
        multiple = self.frames_multiple
        if x_t.ndim != 4 or x_t.shape[1] != self.in_channels or x_t.shape[2] % multiple or x_t.shape[3] % multiple:
            raise ValueError(
                f'x_t must be (B, {self.in_channels}, F, N) with F and N multiples of {multiple}; '
                f'got {tuple(x_t.shape)}'
            )
        time = time_embedding(t, self.time_embedding_dim)[:, :, None, None]
        embeddings = [self._embedding(time, x_t.shape[2] >> level) for level in range(len(self.ds_layers) + 1)]

        x = self.input_projection(self._arranged(x_t))
        skips = []
        for blocks, downsample, embedding in zip(self.enc_blocks, self.ds_layers, embeddings[:-1], strict=True):
            x = downsample(self._run(blocks, x, embedding))
            skips.append(x)  # kept after the downsampling: there is none at full resolution
        x = self._run(self.middle_block, x, embeddings[-1])
        for blocks, upsample, embedding in zip(self.dec_blocks, self.us_layers, embeddings[:0:-1], strict=True):
            x = upsample(self._run(blocks, x + skips.pop(), embedding))
        return self.output_projection(x)

    def _arranged(self, x: Tensor) -> Tensor:
        """The input in the memory format that all layers then keep; on a CPU channels last is a fifth faster."""
        return x.contiguous(memory_format=torch.channels_last) if x.device.type == 'cpu' else x

    def _embedding(self, time: Tensor, rows: int) -> Tensor:
        """Row and time together: (B, E, rows, 1) float32."""
        band = band_embedding(rows, self.band_embedding_dim, time.device)
        return torch.cat([band.expand(time.shape[0], -1, -1, -1), time.expand(-1, -1, rows, -1)], dim=1)

    def _run(self, blocks: nn.ModuleList, x: Tensor, embedding: Tensor) -> Tensor:
        """A level's blocks one after the other."""
        for block in blocks:
            inputs = (x, embedding) if isinstance(block, ResBlock) else (x,)
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
        return x
