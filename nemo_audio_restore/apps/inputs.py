"""Which files a command line means, and where their results go."""

import glob
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FORMATS = ('wav', 'flac')
NAME_FIELDS = ('stem', 'suffix', 'ext', 'seed')
DEFAULT_NAME = '{stem}.restored.{ext}'
NAME_WITH_SEED = '{stem}.restored.seed{seed}.{ext}'


class UsageError(ValueError):
    """The command line cannot be carried out; the message is one sentence for the user."""


@dataclass(frozen=True)
class Job:
    """One file to read, the file to write, and the seed of that variant."""

    source: Path
    target: Path
    seed: int


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
    name: str | None,
    seeds: Sequence[int],
) -> list[Job]:
    """Where each result goes.

    Args:
        inputs: as returned by :func:`find_inputs`.
        output: a file for a single input, else a folder.
        single: whether one file was named, not a folder or several files.
        file_format: member of ``FORMATS``; None takes the output's ending, or wav.
        name: template with ``{stem}``, ``{suffix}``, ``{ext}`` and ``{seed}``, used inside folders; None takes
            ``DEFAULT_NAME``, or ``NAME_WITH_SEED`` where there are several seeds.
        seeds: one variant is made with each; a single output file gets the seed in its name where there are several.

    Returns:
        A job for each input and seed; folders keep their tree.

    Raises:
        UsageError: the output does not fit the inputs, or two inputs would go to one file.
    """
    ending = output.suffix.lower().lstrip('.')
    if single and ending and not output.is_dir():
        if file_format is not None and ending != file_format:
            raise UsageError(f'--format {file_format} contradicts the output {output}')
        if name is not None:
            raise UsageError(f'--name is for folders, but the output {output} is a file: leave one of them out')
        if len(seeds) == 1:
            return [Job(inputs[0][0], output, seeds[0])]
        variants = [output.with_name(f'{output.stem}.seed{seed}{output.suffix}') for seed in seeds]
        return [Job(inputs[0][0], variant, seed) for variant, seed in zip(variants, seeds, strict=True)]
    if ending in FORMATS or output.is_file():
        raise UsageError(f'{output} is a file, but the input may be several: give a folder')
    if name is None:
        name = DEFAULT_NAME if len(seeds) == 1 else NAME_WITH_SEED
    jobs: dict[Path, Job] = {}
    for (source, relative), seed in itertools.product(inputs, seeds):
        target = output / relative.parent / _file_name(name, relative, file_format or 'wav', seed)
        if target in jobs:
            other = jobs[target].source
            field, who = ('suffix', f'{other} and {source}') if other != source else ('seed', f'all seeds of {source}')
            raise UsageError(f'{who} would be written to {target}; add {{{field}}} to --name')
        jobs[target] = Job(source, target, seed)
    return list(jobs.values())


def _file_name(template: str, relative: Path, extension: str, seed: int) -> str:
    try:
        name = template.format(stem=relative.stem, suffix=relative.suffix.lstrip('.'), ext=extension, seed=seed)
    except (KeyError, IndexError, ValueError) as error:
        fields = ', '.join('{' + field + '}' for field in NAME_FIELDS)
        raise UsageError(f'--name {template} is not usable: the fields are {fields}') from error
    if not name or Path(name).name != name:
        raise UsageError(f'--name {template} must give the name of a file, without folders')
    return name


def parse_span(text: str, *, option: str, example: str) -> tuple[float, float]:
    """Reads ``START:END`` in seconds.

    Args:
        text: like ``12.3:12.8``.
        option: that it was given for, to be named in the error.
        example: of a span, for the error.

    Returns:
        (start, end).

    Raises:
        UsageError: with the form that is expected.
    """
    start, colon, end = text.partition(':')
    try:
        span = float(start), float(end)
    except ValueError:
        colon = ''
    if not colon:
        raise UsageError(f'{option} must be START:END in seconds, like {example}; got {text}')
    return span


def _is_below(file: Path, folder: Path, root: Path) -> bool:
    """Whether a file found under ``root`` lies in an output folder inside of it."""
    folder = folder.resolve()
    return folder != root.resolve() and folder in file.resolve().parents and root.resolve() in folder.parents
