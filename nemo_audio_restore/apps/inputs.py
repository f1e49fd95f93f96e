"""Which files a command line means, and where their results go."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FORMATS = ('wav', 'flac')
NAME_FIELDS = ('stem', 'suffix', 'ext', 'seed')


class UsageError(ValueError):
    """The command line cannot be carried out; the message is one sentence for the user."""


@dataclass(frozen=True)
class Job:
    """One file to read and the file to write."""

    source: Path
    target: Path


def find_inputs(arguments: Sequence[str], suffixes: Sequence[str], *, exclude: Path) -> list[tuple[Path, Path]]:
    """Files behind arguments: files, folders (searched through), and patterns like ``*.wav``.

    Args:
        arguments: as typed.
        suffixes: endings of the files to take from folders.
        exclude: the output; files below it are not inputs.

    Returns:
        Pairs of a file and its path relative to the argument that named it. A plain name that does not exist is
        returned too: reading it says so.

    Raises:
        UsageError: a folder or pattern holds nothing.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(
                file
                for file in path.rglob('*')
                if file.suffix.lower() in suffixes and file.is_file() and not _is_below(file, exclude, path)
            )
            if not files:
                raise UsageError(f'{path} holds no audio files ({", ".join(suffixes)})')
            for file in files:
                found.setdefault(file, file.relative_to(path))
        elif not path.exists() and glob.has_magic(argument):
            files = sorted(Path(name) for name in glob.glob(argument, recursive=True) if Path(name).is_file())
            if not files:
                raise UsageError(f'no file matches {argument}')
            for file in files:
                found.setdefault(file, Path(file.name))
        else:
            found.setdefault(path, Path(path.name))
    return list(found.items())


def plan_jobs(
    inputs: Sequence[tuple[Path, Path]],
    output: Path,
    *,
    single: bool,
    file_format: str | None,
    name: str,
    seed: int,
) -> list[Job]:
    """Where each result goes.

    Args:
        inputs: as returned by :func:`find_inputs`.
        output: a file for a single input, else a folder.
        single: whether one file was named, not a folder or several files.
        file_format: member of ``FORMATS``; None takes the output's ending, or wav.
        name: template with ``{stem}``, ``{suffix}``, ``{ext}`` and ``{seed}``, used inside folders.
        seed: for the template.

    Returns:
        One job for each input; folders keep their tree.

    Raises:
        UsageError: the output does not fit the inputs, or two inputs would go to one file.
    """
    ending = output.suffix.lower().lstrip('.')
    if single and ending and not output.is_dir():
        if file_format is not None and ending != file_format:
            raise UsageError(f'--format {file_format} contradicts the output {output}')
        return [Job(inputs[0][0], output)]
    if ending in FORMATS or output.is_file():
        raise UsageError(f'{output} is a file, but the input may be several: give a folder')
    targets: dict[Path, Path] = {}
    for source, relative in inputs:
        try:
            file_name = name.format(
                stem=relative.stem, suffix=relative.suffix.lstrip('.'), ext=file_format or 'wav', seed=seed
            )
        except (KeyError, IndexError, ValueError) as error:
            fields = ', '.join('{' + field + '}' for field in NAME_FIELDS)
            raise UsageError(f'--name {name} is not usable: the fields are {fields}') from error
        if not file_name or Path(file_name).name != file_name:
            raise UsageError(f'--name {name} must give the name of a file, without folders')
        target = output / relative.parent / file_name
        if target in targets:
            raise UsageError(
                f'{targets[target]} and {source} would both be written to {target}; add {{suffix}} to --name'
            )
        targets[target] = source
    return [Job(source, target) for target, source in targets.items()]


def parse_gap(text: str) -> tuple[float, float]:
    """Reads ``START:END`` in seconds.

    Args:
        text: like ``12.3:12.8``.

    Returns:
        (start, end).

    Raises:
        UsageError: with the form that is expected.
    """
    start, colon, end = text.partition(':')
    try:
        gap = float(start), float(end)
    except ValueError:
        colon = ''
    if not colon:
        raise UsageError(f'--gap must be START:END in seconds, like 12.3:12.8; got {text}')
    return gap


def _is_below(file: Path, folder: Path, root: Path) -> bool:
    """Whether a file found under ``root`` lies in an output folder inside of it."""
    folder = folder.resolve()
    return folder != root.resolve() and folder in file.resolve().parents and root.resolve() in folder.parents
