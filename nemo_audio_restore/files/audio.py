"""Reading audio files block by block, with errors that a user can act on."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

READABLE_SUFFIXES = ('.wav', '.flac', '.ogg', '.oga', '.opus', '.mp3', '.aif', '.aiff', '.aifc', '.au', '.caf', '.w64')
BLOCK_SAMPLES = 1 << 16
MAX_CHANNELS = 64
SAMPLE_RATES = (1000, 1_000_000)
_LARGEST_SAMPLE = 1e6
# The length of these is an estimate or may lack a part of the last packet: what decodes is what counts.
_ESTIMATED_LENGTH = ('MP3', 'MPEG', 'OGG')
# Sizes that mean "unknown" in the header of a WAV that was written to a pipe.
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)


class AudioFileError(Exception):
    """A file cannot be read or written; the message is one sentence for the user."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a file says.

    Attributes:
        path: the file.
        sample_rate: in Hz.
        channels: number of channels C.
        num_samples: T for each channel; an estimate for MP3 and Ogg files.
        container: libsndfile's name, for example ``WAV``.
        encoding: libsndfile's name, for example ``PCM_16``.
    """

    path: Path
    sample_rate: int
    channels: int
    num_samples: int
    container: str
    encoding: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


def probe(path: str | Path) -> AudioInfo:
    """Looks at a file's header.

    Args:
        path: an audio file.

    Returns:
        Its sample rate, channels, length and encoding.

    Raises:
        AudioFileError: missing, a folder, empty, not audio, truncated (WAV), or outside the supported range.
    """
    path = Path(path)
    if path.is_dir():
        raise AudioFileError(f'{path} is a folder; a file is needed here')
    if not path.exists():
        raise AudioFileError(f'{path} does not exist')
    try:
        if path.stat().st_size == 0:
            raise AudioFileError(f'{path} is empty (0 bytes)')
        with path.open('rb') as file:
            _check_wav_is_complete(path, file)
    except OSError as error:
        raise AudioFileError(f'{path} cannot be read: {error.strerror or error}') from error
    with _open(path) as file:
        info = AudioInfo(path, file.samplerate, file.channels, file.frames, file.format, file.subtype)
    if info.num_samples <= 0:
        raise AudioFileError(f'{path} holds no samples')
    if not 1 <= info.channels <= MAX_CHANNELS:
        raise AudioFileError(f'{path} has {info.channels} channels; 1 to {MAX_CHANNELS} are supported')
    low, high = SAMPLE_RATES
    if not low <= info.sample_rate <= high:
        raise AudioFileError(f'{path} has a sample rate of {info.sample_rate} Hz; {low} to {high} Hz are supported')
    return info


def read_blocks(path: str | Path, *, block_samples: int = BLOCK_SAMPLES) -> Iterator[np.ndarray]:
    """Decodes a file from start to end in constant memory.

    Args:
        path: an audio file.
        block_samples: samples in each block but the last.

    Yields:
        (C, n) float32 blocks, 1.0 = full scale.

    Raises:
        AudioFileError: as for :func:`probe`; or damaged on the way, shorter than its header says, or with samples
            that are not finite numbers of a plausible size.
    """
    info = probe(path)
    done = 0
    with _open(info.path) as file:
        while True:
            try:
                block = file.read(block_samples, dtype='float32', always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise AudioFileError(
                    f'{info.path} is damaged: decoding stops after {done / info.sample_rate:.2f} s ({_reason(error)})'
                ) from error
            if not len(block):
                break
            _check_samples(info, block, done)
            done += len(block)
            yield np.ascontiguousarray(block.T)
    exact = not any(name in info.container for name in _ESTIMATED_LENGTH) and info.num_samples < 1 << 60
    if done == 0:
        raise AudioFileError(f'{info.path} holds no samples')
    if exact and done < info.num_samples:
        raise AudioFileError(
            f'{info.path} is truncated: its header promises {info.duration_s:.2f} s, '
            f'{done / info.sample_rate:.2f} s are there'
        )


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Reads a whole file.

    Args:
        path: an audio file that fits into memory.

    Returns:
        (C, T) float32 samples and the sample rate in Hz.

    Raises:
        AudioFileError: as for :func:`read_blocks`.
    """
    info = probe(path)
    return np.concatenate(list(read_blocks(path)), axis=1), info.sample_rate


def backend() -> dict[str, str]:
    """Version of libsndfile and the containers that it can decode here."""
    return {'libsndfile': soundfile.__libsndfile_version__, 'formats': ' '.join(sorted(soundfile.available_formats()))}


def _open(path: Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(str(path))
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise AudioFileError(
            f'{path} is not an audio file that can be read here (WAV, FLAC, Ogg, MP3, AIFF): {_reason(error)}'
        ) from error


def _reason(error: Exception) -> str:
    """What libsndfile says, without its address and file name."""
    text = getattr(error, 'error_string', None) or str(error)
    return text.strip().rstrip('.')


def _check_samples(info: AudioInfo, block: np.ndarray, offset: int) -> None:
    # One pass in the good case: a sum over squares would overflow, the largest magnitude is NaN if any sample is.
    largest = float(np.abs(block).max())
    if np.isfinite(largest) and largest <= _LARGEST_SAMPLE:
        return
    bad = ~(np.abs(block) <= _LARGEST_SAMPLE)
    where = (offset + int(np.flatnonzero(bad.any(axis=1))[0])) / info.sample_rate
    what = f'a sample of {largest:.3g} times full scale' if np.isfinite(largest) else 'a sample that is not a number'
    raise AudioFileError(f'{info.path} holds {what} at {where:.3f} s; repair or re-export the file')


def _check_wav_is_complete(path: Path, file) -> None:  # noqa: ANN001 (any binary file)
    """Compares the size of the data chunk with the file: libsndfile shortens a truncated WAV without a word."""
    head = file.read(12)
    if head[:4] != b'RIFF' or head[8:12] != b'WAVE':
        return
    size = path.stat().st_size
    for _ in range(1000):  # a damaged header may hold chunks without end
        header = file.read(8)
        if len(header) < 8:
            return
        name, length = struct.unpack('<4sI', header)
        if name == b'data':
            there = size - file.tell()
            if length not in _UNKNOWN_SIZES and there < length:
                raise AudioFileError(
                    f'{path} is truncated: its header promises {length} bytes of audio, {there} are there'
                )
            return
        file.seek(length + length % 2, 1)
