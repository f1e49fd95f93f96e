"""Looking into a long audio file at a few places, without decoding all of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from nemo_audio_restore.files.audio import AudioFileError, AudioInfo, probe

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
