"""Manifests are data: those that would run a shell command when they are read are refused first.

Lhotse runs the ``source`` of a recording of type ``command`` in a shell, and opens every path that starts with
``pipe:`` by running the rest. A manifest from a stranger must not be able to do that.
"""

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import yaml

# Keys of a data config whose values are read; everything that these files name is looked at, too.
SOURCE_KEYS = (
    'cuts_path',
    'manifest_filepath',
    'tarred_audio_filepaths',
    'shar_path',
    'input_cfg',
    'noise_path',
    'rir_path',
    'features_path',
    'supervisions_path',
    'recordings_path',
)

# Only lines that may hold a command are parsed: a manifest of a million lines takes seconds. JSON can spell any
# letter as \uXXXX, hence the backslash.
_SUSPICIOUS = re.compile(rb'command|pipe|\||\\u', re.IGNORECASE)
_PATH_KEYS = ('source', 'audio_filepath', 'path', 'storage_path', *SOURCE_KEYS)
_SHARDS = re.compile(r'_OP_(\d+)\.\.(\d+)_CL_|\{(\d+)\.\.(\d+)\}')
_MANIFEST_SUFFIXES = ('.json', '.jsonl', '.yaml', '.yml')
_MAX_JSON_IN_TAR = 1_000_000


class UnsafeManifestError(ValueError):
    """A manifest or data config would run a command."""


def check_data_config(config: Mapping[str, Any] | Sequence[Any] | None, *, source: str = 'the data config') -> None:
    """Refuses a data config, and every manifest it names, if reading it would run a command.

    Args:
        config: ``train_ds`` or ``validation_ds`` as plain data: Lhotse or NeMo manifests, shar folders, ``input_cfg``
            entries (nested ones too). Manifests that do not exist are left for the reader to complain about.
        source: named in errors.

    Raises:
        UnsafeManifestError: names the file, the line and the offending value.
    """
    _check_node(config, source)
    for value in _named_sources(config):
        for path in _expand_shards(value):
            if Path(path).exists():
                check_manifest(path)


def check_manifest(path: str | Path) -> None:
    """Refuses a manifest that would run a command.

    Args:
        path: JSON lines, JSON or YAML, plain or gzipped; a tar whose members have JSON files beside the audio; or a
            folder of such files (Lhotse shar).

    Raises:
        UnsafeManifestError: names the file, the line and the offending value.
    """
    path = Path(path)
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if _is_manifest(file) or '.tar' in file.suffixes:
                check_manifest(file)
        return
    if '.tar' in path.suffixes or path.suffix == '.tgz':
        _check_tar(path)
        return
    with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as stream:
        _check_stream(stream, path)


def _is_manifest(path: Path) -> bool:
    suffixes = [suffix for suffix in path.suffixes if suffix != '.gz']
    return bool(suffixes) and suffixes[-1] in _MANIFEST_SUFFIXES


def _check_stream(stream: BinaryIO, path: Path) -> None:
    suffixes = [suffix for suffix in path.suffixes if suffix != '.gz']
    if suffixes and suffixes[-1] in ('.yaml', '.yml'):
        content = yaml.safe_load(stream.read())
        check_data_config(content, source=str(path))
        return
    if suffixes and suffixes[-1] == '.json':
        if _check_lines(stream, path):
            return
        stream.seek(0)
        _check_node(json.load(io.TextIOWrapper(stream, encoding='utf-8')), str(path))
        return
    _check_lines(stream, path, strict=True)


def _check_lines(stream: BinaryIO, path: Path, *, strict: bool = False) -> bool:
    """Checks JSON lines; False if the file is one JSON document spread over lines (``strict`` makes that an error)."""
    for number, line in enumerate(stream, start=1):
        if not _SUSPICIOUS.search(line):
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            if strict:
                raise UnsafeManifestError(f'{path}, line {number}: no JSON, so it cannot be checked') from error
            return False
        _check_node(entry, f'{path}, line {number}')
    return True


def _check_tar(path: Path) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            if not (member.isfile() and Path(member.name).suffix in ('.json', '.jsonl')):
                continue
            if member.size > _MAX_JSON_IN_TAR:
                raise UnsafeManifestError(
                    f'{path}: member {member.name} is too large to be checked ({member.size} bytes)'
                )
            content = archive.extractfile(member).read()
            if _SUSPICIOUS.search(content):
                _check_node(json.loads(content), f'{path}, member {member.name}')


def _check_node(node: Any, where: str, key: str = '') -> None:
    if isinstance(node, Mapping):
        if node.get('type') == 'command':
            raise UnsafeManifestError(
                f'{where}: a recording of type "command" runs {node.get("source")!r} in a shell when it is read. '
                'Write the audio to files and refer to those.'
            )
        for name, value in node.items():
            _check_node(value, where, str(name))
    elif isinstance(node, str):
        text = node.strip()
        piped = key in _PATH_KEYS and (text.startswith('|') or text.endswith('|'))
        if text.lower().startswith('pipe:') or piped:
            raise UnsafeManifestError(
                f'{where}: {node!r} runs a command when it is opened. Write the audio to files and refer to those.'
            )
    elif isinstance(node, Sequence) and not isinstance(node, bytes):
        for value in node:
            _check_node(value, where, key)


def _named_sources(node: Any) -> Iterator[str]:
    """All manifest paths in a data config, also in nested ``input_cfg`` entries."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in SOURCE_KEYS:
                yield from _strings(value)
            yield from _named_sources(value)
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        for value in node:
            yield from _named_sources(value)


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _strings(value)


def _expand_shards(path: str) -> Iterator[str]:
    """``a__OP_0..3_CL_.tar`` or ``a_{0..3}.tar`` to its four paths; numbers keep their leading zeros."""
    match = _SHARDS.search(path)
    if match is None:
        yield path
        return
    first, last = (group for group in match.groups() if group is not None)
    for number in range(int(first), int(last) + 1):
        yield from _expand_shards(f'{path[: match.start()]}{number:0{len(first)}d}{path[match.end() :]}')
