"""The layer of the latent transformer: attention to the latents, attention to the prompt, feed-forward."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class GainNorm(nn.Module):
    """Layer normalisation with a learned gain; the shift is a constant of the file, zero unless the file says else.

    Args:
        dim: D.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer('beta', torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same shape and dtype, computed in float32."""
        normed = functional.layer_norm(x.float(), x.shape[-1:], self.gamma.float(), self.beta.float(), 1e-5)
        return normed.to(x.dtype)


class Rotary(nn.Module):
    """Angles that turn the first part of every head in proportion to the position.

    Args:
        dim: rotated dimensions of a head, even.

    Source: RoFormer (arXiv 2104.09864), equation 34, with dimension i paired with i + dim / 2.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer('inv_freq', 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim))

    def forward(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (positions, dim) float32."""
        frequencies = self.inv_freq.float()
        angle = torch.arange(positions, device=frequencies.device)[:, None] * frequencies
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the first dimensions of every head.

    Args:
        x: (B, heads, N, head).
        rotation: cosines and sines, each (N, R) with R at most the head's size.

    Returns:
        The shape and dtype of x; computed in float32.
    """
    cosine, sine = rotation
    turning, rest = x.split([cosine.shape[-1], x.shape[-1] - cosine.shape[-1]], dim=-1)
    turning = turning.float()
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cosine + torch.cat([-second, first], dim=-1) * sine
    return torch.cat([turned.to(x.dtype), rest], dim=-1)


class Attention(nn.Module):
    """Attention from one sequence to itself or to another one.

    Args:
        dim: D of the queries and of the output.
        head_dim: size of a head.
        context_dim: E of the other sequence, which then has E / head_dim heads of keys and values, each shared by
            several heads of queries; None for self-attention.
        normed: normalise queries and keys head by head.
    """

    def __init__(self, dim: int, head_dim: int, *, context_dim: int | None = None, normed: bool = False):
        super().__init__()
        if dim % head_dim or (context_dim or 0) % head_dim:
            raise ValueError(f'{dim} and {context_dim} channels cannot be split into heads of {head_dim}')
        self.head_dim = head_dim
        if context_dim is None:
            self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        else:
            if (dim // head_dim) % (context_dim // head_dim):
                raise ValueError(f'{dim} channels of queries must be a multiple of {context_dim} channels of tokens')
            self.to_q = nn.Linear(dim, dim, bias=False)
            self.to_kv = nn.Linear(context_dim, 2 * context_dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.q_norm = nn.LayerNorm(head_dim, eps=1e-6) if normed else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=1e-6) if normed else nn.Identity()

    def forward(
        self, x: Tensor, context: Tensor | None = None, rotation: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Attends.

        Args:
            x: (B, N, D).
            context: (B, S, E) for cross-attention.
            rotation: of :class:`Rotary`, for self-attention.

        Returns:
            (B, N, D).
        """
        if context is None:
            query, key, value = (self._heads(part) for part in self.to_qkv(x).chunk(3, dim=-1))
        else:
            query = self._heads(self.to_q(x))
            key, value = (self._heads(part) for part in self.to_kv(context).chunk(2, dim=-1))
        query, key = self.q_norm(query), self.k_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        attended = functional.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value)
        return self.to_out(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, head)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class GatedLinear(nn.Module):
    """One linear layer whose second half, through SiLU, multiplies the first.

    Args:
        in_dim: D.
        out_dim: D'.

    Source: GLU variants (arXiv 2002.05202), equation 6, with SiLU.
    """

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.proj = nn.Linear(in_dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D')."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.silu(gate)


class FeedForward(nn.Module):
    """A gated hidden layer of four times the width.

    Args:
        dim: D.
    """

    def __init__(self, dim: int):
        super().__init__()
        # Nothing in the middle: the published names count a dropout that is never used.
        self.ff = nn.Sequential(GatedLinear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same shape."""
        return self.ff(x)


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each on the normalised stream and added to it.

    Args:
        dim: D.
        head_dim: size of a head.
        context_dim: E of the cross-attended tokens; None for a layer without cross-attention.
        normed_heads: normalise queries and keys head by head.
        modulated: scale, shift and gate self-attention and feed-forward by a vector of the whole clip.

    Source: DiT (arXiv 2212.09748), section 3.2, for the modulation; its gate here is sigmoid(1 - gate).
    """

    def __init__(
        self, dim: int, head_dim: int, *, context_dim: int | None, normed_heads: bool = False, modulated: bool = False
    ):
        super().__init__()
        self.pre_norm = GainNorm(dim)
        self.self_attn = Attention(dim, head_dim, normed=normed_heads)
        self.cross_attn = None
        if context_dim is not None:
            self.cross_attend_norm = GainNorm(dim)
            self.cross_attn = Attention(dim, head_dim, context_dim=context_dim, normed=normed_heads)
        self.ff_norm = GainNorm(dim)
        self.ff = FeedForward(dim)
        self.to_scale_shift_gate = nn.Parameter(torch.randn(6 * dim) / dim**0.5) if modulated else None

    def forward(
        self, x: Tensor, context: Tensor | None, rotation: tuple[Tensor, Tensor], modulation: Tensor | None = None
    ) -> Tensor:
        """One layer.

        Args:
            x: (B, N, D).
            context: (B, S, E); None leaves out cross-attention.
            rotation: of :class:`Rotary` for N positions.
            modulation: (B, 6 D) for a modulated layer.

        Returns:
            (B, N, D).
        """
        if self.to_scale_shift_gate is None:
            x = x + self.self_attn(self.pre_norm(x), rotation=rotation)
            x = self._cross(x, context)
            return x + self.ff(self.ff_norm(x))
        scales = (modulation + self.to_scale_shift_gate)[:, None].chunk(6, dim=-1)
        scale, shift, gate, ff_scale, ff_shift, ff_gate = scales
        attended = self.self_attn(self.pre_norm(x) * (1 + scale) + shift, rotation=rotation)
        x = self._cross(x + attended * torch.sigmoid(1 - gate), context)
        return x + self.ff(self.ff_norm(x) * (1 + ff_scale) + ff_shift) * torch.sigmoid(1 - ff_gate)

    def _cross(self, x: Tensor, context: Tensor | None) -> Tensor:
        if self.cross_attn is None or context is None:
            return x
        return x + self.cross_attn(self.cross_attend_norm(x), context)
