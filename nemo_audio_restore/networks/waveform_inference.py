"""Waveform encoders and decoders without gradients on a CPU: the same numbers from matrix products alone.

As they are trained, the layers wait for memory: weight normalisation is computed anew in every pass, an activation
reads and writes its tensor five times, and the library's convolutions reach a third of the speed of its matrix
products. Here channels are the last axis, which makes every convolution a product of a matrix that is read in place:
the rows of windows overlap in memory, so nothing is copied. A transposed convolution is one such product whose rows
are the outputs between two inputs. A residual unit goes through the cache in pieces.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nemo_audio_restore.networks.snake import Snake, SnakeBeta
from nemo_audio_restore.networks.waveform_coder import (
    DecoderBlock,
    EncoderBlock,
    ResidualUnit,
    WaveformDecoder,
    WaveformEncoder,
)

# Values of a piece: a quarter of a megabyte, which stays in the cache of one core.
_PIECE = 65536

# (T, C) to (T', C'); may write into its input.
Step = Callable[[Tensor], Tensor]


@torch.no_grad()
def prepared(network: WaveformEncoder | WaveformDecoder) -> Callable[[Tensor], Tensor]:
    """A function that computes what the network does, faster, and gives no gradients.

    Args:
        network: its weights are copied: the function does not follow later changes.

    Returns:
        (B, C, T) to (B, C', T').
    """
    steps = [step for layer in network.layers for step in _steps(layer)]
    if isinstance(network, WaveformEncoder) and isinstance(network.proj_out, nn.Conv1d):
        steps.append(_Convolution(network.proj_out))
    limited = isinstance(network, WaveformDecoder) and network.output_tanh

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        results = []
        for item in x:
            rows = item.t().contiguous()
            for step in steps:
                rows = step(rows)
            results.append(rows.t())
        result = torch.stack(results)
        return result.tanh_() if limited else result

    return run


def _steps(layer: nn.Module) -> list[Step]:
    if isinstance(layer, EncoderBlock | DecoderBlock):
        return [step for inner in layer.layers for step in _steps(inner)]
    if isinstance(layer, ResidualUnit):
        return [_Unit(layer)]
    if isinstance(layer, nn.ConvTranspose1d):
        return [_TransposedConvolution(layer)]
    if isinstance(layer, nn.Conv1d):
        return [_Convolution(layer)]
    return [_Activation(layer)]


class _Activation:
    """Snake of either kind."""

    def __init__(self, layer: Snake | SnakeBeta):
        self.frequency, self.height = (values.flatten() for values in layer.frequency_and_height())

    def __call__(self, x: Tensor) -> Tensor:
        return self.into(x, x)

    def into(self, x: Tensor, target: Tensor) -> Tensor:
        """Computes ``target = snake(x)`` piece by piece; both may be one tensor."""
        rows = max(1, _PIECE // x.shape[1])
        wave = torch.empty(min(rows, len(x)), x.shape[1], dtype=x.dtype)
        for piece, goal in zip(x.split(rows), target.split(rows), strict=True):
            part = wave[: len(piece)]
            torch.mul(piece, self.frequency, out=part)
            torch.addcmul(piece, part.sin_().square_(), self.height, out=goal)
        return target


class _Convolution:
    """A convolution of any stride; dilated ones only with stride 1."""

    def __init__(self, layer: nn.Conv1d):
        (self.taps,), (self.stride,), (self.padding,), (self.dilation,) = (
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
        )
        weight = layer.weight
        # (k C, C'): a window's rows one after the other.
        self.matrix = weight.permute(2, 1, 0).reshape(-1, len(weight)).contiguous()
        self.bias = None if layer.bias is None else layer.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        padded = x.new_zeros(len(x) + 2 * self.padding, x.shape[1])
        padded[self.padding : self.padding + len(x)] = x
        return self.of_padded(padded)

    def of_padded(self, padded: Tensor) -> Tensor:
        """The convolution of rows that have their zeros at both ends."""
        length, channels = padded.shape
        count = (length - self.dilation * (self.taps - 1) - 1) // self.stride + 1
        if self.dilation == 1:
            windows = padded.as_strided((count, self.taps * channels), (self.stride * channels, 1))
            return _product(windows, self.matrix, self.bias)
        total = _product(padded[:count], self.matrix[:channels], self.bias)
        for tap in range(1, self.taps):
            begin = tap * self.dilation
            total.addmm_(padded[begin : begin + count], self.matrix[tap * channels : (tap + 1) * channels])
        return total


class _TransposedConvolution:
    """A transposed convolution of stride s and 2 s taps: s outputs from every two neighbours."""

    def __init__(self, layer: nn.ConvTranspose1d):
        (self.stride,), (self.padding,) = layer.stride, layer.padding
        weight = layer.weight
        late, early = weight[:, :, self.stride :], weight[:, :, : self.stride]
        # (2 C, s C'): what the earlier neighbour gives, then what the later one does.
        self.matrix = torch.cat([late, early]).permute(0, 2, 1).reshape(2 * len(weight), -1).contiguous()
        self.bias = layer.bias.detach().repeat(self.stride)

    def __call__(self, x: Tensor) -> Tensor:
        length, channels = x.shape
        padded = x.new_zeros(length + 2, channels)
        padded[1:-1] = x
        pairs = padded.as_strided((length + 1, 2 * channels), (channels, 1))
        between = _product(pairs, self.matrix, self.bias).reshape((length + 1) * self.stride, -1)
        return between[self.padding : self.padding + length * self.stride]


class _Unit:
    """A residual unit: the wide convolution of a piece, then everything else on it while it is in the cache."""

    def __init__(self, layer: ResidualUnit):
        first, wide, second, narrow = layer.layers
        self.first, self.second = _Activation(first), _Activation(second)
        self.wide, self.narrow = _Convolution(wide), _Convolution(narrow)

    def __call__(self, x: Tensor) -> Tensor:
        margin = self.wide.padding
        padded = x.new_zeros(len(x) + 2 * margin, x.shape[1])
        self.first.into(x, padded[margin : margin + len(x)])
        rows = max(256, 4 * _PIECE // x.shape[1])
        for begin in range(0, len(x), rows):
            piece = x[begin : begin + rows]
            hidden = self.second(self.wide.of_padded(padded[begin : begin + len(piece) + 2 * margin]))
            piece.addmm_(hidden, self.narrow.matrix)
            piece.add_(self.narrow.bias)
        return x


def _product(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)
