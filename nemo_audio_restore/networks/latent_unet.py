"""The diffusion U-Net of Stable Audio 1.0.

Module names are those of the published configuration's tensors, so that they load without renaming.

Source: Stable Audio (arXiv 2402.04825), section 3.3; Moûsai (arXiv 2301.11757), section 3.2, for the layout.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from nemo_audio_restore.networks.fourier_features import NumberFeatures
from nemo_audio_restore.networks.latent_condition import LatentCondition
from nemo_audio_restore.networks.latent_unet_blocks import (
    DownBlock,
    Downsample,
    Outer,
    ResidualBlock,
    Transformer,
    UpBlock,
    Upsample,
)

_MAPPING_MULTIPLE = 4


class Bottleneck(nn.Module):
    """Residual block, transformer, residual block at the deepest level."""

    def __init__(self, channels: int, mapping_dim: int, groups: int, transformer: Transformer | None):
        super().__init__()
        self.pre_block = ResidualBlock(channels, channels, mapping_dim, groups)
        self.transformer = transformer
        self.post_block = ResidualBlock(channels, channels, mapping_dim, groups)

    def forward(self, x: Tensor, mapping: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, L) to the same shape."""
        x = self.pre_block(x, mapping)
        if self.transformer is not None:
            x = self.transformer(x, tokens, mask)
        return self.post_block(x, mapping)


class TokenEmbedding(nn.Module):
    """The learned tokens that stand for 'nothing was asked for'."""

    def __init__(self, max_tokens: int, token_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(max_tokens, token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """As many as ``tokens`` (B, S, E) has, in its dtype."""
        if tokens.shape[1] > self.embedding.num_embeddings:
            raise ValueError(
                f'at most {self.embedding.num_embeddings} tokens of text and timing together; got {tokens.shape[1]}'
            )
        return self.embedding.weight[: tokens.shape[1]].to(tokens.dtype).expand(tokens.shape[0], -1, -1)


class LatentUNet(nn.Module):
    """Predicts from noisy latents, a time and a condition; knows no schedule and no guidance.

    The defaults are Stable Audio 1.0, 906,679,744 parameters.

    Args:
        latent_channels: D of the latents, in and out.
        channels: unit of the widths; the size of the time features too.
        multipliers: widths in units of ``channels``: at the latents, then after every level.
        factors: by which each level shortens.
        blocks: residual blocks of each level on the way down; the way up has one more where there is attention.
        attentions: transformer blocks of each level, the last for the bottom; 0 for no attention.
        num_heads: attention heads.
        attention_multiplier: of the width inside the feed-forwards.
        groups: of the normalisations.
        kernel_multiplier: taps of a shortening convolution for each step of its factor; one is added.
        token_dim: E of the condition's tokens.
        max_tokens: of text and timing together.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 64,
        channels: int = 256,
        multipliers: Sequence[int] = (4, 4, 4, 5, 5),
        factors: Sequence[int] = (1, 2, 2, 4),
        blocks: Sequence[int] = (2, 2, 2, 2),
        attentions: Sequence[int] = (1, 3, 3, 3, 3),
        num_heads: int = 16,
        attention_multiplier: int = 4,
        groups: int = 16,
        kernel_multiplier: int = 2,
        token_dim: int = 768,
        max_tokens: int = 79,
    ):
        super().__init__()
        levels = len(factors)
        if (len(multipliers), len(blocks), len(attentions)) != (levels + 1, levels, levels + 1):
            raise ValueError(
                f'{levels} factors need {levels} blocks, {levels + 1} multipliers and {levels + 1} attentions; '
                f'got {len(blocks)}, {len(multipliers)} and {len(attentions)}'
            )
        widths = [channels * multiple for multiple in multipliers]
        mapping = channels * _MAPPING_MULTIPLE
        self.latent_channels = latent_channels
        self.latents_multiple = math.prod(factors)
        self.to_time = nn.Sequential(
            nn.Sequential(NumberFeatures(channels), nn.Linear(channels + 1, mapping)), nn.GELU()
        )
        self.to_mapping = nn.Sequential(nn.Linear(mapping, mapping), nn.GELU(), nn.Linear(mapping, mapping), nn.GELU())
        self.fixed_embedding = TokenEmbedding(max_tokens, token_dim)

        def transformer(width: int, depth: int) -> Transformer | None:
            return Transformer(width, depth, num_heads, token_dim, attention_multiplier) if depth else None

        def down(level: int) -> DownBlock:
            width = widths[level + 1]
            return DownBlock(
                Downsample(widths[level], width, factors[level], kernel_multiplier),
                [ResidualBlock(width, width, mapping, groups) for _ in range(blocks[level])],
                transformer(width, attentions[level]),
            )

        def up(level: int) -> UpBlock:
            width, out, factor = widths[level + 1], widths[level], factors[level]
            return UpBlock(
                [
                    ResidualBlock(2 * width, width, mapping, groups)
                    for _ in range(blocks[level] + (attentions[level] > 0))
                ],
                transformer(width, attentions[level]),
                Upsample(width, out, factor) if factor > 1 else nn.Conv1d(width, out, 3, padding=1),
                shortcut_scale=2**-0.5,
            )

        self.to_in = Outer(latent_channels, widths[0], mapping)
        self.downsamples = nn.ModuleList(down(level) for level in range(levels))
        self.bottleneck = Bottleneck(widths[-1], mapping, groups, transformer(widths[-1], attentions[-1]))
        self.upsamples = nn.ModuleList(up(level) for level in reversed(range(levels)))
        self.to_out = Outer(widths[0], latent_channels, mapping)

    def null_condition(self, condition: LatentCondition, negative: LatentCondition | None = None) -> LatentCondition:
        """What guidance leads away from.

        Args:
            condition: of the prompt.
            negative: what is not wanted; only its tokens are used, and learned ones where its mask is 0.

        Returns:
            The learned tokens, or the negative ones, with the mask of ``condition``.
        """
        tokens = self.fixed_embedding(condition.tokens)
        if negative is not None and negative.tokens is not None:
            if negative.tokens.shape != condition.tokens.shape:
                raise ValueError(
                    'the negative condition must have as many tokens as the condition; got '
                    f'{tuple(negative.tokens.shape)} and {tuple(condition.tokens.shape)}'
                )
            mask = negative.tokens_mask
            tokens = negative.tokens if mask is None else torch.where(mask[..., None] > 0, negative.tokens, tokens)
        return replace(condition, tokens=tokens)

    def forward(self, x_t: Tensor, t: Tensor, condition: LatentCondition) -> Tensor:
        """The prediction that the network was trained for.

        Args:
            x_t: (B, D, L) noisy latents; L a multiple of ``latents_multiple``.
            t: (B,) in [0, 1].
            condition: with tokens, and nothing else.

        Returns:
            (B, D, L).
        """
        self._check(x_t, condition)
        tokens, mask = condition.tokens, condition.tokens_mask
        mapping = self.to_mapping(self.to_time(t).to(x_t.dtype))
        start = self.to_in(x_t, mapping)
        x, shortcuts = start, []
        for block in self.downsamples:
            x, added = block(x, mapping, tokens, mask)
            shortcuts += added
        x = self.bottleneck(x, mapping, tokens, mask)
        for block in self.upsamples:
            x = block(x, shortcuts, mapping, tokens, mask)
        return self.to_out(x + start, mapping)

    def _check(self, x_t: Tensor, condition: LatentCondition) -> None:
        multiple = self.latents_multiple
        if x_t.ndim != 3 or x_t.shape[1] != self.latent_channels or x_t.shape[2] % multiple or not x_t.shape[2]:
            raise ValueError(
                f'x_t must be (B, {self.latent_channels}, L) with L a multiple of {multiple}; got {tuple(x_t.shape)}'
            )
        if condition.tokens is None:
            raise ValueError('this network needs the tokens of the condition')
        unused = [name for name in ('summary', 'prepended', 'concatenated') if getattr(condition, name) is not None]
        if unused:
            raise ValueError(f'this network cannot use {", ".join(unused)} of the condition')
