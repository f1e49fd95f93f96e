"""Speech to tokens and back: any length in constant memory, plain torch; sees a model only through ``Codec``."""

from nemo_audio_restore.codec.engine import decode_file, encode_file
from nemo_audio_restore.codec.protocol import Codec, CodecError, DecodeReport, EncodeReport
from nemo_audio_restore.codec.streaming import (
    StreamingDecoder,
    StreamingEncoder,
    decode_chunked,
    encode_chunked,
)
from nemo_audio_restore.codec.weights import weights_hash

__all__ = [
    'Codec',
    'CodecError',
    'DecodeReport',
    'EncodeReport',
    'StreamingDecoder',
    'StreamingEncoder',
    'decode_chunked',
    'decode_file',
    'encode_chunked',
    'encode_file',
    'weights_hash',
]
