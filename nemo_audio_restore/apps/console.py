"""What the user sees: progress and messages on stderr, results on stdout."""

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def said_warnings(category: type[Warning]) -> Iterator[None]:
    """Warnings of a category become one plain line each, and each is said once."""
    with warnings.catch_warnings():
        warnings.simplefilter('once', category)
        otherwise = warnings.showwarning

        def show(message: Warning | str, kind: type[Warning], *place: object) -> None:
            if issubclass(kind, category):
                say(f'warning: {message}')
            else:
                otherwise(message, kind, *place)

        warnings.showwarning = show
        yield


def result(text: str) -> None:
    """One line on stdout."""
    print(text, flush=True)


def result_piece(text: str) -> None:
    """A part of a line on stdout."""
    print(text, end='', flush=True)


def result_json(value: object) -> None:
    """A JSON document on stdout."""
    result(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str))


def _finite(value: object) -> object:
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress(source: Path, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left while a file is being restored; nothing where nobody watches.

    Args:
        source: file to name.
        quiet: show nothing.

    Yields:
        ``update(done, total)``.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(source.name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
