"""Convolutional encoder and decoder between waveforms and latents: ``dac`` and Oobleck are two sizes of one layout.

Layers are numbered as in the published Oobleck checkpoints; the ``dac`` ones differ in the names of the containers.

Source: Stable Audio (arXiv 2402.04825), section 3.1; DAC (arXiv 2306.06546), section 3.1; Stable Audio Open
(arXiv 2407.14358), section 3.1.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from nemo_audio_restore.networks.snake import Snake, SnakeBeta

Activation = Literal['snake', 'snake_beta']
_ACTIVATIONS = {'snake': Snake, 'snake_beta': SnakeBeta}
_DILATIONS = (1, 3, 9)


class ResidualUnit(nn.Module):
    """A dilated convolution of seven taps and one of one tap, added to the input.

    Args:
        channels: C, in and out.
        dilation: of the first convolution.
        activation: class of the activations.
    """

    def __init__(self, channels: int, dilation: int, activation: type[nn.Module]):
        super().__init__()
        self.layers = nn.Sequential(
            activation(channels),
            weight_norm(nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)),
            activation(channels),
            weight_norm(nn.Conv1d(channels, channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to the same shape."""
        return x + self.layers(x)


class EncoderBlock(nn.Module):
    """Three residual units, then a convolution that divides the rate.

    Args:
        in_channels: C.
        out_channels: C'.
        stride: divisor of the rate, even.
        activation: class of the activations.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module]):
        super().__init__()
        self.layers = nn.Sequential(
            *(ResidualUnit(in_channels, dilation, activation) for dilation in _DILATIONS),
            activation(in_channels),
            weight_norm(nn.Conv1d(in_channels, out_channels, 2 * stride, stride=stride, padding=stride // 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to (B, C', T / stride)."""
        return self.layers(x)


class DecoderBlock(nn.Module):
    """A transposed convolution that multiplies the rate, then three residual units.

    Args:
        in_channels: C.
        out_channels: C'.
        stride: factor of the rate, even.
        activation: class of the activations.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module]):
        super().__init__()
        self.layers = nn.Sequential(
            activation(in_channels),
            weight_norm(nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride=stride, padding=stride // 2)),
            *(ResidualUnit(out_channels, dilation, activation) for dilation in _DILATIONS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to (B, C', T * stride)."""
        return self.layers(x)


class WaveformEncoder(nn.Module):
    """Audio to the means and spreads of its latents. The defaults are Oobleck as published.

    Args:
        audio_channels: C of the audio.
        latent_channels: D; the output has 2 D channels.
        widths: channels before and after every block.
        strides: of the blocks, even; their product is the number of samples of a latent.
        activation: ``snake_beta`` (Oobleck) or ``snake`` (``dac``).
        inner_channels: channels before a last convolution of one tap, as in ``dac``; None leaves that out.
    """

    def __init__(
        self,
        *,
        audio_channels: int = 2,
        latent_channels: int = 64,
        widths: Sequence[int] = (128, 128, 256, 512, 1024, 2048),
        strides: Sequence[int] = (2, 4, 4, 8, 8),
        activation: Activation = 'snake_beta',
        inner_channels: int | None = None,
    ):
        super().__init__()
        _check(widths, strides, activation)
        chosen = _ACTIVATIONS[activation]
        self.audio_channels, self.latent_channels, self.strides = audio_channels, latent_channels, tuple(strides)
        blocks = [EncoderBlock(widths[i], widths[i + 1], stride, chosen) for i, stride in enumerate(strides)]
        self.layers = nn.Sequential(
            weight_norm(nn.Conv1d(audio_channels, widths[0], 7, padding=3)),
            *blocks,
            chosen(widths[-1]),
            weight_norm(nn.Conv1d(widths[-1], inner_channels or 2 * latent_channels, 3, padding=1)),
        )
        self.proj_out = nn.Conv1d(inner_channels, 2 * latent_channels, 1) if inner_channels else nn.Identity()

    def forward(self, audio: Tensor) -> Tensor:
        """(B, C, L * product of the strides) to (B, 2 D, L): means, then spreads before the softplus."""
        return self.proj_out(self.layers(audio))


class WaveformDecoder(nn.Module):
    """Latents to audio. The defaults are Oobleck as published.

    Args:
        audio_channels: C of the audio.
        latent_channels: D.
        widths: channels before and after every block.
        strides: of the blocks, even; their product is the number of samples of a latent.
        activation: ``snake_beta`` (Oobleck) or ``snake`` (``dac``).
        output_bias: the last convolution has one (``dac``).
        output_tanh: limits the audio to -1..1 (``dac``).
    """

    def __init__(
        self,
        *,
        audio_channels: int = 2,
        latent_channels: int = 64,
        widths: Sequence[int] = (2048, 1024, 512, 256, 128, 128),
        strides: Sequence[int] = (8, 8, 4, 4, 2),
        activation: Activation = 'snake_beta',
        output_bias: bool = False,
        output_tanh: bool = False,
    ):
        super().__init__()
        _check(widths, strides, activation)
        chosen = _ACTIVATIONS[activation]
        self.audio_channels, self.latent_channels, self.strides = audio_channels, latent_channels, tuple(strides)
        self.output_tanh = output_tanh
        blocks = [DecoderBlock(widths[i], widths[i + 1], stride, chosen) for i, stride in enumerate(strides)]
        self.layers = nn.Sequential(
            weight_norm(nn.Conv1d(latent_channels, widths[0], 7, padding=3)),
            *blocks,
            chosen(widths[-1]),
            weight_norm(nn.Conv1d(widths[-1], audio_channels, 7, padding=3, bias=output_bias)),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D, L) to (B, C, L * product of the strides)."""
        audio = self.layers(latents)
        return torch.tanh(audio) if self.output_tanh else audio


def _check(widths: Sequence[int], strides: Sequence[int], activation: str) -> None:
    if len(widths) != len(strides) + 1:
        raise ValueError(f'widths must be one more than strides; got {tuple(widths)} and {tuple(strides)}')
    if any(stride < 2 or stride % 2 for stride in strides):
        raise ValueError(f'strides must be even (an odd one would lose samples); got {tuple(strides)}')
    if activation not in _ACTIVATIONS:
        raise ValueError(f'activation must be one of {", ".join(_ACTIVATIONS)}; got {activation!r}')
