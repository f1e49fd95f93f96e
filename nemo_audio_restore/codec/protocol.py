"""What the engine needs from a codec, and what it reports."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

OnProgress = Callable[[int, int], None]
"""Called with (frames done, frames in all); the second is an estimate for files that do not know their length."""


class CodecError(ValueError):
    """The request does not fit the audio, the tokens or the codec; the message is one sentence for the user."""


class Codec(Protocol):
    """A codec as the engine sees it; ``SpeechCodecModel`` is one."""

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        ...

    @property
    def samples_per_frame(self) -> int:
        """Samples that one frame of tokens stands for."""
        ...

    @property
    def num_codebooks(self) -> int:
        """Tokens K of a frame."""
        ...

    @property
    def codebook_size(self) -> int:
        """A token is at least 0 and less than this."""
        ...

    @property
    def encode_context_frames(self) -> int:
        """Frames of audio on either side of a frame that its tokens depend on."""
        ...

    @property
    def decode_context_frames(self) -> int:
        """Frames of tokens on either side of a frame that its audio depends on."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        ...

    @property
    def audio_encoder(self) -> nn.Module:
        """From audio to values; only its weights matter here."""
        ...

    @property
    def vector_quantizer(self) -> nn.Module:
        """From values to tokens and back; only its weights matter here."""
        ...

    @property
    def audio_decoder(self) -> nn.Module:
        """From values to audio; only its weights matter here."""
        ...

    def encode(self, *, audio: Tensor, audio_len: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, K, N) int32 and their lengths (B,) for audio (B, T) and its lengths (B,)."""
        ...

    def decode(self, *, tokens: Tensor, tokens_len: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, T) and its lengths (B,) for tokens (B, K, N) and their lengths (B,)."""
        ...


def check_codec(codec: Codec) -> None:
    """Raises CodecError if a network of the codec is in training mode."""
    if any(network.training for network in (codec.audio_encoder, codec.vector_quantizer, codec.audio_decoder)):
        raise CodecError('the codec is in training mode; call its eval() first')


@dataclass(frozen=True)
class EncodeReport:
    """What was done to one audio file.

    Attributes:
        source: audio file that was read.
        target: token file that was written.
        input_rate: sample rate of the audio in Hz.
        input_channels: channels of the audio.
        channels: channels C that were encoded.
        duration_s: length in seconds.
        frames: frames N of tokens in each channel.
        size_bytes: of the token file.
        model_name: name of the codec.
        model_hash: 32 hexadecimal digits, see ``codec.weights.weights_hash``.
        seconds: wall time.
    """

    source: str
    target: str
    input_rate: int
    input_channels: int
    channels: int
    duration_s: float
    frames: int
    size_bytes: int
    model_name: str
    model_hash: str
    seconds: float

    @property
    def bits_per_second(self) -> float:
        """Size of the file over the length of the audio."""
        return 8 * self.size_bytes / self.duration_s

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), 'bits_per_second': self.bits_per_second}


@dataclass(frozen=True)
class DecodeReport:
    """What was done to one token file.

    Attributes:
        source: token file that was read.
        target: audio file that was written.
        output_rate: its sample rate in Hz.
        channels: C.
        duration_s: length in seconds.
        frames: frames N of tokens in each channel.
        peak: largest magnitude of the output, 1.0 = full scale.
        clipped_samples: samples above full scale that the file cannot hold; 0 for float files.
        model_name: name of the codec that made the tokens.
        seconds: wall time.
    """

    source: str
    target: str
    output_rate: int
    channels: int
    duration_s: float
    frames: int
    peak: float
    clipped_samples: int
    model_name: str
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)
