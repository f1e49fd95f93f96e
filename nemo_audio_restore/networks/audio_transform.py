"""Self-attention over all windows of a recording, between the audio tower and the language model."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPS = 1e-6
_ROTARY_BASE = 4096.0
_LEAST_ROTARY_DIM = 32


class AudioTransform(nn.Module):
    """Layers of rotary self-attention, each followed by its norm, as between tower and language model of AF2.

    Args:
        dim: D of the tokens.
        num_layers: of attention and a position-wise network each.
        num_heads: attention heads, whose width is dim / num_heads.
        inner_dim: width of the position-wise network.
        attention_dropout: probability of dropping an attention weight, in training.

    Raises:
        ValueError: the heads do not divide the width.

    Source: Audio Flamingo 2 (arXiv 2503.03983), section 3.2; rotary embedding: RoFormer (arXiv 2104.09864),
        equation 34, on the first half of every head.
    """

    def __init__(
        self,
        *,
        dim: int = 2048,
        num_layers: int = 3,
        num_heads: int = 8,
        inner_dim: int = 2048,
        attention_dropout: float = 0.1,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} must divide dim={dim}')
        rotary_dim = max(dim // num_heads // 2, _LEAST_ROTARY_DIM)
        if rotary_dim > dim // num_heads:
            raise ValueError(
                f'heads must have at least {_LEAST_ROTARY_DIM} dimensions; dim={dim} and num_heads={num_heads} '
                f'give {dim // num_heads}'
            )
        self.dim = dim
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.layers = nn.ModuleList(_Layer(dim, num_heads, inner_dim, attention_dropout) for _ in range(num_layers))
        # In the state: published weights bring their own, which training may have rounded.
        exponents = torch.arange(0, rotary_dim, 2).float() / rotary_dim
        self.register_buffer('inverse_frequencies', _ROTARY_BASE**-exponents)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Mixes the tokens of each recording.

        Args:
            tokens: (B, M, D), the tokens of all windows one after the other.
            mask: (B, M) bool, False for tokens that nobody attends to; at least one of each item is True.

        Returns:
            (B, M, D).
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float32)
        # arXiv 2104.09864, equation 15: the angle of pair i at position m is m * base^(-2i / d).
        angles = torch.outer(positions, self.inverse_frequencies.float()).repeat(1, 2)
        rotation = angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype)
        tokens = self.norm(tokens * math.sqrt(self.dim))
        for layer in self.layers:
            tokens = layer(tokens, mask[:, None, None], rotation)
        return tokens


class _Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int, inner_dim: int, attention_dropout: float):
        super().__init__()
        self.num_heads, self.attention_dropout = num_heads, attention_dropout
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.attention_norm = nn.LayerNorm(dim, eps=_EPS)
        self.wide, self.narrow = nn.Linear(dim, inner_dim), nn.Linear(inner_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, tokens: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(
            _rotated(query, rotation),
            _rotated(key, rotation),
            value,
            attn_mask=mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        tokens = self.attention_norm(tokens + self.out(mixed.transpose(1, 2).flatten(2)))
        return self.norm(tokens + self.narrow(functional.relu(self.wide(tokens))))


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the first dimensions of every head; pairs are half of these apart."""
    cos, sin = rotation
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    # arXiv 2104.09864, equation 34
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned, kept], dim=-1)
