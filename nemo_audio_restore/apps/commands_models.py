"""``audio-restore models``: what can be given to ``--model``."""

from dataclasses import asdict
from typing import Annotated

import typer

from nemo_audio_restore.apps import console

app = typer.Typer(help='Names that --model takes.', no_args_is_help=True, rich_markup_mode=None)
AsJson = Annotated[bool, typer.Option('--json', help='As JSON.')]


@app.command('list')
def list_all(as_json: AsJson = False) -> None:
    """Lists all models with names."""
    from nemo_audio_restore.checkpoints.registry import list_models

    entries = list_models()
    if as_json:
        console.result_json([asdict(entry) for entry in entries])
        return
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        console.result(f'{entry.name:{width}}  {entry.size_mb:6.0f} MB  {entry.licence}  {entry.description}')


@app.command('info')
def info(name: Annotated[str, typer.Argument(help='Name from the list.')], as_json: AsJson = False) -> None:
    """Tells everything about one model."""
    from nemo_audio_restore.checkpoints.registry import list_models

    entries = {entry.name: entry for entry in list_models()}
    if name not in entries:
        console.say(f'error: there is no model {name}; choose from {", ".join(entries)}')
        raise typer.Exit(2)
    values = asdict(entries[name])
    if as_json:
        console.result_json(values)
        return
    for key, value in values.items():
        if value != '':
            console.result(f'{key}: {value}')
