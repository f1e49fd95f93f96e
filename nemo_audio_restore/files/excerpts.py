"""Looking into a long audio file at a few places, without decoding all of it."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from nemo_audio_restore.files.audio import AudioFileError, AudioInfo, probe, read_blocks

# Some Ogg and MP3 files end a little before the length that their header implies.
_HEADER_SLACK_S = 0.1


def read_excerpts(path: str | Path, *, count: int = 6, excerpt_s: float = 5.0) -> Iterator[tuple[np.ndarray, int]]:
    """Reads excerpts spread evenly over a file, its beginning and its end included.

    Args:
        path: an audio file; it is read whole when it is not longer than the excerpts together.
        count: number of excerpts, at least 2.
        excerpt_s: length of each, in seconds.

    Yields:
        (C, n) float32 samples, and the number of samples by which the file is shorter than its header says (found in
        the last excerpt; 0 for all others).

    Raises:
        AudioFileError: unreadable, damaged or truncated by more than 0.1 s.
    """
    info = probe(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            for start, size in _positions(info, count, excerpt_s):
                file.seek(start)
                block = file.read(size, dtype='float32', always_2d=True)
                missing = size - len(block)
                if missing and start + len(block) < info.num_samples - _HEADER_SLACK_S * info.sample_rate:
                    raise AudioFileError(
                        f'{path} is truncated: its header promises {info.duration_s:.2f} s, '
                        f'reading stops at {(start + len(block)) / info.sample_rate:.2f} s'
                    )
                yield np.ascontiguousarray(block.T), missing
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioFileError(f'{path} is damaged: {error}') from error


def _positions(info: AudioInfo, count: int, excerpt_s: float) -> list[tuple[int, int]]:
    size = int(excerpt_s * info.sample_rate)
    if info.num_samples <= count * size:
        return [(0, info.num_samples)]
    return [(int(start), size) for start in np.linspace(0, info.num_samples - size, count)]


def read_spans(path: str | Path, spans: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """Cuts stretches out of a file in one pass, exact to the sample also where seeking is not (MP3).

    Args:
        path: an audio file.
        spans: (start, end) in seconds, sorted by their start; they may overlap.

    Returns:
        For each span (C, n) float32 samples, fewer where the file ends before.

    Raises:
        AudioFileError: unreadable or damaged.
    """
    rate = probe(path).sample_rate
    limits = [(round(start * rate), round(end * rate)) for start, end in spans]
    pieces: list[list[np.ndarray]] = [[] for _ in limits]
    offset, last = 0, max((stop for _, stop in limits), default=0)
    for block in read_blocks(path):
        for collected, (start, stop) in zip(pieces, limits, strict=True):
            collected.append(block[:, max(start - offset, 0) : max(stop - offset, 0)])
        offset += block.shape[1]
        if offset >= last:
            break
    return [np.concatenate(collected, axis=1) for collected in pieces]


def flac_bytes(audio: np.ndarray, sample_rate: int) -> bytes:
    """A FLAC file of 16 bits in memory, for embedding.

    Args:
        audio: (C, T) samples, C <= 8; what exceeds full scale is clipped.
        sample_rate: in Hz.

    Returns:
        The file.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio.T, -1.0, 1.0), sample_rate, 'PCM_16', format='FLAC')
    return buffer.getvalue()
