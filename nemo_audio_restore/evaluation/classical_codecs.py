"""Speech codecs that exist already, run through their own command-line programs: codec2, Speex and Opus.

They are what a neural codec has to be measured against. All three are free, and Debian and Ubuntu package them:
``apt-get install codec2 speex opus-tools``.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_audio_restore.evaluation.speech import resampled

# Codecs answer late and drop incomplete frames: without this the end of a clip would be missing.
_PADDING_S = 0.1
_TIMEOUT_S = 120


class CodecProgramError(RuntimeError):
    """A codec's program is missing or failed; the message says what to install or what it said."""


@dataclass(frozen=True)
class CodedAudio:
    """What came out of a codec.

    Attributes:
        audio: (T,) float32 decoded samples at the rate of the input, as long as the input and the padding after it;
            the codec's delay is still in it.
        payload_bytes: coded frames, without the headers of a container.
        file_bytes: size of the file.
        duration_s: what those bytes hold.
    """

    audio: np.ndarray
    payload_bytes: int
    file_bytes: int
    duration_s: float


@dataclass(frozen=True)
class ClassicalCodec:
    """One codec at one setting. The programs read and write 16-bit mono samples and coded bytes through pipes.

    Attributes:
        name: for tables.
        package: Debian's package that holds the programs.
        encode_rate_hz: of the samples that the encoder is given.
        decode_rate_hz: of the samples that the decoder returns.
        encode: command line of the encoder.
        decode: command line of the decoder.
        in_ogg: the coded bytes come in an Ogg container.
    """

    name: str
    package: str
    encode_rate_hz: int
    decode_rate_hz: int
    encode: tuple[str, ...]
    decode: tuple[str, ...]
    in_ogg: bool

    def missing_programs(self) -> list[str]:
        """Programs that are not installed here."""
        return [command[0] for command in (self.encode, self.decode) if shutil.which(command[0]) is None]

    def code(self, audio: np.ndarray, sample_rate: int) -> CodedAudio:
        """Encodes and decodes a recording.

        Args:
            audio: samples (T,) in [-1, 1]; louder ones are clipped, as in any 16-bit file.
            sample_rate: in Hz.

        Returns:
            Decoded samples and the bytes they took.

        Raises:
            CodecProgramError: a program is missing or failed.
        """
        padded = np.concatenate([audio, np.zeros(round(_PADDING_S * sample_rate), audio.dtype)])
        samples = resampled(padded.astype(np.float64), sample_rate, self.encode_rate_hz)
        pcm = np.clip(np.round(samples * 32767), -32768, 32767).astype('<i2').tobytes()
        coded = self._run(self.encode, pcm)
        decoded = np.frombuffer(self._run(self.decode, coded), '<i2').astype(np.float64) / 32767
        return CodedAudio(
            audio=resampled(decoded, self.decode_rate_hz, sample_rate).astype(np.float32),
            payload_bytes=sum(ogg_packet_sizes(coded)[2:]) if self.in_ogg else len(coded),
            file_bytes=len(coded),
            duration_s=len(padded) / sample_rate,
        )

    def _run(self, command: Sequence[str], data: bytes) -> bytes:
        if shutil.which(command[0]) is None:
            raise CodecProgramError(
                f'{self.name} needs the program {command[0]}, which is not installed: '
                f'`apt-get install {self.package}` on Debian and Ubuntu'
            )
        done = subprocess.run(command, input=data, capture_output=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode or not done.stdout:
            said = done.stderr.decode(errors='replace').strip()[-300:] or 'nothing'
            raise CodecProgramError(f'`{" ".join(command)}` failed with status {done.returncode}; it said: {said}')
        return done.stdout


def ogg_packet_sizes(stream: bytes) -> list[int]:
    """Sizes of the packets in an Ogg stream; the first two of Speex and Opus are headers.

    Args:
        stream: the whole file.

    Returns:
        Bytes of each packet.

    Raises:
        ValueError: it is not an Ogg stream, or it is cut off.

    Source: RFC 3533, section 6.
    """
    sizes, open_size, position = [], 0, 0
    while position < len(stream):
        if stream[position : position + 4] != b'OggS' or position + 27 > len(stream):
            raise ValueError(f'no Ogg page starts at byte {position} of {len(stream)}')
        count = stream[position + 26]
        lacing = stream[position + 27 : position + 27 + count]
        for value in lacing:
            open_size += value
            if value < 255:  # the last segment of a packet
                sizes.append(open_size)
                open_size = 0
        position += 27 + count + sum(lacing)
    if position != len(stream):
        raise ValueError(f'the last Ogg page ends at byte {position}, the stream at {len(stream)}')
    return sizes


def _codec2(mode: int) -> ClassicalCodec:
    return ClassicalCodec(
        name=f'codec2 {mode}',
        package='codec2',
        encode_rate_hz=8000,
        decode_rate_hz=8000,
        encode=('c2enc', str(mode), '-', '-'),
        decode=('c2dec', str(mode), '-', '-'),
        in_ogg=False,
    )


def _speex(name: str, band: str, rate_hz: int) -> ClassicalCodec:
    # Ten frames in a packet: the bits that fill up a packet to whole bytes would otherwise be a tenth of the rate.
    encode = (
        'speexenc',
        band,
        '--quality',
        '0',
        '--nframes',
        '10',
        '--rate',
        str(rate_hz),
        '--16bit',
        '--le',
        '-',
        '-',
    )
    return ClassicalCodec(name, 'speex', rate_hz, rate_hz, encode, ('speexdec', '-', '-'), in_ogg=True)


CLASSICAL_CODECS = (
    _codec2(1600),
    _codec2(2400),
    _codec2(3200),
    _speex('Speex 8 kHz', '--narrowband', 8000),
    _speex('Speex 16 kHz', '--wideband', 16000),
    ClassicalCodec(
        name='Opus',
        package='opus-tools',
        encode_rate_hz=48000,
        decode_rate_hz=48000,
        # Speech at the lowest rate and in the longest frames that the program takes.
        encode=('opusenc', '--quiet', '--speech', '--bitrate', '6', '--framesize', '60', '--discard-comments')
        + ('--padding', '0', '--raw', '--raw-rate', '48000', '--raw-chan', '1', '-', '-'),
        decode=('opusdec', '--quiet', '--no-dither', '--rate', '48000', '-', '-'),
        in_ogg=True,
    ),
)
