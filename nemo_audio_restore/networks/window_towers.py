"""Audio towers of a language model: a window of a recording to tokens. HTSAT of CLAP, and the encoder of Whisper.

Both are networks of `transformers`; what is here is their input. A tower has ``sample_rate``, ``feature_dim`` (D) and
``forward(windows (M, T)) -> (M, N, D)``.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

_FLOOR = 1e-10


class HtsatTower(nn.Module):
    """HTSAT: log-mel pictures through a Swin transformer; its features before pooling. The tower of AF-CLAP.

    Args:
        embed_dim: width after the patches; the features have eight times as many dimensions.
        depths: blocks of the four stages.
        num_heads: attention heads of the four stages.
        fusion: with the branch that merges four pictures of one long recording. Windows of a language model do not
            use it, but the published weights have it.
        drop_path: probability of leaving the last block out in training; less for earlier ones.

    Source: HTS-AT (arXiv 2202.00874); dense features: Audio Flamingo 2 (arXiv 2503.03983), section 3.1.
    """

    sample_rate = 16000

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        depths: Sequence[int] = (2, 2, 12, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        fusion: bool = True,
        drop_path: float = 0.1,
    ):
        super().__init__()
        from transformers import ClapAudioConfig, ClapAudioModel

        self.clap = ClapAudioModel(
            ClapAudioConfig(
                patch_embeds_hidden_size=embed_dim,
                hidden_size=8 * embed_dim,
                depths=list(depths),
                num_attention_heads=list(num_heads),
                num_hidden_layers=len(depths),
                enable_fusion=fusion,
                fusion_type='aff_2d' if fusion else None,
                # The published network drops paths, and nothing else.
                hidden_dropout_prob=0.0,
                drop_path_rate=drop_path,
            )
        )
        self.fusion = fusion
        self.feature_dim = 8 * embed_dim
        self.mel = MelPower(
            sample_rate=self.sample_rate, n_fft=1024, hop_length=160, num_mels=64, low_hz=50.0, high_hz=8000.0
        )

    def log_mel(self, windows: Tensor) -> Tensor:
        """Pictures of windows.

        Args:
            windows: (M, T) samples in [-1, 1].

        Returns:
            (M, T // 160 + 1, 64) decibels, at least -100.
        """
        return 10 * torch.log10(self.mel(windows).clamp_min(_FLOOR))

    def encode_mel(self, mel: Tensor, longer: Tensor | None = None) -> Tensor:
        """Features of pictures.

        Args:
            mel: (M, C, N, 64) decibels, N at most 1024; C is 1, or 4 where parts of a long recording are fused.
            longer: (M,) bool, the items to fuse; none of them unless given.

        Returns:
            (M, 64, D): two bands of 32 steps in time, one band after the other.
        """
        if longer is None:
            longer = torch.zeros(len(mel), dtype=torch.bool, device=mel.device)
        features = self.clap(input_features=mel, is_longer=longer[:, None] if self.fusion else None)
        return features.last_hidden_state.flatten(2).transpose(1, 2)

    def forward(self, windows: Tensor) -> Tensor:
        """Features of windows.

        Args:
            windows: (M, T) samples in [-1, 1], T at most 10.24 s.

        Returns:
            (M, 64, D).
        """
        return self.encode_mel(self.log_mel(windows)[:, None].to(self.clap.dtype))


class WhisperTower(nn.Module):
    """The encoder of Whisper, its frames averaged in groups.

    Args:
        window_s: length of every window in seconds; Whisper's own is 30.
        num_mels: bands of the pictures: 80, or 128 since large-v3.
        dim: width D.
        num_layers: transformer layers.
        num_heads: attention heads of a layer.
        frames_per_token: frames of 20 ms that are averaged into a token.

    Raises:
        ValueError: the window does not hold a whole number of tokens.

    Source: Whisper (arXiv 2212.04356), section 2.2.
    """

    sample_rate = 16000

    def __init__(
        self,
        *,
        window_s: float = 30.0,
        num_mels: int = 80,
        dim: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        frames_per_token: int = 2,
    ):
        super().__init__()
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        frames = round(50 * window_s)
        if frames_per_token < 1 or frames % frames_per_token:
            raise ValueError(
                f'{window_s} s are {frames} frames, which frames_per_token={frames_per_token} must divide'
            )
        self.window_samples = 320 * frames
        self.frames_per_token = frames_per_token
        self.feature_dim = dim
        self.encoder = WhisperEncoder(
            WhisperConfig(
                num_mel_bins=num_mels,
                d_model=dim,
                encoder_layers=num_layers,
                encoder_attention_heads=num_heads,
                encoder_ffn_dim=4 * dim,
                max_source_positions=frames,
            )
        )
        self.mel = MelPower(
            sample_rate=self.sample_rate,
            n_fft=400,
            hop_length=160,
            num_mels=num_mels,
            low_hz=0.0,
            high_hz=8000.0,
            slaney=True,
        )

    def log_mel(self, windows: Tensor) -> Tensor:
        """Pictures of windows, relative to the loudest cell of each.

        Args:
            windows: (M, T) samples in [-1, 1].

        Returns:
            (M, F, T / 160).
        """
        # arXiv 2212.04356, section 2.2: log-magnitude, 80 dB deep, scaled to about -1 ... 1.
        level = torch.log10(self.mel(windows)[:, :-1].clamp_min(_FLOOR))
        level = torch.maximum(level, level.amax(dim=(1, 2), keepdim=True) - 8.0)
        return ((level + 4.0) / 4.0).transpose(1, 2)

    def forward(self, windows: Tensor) -> Tensor:
        """Features of windows.

        Args:
            windows: (M, ``window_samples``) samples in [-1, 1].

        Returns:
            (M, N, D) with N = 50 * window_s / frames_per_token.

        Raises:
            ValueError: windows of another length.
        """
        if windows.shape[1] != self.window_samples:
            raise ValueError(f'windows must have {self.window_samples} samples; got {windows.shape[1]}')
        frames = self.encoder(self.log_mel(windows).to(self.encoder.dtype)).last_hidden_state
        return frames.unflatten(1, (-1, self.frames_per_token)).mean(dim=2)


class MelPower(nn.Module):
    """Mel power spectrograms in float32, windows of Hann, reflected at both ends.

    Args:
        sample_rate: of the audio, in Hz.
        n_fft: samples of a window.
        hop_length: samples from frame to frame.
        num_mels: bands F.
        low_hz: lower end of the lowest band.
        high_hz: upper end of the highest band.
        slaney: Slaney's scale and bands of equal area, instead of HTK's scale and bands of equal height.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        num_mels: int,
        low_hz: float,
        high_hz: float,
        slaney: bool = False,
    ):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            n_fft // 2 + 1,
            num_mels,
            low_hz,
            high_hz,
            sample_rate,
            norm='slaney' if slaney else None,
            mel_scale='slaney' if slaney else 'htk',
        )
        self.n_fft, self.hop_length = n_fft, hop_length
        # Not in the state: the arguments determine them.
        self.register_buffer('filters', _constant(np.ascontiguousarray(filters)), persistent=False)
        self.register_buffer('window', _constant(np.hanning(n_fft + 1)[:-1]), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Power of frames.

        Args:
            audio: (M, T) samples.

        Returns:
            (M, T // hop_length + 1, F) float32.
        """
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(), self.n_fft, self.hop_length, window=self.window.float(), return_complex=True
            )
            return (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ self.filters.float()


def _constant(values: np.ndarray) -> Tensor:
    # On the CPU whatever the default device is: a model that is laid out on the meta device keeps its constants.
    return torch.tensor(values, dtype=torch.float32, device='cpu')
