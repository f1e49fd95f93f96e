"""The audio side of CLAP: transformers' HTSAT on spectrograms computed here, with or without feature fusion."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.signal.windows import filled_windows

_SAMPLE_RATE = 48000
_N_FFT = 1024
_HOP = 480
_RANGE_HZ = (50, 14000)
_WINDOW_S = 10


class ClapAudioTower(nn.Module):
    """HTSAT with a projection; 10 s of audio at 48 kHz.

    Args:
        config: keys of transformers' ``ClapAudioConfig`` that differ from its defaults, those of HTSAT tiny; with
            ``enable_fusion`` longer recordings are heard as a whole, shrunk, together with three pieces of it.

    Source: CLAP (arXiv 2211.06687), sections 3.1 and 3.3; HTS-AT (arXiv 2202.00874).
    """

    def __init__(self, *, config: Mapping[str, Any] | None = None):
        super().__init__()
        from transformers import ClapAudioConfig, ClapAudioModelWithProjection
        from transformers.audio_utils import mel_filter_bank

        self.network = ClapAudioModelWithProjection(ClapAudioConfig(**dict(config or {})))
        self.sample_rate, self.window_samples = _SAMPLE_RATE, _WINDOW_S * _SAMPLE_RATE
        # The published models differ in their filters: those with fusion were trained with torchaudio's.
        kind = {'norm': None, 'mel_scale': 'htk'} if self.has_fusion else {'norm': 'slaney', 'mel_scale': 'slaney'}
        bands = self.network.config.num_mel_bins
        filters = mel_filter_bank(_N_FFT // 2 + 1, bands, *_RANGE_HZ, _SAMPLE_RATE, **kind)
        self.register_buffer('filters', torch.from_numpy(np.ascontiguousarray(filters)).float(), persistent=False)
        self.register_buffer('window', torch.hann_window(_N_FFT), persistent=False)

    @property
    def has_fusion(self) -> bool:
        """Whether recordings of more than 10 s are heard as a whole."""
        return self.network.config.enable_fusion

    @property
    def embedding_dim(self) -> int:
        """E."""
        return self.network.config.projection_dim

    def features(self, audio: Tensor) -> Tensor:
        """Log-mel spectrograms in decibels.

        Args:
            audio: (B, T) samples.

        Returns:
            (B, 1, N, F) float32, N = 1 + T / 480.
        """
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(audio.float(), _N_FFT, _HOP, window=self.window, return_complex=True)
            power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ self.filters
            return 10 * torch.log10(power.clamp_min(1e-10))[:, None]

    def hear(self, audio: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """What the network sees of a recording of any length.

        Args:
            audio: (T,) samples.
            count: windows of a long recording; with fusion there is one picture, whatever its length.
            generator: of the places of windows and pieces.

        Returns:
            (K, 1, N, F); of long recordings with fusion (1, 4, N, F): the whole, shrunk, and three pieces.
        """
        if not self.has_fusion or len(audio) <= self.window_samples:
            return self.features(filled_windows(audio, self.window_samples, count=count, generator=generator))
        whole = self.features(audio[None])
        frames = self.window_samples // _HOP + 1
        if whole.shape[2] == frames:
            return whole
        shrunk = functional.interpolate(whole, size=(frames, whole.shape[3]), mode='bilinear', align_corners=False)
        # One piece of each third of the possible places.
        places = torch.arange(whole.shape[2] - frames + 1).tensor_split(3)
        draws = torch.rand(3, generator=generator, device=generator.device).tolist()
        starts = [
            int(part[int(draw * len(part))]) if len(part) else 0 for part, draw in zip(places, draws, strict=True)
        ]
        return torch.cat([shrunk, *(whole[:, :, start : start + frames] for start in starts)], dim=1)

    def embed_features(self, features: Tensor) -> Tensor:
        """Embeddings (B, E), not normalised, of what :meth:`hear` gives."""
        is_long = torch.full((len(features), 1), features.shape[1] > 1, device=features.device)
        if self.has_fusion and features.shape[1] == 1:
            features = features.expand(-1, 4, -1, -1)
        return self.network(input_features=features, is_longer=is_long).audio_embeds

    def forward(self, audio: Tensor) -> Tensor:
        """The embedding of one window of each recording.

        Args:
            audio: (B, ``window_samples``) samples.

        Returns:
            (B, E), not normalised.
        """
        return self.embed_features(self.features(audio))
