"""The command ``audio-restore``. Commands import torch and NeMo when they run, so that help is immediate."""

import typer

from nemo_audio_restore.apps import (
    commands_ask,
    commands_codec,
    commands_convert,
    commands_demo,
    commands_distill,
    commands_doctor,
    commands_evaluate,
    commands_generate,
    commands_models,
    commands_restore,
)

app = typer.Typer(
    name='audio-restore',
    help='Restores recordings: generates missing treble and gaps, keeps what was recorded.',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command('restore')(commands_restore.restore)
app.command('encode')(commands_codec.encode)
app.command('decode')(commands_codec.decode)
app.command('tokens')(commands_codec.tokens)
app.command('generate')(commands_generate.generate)
app.command('ask')(commands_ask.ask)
app.command('caption')(commands_ask.caption)
app.command('separate')(commands_distill.separate)
app.command('demo')(commands_demo.demo)
app.command('evaluate')(commands_evaluate.evaluate)
app.command('doctor')(commands_doctor.doctor)
app.add_typer(commands_distill.app, name='distill')
app.add_typer(commands_convert.app, name='convert')
app.add_typer(commands_models.app, name='models')


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == '__main__':
    main()
