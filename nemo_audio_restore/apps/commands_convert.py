"""``audio-restore convert``: published checkpoints to ``.nemo`` files."""

from pathlib import Path
from typing import Annotated

import typer

from nemo_audio_restore.apps import console
from nemo_audio_restore.apps.inputs import UsageError

app = typer.Typer(help='Turns published checkpoints into .nemo files.', no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def convert() -> None:
    """Turns published checkpoints into .nemo files."""


@app.command('a2sb')
def a2sb(
    split: Annotated[
        list[str], typer.Option(metavar='FROM:TO=FILE', help='Checkpoint for a range of times; repeat for each range.')
    ],
    output: Annotated[Path, typer.Option('-o', '--output', help='The .nemo file to write.')],
    num_heads: Annotated[int, typer.Option(min=1, help='Attention heads; the weights do not tell.')] = 8,
    overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace an existing file.')] = False,
    quiet: Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')] = False,
) -> None:
    """Converts NVIDIA's A2SB checkpoints: one for all times, or one for each range of times."""
    try:
        splits = dict(parse_split(text) for text in split)
        if output.suffix != '.nemo':
            raise UsageError(f'the output must end in .nemo; got {output}')
        if output.exists() and not overwrite:
            raise UsageError(f'{output} exists; allow it with --overwrite, or choose another name')
        for path in splits.values():
            if not path.is_file():
                raise UsageError(f'{path} does not exist')
        _convert(splits, output, num_heads=num_heads, quiet=quiet)
    except UsageError as error:
        console.say(f'error: {error}')
        raise typer.Exit(2) from error
    console.result(str(output))


def parse_split(text: str) -> tuple[tuple[float, float], Path]:
    """Reads ``FROM:TO=FILE``.

    Args:
        text: like ``0:0.5=low.ckpt``.

    Returns:
        ((0.0, 0.5), path).

    Raises:
        UsageError: with the form that is expected.
    """
    times, equals, path = text.partition('=')
    start, colon, end = times.partition(':')
    try:
        span = float(start), float(end)
    except ValueError:
        span = None
    if not (equals and colon and path and span):
        raise UsageError(f'--split must be FROM:TO=FILE, like 0:0.5=low.ckpt; got {text}')
    return span, Path(path)


def _convert(splits: dict[tuple[float, float], Path], output: Path, *, num_heads: int, quiet: bool) -> None:
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel

    if not quiet:
        console.say(f'reading {len(splits)} checkpoint(s)')
    try:
        model = AudioRestoreModel.from_a2sb_checkpoints(splits, num_heads=num_heads)
        output.parent.mkdir(parents=True, exist_ok=True)
        part = output.with_name(f'.{output.name}.part.nemo')
        try:
            model.save_to(str(part))
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
    except (ValueError, OSError) as error:
        console.say(f'error: {error}')
        raise typer.Exit(1) from error
