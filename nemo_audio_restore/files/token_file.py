"""Files of codec tokens (``.nac``): packed, checked, readable block by block.

Version 1; numbers are little-endian:

| bytes | content |
|---|---|
| 4 | ``NAC`` and 0x1A |
| 2 | version of the format, 1 |
| 2 | size of the header in bytes, its checksum included |
| 4 | sample rate of the codec in Hz |
| 4 | samples that one frame stands for |
| 4 | codebook size: a token is at least 0 and less than this |
| 2 | codebooks K |
| 2 | channels C |
| 4 | sample rate of the audio that was encoded, in Hz |
| 8 | its samples in each channel |
| 8 | frames N |
| 16 | hash of the codec's weights |
| 1 + n | length of the codec's name, and the name in UTF-8 |
| 4 | CRC-32 of all this |

Then come blocks of 1024 frames, the last one shorter: the tokens, frame by frame, within it channel by channel, within
that codebook by codebook, each in ceil(log2(codebook size)) bits, highest bit first; zero bits up to a whole byte; and
a CRC-32 that goes on from that of the block before, so that no block can be moved. The file ends there: its size
follows from the header.
"""

import contextlib
import os
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from nemo_audio_restore.files.audio import AudioFileError
from nemo_audio_restore.files.token_header import (
    BLOCK_FRAMES,
    CRC,
    HEAD,
    HEADER_SIZES,
    MAGIC,
    VERSION,
    TokenInfo,
    header_problem,
    packed_header,
    parsed_header,
)
from nemo_audio_restore.files.writer import check_overwrite

SUFFIX = '.nac'


class TokenWriter:
    """Writes tokens to a temporary file beside the target, which gets its name only when everything is there.

    Use it as a context manager; an exception inside removes the temporary file and leaves an older target as it was.

    Args:
        target: ``.nac`` file to write.
        info: the header; ``num_samples`` and ``num_frames`` are set by :meth:`finish` and what was written.
        overwrite: whether an existing target may be replaced.

    Raises:
        AudioFileError: the target exists or is not called ``.nac``, the header does not fit the format, or the file
            cannot be written.
    """

    def __init__(self, target: str | Path, info: TokenInfo, *, overwrite: bool = False):
        self.target = Path(target)
        check_token_target(self.target, overwrite=overwrite)
        problem = header_problem(replace(info, num_samples=1, num_frames=1 << 20))
        if problem is not None:
            raise AudioFileError(f'{self.target} cannot be written: {problem}')
        self.info = replace(info, num_samples=0, num_frames=0)
        self._overwrite = overwrite
        self._part = self.target.with_name(f'.{self.target.name}.{secrets.token_hex(4)}.part')
        self._file: BinaryIO | None = None
        self._pending = np.zeros((info.channels, info.num_codebooks, 0), np.int32)
        self._crc = 0
        self._finished = False

    def __enter__(self) -> 'TokenWriter':
        with self._errors():
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open('w+b')
            self._file.write(bytes(len(packed_header(self.info))))
        return self

    def write(self, tokens: np.ndarray) -> None:
        """Appends frames.

        Args:
            tokens: (C, K, n) integers.

        Raises:
            AudioFileError: tokens that the header excludes, or a full disk.
        """
        info = self.info
        if tokens.shape[:2] != (info.channels, info.num_codebooks) or tokens.ndim != 3:
            raise AudioFileError(
                f'{self.target} holds {info.channels} channels of {info.num_codebooks} codebooks; '
                f'got tokens of shape {tokens.shape}'
            )
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < info.codebook_size:
            raise AudioFileError(
                f'{self.target} holds tokens in 0..{info.codebook_size - 1}; got {tokens.min()}..{tokens.max()}'
            )
        self._pending = np.concatenate([self._pending, tokens.astype(np.int32)], axis=2)
        while self._pending.shape[2] >= BLOCK_FRAMES:
            self._put(BLOCK_FRAMES)

    def finish(self, num_samples: int) -> None:
        """Says how long the audio is, at ``source_rate``; call it once, at the end.

        Args:
            num_samples: of each channel.

        Raises:
            AudioFileError: the frames that were written cannot be of that length, or the disk is full.
        """
        if self._pending.shape[2]:
            self._put(self._pending.shape[2])
        info = replace(self.info, num_samples=num_samples)
        problem = header_problem(info)
        if problem is not None:
            raise AudioFileError(f'{self.target} cannot be written: {problem}')
        with self._errors():
            self._file.seek(0)
            self._file.write(packed_header(info))
            self._file.flush()
            os.fsync(self._file.fileno())
        self.info, self._finished = info, True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._errors():
                self._file.close()
            if kind is None:
                if not self._finished:
                    raise AudioFileError(f'{self.target} was not finished: its length is not known')
                check_overwrite(self.target, overwrite=self._overwrite)
                with self._errors():
                    os.replace(self._part, self.target)
        finally:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)

    def _put(self, frames: int) -> None:
        content = _packed(self._pending[:, :, :frames], self.info.bits_per_token)
        self._pending = self._pending[:, :, frames:]
        self._crc = zlib.crc32(content, self._crc)
        self.info = replace(self.info, num_frames=self.info.num_frames + frames)
        with self._errors():
            self._file.write(content + CRC.pack(self._crc))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AudioFileError(f'{self.target} cannot be written: {error.strerror or error}') from error


def check_token_target(target: Path, *, overwrite: bool) -> None:
    """Raises AudioFileError if ``target`` is not called ``.nac``, or exists and may not be replaced."""
    if target.suffix.lower() != SUFFIX:
        raise AudioFileError(f'{target} cannot be written: the name of a token file ends in {SUFFIX}')
    check_overwrite(target, overwrite=overwrite)


def probe_tokens(path: str | Path) -> TokenInfo:
    """Looks at a token file's header.

    Args:
        path: a ``.nac`` file.

    Returns:
        What it holds.

    Raises:
        AudioFileError: missing, not a token file, of a later version, damaged, or cut short.
    """
    path = Path(path)
    with _opened(path) as file:
        return _read_header(path, file)


def read_token_blocks(path: str | Path) -> Iterator[np.ndarray]:
    """Reads a token file from start to end in constant memory.

    Args:
        path: a ``.nac`` file.

    Yields:
        (C, K, n) int32 tokens, n <= 1024; nothing of a block is given away before its checksum is right.

    Raises:
        AudioFileError: as for :func:`probe_tokens`; or a block is damaged.
    """
    path = Path(path)
    with _opened(path) as file:
        info, crc = _read_header(path, file), 0
        for first in range(0, info.num_frames, BLOCK_FRAMES):
            frames = min(BLOCK_FRAMES, info.num_frames - first)
            with _reading(path):
                content = file.read(info.block_bytes(frames))
            packed, stored = content[: -CRC.size], content[-CRC.size :]
            crc = zlib.crc32(packed, crc)
            where = first * info.samples_per_frame / info.sample_rate
            if len(content) < info.block_bytes(frames) or CRC.pack(crc) != stored:
                raise AudioFileError(f'{path} is damaged: what belongs after {where:.2f} s has another checksum')
            tokens = _unpacked(packed, info, frames)
            if tokens is None:
                raise AudioFileError(f'{path} is damaged: after {where:.2f} s it holds tokens that do not exist')
            yield tokens


def read_tokens(path: str | Path) -> tuple[np.ndarray, TokenInfo]:
    """Reads a whole token file.

    Args:
        path: a ``.nac`` file.

    Returns:
        (C, K, N) int32 tokens and the header.

    Raises:
        AudioFileError: as for :func:`read_token_blocks`.
    """
    info = probe_tokens(path)
    return np.concatenate(list(read_token_blocks(path)), axis=2), info


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path.is_dir():
        raise AudioFileError(f'{path} is a folder; a file is needed here')
    if not path.exists():
        raise AudioFileError(f'{path} does not exist')
    if not path.is_file():
        raise AudioFileError(f'{path} is no ordinary file')
    with _reading(path):
        file = path.open('rb')
    with file:
        yield file


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AudioFileError(f'{path} cannot be read: {error.strerror or error}') from error


def _read_header(path: Path, file: BinaryIO) -> TokenInfo:
    with _reading(path):
        there = os.fstat(file.fileno()).st_size
        head = file.read(HEAD.size)
    if there == 0:
        raise AudioFileError(f'{path} is empty (0 bytes)')
    if head[: len(MAGIC)] != MAGIC[: len(head)]:
        raise AudioFileError(f'{path} is not a token file: it does not begin with NAC')
    if len(head) < HEAD.size:
        raise AudioFileError(f'{path} is truncated: {there} bytes are there, less than a header')
    _, version, size = HEAD.unpack(head)
    if version != VERSION:
        raise AudioFileError(f'{path} has version {version} of the format; this program reads version {VERSION}')
    if not HEADER_SIZES[0] <= size <= HEADER_SIZES[1]:
        raise AudioFileError(f'{path} is damaged: its header cannot have {size} bytes')
    with _reading(path):
        rest = file.read(size - HEAD.size)
    if len(rest) < size - HEAD.size:
        raise AudioFileError(f'{path} is truncated: {there} bytes are there, its header has {size}')
    (crc,) = CRC.unpack(rest[-CRC.size :])
    if zlib.crc32(head + rest[: -CRC.size]) != crc:
        raise AudioFileError(f'{path} is damaged: its header has another checksum')
    info = parsed_header(rest[: -CRC.size])
    problem = 'its name is not readable' if info is None else header_problem(info)
    if problem is not None:
        raise AudioFileError(f'{path} is damaged: {problem}')
    if there != info.size_bytes:
        what = 'is truncated' if there < info.size_bytes else 'is damaged'
        raise AudioFileError(f'{path} {what}: its header promises {info.size_bytes} bytes, {there} are there')
    return info


def _packed(tokens: np.ndarray, bits: int) -> bytes:
    """(C, K, n) tokens as bits, highest first, frame by frame."""
    flat = np.ascontiguousarray(tokens.transpose(2, 0, 1)).reshape(-1, 1)
    digits = np.unpackbits(flat.astype('>u2').view(np.uint8), axis=1)[:, 16 - bits :]
    return np.packbits(digits.reshape(-1)).tobytes()


def _unpacked(content: bytes, info: TokenInfo, frames: int) -> np.ndarray | None:
    """The inverse of :func:`_packed`; None if a token is too large or a bit beyond the last one is set."""
    count = frames * info.channels * info.num_codebooks
    digits = np.unpackbits(np.frombuffer(content, np.uint8))
    if digits[count * info.bits_per_token :].any():
        return None
    padded = np.zeros((count, 16), np.uint8)
    padded[:, 16 - info.bits_per_token :] = digits[: count * info.bits_per_token].reshape(count, -1)
    tokens = np.packbits(padded, axis=1).view('>u2').astype(np.int32)
    if tokens.max() >= info.codebook_size:
        return None
    return tokens.reshape(frames, info.channels, info.num_codebooks).transpose(1, 2, 0).copy()
