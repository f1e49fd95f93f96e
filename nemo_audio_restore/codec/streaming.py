"""Encoding and decoding in constant memory, block by block, with the result of the whole.

A frame of tokens depends on a fixed number of frames of audio around it, and a frame of audio on a fixed number of
frames of tokens. So a long signal is cut into chunks; each is processed together with its context, whose own results
are thrown away. The first and the last chunk end where the signal ends: whatever the networks do at an edge (reflect,
zeros) happens at the true edges only.

The cuts lie at multiples of ``chunk_frames``, however the signal arrives, so the networks see the same tensors and
give the same bits for every division into blocks. Against one pass over the whole signal, and between different
``chunk_frames``, the arithmetic is the same but libraries choose kernels by size: in double precision nothing differs,
in single precision the last bits of the audio may, and a token could where a value lies on the border of two.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nemo_audio_restore.codec.protocol import Codec, CodecError, check_codec
from nemo_audio_restore.codec.weights import folded_weights

DEFAULT_CHUNK_FRAMES = 256
"""12 s at 21.5 frames a second: a tenth more work than without cuts, and less than 1 GB for the published networks."""

MINIMUM_FRAMES = 4
"""Shorter audio is continued with silence: the published networks reflect three frames at either end."""


class StreamingEncoder:
    """Encodes audio that arrives in blocks of any size.

    Args:
        codec: in evaluation mode; its weights must not change until the end.
        channels: C, each encoded by itself.
        chunk_frames: frames that are encoded at once: fewer for less delay, more for less work.

    Attributes:
        num_samples: samples of each channel so far.

    Raises:
        CodecError: the codec is in training mode, or a number is not positive.
    """

    def __init__(self, codec: Codec, *, channels: int = 1, chunk_frames: int = DEFAULT_CHUNK_FRAMES):
        check_codec(codec)
        _check_positive(channels=channels, chunk_frames=chunk_frames)
        self.num_samples = 0
        self._codec = codec
        self._channels = channels
        self._device = torch.device('cpu')
        self._dtype = next(codec.audio_encoder.parameters()).dtype
        context = max(codec.encode_context_frames, MINIMUM_FRAMES - 1)
        self._chunks = _Chunks(chunk_frames, context, codec.samples_per_frame)

    @property
    def latency_samples(self) -> int:
        """A sample's token is there at the latest when this many samples have arrived, that sample included."""
        return self._chunks.reach_frames * self._codec.samples_per_frame

    @property
    def latency_s(self) -> float:
        """:attr:`latency_samples` in seconds."""
        return self.latency_samples / self._codec.sample_rate

    def push(self, audio: Tensor) -> Tensor:
        """Takes the next block.

        Args:
            audio: (C, n) samples at the codec's rate, n of any size.

        Returns:
            (C, K, m) int32 tokens that are certain by now, m >= 0.

        Raises:
            CodecError: another number of channels, no floats, or the stream has been flushed.
        """
        if audio.ndim != 2 or len(audio) != self._channels or not audio.is_floating_point():
            raise CodecError(
                f'a block must be ({self._channels}, n) floats; got {audio.dtype} of shape {tuple(audio.shape)}'
            )
        self.num_samples += audio.shape[1]
        self._device = audio.device
        return self._tokens(self._chunks.push(audio))

    def flush(self) -> Tensor:
        """Ends the stream.

        Returns:
            (C, K, m) int32: the tokens of all remaining samples; nothing if there were none at all.

        Raises:
            CodecError: the stream has been flushed before.
        """
        size = self._codec.samples_per_frame
        frames = max(-(-self.num_samples // size), MINIMUM_FRAMES) if self.num_samples else 0
        audio = torch.zeros(self._channels, frames * size - self.num_samples if frames else 0)
        return self._tokens(self._chunks.flush(audio))

    @torch.no_grad()
    def _tokens(self, chunks: Iterator[tuple[Tensor, int, int]]) -> Tensor:
        tokens = [torch.zeros(self._channels, self._codec.num_codebooks, 0, dtype=torch.int32, device=self._device)]
        with folded_weights(self._codec):
            for audio, skip, keep in chunks:
                audio = audio.to(self._codec.device, self._dtype)
                length = torch.tensor([audio.shape[1]], device=audio.device)
                # One channel after the other: the memory for 64 channels is that for one.
                rows = [self._codec.encode(audio=row[None], audio_len=length)[0] for row in audio]
                tokens.append(torch.cat(rows)[:, :, skip : skip + keep].to(self._device, torch.int32))
        return torch.cat(tokens, dim=2)


class StreamingDecoder:
    """Decodes tokens that arrive in blocks of any size.

    Args:
        codec: in evaluation mode; its weights must not change until the end.
        channels: C.
        chunk_frames: frames that are decoded at once: fewer for less delay, more for less work.

    Attributes:
        num_frames: frames of each channel so far.

    Raises:
        CodecError: the codec is in training mode, or a number is not positive.
    """

    def __init__(self, codec: Codec, *, channels: int = 1, chunk_frames: int = DEFAULT_CHUNK_FRAMES):
        check_codec(codec)
        _check_positive(channels=channels, chunk_frames=chunk_frames)
        self.num_frames = 0
        self._codec = codec
        self._channels = channels
        self._device = torch.device('cpu')
        self._done = 0
        context = max(codec.decode_context_frames, MINIMUM_FRAMES - 1)
        self._chunks = _Chunks(chunk_frames, context, 1)

    @property
    def latency_samples(self) -> int:
        """A frame's audio is there at the latest when frames for this many samples have arrived, itself included."""
        return self._chunks.reach_frames * self._codec.samples_per_frame

    @property
    def latency_s(self) -> float:
        """:attr:`latency_samples` in seconds."""
        return self.latency_samples / self._codec.sample_rate

    def push(self, tokens: Tensor) -> Tensor:
        """Takes the next frames.

        Args:
            tokens: (C, K, n), n of any size.

        Returns:
            (C, m) samples that are certain by now, m >= 0.

        Raises:
            CodecError: another number of channels or codebooks, a token that does not exist, or the stream has been
                flushed.
        """
        codec = self._codec
        if tokens.ndim != 3 or tokens.shape[:2] != (self._channels, codec.num_codebooks) or not _integers(tokens):
            raise CodecError(
                f'tokens must be ({self._channels}, {codec.num_codebooks}, n) integers; got {tokens.dtype} of shape '
                f'{tuple(tokens.shape)}'
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < codec.codebook_size:
            raise CodecError(
                f'tokens must lie in 0..{codec.codebook_size - 1}; got {int(tokens.min())}..{int(tokens.max())}'
            )
        self.num_frames += tokens.shape[2]
        self._device = tokens.device
        return self._audio(self._chunks.push(tokens.to(torch.int32)))

    def flush(self, num_samples: int | None = None) -> Tensor:
        """Ends the stream.

        Args:
            num_samples: length of the audio in all; None keeps the whole of the last frame.

        Returns:
            (C, m): all remaining samples.

        Raises:
            CodecError: fewer frames than the codec can decode, a length that does not fit them, or the stream has
                been flushed before.
        """
        codec = self._codec
        if 0 < self.num_frames < MINIMUM_FRAMES:
            raise CodecError(f'the codec decodes {MINIMUM_FRAMES} frames at least; got {self.num_frames}')
        there = self.num_frames * codec.samples_per_frame
        if num_samples is not None and not self._done <= num_samples <= there:
            raise CodecError(
                f'{self.num_frames} frames cannot be {num_samples} samples long; {self._done} are out, {there} are all'
            )
        nothing = torch.zeros(self._channels, codec.num_codebooks, 0, dtype=torch.int32)
        left = None if num_samples is None else num_samples - self._done
        return self._audio(self._chunks.flush(nothing))[:, :left]

    @torch.no_grad()
    def _audio(self, chunks: Iterator[tuple[Tensor, int, int]]) -> Tensor:
        size = self._codec.samples_per_frame
        audio = [torch.zeros(self._channels, 0, device=self._device)]
        with folded_weights(self._codec):
            for tokens, skip, keep in chunks:
                tokens = tokens.to(self._codec.device)
                length = torch.tensor([tokens.shape[2]], device=tokens.device)
                rows = [self._codec.decode(tokens=row[None], tokens_len=length)[0] for row in tokens]
                audio.append(torch.cat(rows)[:, skip * size : (skip + keep) * size].to(self._device))
        audio = torch.cat(audio[1:] or audio, dim=1)
        self._done += audio.shape[1]
        return audio


def encode_chunked(codec: Codec, audio: Tensor, *, chunk_frames: int = DEFAULT_CHUNK_FRAMES) -> Tensor:
    """Encodes audio of any length with the working memory of one chunk.

    Args:
        codec: in evaluation mode.
        audio: (C, T) samples at the codec's rate, T >= 1.
        chunk_frames: frames that are encoded at once.

    Returns:
        (C, K, N) int32 tokens, N = max(ceil(T / samples_per_frame), MINIMUM_FRAMES).

    Raises:
        CodecError: as for :class:`StreamingEncoder`.
    """
    encoder = StreamingEncoder(codec, channels=len(audio), chunk_frames=chunk_frames)
    return torch.cat([encoder.push(audio), encoder.flush()], dim=2)


def decode_chunked(
    codec: Codec, tokens: Tensor, *, num_samples: int | None = None, chunk_frames: int = DEFAULT_CHUNK_FRAMES
) -> Tensor:
    """Decodes any number of tokens with the working memory of one chunk.

    Args:
        codec: in evaluation mode.
        tokens: (C, K, N).
        num_samples: length of the audio; None for whole frames.
        chunk_frames: frames that are decoded at once.

    Returns:
        (C, T) samples at the codec's rate.

    Raises:
        CodecError: as for :class:`StreamingDecoder`.
    """
    decoder = StreamingDecoder(codec, channels=len(tokens), chunk_frames=chunk_frames)
    audio = torch.cat([decoder.push(tokens), decoder.flush()], dim=1)
    if num_samples is not None and not 0 <= num_samples <= audio.shape[1]:
        raise CodecError(f'{tokens.shape[2]} frames make {audio.shape[1]} samples; {num_samples} were asked for')
    return audio[:, :num_samples]


class _Chunks:
    """Cuts a stream (..., n) into chunks of frames with context on either side."""

    def __init__(self, chunk_frames: int, context_frames: int, unit: int):
        self.reach_frames = chunk_frames + context_frames
        self._chunk = chunk_frames
        self._context = context_frames
        self._unit = unit  # values of a frame along the last axis
        self._pending: list[Tensor] = []
        self._first = 0  # frame at which what is pending begins
        self._next = 0  # first frame without a result
        self._size = 0  # values pending
        self._flushed = False

    def push(self, block: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """Every chunk that is complete: its values with context, frames of context in front, frames to keep."""
        self._append(block)
        while self._size >= (self._next + self.reach_frames - self._first) * self._unit:
            values = self._joined()
            end = (self._next + self.reach_frames - self._first) * self._unit
            yield values[..., :end], self._next - self._first, self._chunk
            self._next += self._chunk
            start = max(self._next - self._context, self._first)
            self._pending = [values[..., (start - self._first) * self._unit :]]
            self._first, self._size = start, self._pending[0].shape[-1]
        # The block is the caller's, who may use it again; a slice would keep all of a long one.
        self._pending[-1] = self._pending[-1].clone()

    def flush(self, block: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """What is left behind a last block, up to the true end: at most one item."""
        self._append(block)
        self._flushed = True
        frames = self._size // self._unit
        if frames > self._next - self._first:
            yield self._joined(), self._next - self._first, frames - (self._next - self._first)
        self._pending = []

    def _append(self, block: Tensor) -> None:
        if self._flushed:
            raise CodecError('the stream has ended: flush() was called; make a new one for other audio')
        if self._pending:
            block = block.to(self._pending[0])
        self._pending.append(block)
        self._size += block.shape[-1]

    def _joined(self) -> Tensor:
        if len(self._pending) > 1:
            self._pending = [torch.cat(self._pending, dim=-1)]
        return self._pending[0]


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise CodecError(f'{name} must be at least 1; got {value}')


def _integers(tokens: Tensor) -> bool:
    return not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
