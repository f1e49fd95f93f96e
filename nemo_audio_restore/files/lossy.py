"""What a lossy codec does to audio: encode and decode in memory."""

import io

import numpy as np
import soundfile

# codec -> container and encoding of libsndfile
CODECS = {'mp3': ('MP3', 'MPEG_LAYER_III'), 'vorbis': ('OGG', 'VORBIS')}
MP3_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def lossy_round_trip(audio: np.ndarray, sample_rate: int, *, codec: str, compression: float) -> np.ndarray:
    """Encodes and decodes audio; the result has the same length and is aligned with the input.

    Args:
        audio: (C, T) float samples, 1.0 = full scale.
        sample_rate: in Hz; for MP3 one of ``MP3_SAMPLE_RATES``.
        codec: ``mp3`` or ``vorbis``.
        compression: 0 (highest rate) to 0.99 (lowest rate).

    Returns:
        (C, T) float32.

    Raises:
        ValueError: an unknown codec, a compression outside [0, 0.99], or a rate that MP3 does not have.
    """
    if codec not in CODECS:
        raise ValueError(f'codec must be one of {", ".join(CODECS)}; got {codec!r}')
    if not 0.0 <= compression <= 0.99:
        raise ValueError(f'compression must lie in [0, 0.99]; got {compression}')
    if codec == 'mp3' and sample_rate not in MP3_SAMPLE_RATES:
        raise ValueError(f'MP3 has no sample rate of {sample_rate} Hz; resample to one of {MP3_SAMPLE_RATES}')
    container, encoding = CODECS[codec]
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer,
        'w',
        samplerate=sample_rate,
        channels=audio.shape[0],
        format=container,
        subtype=encoding,
        compression_level=compression,
    ) as file:
        file.write(np.ascontiguousarray(audio.T, dtype=np.float32))
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype='float32', always_2d=True)
    length = audio.shape[1]
    decoded = decoded[:length]
    return np.pad(decoded.T, ((0, 0), (0, length - len(decoded))))
