"""``audio-restore doctor``: facts about this machine to paste into an issue."""

from typing import Annotated

import typer

from nemo_audio_restore.apps import console


def doctor(as_json: Annotated[bool, typer.Option('--json', help='As JSON.')] = False) -> None:
    """Tells versions, devices, memory, formats and models, and what is wrong; exits with 1 if anything is."""
    from nemo_audio_restore.reporting.environment import as_text, describe_environment

    sections = describe_environment()
    if as_json:
        console.result_json(sections)
    else:
        console.result(as_text(sections))
    raise typer.Exit(1 if sections['problems'] else 0)
