"""Tags and pictures of an audio file: read from any format, carried over to WAV and FLAC."""

import struct
from dataclasses import dataclass
from pathlib import Path

import tinytag

from nemo_audio_restore.files.audio import AudioFileError, probe
from nemo_audio_restore.files.tag_writing import append_wav_tags, replace_flac_tags

# tinytag's names -> Vorbis comment names, where they differ by more than case
_VORBIS_NAMES = {
    'year': 'DATE',
    'track': 'TRACKNUMBER',
    'track_total': 'TRACKTOTAL',
    'disc': 'DISCNUMBER',
    'disc_total': 'DISCTOTAL',
    'url': 'WEBSITE',
    'set_subtitle': 'DISCSUBTITLE',
    'initial_key': 'INITIALKEY',
    'encoded_by': 'ENCODEDBY',
    'catalog_number': 'CATALOGNUMBER',
    'movement_name': 'MOVEMENTNAME',
    'movement_total': 'MOVEMENTTOTAL',
    'show_movement': 'SHOWMOVEMENT',
}
# What describes the old file rather than the recording: its encoder, its padding, its length in the container.
_OF_THE_FILE = {'encoder', 'encoder_settings', 'isft', 'itunsmpb', 'itunnorm', 'itunpgap', 'tlen', 'xmp'}
_PICTURE_KINDS = {
    name: kind
    for kind, name in enumerate(
        'generic icon alt_icon front_cover back_cover leaflet media lead_artist artist conductor band composer '
        'lyricist recording_location during_recording during_performance screen_capture bright_colored_fish '
        'illustration band_logo publisher_logo'.split()
    )
}
_SIGNATURES = {b'\x89PNG': 'image/png', b'\xff\xd8\xff': 'image/jpeg', b'GIF8': 'image/gif', b'RIFF': 'image/webp'}
_BEXT_TIME_OFFSET = 338  # of the 64 bit sample count since midnight (EBU Tech 3285)
_LARGEST_BEXT = 1 << 20


@dataclass(frozen=True)
class Picture:
    """A picture inside an audio file.

    Attributes:
        kind: ID3's and FLAC's number; 3 is the front cover.
        mime_type: such as ``image/jpeg``.
        description: free text, often empty.
        data: the picture file.
    """

    kind: int
    mime_type: str
    description: str
    data: bytes


@dataclass(frozen=True)
class Tags:
    """What a file says about its recording.

    Attributes:
        fields: Vorbis comment name (upper case) to values.
        pictures: cover and others.
        broadcast: body of a WAV's ``bext`` chunk (Broadcast Wave), or empty.
    """

    fields: dict[str, tuple[str, ...]]
    pictures: tuple[Picture, ...] = ()
    broadcast: bytes = b''

    def __bool__(self) -> bool:
        """Whether there is anything at all."""
        return bool(self.fields or self.pictures or self.broadcast)


def read_tags(path: str | Path) -> Tags:
    """Reads tags and pictures of WAV, AIFF, FLAC, Ogg and MP3 files.

    Args:
        path: an audio file.

    Returns:
        Its tags without what describes the file instead of the recording (encoder, padding); empty if it has none.

    Raises:
        AudioFileError: the tags are damaged or of an unknown kind.
    """
    try:
        found = tinytag.TinyTag.get(path, tags=True, duration=False, image=True)
    except tinytag.UnsupportedFormatError:
        return Tags({})
    except (tinytag.TinyTagException, OSError) as error:
        raise AudioFileError(f'the tags of {path} cannot be read: {error}') from error
    standard = 'title artist album albumartist composer genre year track track_total disc disc_total comment'.split()
    values = {name: [str(getattr(found, name))] for name in standard if getattr(found, name) is not None}
    for name, more in found.other.items():
        values.setdefault(name, []).extend(more)
    fields: dict[str, tuple[str, ...]] = {}
    for name, texts in values.items():
        clean = tuple(dict.fromkeys(_clean(text) for text in texts if _clean(text)))
        key = _VORBIS_NAMES.get(name, name.upper())
        if clean and name not in _OF_THE_FILE and _is_vorbis_name(key):
            fields[key] = clean
    pictures = tuple(
        Picture(_PICTURE_KINDS.get(name, 0), _mime_type(image), _clean(image.description or ''), image.data)
        for name, images in found.images.as_dict().items()
        for image in images
        if image.data
    )
    return Tags(fields, pictures, _read_broadcast(Path(path)))


def keep_tags(source: str | Path, target: str | Path, *, note: str) -> list[str]:
    """Gives a written file the tags and pictures of the file that it was made from, and a note of what was done.

    The samples stay as they are. A WAV gets a ``LIST INFO`` chunk, an ID3 chunk and its ``bext`` chunk, whose start
    time follows the sample rate; a FLAC gets Vorbis comments and picture blocks.

    Args:
        source: file with the tags.
        target: complete ``.wav`` or ``.flac``; it is changed.
        note: one sentence, kept as RESTORATION (FLAC, ID3) and as the software of a WAV.

    Returns:
        Sentences about what could not be kept; empty when all is there. No problem with tags is an error: the audio
        is what counts.
    """
    problems = []
    try:
        tags = read_tags(source)
    except AudioFileError as error:
        tags = Tags({})
        problems.append(str(error))
    notes = (*tags.fields.get('RESTORATION', ()), note)
    tags = Tags({**tags.fields, 'RESTORATION': notes}, tags.pictures, tags.broadcast)
    try:
        if Path(target).suffix.lower() == '.flac':
            problems += replace_flac_tags(Path(target), tags.fields, tags.pictures)
        else:
            broadcast = _moved(tags.broadcast, Path(source), Path(target))
            problems += append_wav_tags(
                Path(target), tags.fields, tags.pictures, broadcast=broadcast, software=' / '.join(notes)
            )
    except OSError as error:
        problems.append(f'tags could not be written into {target}: {error.strerror or error}')
    return problems


def _clean(text: str) -> str:
    return text.replace('\0', ' ').strip()


def _is_vorbis_name(name: str) -> bool:
    return name.isascii() and name.isprintable() and bool(name) and '=' not in name and '~' not in name


def _mime_type(image: tinytag.Image) -> str:
    """What the data is, whatever the tag says."""
    for signature, mime_type in _SIGNATURES.items():
        if image.data.startswith(signature):
            return mime_type
    return image.mime_type or 'application/octet-stream'


def _read_broadcast(path: Path) -> bytes:
    """Body of the ``bext`` chunk of a RIFF file, empty without one."""
    with path.open('rb') as file:
        head = file.read(12)
        if head[:4] not in (b'RIFF', b'RF64') or head[8:] != b'WAVE':
            return b''
        for _ in range(1000):  # a damaged header may hold chunks without end
            header = file.read(8)
            if len(header) < 8:
                return b''
            name, length = struct.unpack('<4sI', header)
            if name == b'bext':
                body = file.read(min(length, _LARGEST_BEXT))
                return body if len(body) >= _BEXT_TIME_OFFSET + 8 else b''
            file.seek(length + length % 2, 1)
    return b''


def _moved(broadcast: bytes, source: Path, target: Path) -> bytes:
    """The ``bext`` chunk with its start, which is counted in samples, at the target's rate."""
    if not broadcast:
        return broadcast
    from_hz, to_hz = probe(source).sample_rate, probe(target).sample_rate
    (start,) = struct.unpack_from('<Q', broadcast, _BEXT_TIME_OFFSET)
    moved = min(round(start * to_hz / from_hz), (1 << 64) - 1)
    return broadcast[:_BEXT_TIME_OFFSET] + struct.pack('<Q', moved) + broadcast[_BEXT_TIME_OFFSET + 8 :]
