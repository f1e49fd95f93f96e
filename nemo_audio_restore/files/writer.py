"""Writing audio files: block by block, complete or not at all."""

import contextlib
import os
import secrets
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile

from nemo_audio_restore.files.audio import BLOCK_SAMPLES, AudioFileError

CLIP_POLICIES = ('none', 'clamp', 'rescale')
_CONTAINERS = {'.wav': 'WAV', '.flac': 'FLAC'}
_ENCODINGS = {
    'WAV': {'16': 'PCM_16', '24': 'PCM_24', 'float': 'FLOAT'},
    'FLAC': {'16': 'PCM_16', '24': 'PCM_24'},
}
_DEFAULT_BITS = {'WAV': 'float', 'FLAC': '24'}
_BYTES = {'16': 2, '24': 3, 'float': 4}
_MAX_FLAC_CHANNELS = 8
_MAX_FLAC_RATE = 655350
_FULL_BYTES = 1 << 20  # less is left when a block did not fit
_WAV_LIMIT_BYTES = (1 << 32) - (1 << 16)


class AudioWriter:
    """Writes blocks to a temporary file beside the target, which gets its name only when everything is there.

    Use it as a context manager; an exception inside removes the temporary file and leaves an older target as it was.

    Args:
        target: file to write, ``.wav`` or ``.flac``.
        sample_rate: in Hz.
        channels: C.
        num_samples: T, known in advance: a WAV above 4 GB becomes an RF64.
        bits: '16', '24' or 'float'; None takes float for WAV and 24 for FLAC, which has no float.
        clip: what to do above full scale. 'none': integer files saturate, float files keep the level, and
            ``clipped_samples`` counts; 'clamp': limit to full scale; 'rescale': turn the whole file down so that the
            loudest sample just fits.
        overwrite: whether an existing target may be replaced.
        folder: where the temporary file lies, on the target's file system; None for beside the target.

    Attributes:
        peak: largest magnitude written so far, 1.0 = full scale.
        clipped_samples: samples above full scale so far.
        rescale_db: gain that 'rescale' has applied, 0 or negative; known after the end.

    Raises:
        AudioFileError: the settings do not fit the format, the target exists, or it cannot be written.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        sample_rate: int,
        channels: int,
        num_samples: int,
        bits: str | None = None,
        clip: str = 'none',
        overwrite: bool = False,
        folder: Path | None = None,
    ):
        self.target = Path(target)
        self.container, self.bits = check_target(
            self.target, bits=bits, clip=clip, channels=channels, sample_rate=sample_rate
        )
        self.clip = clip
        self.sample_rate = sample_rate
        self.channels = channels
        self.num_samples = num_samples
        self.peak = 0.0
        self.clipped_samples = 0
        self.rescale_db = 0.0
        self._overwrite = overwrite
        check_overwrite(self.target, overwrite=overwrite)
        # A folder is its owner's alone: what a killed process has left there is written over.
        beside = self.target.with_name(f'.{self.target.name}.{secrets.token_hex(4)}.part')
        self._part = beside if folder is None else folder / 'audio.part'
        self._samples = 0
        self._scratch = self._part.with_suffix('.scratch') if clip == 'rescale' else None
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> 'AudioWriter':
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AudioFileError(f'{self.target.parent} cannot be created: {error.strerror or error}') from error
        path, bits = (self._scratch, 'float') if self._scratch else (self._part, self.bits)
        self._file = self._create(path, 'WAV' if self._scratch else self.container, bits)
        return self

    def write(self, block: np.ndarray) -> None:
        """Appends (C, n) float32 samples.

        Args:
            block: 1.0 = full scale.

        Raises:
            AudioFileError: the disk is full, or writing fails otherwise.
        """
        self._samples += block.shape[1]
        peak = float(np.abs(block).max(initial=0.0))
        self.peak = max(self.peak, peak)
        if peak > 1.0:
            self.clipped_samples += int((np.abs(block) > 1.0).sum())
        if self._scratch is None:
            self._put(self._file, block, self.bits)
        else:
            self._put(self._file, block, 'float')

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._errors():
                self._file.close()
            if kind is None:
                if self._scratch is not None:
                    self._rescale()
                check_overwrite(self.target, overwrite=self._overwrite)
                self._check_complete()
                with self._errors():
                    os.replace(self._part, self.target)
        finally:
            for path in (self._part, self._scratch):
                if path is not None:
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)

    def _check_complete(self) -> None:
        """Looks at the end of the file: libsndfile says nothing when the disk is full at the moment of closing."""
        with self._errors():
            with self._part.open('r+b') as file:
                _forget_time(file)
                os.fsync(file.fileno())
            with soundfile.SoundFile(str(self._part)) as file:
                file.seek(max(self._samples - 1, 0))
                complete = file.frames == self._samples and len(file.read(1)) == min(self._samples, 1)
        if not complete:
            raise AudioFileError(f'{self.target} cannot be written completely: the disk may be full')

    def _rescale(self) -> None:
        """Second pass: now that the peak is known, the level can be set."""
        loudest = 1.0 if self.bits == 'float' else 1.0 - 2.0 ** (1 - int(self.bits))
        gain = min(1.0, loudest / self.peak) if self.peak > 0 else 1.0
        self.rescale_db = 20 * float(np.log10(gain))
        with self._create(self._part, self.container, self.bits) as file:
            with soundfile.SoundFile(str(self._scratch)) as source:
                while len(block := source.read(BLOCK_SAMPLES, dtype='float32', always_2d=True)):
                    self._put(file, block.T * np.float32(gain), self.bits)

    def _create(self, path: Path, container: str, bits: str) -> soundfile.SoundFile:
        size = self.num_samples * self.channels * _BYTES[bits]
        if container == 'WAV' and size > _WAV_LIMIT_BYTES:
            container = 'RF64'
        encoding = _ENCODINGS['WAV' if container == 'RF64' else container][bits]
        with self._errors():
            return soundfile.SoundFile(
                str(path), 'w', samplerate=self.sample_rate, channels=self.channels, format=container, subtype=encoding
            )

    def _put(self, file: soundfile.SoundFile, block: np.ndarray, bits: str) -> None:
        with self._errors():
            file.write(_encoded(block, bits, clamp=self.clip == 'clamp').T)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AudioFileError(f'{self.target} cannot be written: {error.strerror or error}') from error
        except (soundfile.SoundFileError, RuntimeError, AssertionError) as error:
            text = getattr(error, 'error_string', None) or str(error) or 'the disk may be full'
            with contextlib.suppress(OSError):
                if shutil.disk_usage(self._part.parent).free < _FULL_BYTES:
                    text = 'the disk is full'
            raise AudioFileError(f'{self.target} cannot be written: {text.strip()}') from error


def check_target(target: Path, *, bits: str | None, clip: str, channels: int, sample_rate: int) -> tuple[str, str]:
    """Checks that a format can hold what is asked.

    Args:
        target: file to write.
        bits: '16', '24', 'float' or None.
        clip: a member of ``CLIP_POLICIES``.
        channels: C.
        sample_rate: in Hz.

    Returns:
        libsndfile's container name and the bits to write.

    Raises:
        AudioFileError: with the choice there is.
    """
    container = _CONTAINERS.get(target.suffix.lower())
    if container is None:
        raise AudioFileError(f'{target} cannot be written: the name must end in .wav or .flac, not "{target.suffix}"')
    if clip not in CLIP_POLICIES:
        raise AudioFileError(f'clip policy "{clip}" is unknown; choose from {", ".join(CLIP_POLICIES)}')
    bits = _DEFAULT_BITS[container] if bits is None else bits
    if bits not in _ENCODINGS[container]:
        raise AudioFileError(f'{container} cannot hold "{bits}" bits; choose from {", ".join(_ENCODINGS[container])}')
    if container == 'FLAC' and channels > _MAX_FLAC_CHANNELS:
        raise AudioFileError(f'FLAC holds at most {_MAX_FLAC_CHANNELS} channels, this file has {channels}; write .wav')
    if container == 'FLAC' and sample_rate > _MAX_FLAC_RATE:
        raise AudioFileError(f'FLAC goes up to {_MAX_FLAC_RATE} Hz, this file has {sample_rate} Hz; write .wav')
    return container, bits


def check_overwrite(target: Path, *, overwrite: bool) -> None:
    """Raises AudioFileError if ``target`` exists and may not be replaced, or is a folder."""
    if target.is_dir():
        raise AudioFileError(f'{target} is a folder; the name of a file is needed')
    if target.exists() and not overwrite:
        raise AudioFileError(f'{target} exists; allow overwriting, or choose another name')


def write_audio(
    target: str | Path,
    audio: np.ndarray,
    sample_rate: int,
    *,
    bits: str | None = None,
    clip: str = 'none',
    overwrite: bool = False,
) -> None:
    """Writes a whole file.

    Args:
        target: ``.wav`` or ``.flac``.
        audio: (C, T) samples, 1.0 = full scale.
        sample_rate: in Hz.
        bits: as for :class:`AudioWriter`.
        clip: as for :class:`AudioWriter`.
        overwrite: as for :class:`AudioWriter`.

    Raises:
        AudioFileError: as for :class:`AudioWriter`.
    """
    channels, num_samples = audio.shape
    with AudioWriter(
        target, sample_rate=sample_rate, channels=channels, num_samples=num_samples, bits=bits, clip=clip,
        overwrite=overwrite,
    ) as writer:  # fmt: skip
        for start in range(0, num_samples, BLOCK_SAMPLES):
            writer.write(np.asarray(audio[:, start : start + BLOCK_SAMPLES], np.float32))


def _forget_time(file: BinaryIO) -> None:
    """Sets the time of writing to zero that libsndfile puts into a float WAV: equal samples make equal files."""
    header = file.read(12)
    if header[:4] != b'RIFF':
        return
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack('<4sI', chunk)
        if name == b'PEAK':
            file.seek(4, os.SEEK_CUR)  # the version
            file.write(bytes(4))
        if name in (b'PEAK', b'data'):
            return
        file.seek(size + size % 2, os.SEEK_CUR)


def _encoded(block: np.ndarray, bits: str, *, clamp: bool) -> np.ndarray:
    """Samples as the file stores them.

    Integers are rounded here, with the scale that reading uses: libsndfile multiplies by 2**15 - 1 or truncates, so
    that a file would not survive reading and writing.
    """
    if bits == 'float':
        return np.clip(block, -1.0, 1.0) if clamp else block
    scale = 2.0 ** (int(bits) - 1)
    integers = np.clip(np.rint(block.astype(np.float64) * scale), -scale, scale - 1)
    if bits == '16':
        return integers.astype(np.int16)
    return integers.astype(np.int32) << 8  # libsndfile stores the upper 24 bits
