"""What a ``.nemo`` file may contain: checks before anything of it is used."""

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from nemo_audio_restore._nemo import UnsafeFileError

CONFIG_NAME = 'model_config.yaml'
MAX_MEMBERS = 1000
MAX_CONFIG_BYTES = 10_000_000
MAX_TOTAL_BYTES = 100_000_000_000
# Weights hardly compress; an archive that grows more than this is a bomb.
MAX_COMPRESSION = 20
_ANY_COMPRESSION_BYTES = 10_000_000

# Data set blocks may hold the paths of whoever trained the model; they are never used when restoring.
_DATA_BLOCKS = ('train_ds', 'validation_ds', 'test_ds')


def check_archive(path: Path) -> dict[str, Any]:
    """Refuses a ``.nemo`` file with odd members or an unsafe config, before anything is unpacked.

    Args:
        path: the file.

    Returns:
        Its config as plain data.

    Raises:
        UnsafeFileError: see :func:`read_archive_config`, or a config that :func:`check_config` refuses.
    """
    config = read_archive_config(path)
    check_config(config, source=str(path))
    return config


def read_archive_config(path: Path) -> dict[str, Any]:
    """The config of a ``.nemo`` file as plain data, not yet checked; the members of the archive are.

    Args:
        path: the file.

    Returns:
        Nested mappings and lists.

    Raises:
        UnsafeFileError: links, devices, absolute or climbing paths, too many or too large members, or no config.
    """
    try:
        with open_archive(path) as archive:
            members = _checked_members(archive, path)
            config = next((member for member in members if PurePosixPath(member.name).name == CONFIG_NAME), None)
            if config is None:
                raise UnsafeFileError(f'{path} is no model: it holds no {CONFIG_NAME}')
            if config.size > MAX_CONFIG_BYTES:
                raise UnsafeFileError(f'{path}: {CONFIG_NAME} has {config.size} bytes, more than {MAX_CONFIG_BYTES}')
            text = archive.extractfile(config).read()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnsafeFileError(f'{path} is no .nemo file (a tar archive, plain or gzip), or is cut short') from error
    return _parsed_config(text, path)


def check_folder(folder: Path) -> dict[str, Any]:
    """The same as :func:`check_archive` for an unpacked model.

    Args:
        folder: of the model.

    Returns:
        Its config as plain data.

    Raises:
        UnsafeFileError: no config, or one that :func:`check_config` refuses.
    """
    config = read_config(folder)
    check_config(config, source=str(folder))
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """The config of an unpacked model as plain data, not yet checked.

    Args:
        folder: of the model.

    Returns:
        Nested mappings and lists.

    Raises:
        UnsafeFileError: there is none.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UnsafeFileError(f'{folder} is no unpacked model: it holds no {CONFIG_NAME}')
    return _parsed_config(path.read_bytes(), folder)


def open_archive(path: Path) -> tarfile.TarFile:
    """Opens an archive, plain or compressed: the two kinds that NeMo reads.

    Args:
        path: the file.

    Returns:
        The archive, to be closed by the caller.
    """
    try:
        return tarfile.open(path, 'r:')
    except tarfile.ReadError:
        return tarfile.open(path, 'r:gz')


def _checked_members(archive: tarfile.TarFile, path: Path) -> list[tarfile.TarInfo]:
    members, total, limit = [], 0, MAX_TOTAL_BYTES
    if isinstance(archive.fileobj, gzip.GzipFile):
        limit = min(limit, max(_ANY_COMPRESSION_BYTES, MAX_COMPRESSION * path.stat().st_size))
    for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or '..' in name.parts or PureWindowsPath(member.name).drive:
            raise UnsafeFileError(f'{path}: member {member.name!r} would be written outside its folder')
        if not (member.isfile() or member.isdir()):
            raise UnsafeFileError(f'{path}: member {member.name!r} is a link or device; only plain files are allowed')
        members.append(member)
        total += member.size
        if len(members) > MAX_MEMBERS:
            raise UnsafeFileError(f'{path} holds more than {MAX_MEMBERS} files')
        if total > limit:
            raise UnsafeFileError(f'{path} would unpack to more than {limit} bytes')
    return members


def _parsed_config(text: bytes, path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UnsafeFileError(f'{path}: {CONFIG_NAME} is no plain YAML: {error}') from error
    if not isinstance(config, dict):
        raise UnsafeFileError(f'{path}: {CONFIG_NAME} holds no mapping')
    return config


def check_config(config: Mapping[str, Any], *, source: str) -> None:
    """Refuses a config that reads from the machine it is restored on.

    Saved configs are resolved, so they need no interpolation; ``${oc.env:...}`` and other resolvers could copy a
    secret into the next file that is saved. A path that is not inside the model file could do the same with any file.

    Args:
        config: plain nested data.
        source: named in the error.

    Raises:
        UnsafeFileError: an interpolation, or a path that is absolute or climbs.
    """
    for key, value in _strings(config):
        if '${' in value:
            raise UnsafeFileError(f'{source}: config key {key} holds the forbidden interpolation {value!r}')
        if key.split('.')[0] not in _DATA_BLOCKS and _leaves_its_folder(value):
            raise UnsafeFileError(
                f'{source}: config key {key} points outside the model file ({value!r}); files that belong to a model '
                'are packed into it and named nemo:NAME'
            )


def _leaves_its_folder(value: str) -> bool:
    if '\n' in value:
        return False
    path = value.removeprefix('nemo:').removeprefix('file://')
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    absolute = posix.is_absolute() or bool(windows.drive and windows.root) or path.startswith('\\\\')
    return absolute or '..' in windows.parts or re.match(r'~[\w.-]*[/\\]', path) is not None


def _strings(node: Any, key: str = '') -> Iterator[tuple[str, str]]:
    """All strings of nested data with their dotted keys; keys themselves count too."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield f'{key}.{name}'.lstrip('.'), str(name)
            yield from _strings(value, f'{key}.{name}'.lstrip('.'))
    elif isinstance(node, Sequence):
        for index, value in enumerate(node):
            yield from _strings(value, f'{key}[{index}]')
