"""The header of a token file: what it says, and how that is stored. ``files.token_file`` describes the layout."""

import re
import struct
import zlib
from dataclasses import dataclass

from nemo_audio_restore.files.audio import MAX_CHANNELS, SAMPLE_RATES
from nemo_audio_restore.files.resample import resampled_length

MAGIC = b'NAC\x1a'
VERSION = 1
BLOCK_FRAMES = 1024
HEAD = struct.Struct('<4sHH')
CRC = struct.Struct('<I')
_BODY = struct.Struct('<IIIHHIQQ16s')
_MAX_CODEBOOKS = 64
_CODEBOOK_SIZES = (2, 1 << 16)
_MAX_SAMPLES_PER_FRAME = 1 << 20
_MAX_SAMPLES = 1 << 48
_MAX_NAME_BYTES = 255
HEADER_SIZES = (HEAD.size + _BODY.size + 1 + CRC.size, HEAD.size + _BODY.size + 1 + _MAX_NAME_BYTES + CRC.size)
"""Fewest and most bytes of a header."""


@dataclass(frozen=True)
class TokenInfo:
    """What the header of a token file says.

    Attributes:
        sample_rate: of the codec, in Hz.
        samples_per_frame: samples that one frame stands for, at the codec's rate.
        num_codebooks: K.
        codebook_size: a token is at least 0 and less than this.
        channels: C.
        source_rate: sample rate of the audio that was encoded, in Hz.
        num_samples: its length in each channel, at ``source_rate``.
        num_frames: N in each channel.
        model_name: what the codec was called; the hash decides.
        model_hash: 32 hexadecimal digits.
    """

    sample_rate: int
    samples_per_frame: int
    num_codebooks: int
    codebook_size: int
    channels: int
    source_rate: int
    num_samples: int
    num_frames: int
    model_name: str
    model_hash: str

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return self.num_samples / self.source_rate

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.samples_per_frame

    @property
    def bits_per_token(self) -> int:
        """Bits in which a token is stored."""
        return (self.codebook_size - 1).bit_length()

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        full, rest = divmod(self.num_frames, BLOCK_FRAMES)
        blocks = full * self.block_bytes(BLOCK_FRAMES) + (self.block_bytes(rest) if rest else 0)
        return len(packed_header(self)) + blocks

    def block_bytes(self, frames: int) -> int:
        """Bytes of a block of so many frames, its checksum included."""
        return (frames * self.channels * self.num_codebooks * self.bits_per_token + 7) // 8 + CRC.size


def packed_header(info: TokenInfo) -> bytes:
    """The header as it stands in a file, its checksum included."""
    name = info.model_name.encode()
    body = _BODY.pack(
        info.sample_rate, info.samples_per_frame, info.codebook_size, info.num_codebooks, info.channels,
        info.source_rate, info.num_samples, info.num_frames, bytes.fromhex(info.model_hash),
    ) + bytes([len(name)]) + name  # fmt: skip
    content = HEAD.pack(MAGIC, VERSION, HEAD.size + len(body) + CRC.size) + body
    return content + CRC.pack(zlib.crc32(content))


def parsed_header(body: bytes) -> TokenInfo | None:
    """What stands between the size of the header and its checksum; None if the name is not readable."""
    rate, per_frame, size, codebooks, channels, source_rate, samples, frames, weights = _BODY.unpack_from(body)
    name = body[_BODY.size + 1 :]
    if body[_BODY.size] != len(name):
        return None
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    return TokenInfo(rate, per_frame, codebooks, size, channels, source_rate, samples, frames, text, weights.hex())


def header_problem(info: TokenInfo) -> str | None:
    """What is wrong with a header, in words; None if nothing is."""
    low, high = SAMPLE_RATES
    checks = (
        (low <= info.sample_rate <= high, f'a codec at {info.sample_rate} Hz is not possible'),
        (low <= info.source_rate <= high, f'audio at {info.source_rate} Hz is not possible'),
        (1 <= info.samples_per_frame <= _MAX_SAMPLES_PER_FRAME, f'{info.samples_per_frame} samples are no frame'),
        (1 <= info.num_codebooks <= _MAX_CODEBOOKS, f'{info.num_codebooks} codebooks are not possible'),
        (
            _CODEBOOK_SIZES[0] <= info.codebook_size <= _CODEBOOK_SIZES[1],
            f'a codebook of {info.codebook_size} is not possible',
        ),
        (1 <= info.channels <= MAX_CHANNELS, f'{info.channels} channels are not possible'),
        (re.fullmatch('[0-9a-f]{32}', info.model_hash), 'the hash of the codec must have 32 hexadecimal digits'),
        (info.model_name.isprintable(), 'the name of the codec is not printable'),
        (len(info.model_name.encode(errors='replace')) <= _MAX_NAME_BYTES, 'the name of the codec is too long'),
        (1 <= info.num_samples <= _MAX_SAMPLES, f'{info.num_samples} samples are not possible'),
    )
    for is_right, problem in checks:
        if not is_right:
            return problem
    needed = resampled_length(info.num_samples, info.source_rate, info.sample_rate)
    if not max(needed, 1) <= info.num_frames * info.samples_per_frame <= _MAX_SAMPLES:
        return f'{info.num_frames} frames cannot hold {info.num_samples} samples'
    return None
