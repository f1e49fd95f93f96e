"""The diffusion transformer of Stable Audio 2.0, Stable Audio Open and Stable Audio Open Small.

Module names are those of the published checkpoints, so that their tensors load without renaming.

Source: Long-form music generation (arXiv 2404.10301), section 2.3; Stable Audio Open (arXiv 2407.14358), section 3.2.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.networks.fourier_features import TimeFeatures
from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.networks.transformer_layer import Rotary, TransformerLayer

_TIME_FEATURES = 256
_LEAST_ROTARY = 32


class Trunk(nn.Module):
    """The layers between the first and the last projection.

    Args:
        in_channels: of every position.
        out_channels: of every position.
        dim: D.
        depth: number of layers.
        num_heads: heads of D / num_heads dimensions.
        context_dim: E of the cross-attended tokens, or None.
        normed_heads: see :class:`TransformerLayer`.
        modulated: see :class:`TransformerLayer`.
        memory_tokens: learned tokens in front of all others.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        dim: int,
        depth: int,
        num_heads: int,
        context_dim: int | None,
        normed_heads: bool,
        modulated: bool,
        memory_tokens: int,
    ):
        super().__init__()
        head_dim = dim // num_heads
        self.project_in = nn.Linear(in_channels, dim, bias=False)
        self.project_out = nn.Linear(dim, out_channels, bias=False)
        self.rotary_pos_emb = Rotary(max(head_dim // 2, _LEAST_ROTARY))
        self.memory_tokens = nn.Parameter(torch.randn(memory_tokens, dim)) if memory_tokens else None
        self.global_cond_embedder = None
        if modulated:
            self.global_cond_embedder = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.layers = nn.ModuleList(
            TransformerLayer(dim, head_dim, context_dim=context_dim, normed_heads=normed_heads, modulated=modulated)
            for _ in range(depth)
        )

    def forward(self, x: Tensor, prepended: Tensor | None, context: Tensor | None, summary: Tensor | None) -> Tensor:
        """Runs the layers.

        Args:
            x: (B, N, in_channels).
            prepended: (B, P, D), dropped again at the end.
            context: (B, S, E) or None.
            summary: (B, D) for modulated layers.

        Returns:
            (B, N, out_channels).
        """
        length = x.shape[1]
        parts = [self.project_in(x)]
        if prepended is not None:
            parts.insert(0, prepended.to(parts[0].dtype))
        if self.memory_tokens is not None:
            parts.insert(0, self.memory_tokens.to(parts[-1].dtype).expand(x.shape[0], -1, -1))
        hidden = torch.cat(parts, dim=1)
        rotation = self.rotary_pos_emb(hidden.shape[1])
        modulation = None if self.global_cond_embedder is None else self.global_cond_embedder(summary)
        for layer in self.layers:
            hidden = layer(hidden, context, rotation, modulation)
        return self.project_out(hidden[:, -length:])


class LatentTransformer(nn.Module):
    """Predicts from noisy latents, a time and a condition; knows no schedule and no guidance.

    The defaults are Stable Audio 2.0 and Open, 1,056,828,544 parameters. Padding in the tokens is not masked, as in
    the published models: text conditioners set it to zero.

    Args:
        latent_channels: D of the latents, in and out.
        dim: width of the stream.
        depth: number of layers.
        num_heads: attention heads.
        token_dim: E of the condition's tokens; None for a network without cross-attention.
        project_tokens: bring the tokens to ``dim`` first; otherwise they stay at ``token_dim``, with fewer heads.
        summary_dim: G of the condition's summary; None for a network without.
        summary_use: ``prepend`` the summary and the time as a token, or ``modulate`` every layer by them.
        prepended_dim: E' of the condition's prepended tokens; None for a network without.
        concatenated_channels: C' of the condition's channels beside the latents.
        normed_heads: normalise queries and keys head by head.
        memory_tokens: learned tokens in front of all others.
        patch_size: neighbouring latents that share a position: half the positions for 2, and about half the cost.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 64,
        dim: int = 1536,
        depth: int = 24,
        num_heads: int = 24,
        token_dim: int | None = 768,
        project_tokens: bool = False,
        summary_dim: int | None = 1536,
        summary_use: Literal['prepend', 'modulate'] = 'prepend',
        prepended_dim: int | None = None,
        concatenated_channels: int = 0,
        normed_heads: bool = False,
        memory_tokens: int = 0,
        patch_size: int = 1,
    ):
        super().__init__()
        if patch_size < 1:
            raise ValueError(f'patch_size must be at least 1; got {patch_size}')
        if summary_use not in ('prepend', 'modulate'):
            raise ValueError(f"summary_use must be 'prepend' or 'modulate'; got {summary_use!r}")
        if dim % num_heads or dim // num_heads < _LEAST_ROTARY:
            raise ValueError(
                f'dim must be a multiple of num_heads, with heads of at least {_LEAST_ROTARY}; '
                f'got {dim} and {num_heads}'
            )
        self.latent_channels = latent_channels
        self.concatenated_channels = concatenated_channels
        self.summary_use = summary_use
        self.patch_size = patch_size
        self.timestep_features = TimeFeatures(_TIME_FEATURES)
        self.to_timestep_embed = nn.Sequential(nn.Linear(_TIME_FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))
        context_dim = dim if project_tokens and token_dim is not None else token_dim
        # No bias anywhere from the tokens to the stream: tokens of zeros add nothing, so they need not be computed.
        self.to_cond_embed = _embedder(token_dim, context_dim)
        self.to_global_embed = _embedder(summary_dim, dim)
        self.to_prepend_embed = _embedder(prepended_dim, dim)
        channels = latent_channels + concatenated_channels
        self.preprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.postprocess_conv = nn.Conv1d(latent_channels, latent_channels, 1, bias=False)
        nn.init.zeros_(self.preprocess_conv.weight)
        nn.init.zeros_(self.postprocess_conv.weight)
        self.transformer = Trunk(
            in_channels=channels * patch_size,
            out_channels=latent_channels * patch_size,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            context_dim=context_dim,
            normed_heads=normed_heads,
            modulated=summary_use == 'modulate',
            memory_tokens=memory_tokens,
        )

    @property
    def latents_multiple(self) -> int:
        """The number L of latents must be a multiple of this."""
        return self.patch_size

    def null_condition(self, condition: LatentCondition, negative: LatentCondition | None = None) -> LatentCondition:
        """What guidance leads away from.

        Args:
            condition: of the prompt.
            negative: what is not wanted; only its tokens are used, and zeros where its mask is 0.

        Returns:
            No tokens, or the negative ones; prepended tokens of zeros; the summary and channels of ``condition``.
        """
        tokens = None
        if negative is not None and negative.tokens is not None:
            tokens = negative.tokens
            if negative.tokens_mask is not None:
                tokens = tokens * negative.tokens_mask[..., None].to(tokens.dtype)
        prepended = None if condition.prepended is None else torch.zeros_like(condition.prepended)
        return replace(condition, tokens=tokens, tokens_mask=None, prepended=prepended)

    def forward(self, x_t: Tensor, t: Tensor, condition: LatentCondition | None = None) -> Tensor:
        """The prediction that the network was trained for.

        Args:
            x_t: (B, D, L) noisy latents, L a multiple of ``latents_multiple``.
            t: (B,) in [0, 1].
            condition: see :class:`LatentCondition`.

        Returns:
            (B, D, L).
        """
        condition = condition or LatentCondition()
        self._check(x_t, condition)
        summary = self.to_timestep_embed(self.timestep_features(t).to(x_t.dtype))
        if self.to_global_embed is not None:
            summary = summary + self.to_global_embed(condition.summary)
        prepended = [] if condition.prepended is None else [self.to_prepend_embed(condition.prepended)]
        if self.summary_use == 'prepend':
            prepended.append(summary[:, None])
        context = None if condition.tokens is None else self.to_cond_embed(condition.tokens)
        x = x_t
        if self.concatenated_channels:
            beside = functional.interpolate(condition.concatenated.to(x.dtype), size=x.shape[-1], mode='nearest')
            x = torch.cat([x, beside], dim=1)
        x = self.preprocess_conv(x) + x
        tokens = torch.cat(prepended, dim=1) if prepended else None
        # The latents of a position one after the other in every channel, as the published program orders them.
        positions = x.unflatten(2, (-1, self.patch_size)).transpose(1, 2).flatten(2)
        positions = self.transformer(positions, tokens, context, summary)
        x = positions.unflatten(2, (-1, self.patch_size)).transpose(1, 2).flatten(2)
        return self.postprocess_conv(x) + x

    def _check(self, x_t: Tensor, condition: LatentCondition) -> None:
        """Says what does not fit, in the terms of the condition."""
        if x_t.ndim != 3 or x_t.shape[1] != self.latent_channels:
            raise ValueError(f'x_t must be (B, {self.latent_channels}, L); got {tuple(x_t.shape)}')
        if x_t.shape[2] % self.patch_size:
            raise ValueError(f'the number of latents must be a multiple of {self.patch_size}; got {x_t.shape[2]}')
        if self.to_global_embed is not None and condition.summary is None:
            raise ValueError('this network needs the summary of the condition')
        if self.concatenated_channels and condition.concatenated is None:
            raise ValueError('this network needs the concatenated channels of the condition')
        unused = {
            'tokens': self.to_cond_embed is None and condition.tokens is not None,
            'summary': self.to_global_embed is None and condition.summary is not None,
            'prepended': self.to_prepend_embed is None and condition.prepended is not None,
            'concatenated': not self.concatenated_channels and condition.concatenated is not None,
        }
        if any(unused.values()):
            names = ', '.join(name for name, is_unused in unused.items() if is_unused)
            raise ValueError(f'this network cannot use {names} of the condition')


def _embedder(in_dim: int | None, out_dim: int | None) -> nn.Sequential | None:
    """Two linear layers without bias, or None."""
    if in_dim is None:
        return None
    return nn.Sequential(nn.Linear(in_dim, out_dim, bias=False), nn.SiLU(), nn.Linear(out_dim, out_dim, bias=False))
