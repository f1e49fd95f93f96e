"""Audio files to token files and back: read a block, process it, write a block."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from nemo_audio_restore.codec.protocol import Codec, CodecError, DecodeReport, EncodeReport, OnProgress
from nemo_audio_restore.codec.streaming import DEFAULT_CHUNK_FRAMES, StreamingDecoder, StreamingEncoder
from nemo_audio_restore.codec.weights import folded_weights, weights_hash
from nemo_audio_restore.files.audio import AudioFileError, probe, read_blocks
from nemo_audio_restore.files.resample import resample_blocks, resample_stream, resampled_length
from nemo_audio_restore.files.token_file import (
    TokenInfo,
    TokenWriter,
    check_token_target,
    probe_tokens,
    read_token_blocks,
)
from nemo_audio_restore.files.writer import AudioWriter, check_overwrite, check_target

CHANNEL_MODES = ('mono', 'each')


def encode_file(
    codec: Codec,
    source: str | Path,
    target: str | Path,
    *,
    channels: str = 'mono',
    model_name: str = '',
    chunk_frames: int = DEFAULT_CHUNK_FRAMES,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> EncodeReport:
    """Encodes an audio file of any length, rate and number of channels in constant memory.

    Args:
        codec: in evaluation mode.
        source: audio file to read.
        target: ``.nac`` file to write; it appears under this name only when complete.
        channels: 'mono' encodes the mean of all channels; 'each' every channel by itself, at as many times the size.
        model_name: what the file says about the codec beside the hash of its weights.
        chunk_frames: frames that are encoded at once; changes memory and speed.
        overwrite: whether an existing target may be replaced.
        on_progress: called with (frames done, frames in all).

    Returns:
        What was done.

    Raises:
        AudioFileError: a file cannot be read or written.
        CodecError: the request does not fit the codec.
    """
    started = time.monotonic()
    source, target = Path(source), Path(target)
    if channels not in CHANNEL_MODES:
        raise CodecError(f'channels "{channels}" is unknown; choose from {", ".join(CHANNEL_MODES)}')
    audio = probe(source)
    _check_other_file(source, target)
    check_token_target(target, overwrite=overwrite)
    count = 1 if channels == 'mono' else audio.channels
    encoder = StreamingEncoder(codec, channels=count, chunk_frames=chunk_frames)
    info = TokenInfo(
        codec.sample_rate, codec.samples_per_frame, codec.num_codebooks, codec.codebook_size, count,
        audio.sample_rate, 0, 0, model_name, weights_hash(codec),
    )  # fmt: skip
    length = _Length()
    blocks = length.counted(read_blocks(source))
    blocks = _downmixed(blocks) if channels == 'mono' else blocks
    num_samples = resampled_length(audio.num_samples, audio.sample_rate, codec.sample_rate)
    total = max(1, num_samples // codec.samples_per_frame)
    with TokenWriter(target, info, overwrite=overwrite) as writer, folded_weights(codec):
        for block in resample_stream(blocks, audio.sample_rate, codec.sample_rate, channels=count):
            writer.write(encoder.push(torch.from_numpy(block)).numpy())
            if on_progress is not None:
                done = encoder.num_samples // codec.samples_per_frame
                on_progress(min(done, total), total)
        writer.write(encoder.flush().numpy())
        writer.finish(length.samples)
    return EncodeReport(
        source=str(source),
        target=str(target),
        input_rate=audio.sample_rate,
        input_channels=audio.channels,
        channels=count,
        duration_s=writer.info.duration_s,
        frames=writer.info.num_frames,
        size_bytes=writer.info.size_bytes,
        model_name=model_name,
        model_hash=info.model_hash,
        seconds=time.monotonic() - started,
    )


def decode_file(
    codec: Codec,
    source: str | Path,
    target: str | Path,
    *,
    sample_rate: int | None = None,
    bits: str | None = None,
    chunk_frames: int = DEFAULT_CHUNK_FRAMES,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> DecodeReport:
    """Decodes a token file of any length in constant memory; the audio is exactly as long as what was encoded.

    Args:
        codec: the one that made the tokens, in evaluation mode.
        source: ``.nac`` file to read.
        target: ``.wav`` or ``.flac`` to write; it appears under this name only when complete.
        sample_rate: of the output in Hz; None takes the codec's.
        bits: '16', '24', 'float', or None for float in WAV and 24 in FLAC.
        chunk_frames: frames that are decoded at once; changes memory and speed.
        overwrite: whether an existing target may be replaced.
        on_progress: called with (frames done, frames in all).

    Returns:
        What was done.

    Raises:
        AudioFileError: a file cannot be read or written, or is damaged.
        CodecError: the tokens are another codec's.
    """
    started = time.monotonic()
    source, target = Path(source), Path(target)
    info = probe_tokens(source)
    check_same_codec(codec, info, source)
    rate = codec.sample_rate if sample_rate is None else sample_rate
    check_target(target, bits=bits, clip='none', channels=info.channels, sample_rate=rate)
    _check_other_file(source, target)
    check_overwrite(target, overwrite=overwrite)
    decoder = StreamingDecoder(codec, channels=info.channels, chunk_frames=chunk_frames)

    def decoded() -> Iterator[np.ndarray]:
        for tokens in read_token_blocks(source):
            yield decoder.push(torch.from_numpy(tokens)).float().numpy()
            if on_progress is not None:
                on_progress(decoder.num_frames, info.num_frames)
        yield decoder.flush().float().numpy()

    own = resampled_length(info.num_samples, info.source_rate, codec.sample_rate)
    num_samples = resampled_length(info.num_samples, info.source_rate, rate)
    with AudioWriter(
        target, sample_rate=rate, channels=info.channels, num_samples=num_samples, bits=bits, overwrite=overwrite
    ) as writer, folded_weights(codec):  # fmt: skip
        # What the last frame holds beyond the end is cut before it could leak into the resampler.
        exact = resample_blocks(
            decoded(), codec.sample_rate, codec.sample_rate, channels=info.channels, num_samples=own
        )
        for block in resample_blocks(exact, codec.sample_rate, rate, channels=info.channels, num_samples=num_samples):
            writer.write(block)
    return DecodeReport(
        source=str(source),
        target=str(target),
        output_rate=rate,
        channels=info.channels,
        duration_s=info.duration_s,
        frames=info.num_frames,
        peak=writer.peak,
        clipped_samples=0 if writer.bits == 'float' else writer.clipped_samples,
        model_name=info.model_name,
        seconds=time.monotonic() - started,
    )


def check_same_codec(codec: Codec, info: TokenInfo, source: Path) -> None:
    """Refuses tokens that mean something else to this codec.

    Args:
        codec: that is to decode them.
        info: header of the file.
        source: its name, for the message.

    Raises:
        CodecError: another layout, or other weights.
    """
    layout = {
        'Hz': (info.sample_rate, codec.sample_rate),
        'samples a frame': (info.samples_per_frame, codec.samples_per_frame),
        'codebooks': (info.num_codebooks, codec.num_codebooks),
        'codes in a codebook': (info.codebook_size, codec.codebook_size),
    }
    name = f'"{info.model_name}"' if info.model_name else 'a codec without a name'
    for unit, (there, here) in layout.items():
        if there != here:
            raise CodecError(f'{source} was made by {name} with {there} {unit}; this codec has {here}')
    weights = weights_hash(codec)
    if info.model_hash != weights:
        raise CodecError(
            f'{source} was made by {name}, weights {info.model_hash[:12]}; this codec has the weights {weights[:12]} '
            'and would decode noise: load the codec that made the file'
        )


class _Length:
    """Counts the samples of a stream on their way."""

    def __init__(self):
        self.samples = 0

    def counted(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks."""
        for block in blocks:
            self.samples += block.shape[1]
            yield block


def _downmixed(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        yield block.mean(axis=0, keepdims=True, dtype=np.float32)


def _check_other_file(source: Path, target: Path) -> None:
    if target.exists() and os.path.samefile(source, target):
        raise AudioFileError(f'{target} is the input; the output needs another name')
