"""Discriminators that look at the complex spectrogram of audio at several resolutions.

Source: EnCodec (arXiv 2210.13438), section 3.4 and figure 5, without its strides over the bins; for stereo: Stable
Audio (arXiv 2402.04825), section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

_DILATIONS = (1, 2, 4)
_SLOPE = 0.2


@dataclass(frozen=True)
class Judgement:
    """What the discriminators say about a batch."""

    scores: list[Tensor]
    """For each discriminator (B, 1, N, F)."""
    features: list[list[Tensor]]
    """For each discriminator one tensor for each of its layers."""


class StftDiscriminator(nn.Module):
    """Convolutions over frames and bins of one complex spectrogram.

    Args:
        window_length: in samples; the hop is a quarter.
        audio_channels: C of the audio.
        filters: channels of the layers.
    """

    def __init__(self, *, window_length: int, audio_channels: int = 2, filters: int = 32):
        super().__init__()
        self.window_length = window_length
        self.register_buffer('window', torch.hann_window(window_length), persistent=False)
        first = _conv(2 * audio_channels, filters, (3, 9))
        middle = [_conv(filters, filters, (3, 9), dilation) for dilation in _DILATIONS]
        self.convs = nn.ModuleList([first, *middle, _conv(filters, filters, (3, 3))])
        self.conv_post = _conv(filters, 1, (3, 3))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, T) to scores (B, 1, N, F) and the features of every layer."""
        batch, channels, _ = audio.shape
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float().flatten(0, 1),
                self.window_length,
                self.window_length // 4,
                window=self.window.float(),
                center=False,
                return_complex=True,
            )
            spectrum = spectrum / self.window.float().square().sum().sqrt()
            spectrum = spectrum.unflatten(0, (batch, channels))
            x = torch.cat([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
        features = []
        for layer in self.convs:
            x = functional.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return self.conv_post(x), features


class StftDiscriminators(nn.Module):
    """One discriminator for each resolution.

    Args:
        window_lengths: in samples.
        audio_channels: C of the audio.
        filters: channels of the layers: 32 for Stable Audio 1.0, 64 for its successors.
    """

    def __init__(
        self,
        *,
        window_lengths: Sequence[int] = (2048, 1024, 512, 256, 128),
        audio_channels: int = 2,
        filters: int = 64,
    ):
        super().__init__()
        self.discriminators = nn.ModuleList(
            StftDiscriminator(window_length=window, audio_channels=audio_channels, filters=filters)
            for window in window_lengths
        )

    def forward(self, audio: Tensor) -> Judgement:
        """Scores and features of audio (B, C, T)."""
        results = [discriminator(audio) for discriminator in self.discriminators]
        return Judgement([scores for scores, _ in results], [features for _, features in results])


def _conv(in_channels: int, out_channels: int, kernel: tuple[int, int], dilation: int = 1) -> nn.Module:
    """A weight-normed convolution over (frames, bins) that keeps both numbers; it dilates over the frames."""
    padding = ((kernel[0] - 1) * dilation // 2, kernel[1] // 2)
    return weight_norm(nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=(dilation, 1)))
