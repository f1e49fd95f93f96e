"""From what a user calls a model to the file or folder that holds it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from nemo_audio_restore.checkpoints.registry import ModelEntry, list_models


def refuse_unconverted(name: str, entries: Iterable[ModelEntry]) -> None:
    """Says how to get weights that the user must convert first.

    Args:
        name: of a model.
        entries: among which it may be.

    Raises:
        FileNotFoundError: it is the name of such weights.
    """
    for entry in entries:
        if entry.name == name and entry.how_to_get:
            raise FileNotFoundError(f'{name}: {entry.how_to_get}')


def locate_named_model(name: str, *, refresh_cache: bool = False) -> Path:
    """Finds a model of any class as :func:`locate_model` does, by the names of the registry.

    Args:
        name: see :func:`locate_model`.
        refresh_cache: download again what is cached already.

    Returns:
        An existing path.

    Raises:
        FileNotFoundError: says what was looked for, or how to get weights that must be converted first.
    """
    entries = list_models()
    refuse_unconverted(name, entries)
    known = {entry.name: entry.address for entry in entries if not entry.how_to_get}
    return locate_model(name, known=known, refresh_cache=refresh_cache)


def locate_model(name: str, *, known: Mapping[str, str], refresh_cache: bool = False) -> Path:
    """Finds a model's ``.nemo`` file or unpacked folder, downloading it if need be.

    Args:
        name: a known name; the path of a ``.nemo`` file or of an unpacked folder; a ``file://`` address; or
            ``ORG/NAME`` on the Hugging Face Hub, which must hold ``NAME.nemo`` (a cached copy needs no network).
        known: location of every known name: a ``file://`` or ``hf://ORG/NAME`` address.
        refresh_cache: download again what is cached already.

    Returns:
        An existing path.

    Raises:
        FileNotFoundError: says what was looked for and which names are known.
    """
    location = known.get(name, name)
    if location.startswith('file://'):
        path = Path(url2pathname(urlparse(location).path))
        if not path.exists():
            raise FileNotFoundError(f'{name}: its file {path} does not exist')
        return path
    if location.startswith('hf://'):
        return _from_hub(location.removeprefix('hf://'), refresh_cache=refresh_cache)
    path = Path(location).expanduser()
    if path.exists():
        return path
    names = ', '.join(known) or 'none'
    if path.suffix == '.nemo':
        raise FileNotFoundError(f'no such file: {path}. Known names: {names}')
    if location.count('/') == 1 and not location.startswith(('/', '.', '~')):
        return _from_hub(location, refresh_cache=refresh_cache)
    raise FileNotFoundError(
        f'no model of this kind is called {name!r}, and no file or folder has that path. Known names: {names}. '
        'Models on the Hugging Face Hub are called ORG/NAME.'
    )


def _from_hub(repository: str, *, refresh_cache: bool) -> Path:
    filename = f'{repository.rsplit("/", 1)[-1]}.nemo'
    if not refresh_cache:
        cached = try_to_load_from_cache(repo_id=repository, filename=filename)
        if isinstance(cached, str):
            return Path(cached)
    try:
        return Path(hf_hub_download(repo_id=repository, filename=filename, force_download=refresh_cache))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(repository, error) from error
        raise FileNotFoundError(f'the Hub repository {repository} exists but holds no {filename}') from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise _unreachable(repository, error) from error


def _unreachable(repository: str, error: Exception) -> FileNotFoundError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return FileNotFoundError(
        f'{repository} is no local file, is not in the cache, and could not be fetched from the Hugging Face Hub '
        f'({reason})'
    )
