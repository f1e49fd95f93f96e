"""``audio-restore models``: what can be given to ``--model``."""

from dataclasses import asdict
from typing import Annotated

import typer

from nemo_audio_restore.apps import console, inputs, loading

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


@app.command('pull')
def pull(
    name: Annotated[str, typer.Argument(help='Name from the list, or ORG/NAME on the Hugging Face Hub.')],
    refresh: Annotated[bool, typer.Option('--refresh', help='Download again what is there already.')] = False,
    as_json: AsJson = False,
) -> None:
    """Downloads a model, so that it works offline; prints its file and hash."""
    from nemo_audio_restore.reporting.provenance import file_sha256

    try:
        path = loading.fetch_model(name, refresh=refresh)
    except inputs.UsageError as error:
        console.say(f'error: {error}')
        raise typer.Exit(1) from error
    facts = {'file': str(path)}
    if path.is_file():
        facts.update(size_mb=f'{path.stat().st_size / 1e6:.1f}', sha256=file_sha256(path))
    if as_json:
        console.result_json(facts)
        return
    for key, value in facts.items():
        console.result(f'{key}: {value}')
