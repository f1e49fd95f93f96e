"""A speech codec's encoder and decoder that never compute at sample rate: spectrum in, spectrum out.

The published low-frame-rate codec convolves waveforms at up to 22,050 positions a second and needs more than two
core-seconds for one second of speech. Here the fastest layers run at four positions a frame (86 a second at
22,050 Hz, 1024 samples a frame) and the wide ones at one.

Every layer sees a fixed number of neighbours and normalises within one position, so audio may be processed in chunks:
with ``context_frames`` frames on either side a chunk's result is that of the whole. Positions beyond an item's length
are zero in front of every layer, so the padding of a batch changes nothing either.

Source: the head is that of Vocos (arXiv 2306.00814, section 3), the block that of ConvNeXt (arXiv 2201.03545, figure
4) in one dimension, as Vocos has it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.networks.overlapping_windows import at_least_single, overlap_add, spectra

# Quieter than this counts as silence: about -80 dB of a full-scale sinusoid.
_MIN_MAGNITUDE = 0.03
# Bring log magnitudes of speech to about zero mean and unit deviation.
_SCALE, _SHIFT = 0.5, 1.0
_MAX_LOG_MAGNITUDE = 6.0


class FrameBlock(nn.Module):
    """Residual block over time: depthwise convolution, normalisation of each position, two-layer perceptron.

    Args:
        channels: width D.
        kernel_size: positions that the convolution sees, odd.
        expansion: width of the perceptron over ``channels``.
        scale: initial weight of the residual.
    """

    def __init__(self, channels: int, *, kernel_size: int, expansion: int, scale: float):
        super().__init__()
        self.taps = nn.Parameter(torch.empty(kernel_size, channels))
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, expansion * channels)
        self.narrow = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))
        bound = 1 / math.sqrt(kernel_size)
        nn.init.uniform_(self.taps, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same shape."""
        kernel_size, length = len(self.taps), x.shape[1]
        padded = functional.pad(x, (0, 0, kernel_size // 2, kernel_size // 2))
        # A sum of products: depthwise convolutions of the library are a third slower here on a CPU.
        mixed = padded[:, :length] * self.taps[0]
        for tap in range(1, kernel_size):
            mixed = mixed + padded[:, tap : tap + length] * self.taps[tap]
        return x + self.scale * self.narrow(functional.gelu(self.widen(self.norm(mixed))))


class FrameStack(nn.Module):
    """Blocks one after the other, with all positions beyond an item's length kept at zero."""

    def __init__(self, channels: int, *, num_blocks: int, kernel_size: int, expansion: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            FrameBlock(channels, kernel_size=kernel_size, expansion=expansion, scale=1 / max(1, num_blocks))
            for _ in range(num_blocks)
        )
        self.reach = num_blocks * (kernel_size // 2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Runs the blocks.

        Args:
            x: (B, N, D).
            mask: (B, N, 1), 1 within each item; None where no item is shorter than N.

        Returns:
            (B, N, D), zero beyond each item.
        """
        x = _masked(x, mask)
        for block in self.blocks:
            x = _masked(block(x), mask)
        return x


class SpectralEncoder(nn.Module):
    """Audio to D values a frame, from log magnitudes of two window lengths.

    The long window resolves harmonics, the short one, four times as often, onsets.

    Args:
        encoded_dim: values D of a frame.
        samples_per_frame: samples of a frame; 4 hops.
        channels: width at four positions a frame.
        num_blocks: blocks at four positions a frame.
        frame_channels: width at one position a frame.
        num_frame_blocks: blocks at one position a frame.
        kernel_size: of the blocks at four positions a frame, odd.
        frame_kernel_size: of the blocks at one position a frame, odd.
        expansion: of the blocks.

    Raises:
        ValueError: ``samples_per_frame`` is not a multiple of 32, or a kernel size is even.
    """

    def __init__(
        self,
        *,
        encoded_dim: int = 32,
        samples_per_frame: int = 1024,
        channels: int = 160,
        num_blocks: int = 1,
        frame_channels: int = 320,
        num_frame_blocks: int = 2,
        kernel_size: int = 7,
        frame_kernel_size: int = 3,
        expansion: int = 3,
    ):
        super().__init__()
        _check(samples_per_frame, kernel_size, frame_kernel_size)
        self.samples_per_frame = samples_per_frame
        self.hop_length = samples_per_frame // 4
        long, short = 4 * self.hop_length, self.hop_length
        self.register_buffer('long_window', torch.hann_window(long), persistent=False)
        self.register_buffer('short_window', torch.hann_window(short), persistent=False)
        self.num_bins = long // 2 + 1
        self.input = nn.Linear(self.num_bins + 4 * (short // 2 + 1), channels)
        self.input_norm = nn.LayerNorm(channels)
        self.blocks = FrameStack(channels, num_blocks=num_blocks, kernel_size=kernel_size, expansion=expansion)
        self.down = nn.Linear(4 * channels, frame_channels)
        self.frame_blocks = FrameStack(
            frame_channels, num_blocks=num_frame_blocks, kernel_size=frame_kernel_size, expansion=expansion
        )
        self.output_norm = nn.LayerNorm(frame_channels)
        self.output = nn.Linear(frame_channels, encoded_dim)
        self.direct = nn.Linear(4 * self.num_bins, encoded_dim)
        # A window reaches 1.5 hops beyond its hop on either side.
        self.context_frames = math.ceil((self.blocks.reach + 2) / 4) + self.frame_blocks.reach

    def forward(self, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes a batch.

        Args:
            audio: (B, T), samples in [-1, 1].
            audio_len: (B,), samples of each item, at most T; what lies beyond is not looked at.

        Returns:
            (B, D, N) and the frames of each item, ``ceil(audio_len / samples_per_frame)``; N belongs to T.
        """
        num_frames = -(-audio.shape[1] // self.samples_per_frame)
        encoded_len = torch.div(audio_len + self.samples_per_frame - 1, self.samples_per_frame, rounding_mode='floor')
        audio = functional.pad(audio, (0, num_frames * self.samples_per_frame - audio.shape[1]))
        audio = _masked(audio[..., None], _mask(audio_len, audio.shape[1], audio.dtype))[..., 0]
        mask = _mask(encoded_len, num_frames, audio.dtype)
        fine_mask = None if mask is None else mask.repeat_interleave(4, dim=1)
        features = self.features(audio)
        x = self.blocks(self.input_norm(self.input(features)), fine_mask)
        x = self.down(x.reshape(len(x), num_frames, -1))
        x = self.output(self.output_norm(self.frame_blocks(x, mask))) + self.direct(self.frame_features(features))
        return _masked(x, mask).transpose(1, 2), encoded_len

    def features(self, audio: Tensor) -> Tensor:
        """Log magnitudes of each hop, about zero mean and unit deviation for speech.

        Args:
            audio: (B, T), T a multiple of the hop.

        Returns:
            (B, T / hop, long bins + 4 x short bins).
        """
        long = spectra(audio, self.long_window, self.hop_length).abs()
        short = spectra(audio, self.short_window, self.hop_length // 4).abs()
        magnitudes = torch.cat([long, short.reshape(len(audio), long.shape[1], -1)], dim=2)
        return (_SCALE * (magnitudes + _MIN_MAGNITUDE).log() + _SHIFT).to(audio.dtype)

    def frame_features(self, features: Tensor) -> Tensor:
        """Log magnitudes of the four long windows of each frame: (B, 4 N, ...) to (B, N, 4 F)."""
        return features[:, :, : self.num_bins].reshape(len(features), -1, 4 * self.num_bins)

    @staticmethod
    def log_magnitudes(features: Tensor) -> Tensor:
        """The logarithm of the guarded magnitudes that features stand for."""
        return (features - _SHIFT) / _SCALE


class SpectralDecoder(nn.Module):
    """D values a frame to audio: magnitude and phase of overlapping windows, four a frame, then their sum.

    Args:
        encoded_dim: values D of a frame.
        samples_per_frame: samples of a frame; 4 hops.
        channels: width at four positions a frame.
        num_blocks: blocks at four positions a frame.
        frame_channels: width at one position a frame.
        num_frame_blocks: blocks at one position a frame.
        kernel_size: of the blocks at four positions a frame, odd.
        frame_kernel_size: of the blocks at one position a frame, odd.
        expansion: of the blocks.

    Raises:
        ValueError: ``samples_per_frame`` is not a multiple of 32, or a kernel size is even.
    """

    def __init__(
        self,
        *,
        encoded_dim: int = 32,
        samples_per_frame: int = 1024,
        channels: int = 224,
        num_blocks: int = 4,
        frame_channels: int = 352,
        num_frame_blocks: int = 3,
        kernel_size: int = 7,
        frame_kernel_size: int = 3,
        expansion: int = 3,
    ):
        super().__init__()
        _check(samples_per_frame, kernel_size, frame_kernel_size)
        self.samples_per_frame = samples_per_frame
        self.hop_length = samples_per_frame // 4
        self.input = nn.Linear(encoded_dim, frame_channels)
        self.input_norm = nn.LayerNorm(frame_channels)
        self.frame_blocks = FrameStack(
            frame_channels, num_blocks=num_frame_blocks, kernel_size=frame_kernel_size, expansion=expansion
        )
        self.up = nn.Linear(frame_channels, 4 * channels)
        self.blocks = FrameStack(channels, num_blocks=num_blocks, kernel_size=kernel_size, expansion=expansion)
        self.output_norm = nn.LayerNorm(channels)
        self.num_bins = 2 * self.hop_length + 1
        self.output = nn.Linear(channels, 2 * self.num_bins)
        self.direct = nn.Linear(encoded_dim, 4 * self.num_bins)
        # Phases count from the middle of each window, and are those of sinusoids that run through the frame.
        # From the start of the window, an untrained network would put all its energy where the window is zero.
        bins, hops = torch.arange(self.num_bins), torch.arange(4)[:, None]
        self.register_buffer('phase_offset', (2 + hops) * bins % 4 * (math.pi / 2), persistent=False)
        # Squares of Hann windows a quarter apart sum to 1.5.
        self.register_buffer('window', torch.hann_window(4 * self.hop_length) / 1.5, persistent=False)
        self.context_frames = math.ceil((self.blocks.reach + 2) / 4) + self.frame_blocks.reach

    def forward(self, inputs: Tensor, input_len: Tensor) -> tuple[Tensor, Tensor]:
        """Decodes a batch.

        Args:
            inputs: (B, D, N), dequantised.
            input_len: (B,), frames of each item, at most N.

        Returns:
            (B, N * samples_per_frame) and the samples of each item; zero beyond them.
        """
        return self.synthesize(*self.spectra(inputs, input_len), input_len)

    def spectra(self, inputs: Tensor, input_len: Tensor) -> tuple[Tensor, Tensor]:
        """Log magnitudes and phases of all windows: (B, D, N) and (B,) to (B, 4 N, F) twice."""
        mask = _mask(input_len, inputs.shape[2], inputs.dtype)
        inputs = _masked(inputs.transpose(1, 2), mask)
        x = self.up(self.frame_blocks(self.input_norm(self.input(inputs)), mask))
        fine_mask = None if mask is None else mask.repeat_interleave(4, dim=1)
        x = self.blocks(x.reshape(len(x), 4 * inputs.shape[1], -1), fine_mask)
        correction, turn = self.output(self.output_norm(x)).split(self.num_bins, dim=2)
        # Any angle of the network is a valid phase: no wrapping that would break the gradient.
        phase = turn + self.phase_offset.repeat(inputs.shape[1], 1)
        return correction + self.direct(inputs).reshape(correction.shape), phase

    def synthesize(self, log_magnitude: Tensor, phase: Tensor, input_len: Tensor) -> tuple[Tensor, Tensor]:
        """Audio of windows, as :meth:`forward` returns it."""
        num_windows = log_magnitude.shape[1]
        fine_mask = _mask(4 * input_len, num_windows, log_magnitude.dtype)
        audio = overlap_add(_masked(self.windows(log_magnitude, phase), fine_mask))
        audio_len = input_len * self.samples_per_frame
        return _masked(audio[..., None], _mask(audio_len, audio.shape[1], audio.dtype))[..., 0], audio_len

    def windows(self, log_magnitude: Tensor, phase: Tensor) -> Tensor:
        """Windows from log magnitudes and phases (Vocos, section 3.2): (B, 4 N, F) twice to (B, 4 N, 4 hop)."""
        magnitude = at_least_single(log_magnitude).clamp(max=_MAX_LOG_MAGNITUDE).exp()
        spectrum = torch.polar(magnitude, at_least_single(phase))
        return (torch.fft.irfft(spectrum, n=4 * self.hop_length) * self.window).to(log_magnitude.dtype)


def _mask(lengths: Tensor, size: int, dtype: torch.dtype) -> Tensor | None:
    if bool((lengths >= size).all()):
        return None
    return (torch.arange(size, device=lengths.device) < lengths[:, None]).to(dtype)[..., None]


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _check(samples_per_frame: int, kernel_size: int, frame_kernel_size: int) -> None:
    if samples_per_frame <= 0 or samples_per_frame % 32:
        raise ValueError(f'samples_per_frame must be a positive multiple of 32; got {samples_per_frame}')
    for name, value in (('kernel_size', kernel_size), ('frame_kernel_size', frame_kernel_size)):
        if value < 1 or value % 2 == 0:
            raise ValueError(f'{name} must be odd and positive; got {value}')
