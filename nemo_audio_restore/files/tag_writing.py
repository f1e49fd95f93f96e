"""Tags in the form that WAV and FLAC files store, written without touching the samples.

Source: RIFF (Microsoft/IBM 1991), RFC 9639 (FLAC), ID3v2.4 (id3.org), EBU Tech 3285 (bext).
"""

import os
import secrets
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

_INFO_NAMES = {
    'TITLE': b'INAM',
    'ARTIST': b'IART',
    'ALBUM': b'IPRD',
    'GENRE': b'IGNR',
    'DATE': b'ICRD',
    'COMMENT': b'ICMT',
    'COPYRIGHT': b'ICOP',
    'TRACKNUMBER': b'ITRK',
}
_ID3_FRAMES = {
    'TITLE': 'TIT2',
    'ARTIST': 'TPE1',
    'ALBUM': 'TALB',
    'ALBUMARTIST': 'TPE2',
    'COMPOSER': 'TCOM',
    'CONDUCTOR': 'TPE3',
    'LYRICIST': 'TEXT',
    'GENRE': 'TCON',
    'DATE': 'TDRC',
    'COPYRIGHT': 'TCOP',
    'ISRC': 'TSRC',
    'BPM': 'TBPM',
    'PUBLISHER': 'TPUB',
    'LANGUAGE': 'TLAN',
    'MEDIA': 'TMED',
    'ENCODEDBY': 'TENC',
    'INITIALKEY': 'TKEY',
}
_MOST_PICTURE_BYTES = 1 << 27  # an ID3 size has 4 x 7 bits
_FLAC_BLOCK_LIMIT = 1 << 24
_RIFF_LIMIT = 1 << 32
_COMMENTS, _PICTURE, _PADDING = 4, 6, 1
_VENDOR = b'nemo-audio-restore'

Fields = Mapping[str, Sequence[str]]


class PictureLike(Protocol):
    """A picture with its kind, see ``files.tags.Picture``."""

    kind: int
    mime_type: str
    description: str
    data: bytes


def replace_flac_tags(path: Path, fields: Fields, pictures: Sequence[PictureLike]) -> list[str]:
    """Gives a FLAC file new comments and pictures; the file is replaced at once or not at all.

    Args:
        path: a complete FLAC file.
        fields: Vorbis comment name to values.
        pictures: to embed.

    Returns:
        Sentences about what does not fit.

    Raises:
        OSError: the disk is full, or the file cannot be written otherwise.
    """
    part = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.part')
    problems: list[str] = []
    try:
        with path.open('rb') as old, part.open('wb') as new:
            blocks = [block for block in _flac_blocks(old) if block[0] not in (_COMMENTS, _PICTURE, _PADDING)]
            blocks.append((_COMMENTS, _vorbis_comments(fields)))
            blocks += [(_PICTURE, _flac_picture(picture)) for picture in pictures]
            fitting = [block for block in blocks if len(block[1]) < _FLAC_BLOCK_LIMIT]
            if len(fitting) < len(blocks):
                problems.append(f'{path}: tags or pictures above 16 MB do not fit into FLAC and were left out')
            new.write(b'fLaC')
            for number, (kind, body) in enumerate(fitting, 1):
                last = 0x80 if number == len(fitting) else 0
                new.write(bytes([kind | last]) + len(body).to_bytes(3, 'big') + body)
            shutil.copyfileobj(old, new, 1 << 20)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return problems


def append_wav_tags(
    path: Path, fields: Fields, pictures: Sequence[PictureLike], *, broadcast: bytes, software: str
) -> list[str]:
    """Appends tags behind the samples of a WAV or RF64 file; killed in between, the file is as it was to readers.

    Args:
        path: a complete file.
        fields: Vorbis comment name to values; the common ones go into ``LIST INFO``, all into an ID3 chunk.
        pictures: for the ID3 chunk.
        broadcast: body of a ``bext`` chunk, or empty.
        software: for ``LIST INFO``.

    Returns:
        Sentences about what does not fit.

    Raises:
        OSError: the disk is full, or the file cannot be written otherwise; the file is then as it was.
    """
    problems: list[str] = []
    info = {code: fields[name][0] for name, code in _INFO_NAMES.items() if name in fields} | {b'ISFT': software}
    texts = [_chunk(code, text.encode() + b'\0') for code, text in info.items()]
    chunks = [_chunk(b'LIST', b'INFO' + b''.join(texts))]
    if broadcast:
        chunks.append(_chunk(b'bext', broadcast))
    if set(fields) - {'RESTORATION'} or pictures:
        if sum(len(picture.data) for picture in pictures) > _MOST_PICTURE_BYTES:
            problems.append(f'{path}: pictures above 128 MB were left out')
            pictures = ()
        chunks.append(_chunk(b'id3 ', _id3(fields, pictures)))
    tail = b''.join(chunks)
    with path.open('r+b') as file:
        kind = file.read(4)
        length = file.seek(0, os.SEEK_END)
        tail = b'\0' * (length % 2) + tail
        if kind == b'RIFF' and length + len(tail) - 8 >= _RIFF_LIMIT:
            return [*problems, f'{path} is too long for tags: with them it would exceed 4 GB']
        try:
            file.write(tail)
            file.flush()
        except OSError:
            file.truncate(length)
            raise
        size = length + len(tail) - 8
        # RF64 keeps its size as 64 bits in the ds64 chunk, which is always the first.
        file.seek(4 if kind == b'RIFF' else 20)
        file.write(struct.pack('<I' if kind == b'RIFF' else '<Q', size))
    return problems


def _flac_blocks(file: BinaryIO) -> list[tuple[int, bytes]]:
    """Metadata blocks; the file then stands at the first audio frame."""
    file.seek(4)
    blocks, last = [], False
    while not last:
        head = file.read(4)
        last = bool(head[0] & 0x80)
        blocks.append((head[0] & 0x7F, file.read(int.from_bytes(head[1:], 'big'))))
    return blocks


def _vorbis_comments(fields: Fields) -> bytes:
    comments = [f'{name}={value}'.encode() for name, values in fields.items() for value in values]
    parts = [_VENDOR, None, *comments]
    return b''.join(
        struct.pack('<I', len(comments)) if part is None else struct.pack('<I', len(part)) + part for part in parts
    )


def _flac_picture(picture: PictureLike) -> bytes:
    def counted(data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + data

    # Width, height, depth and colours may be 0: unknown.
    return (
        struct.pack('>I', picture.kind)
        + counted(picture.mime_type.encode('ascii', 'replace'))
        + counted(picture.description.encode())
        + bytes(16)
        + counted(picture.data)
    )


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack('<I', len(body)) + body + b'\0' * (len(body) % 2)


def _id3(fields: Fields, pictures: Sequence[PictureLike]) -> bytes:
    frames = []
    for name, values in fields.items():
        text = '\0'.join(values)
        if name in ('TRACKTOTAL', 'DISCTOTAL'):
            continue
        if name in ('TRACKNUMBER', 'DISCNUMBER'):
            total = fields.get(name.replace('NUMBER', 'TOTAL'), ())
            frames.append(_text_frame('TRCK' if name[0] == 'T' else 'TPOS', '/'.join((values[0], *total[:1]))))
        elif name in ('COMMENT', 'LYRICS'):
            body = b'\x03und\0' + '\n'.join(values).encode()
            frames.append(_frame('COMM' if name == 'COMMENT' else 'USLT', body))
        elif name in _ID3_FRAMES:
            frames.append(_text_frame(_ID3_FRAMES[name], text))
        else:
            frames += [_frame('TXXX', b'\x03' + name.encode() + b'\0' + value.encode()) for value in values]
    for picture in pictures:
        mime_type = picture.mime_type.encode('ascii', 'replace')
        body = b'\x03' + mime_type + b'\0' + bytes([picture.kind]) + picture.description.encode() + b'\0'
        frames.append(_frame('APIC', body + picture.data))
    body = b''.join(frames)
    return b'ID3\x04\0\0' + _synchsafe(len(body)) + body


def _text_frame(name: str, text: str) -> bytes:
    return _frame(name, b'\x03' + text.encode())


def _frame(name: str, body: bytes) -> bytes:
    return name.encode() + _synchsafe(len(body)) + b'\0\0' + body


def _synchsafe(number: int) -> bytes:
    return bytes((number >> shift) & 0x7F for shift in (21, 14, 7, 0))
