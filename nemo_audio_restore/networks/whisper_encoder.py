"""Whisper's encoder as a source of speech features: gradients reach the waveform, any length up to 30 s will do."""

import torch
from torch import Tensor, nn

SAMPLE_RATE = 16000
HOP_LENGTH = 160
_WINDOW_LENGTH = 400
_POWER_FLOOR = 1e-10
_RANGE = 8.0  # log10 units below the loudest bin at which a clip is cut off


class WhisperLogMel(nn.Module):
    """The log-mel features that Whisper takes, computed in torch.

    Args:
        mel_channels: D, 80 for all but the newest large models.

    Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2.
    """

    def __init__(self, mel_channels: int = 80):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        bank = mel_filter_bank(
            _WINDOW_LENGTH // 2 + 1, mel_channels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm='slaney', mel_scale='slaney'
        )
        self.register_buffer('bank', torch.as_tensor(bank, dtype=torch.float32).T.contiguous(), persistent=False)
        self.register_buffer('window', torch.hann_window(_WINDOW_LENGTH), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Features of a batch of recordings.

        Args:
            audio: (B, T) samples at 16 kHz in [-1, 1], at least 201.

        Returns:
            (B, D, T // 160) about -1 to 1.5; the floor follows the loudest bin of each recording.
        """
        # float32 whatever autocast says: squares of quiet sounds leave the range of half precision.
        spectrum = torch.stft(
            audio.float(), _WINDOW_LENGTH, HOP_LENGTH, window=self.window, center=True, return_complex=True
        )
        power = spectrum[..., :-1].real.square() + spectrum[..., :-1].imag.square()
        log_mel = (self.bank @ power).clamp(min=_POWER_FLOOR).log10()
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - _RANGE)
        return (log_mel + 4.0) / 4.0


class WhisperEncoder(nn.Module):
    """Whisper's encoder for recordings shorter than the 30 s that it was trained with.

    It sees the first positions of its position table instead of a recording padded with silence: the hidden states
    are features, not what the decoder expects. At 30 s they are exactly those of `transformers`.

    Args:
        encoder: `transformers.models.whisper.modeling_whisper.WhisperEncoder`.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    @property
    def hidden_size(self) -> int:
        """D, features in each hidden state."""
        return self.encoder.config.d_model

    @property
    def num_hidden_states(self) -> int:
        """Number of hidden states: the embedding and one for each layer."""
        return len(self.encoder.layers) + 1

    @property
    def frame_rate(self) -> float:
        """Hidden states each second."""
        return SAMPLE_RATE / HOP_LENGTH / 2

    @property
    def max_frames(self) -> int:
        """Longest input in log-mel frames: 30 s."""
        return 2 * self.encoder.max_source_positions

    def forward(self, log_mel: Tensor) -> tuple[Tensor, ...]:
        """All hidden states.

        Args:
            log_mel: (B, D, N) from :class:`WhisperLogMel`, at most ``max_frames``.

        Returns:
            ``num_hidden_states`` tensors (B, ceil(N / 2), hidden_size); the last one is normalised.

        Raises:
            ValueError: longer than ``max_frames``.
        """
        if log_mel.shape[-1] > self.max_frames:
            raise ValueError(
                f"Whisper's encoder takes at most {self.max_frames} frames ({self.max_frames / 100:g} s); "
                f'got {log_mel.shape[-1]}: cut the recording'
            )
        encoder = self.encoder
        hidden = nn.functional.gelu(encoder.conv1(log_mel))
        hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        states = [hidden]
        for layer in encoder.layers:
            states.append(layer(states[-1], None))
        states[-1] = encoder.layer_norm(states[-1])
        return tuple(states)
