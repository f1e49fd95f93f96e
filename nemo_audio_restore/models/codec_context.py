"""How many frames on each side a codec network sees: what exact processing in chunks needs."""

import math
from collections.abc import Callable, Iterable

from nemo.collections.tts.modules.audio_codec_modules import HiFiGANDecoder, HiFiGANEncoder
from torch import nn

# First and last position, inclusive.
_Span = tuple[int, int]


def encoder_context_frames(encoder: nn.Module, samples_per_frame: int) -> int:
    """Frames on each side of a frame whose samples can change its code.

    Args:
        encoder: NeMo's ``HiFiGANEncoder``, or a network with an integer ``context_frames``.
        samples_per_frame: of the codec.

    Returns:
        Whole frames, at least 0.

    Raises:
        TypeError: another network.
    """
    if hasattr(encoder, 'context_frames'):
        return int(encoder.context_frames)
    if not isinstance(encoder, HiFiGANEncoder):
        raise TypeError(_unknown(encoder, HiFiGANEncoder))
    # From one frame of the output back to the samples it depends on.
    span = _read_by(encoder.post_conv, (0, 0))
    for layer, down in zip(reversed(encoder.res_layers), reversed(encoder.down_sample_conv_layers), strict=True):
        span = _through_res_layer(layer, _read_by(down, span))
    first, last = _read_by(encoder.pre_conv, span)
    return max(0, math.ceil(-first / samples_per_frame), math.ceil((last + 1) / samples_per_frame) - 1)


def decoder_context_frames(decoder: nn.Module, samples_per_frame: int) -> int:
    """Frames on each side of a frame that can change its samples.

    Args:
        decoder: NeMo's ``HiFiGANDecoder``, or a network with an integer ``context_frames``.
        samples_per_frame: of the codec.

    Returns:
        Whole frames, at least 0.

    Raises:
        TypeError: another network.
    """
    if hasattr(decoder, 'context_frames'):
        return int(decoder.context_frames)
    if not isinstance(decoder, HiFiGANDecoder):
        raise TypeError(_unknown(decoder, HiFiGANDecoder))
    # From the samples of one frame back to the frames they depend on.
    span = _read_by(decoder.post_conv, (0, samples_per_frame - 1))
    for layer, up in zip(reversed(decoder.res_layers), reversed(decoder.up_sample_conv_layers), strict=True):
        span = _read_by(up, _through_res_layer(layer, span))
    first, last = _read_by(decoder.pre_conv, span)
    return max(0, -first, last)


def _read_by(layer: nn.Module, span: _Span) -> _Span:
    """Input positions that a (transposed) convolution reads for a span of its output."""
    conv = layer.conv
    (kernel,), (stride,), (padding,), (dilation,) = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    reach = dilation * (kernel - 1)
    if isinstance(conv, nn.ConvTranspose1d):
        # Output o gets something from input i when o = i * stride - padding + j for some j in 0..reach.
        return math.ceil((span[0] + padding - reach) / stride), (span[1] + padding) // stride
    return span[0] * stride - padding, span[1] * stride - padding + reach


def _through_res_layer(layer: nn.Module, span: _Span) -> _Span:
    """NeMo's residual layer: branches side by side, of residual blocks one after the other."""
    return _widest(_through_blocks(branch.res_blocks, span) for branch in layer.res_blocks)


def _through_blocks(blocks: Iterable[nn.Module], span: _Span) -> _Span:
    for block in reversed(blocks):
        span = _read_by(block.input_conv, _read_by(block.skip_conv, span))
    return span


def _widest(spans: Iterable[_Span]) -> _Span:
    spans = list(spans)
    return min(first for first, _ in spans), max(last for _, last in spans)


def _unknown(network: nn.Module, known: Callable) -> str:
    return (
        f'the context of a {type(network).__name__} is not known; it is computed for {known.__name__}, '
        'and other networks need an attribute context_frames'
    )
