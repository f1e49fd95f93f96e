"""Discriminators of waveforms whose width is an argument: light enough for training on a CPU.

They are called like NeMo's, which have fixed widths (8 M parameters for each period), and stand beside them in
NeMo's ``Discriminator``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

# Scores and features: of recordings, then of generated audio.
Judgement = tuple[list[Tensor], list[Tensor], list[list[Tensor]], list[list[Tensor]]]

_SLOPE = 0.1


class LightPeriodDiscriminator(nn.Module):
    """Looks at samples that lie a period apart: convolutions over time on audio folded into columns.

    Args:
        periods: in samples; primes see different things.
        channels: outputs of each layer; all but the last have stride 3.

    Raises:
        ValueError: no periods or no channels.

    Source: HiFi-GAN (arXiv 2010.05646), section 2.3.
    """

    def __init__(self, *, periods: Sequence[int] = (2, 3, 5, 7, 11), channels: Sequence[int] = (16, 32, 64, 128)):
        super().__init__()
        if not periods or min(periods) < 1 or not channels:
            raise ValueError(f'periods and channels must name at least one; got {list(periods)} and {list(channels)}')
        self.periods = tuple(periods)
        self.columns = nn.ModuleList(_period_layers(channels) for _ in periods)

    def forward(self, audio_real: Tensor, audio_gen: Tensor) -> Judgement:
        """Judges (B, T) recordings and (B, T) generated audio."""
        both = torch.cat([audio_real, audio_gen])
        judged = []
        for period, layers in zip(self.periods, self.columns, strict=True):
            padded = functional.pad(both[:, None], (0, -both.shape[1] % period), mode='reflect')
            judged.append(_judge(layers, padded.reshape(len(both), 1, -1, period)))
        return _split(judged, len(audio_real))


class LightStftDiscriminator(nn.Module):
    """Looks at complex spectrograms of several resolutions.

    Args:
        resolutions: (n_fft, hop_length, win_length) in samples.
        channels: width of all layers.

    Raises:
        ValueError: no resolutions, or no channels.

    Source: EnCodec (arXiv 2210.13438), section 3.4.
    """

    def __init__(self, *, resolutions: Sequence[Sequence[int]] = ((512, 128, 512), (1024, 256, 1024)), channels: int):
        super().__init__()
        if not resolutions or channels < 1:
            raise ValueError(f'there must be resolutions and channels; got {list(resolutions)} and {channels}')
        self.resolutions = tuple(tuple(resolution) for resolution in resolutions)
        self.scales = nn.ModuleList(_stft_layers(channels) for _ in resolutions)
        for index, (_, _, win_length) in enumerate(self.resolutions):
            self.register_buffer(f'window_{index}', torch.hann_window(win_length), persistent=False)

    def forward(self, audio_real: Tensor, audio_gen: Tensor) -> Judgement:
        """Judges (B, T) recordings and (B, T) generated audio."""
        both = torch.cat([audio_real, audio_gen])
        judged = [_judge(layers, self._spectrogram(both, index)) for index, layers in enumerate(self.scales)]
        return _split(judged, len(audio_real))

    def _spectrogram(self, audio: Tensor, index: int) -> Tensor:
        """(B, 2, N, F) real and imaginary parts, in single precision until they are done."""
        n_fft, hop_length, win_length = self.resolutions[index]
        window = getattr(self, f'window_{index}').float()
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(), n_fft, hop_length, win_length, window, normalized=True, return_complex=True
            )
            return torch.stack([spectrum.real, spectrum.imag], dim=1).transpose(2, 3).to(audio.dtype)


def _period_layers(channels: Sequence[int]) -> nn.ModuleList:
    layers, width = [], 1
    for index, outputs in enumerate(channels):
        stride = 3 if index + 1 < len(channels) else 1
        layers.append(weight_norm(nn.Conv2d(width, outputs, (5, 1), (stride, 1), padding=(2, 0))))
        width = outputs
    return nn.ModuleList([*layers, weight_norm(nn.Conv2d(width, 1, (3, 1), padding=(1, 0)))])


def _stft_layers(channels: int) -> nn.ModuleList:
    # Over time the view widens by dilation, over frequency by stride.
    middle = [
        weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(d, 4), dilation=(d, 1))) for d in (1, 2, 4)
    ]
    first = weight_norm(nn.Conv2d(2, channels, (3, 9), (1, 2), padding=(1, 4)))
    last = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))
    return nn.ModuleList([first, *middle, last])


def _judge(layers: nn.ModuleList, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Scores (B, N, M) and the features of every layer, the scores included."""
    features = []
    for layer in layers[:-1]:
        x = functional.leaky_relu(layer(x), _SLOPE)
        features.append(x)
    scores = layers[-1](x)
    return scores[:, 0], [*features, scores]


def _split(judged: Sequence[tuple[Tensor, list[Tensor]]], num_real: int) -> Judgement:
    return (
        [scores[:num_real] for scores, _ in judged],
        [scores[num_real:] for scores, _ in judged],
        [[layer[:num_real] for layer in features] for _, features in judged],
        [[layer[num_real:] for layer in features] for _, features in judged],
    )
