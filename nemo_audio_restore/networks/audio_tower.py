"""The audio side of a small text-audio model: log-mel pictures through convolutions that a laptop trains."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.signal.windows import filled_windows

_PATCH = 4
_FLOOR_DB = 80.0


class LogMel(nn.Module):
    """Log-mel spectrograms relative to the loudest cell: the level of a recording has no effect.

    Args:
        sample_rate: of the audio, in Hz.
        n_fft: samples of a Hann window.
        hop_length: samples from frame to frame.
        num_mels: bands F.
        low_hz: of the lowest band.
        high_hz: of the highest band, at most half of ``sample_rate``.
    """

    def __init__(
        self, *, sample_rate: int, n_fft: int, hop_length: int, num_mels: int, low_hz: float = 40.0, high_hz: float
    ):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            n_fft // 2 + 1, num_mels, low_hz, high_hz, sample_rate, norm='slaney', mel_scale='slaney'
        )
        self.n_fft, self.hop_length = n_fft, hop_length
        # Not in the state: the arguments determine them.
        self.register_buffer('filters', torch.from_numpy(np.ascontiguousarray(filters.T)).float(), persistent=False)
        self.register_buffer('window', torch.hann_window(n_fft), persistent=False)

    def decibels(self, audio: Tensor) -> Tensor:
        """Levels of the bands, to be computed once for a whole recording, cut, and given to :meth:`relative`.

        Args:
            audio: (B, T) samples, T a multiple of the hop.

        Returns:
            (B, F, N) float32 with N = T / hop, at least -140 dB.
        """
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(),
                self.n_fft,
                self.hop_length,
                window=self.window,
                center=True,
                pad_mode='constant',
                return_complex=True,
            )[..., :-1]
            power = self.filters @ (spectrum.real.square() + spectrum.imag.square())
            return 10 * torch.log10(power.clamp_min(1e-14))

    @staticmethod
    def relative(decibels: Tensor) -> Tensor:
        """Levels (B, F, N) against the loudest cell: from -1 for 80 dB below it, or for silence, to 1."""
        # Digital silence has no loudest cell: it is empty, not full.
        loudest = decibels.amax(dim=(1, 2), keepdim=True).clamp_min(-60.0)
        return (1 + (decibels - loudest) / (_FLOOR_DB / 2)).clamp(-1, 1)

    def forward(self, audio: Tensor) -> Tensor:
        """Relative levels (B, F, N) of audio (B, T); see :meth:`decibels` and :meth:`relative`."""
        return self.relative(self.decibels(audio))


class ConvolutionalAudioTower(nn.Module):
    """Log-mel patches through four stages of separable convolutions, pooled over time into one embedding.

    Args:
        embedding_dim: E.
        sample_rate: of the audio, in Hz.
        window_frames: frames of 20 ms that are seen at once, a multiple of 32.
        num_mels: bands, a multiple of 32.
        widths: channels of the four stages.
        depths: blocks of the four stages.
        dropout: of the pooled features, in training.

    Raises:
        ValueError: window or bands cannot be halved five times, or there are not four stages.

    Source: blocks after ConvNeXt (arXiv 2201.03545), section 2; pooling after PANNs (arXiv 1912.10211), section II.
    """

    def __init__(
        self,
        *,
        embedding_dim: int = 256,
        sample_rate: int = 44100,
        window_frames: int = 256,
        num_mels: int = 64,
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        dropout: float = 0.1,
    ):
        super().__init__()
        if window_frames % 32 or num_mels % 32 or window_frames < 32 or num_mels < 32:
            raise ValueError(f'window_frames and num_mels must be multiples of 32; got {window_frames}, {num_mels}')
        if len(widths) != 4 or len(depths) != 4:
            raise ValueError(f'widths and depths must name four stages; got {list(widths)} and {list(depths)}')
        self.sample_rate = sample_rate
        hop = round(0.02 * sample_rate)
        self.window_samples = window_frames * hop
        self.embedding_dim = embedding_dim
        self.log_mel = LogMel(
            sample_rate=sample_rate,
            n_fft=2 ** round(np.log2(sample_rate * 0.046)),
            hop_length=hop,
            num_mels=num_mels,
            high_hz=min(16000.0, sample_rate / 2),
        )
        self.stem = nn.Conv2d(1, widths[0], _PATCH, stride=_PATCH)
        # Convolutions do not know how high they are, and timbre depends on it.
        self.height = nn.Parameter(torch.zeros(widths[0], num_mels // _PATCH, 1))
        stages = []
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if index:
                stages.append(nn.Conv2d(widths[index - 1], width, 2, stride=2))
            stages += [ConvolutionalBlock(width) for _ in range(depth)]
        self.stages = nn.Sequential(*stages)
        rows = num_mels // 32
        self.norm = nn.LayerNorm(2 * rows * widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(2 * rows * widths[-1], embedding_dim)

    def features(self, audio: Tensor) -> Tensor:
        """What the network sees of a window, to be computed once and kept.

        Args:
            audio: (B, ``window_samples``).

        Returns:
            (B, F, N).
        """
        return self.log_mel(audio)

    def hear(self, audio: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """What the network sees of a recording of any length.

        Args:
            audio: (T,) samples.
            count: windows of a long recording.
            generator: of their places.

        Returns:
            (K, F, N).
        """
        return self.features(filled_windows(audio, self.window_samples, count=count, generator=generator))

    def embed_features(self, features: Tensor) -> Tensor:
        """Embeddings (B, E), not normalised, of :meth:`features` (B, F, N)."""
        maps = self.stages(self.stem(features[:, None]) + self.height)
        # Mean for what sounds all the time, maximum for what happens once.
        pooled = torch.cat([maps.mean(dim=-1), maps.amax(dim=-1)], dim=1).flatten(1)
        return self.projection(self.dropout(self.norm(pooled)))

    def forward(self, audio: Tensor) -> Tensor:
        """The embedding of one window of each recording.

        Args:
            audio: (B, ``window_samples``) samples.

        Returns:
            (B, E), not normalised.
        """
        return self.embed_features(self.features(audio))


class ConvolutionalBlock(nn.Module):
    """Depthwise 5x5, then a position-wise network of twice the width, beside an identity."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, F, N) to the same shape."""
        branch = self.norm(self.depthwise(maps).permute(0, 2, 3, 1))
        branch = self.scale * self.narrow(functional.gelu(self.wide(branch)))
        return maps + branch.permute(0, 3, 1, 2)
