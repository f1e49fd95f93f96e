"""Waveform encoders and decoders without gradients on a CPU: the same numbers from matrix products alone.

As they are trained, the layers wait for memory: weight normalisation is computed anew in every pass, an activation
reads and writes its tensor five times, and some of the library's convolutions reach a third of the speed of its matrix
products. Here channels are the last axis, which makes every tap of a convolution a product of a matrix that is read in
place. A transposed convolution is two such products, whose rows are the outputs between two inputs. A residual unit
goes through the cache in pieces.
"""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
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

# Values of a piece that stays in the cache of one core: for an activation, and for a matrix product.
_PIECE, _PRODUCT_PIECE = 65536, 524288
# Fewer channels than this make products with too few columns or rows to be worth their start.
_FEW_CHANNELS = 32


class _Workspace:
    """Memory that one layer after the other uses: what is new costs as much as what is computed."""

    def __init__(self):
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """(rows, columns) of anything; valid until the same name is taken again."""
        held = self._held.get(name)
        if held is None or held.numel() < rows * columns:
            held = self._held[name] = like.new_empty(rows * columns)
        return held[: rows * columns].view(rows, columns)


_MARKED_VALUES = 64
# Networks, by what they were known, and their functions; forgotten with the network.
_PREPARED: WeakKeyDictionary = WeakKeyDictionary()

# (T, C) to (T', C'); may write into its input.
Step = Callable[[Tensor, _Workspace], Tensor]


def prepared(network: WaveformEncoder | WaveformDecoder) -> Callable[[Tensor], Tensor]:
    """A function that computes what the network does, faster, and gives no gradients.

    It holds a copy of the weights, which takes a fifth of the time of decoding a second; the next call for the same
    network gives the same function, unless its weights have changed.

    Args:
        network: does not change later while the function is used.

    Returns:
        (B, C, T) to (B, C', T').
    """
    mark = _mark(network)
    held = _PREPARED.get(network)
    if held is None or len(held[0]) != len(mark) or not all(map(_same, held[0], mark)):
        held = _PREPARED[network] = (mark, _prepare(network))
    return held[1]


def _mark(network: nn.Module) -> list[tuple[tuple[int, ...], Tensor]]:
    """By what a change of the weights is noticed: their versions, and a few of them: not all changes count there."""
    marks = []
    for parameter in network.parameters():
        values = parameter.detach().reshape(-1)
        version = 0 if parameter.is_inference() else parameter._version
        step = max(1, len(values) // _MARKED_VALUES)
        marks.append(((parameter.data_ptr(), version), values[::step].clone()))
    return marks


def _same(first: tuple[tuple[int, ...], Tensor], second: tuple[tuple[int, ...], Tensor]) -> bool:
    return first[0] == second[0] and torch.equal(first[1], second[1])


@torch.no_grad()
def _prepare(network: WaveformEncoder | WaveformDecoder) -> Callable[[Tensor], Tensor]:
    steps = [step for layer in network.layers for step in _steps(layer)]
    if isinstance(network, WaveformEncoder) and isinstance(network.proj_out, nn.Conv1d):
        steps.append(_Convolution(network.proj_out))
    limited = isinstance(network, WaveformDecoder) and network.output_tanh

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        workspace, results = _Workspace(), []
        for item in x:
            rows = item.t().contiguous()
            for step in steps:
                rows = step(rows, workspace)
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

    def __call__(self, x: Tensor, workspace: _Workspace) -> Tensor:
        return self.into(x, x, workspace)

    def into(self, x: Tensor, target: Tensor, workspace: _Workspace) -> Tensor:
        """Computes ``target = snake(x)`` piece by piece; both may be one tensor."""
        rows = max(1, _PIECE // x.shape[1])
        wave = workspace.take('wave', min(rows, len(x)), x.shape[1], x)
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
        weight, scale = _weight_and_scale(layer)
        taps = _swapped(weight.reshape(1, -1, self.taps)).view(self.taps, *weight.shape[:2])
        # (k, C, C'), which as (k C, C') is the matrix for whole windows.
        self.matrices = torch.stack([tap.t().contiguous() for tap in taps]).mul_(scale)
        self.bias = None if layer.bias is None else layer.bias.detach().clone()

    def __call__(self, x: Tensor, workspace: _Workspace) -> Tensor:
        padded = _padded(x, self.padding, workspace)
        count = (len(padded) - self.dilation * (self.taps - 1) - 1) // self.stride + 1
        result = x.new_empty(count, self.matrices.shape[2])
        rows = _rows_of_a_product(*self.matrices.shape[1:])
        for begin in range(0, count, rows):
            self.into(padded[begin * self.stride :], result[begin : begin + rows])
        return result

    def into(self, padded: Tensor, target: Tensor) -> Tensor:
        """The first rows of the convolution of rows that have their zeros in front: as many as ``target`` has."""
        count, (taps, channels, outputs) = len(target), self.matrices.shape
        if self.dilation == 1 and (self.stride > 1 or channels < _FEW_CHANNELS):
            windows = padded.as_strided((count, taps * channels), (self.stride * channels, 1), padded.storage_offset())
            return _product(windows, self.matrices.view(-1, outputs), self.bias, target)
        if outputs < _FEW_CHANNELS:
            # All taps of every row in one product, added up where they belong.
            parts = padded[: count + self.dilation * (taps - 1)] @ self.matrices.permute(1, 0, 2).reshape(channels, -1)
            parts = parts.unflatten(1, (taps, outputs))
            target.copy_(parts[:count, 0] if self.bias is None else parts[:count, 0] + self.bias)
            for tap in range(1, taps):
                target.add_(parts[tap * self.dilation :][:count, tap])
            return target
        _product(padded[:count], self.matrices[0], self.bias, target)
        for tap in range(1, taps):
            target.addmm_(padded[tap * self.dilation :][:count], self.matrices[tap])
        return target


class _TransposedConvolution:
    """A transposed convolution of stride s and 2 s taps: s outputs from every two neighbours."""

    def __init__(self, layer: nn.ConvTranspose1d):
        (self.stride,), (self.padding,) = layer.stride, layer.padding
        weight, scale = _weight_and_scale(layer)
        # (C, 2 s, C'): what an input gives to the outputs after it, and then to those after its neighbour.
        matrix = _swapped(weight).mul_(scale.view(-1, 1, 1))
        self.near, self.far = (part.flatten(1) for part in matrix.split(self.stride, dim=1))
        self.bias = layer.bias.detach().repeat(self.stride)

    def __call__(self, x: Tensor, workspace: _Workspace) -> Tensor:
        padded = _padded(x, 1, workspace)
        between = x.new_empty(len(x) + 1, self.near.shape[1])
        rows = _rows_of_a_product(*self.near.shape)
        for begin in range(0, len(between), rows):
            piece = between[begin : begin + rows]
            _product(padded[begin : begin + len(piece)], self.far, self.bias, piece)
            piece.addmm_(padded[begin + 1 : begin + 1 + len(piece)], self.near)
        return between.view(len(between) * self.stride, -1)[self.padding : self.padding + len(x) * self.stride]


class _Unit:
    """A residual unit: the wide convolution of a piece, then everything else on it while it is in the cache."""

    def __init__(self, layer: ResidualUnit):
        first, wide, second, narrow = layer.layers
        self.first, self.second = _Activation(first), _Activation(second)
        self.wide, self.narrow = _Convolution(wide), _Convolution(narrow)

    def __call__(self, x: Tensor, workspace: _Workspace) -> Tensor:
        padded = _padded(x, self.wide.padding, workspace, self.first)
        rows = _rows_of_a_product(x.shape[1], x.shape[1])
        hidden = workspace.take('hidden', min(rows, len(x)), x.shape[1], x)
        for begin in range(0, len(x), rows):
            piece = x[begin : begin + rows]
            part = self.wide.into(padded[begin:], hidden[: len(piece)])
            piece.addmm_(self.second(part, workspace), self.narrow.matrices[0]).add_(self.narrow.bias)
        return x


def _padded(x: Tensor, margin: int, workspace: _Workspace, activation: _Activation | None = None) -> Tensor:
    """Rows with zeros in front and behind, in the workspace; the rows go through an activation on their way."""
    padded = workspace.take('padded', len(x) + 2 * margin, x.shape[1], x)
    padded[:margin] = 0
    padded[margin + len(x) :] = 0
    inner = padded[margin : margin + len(x)]
    if activation is None:
        inner.copy_(x)
    else:
        activation.into(x, inner, workspace)
    return padded


def _product(rows: Tensor, matrix: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
    """``target = rows @ matrix + bias``."""
    return torch.mm(rows, matrix, out=target) if bias is None else torch.addmm(bias, rows, matrix, out=target)


def _rows_of_a_product(in_channels: int, out_channels: int) -> int:
    return max(512, _PRODUCT_PIECE // max(in_channels, out_channels))


def _weight_and_scale(layer: nn.Conv1d | nn.ConvTranspose1d) -> tuple[Tensor, Tensor]:
    """Direction (C, C', k) and a factor for each of its first axis, (C,)."""
    if not nn.utils.parametrize.is_parametrized(layer, 'weight'):
        return layer.weight, layer.weight.new_ones(len(layer.weight))
    parts = layer.parametrizations.weight
    norm = torch.linalg.vector_norm(parts.original1.flatten(1), dim=1)
    return parts.original1, parts.original0.flatten() / norm


def _swapped(x: Tensor) -> Tensor:
    """The last two axes in the other order, contiguous."""
    if x.dtype == torch.bfloat16:
        return x.transpose(1, 2).contiguous()
    # Twice as fast as the library's own copy where the last axis is short.
    return torch.from_numpy(np.ascontiguousarray(x.detach().numpy().swapaxes(1, 2)))
