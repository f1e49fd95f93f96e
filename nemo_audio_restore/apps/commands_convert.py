"""``audio-restore convert``: published checkpoints to ``.nemo`` files."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_audio_restore.apps import console
from nemo_audio_restore.apps.inputs import UsageError

if TYPE_CHECKING:
    from nemo_audio_restore.models.base import BaseModel

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
        for path in splits.values():
            _check_exists(path)
        _check_output(output, overwrite=overwrite)
    except UsageError as error:
        raise _refused(error) from error
    if not quiet:
        console.say(f'reading {len(splits)} checkpoint(s)')
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel

    _write(lambda: AudioRestoreModel.from_a2sb_checkpoints(splits, num_heads=num_heads), output)


@app.command('stable-audio')
def stable_audio(
    weights: Annotated[
        Path, typer.Option(metavar='FILE|FOLDER', help='model.safetensors, model.ckpt, or a folder of diffusers.')
    ],
    output: Annotated[Path, typer.Option('-o', '--output', help='The .nemo file to write.')],
    config: Annotated[
        Path | None, typer.Option(metavar='FILE', help='model_config.json; a folder of diffusers holds its own.')
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar='FOLDER|NAME',
            help='Checks that this text encoder fits: T5 as a folder or hub name, or a CLAP file. It is not stored.',
        ),
    ] = None,
    text_tokenizer: Annotated[
        str | None, typer.Option(metavar='FOLDER|NAME', help='Its tokenizer, if that is elsewhere.')
    ] = None,
    overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace an existing file.')] = False,
    quiet: Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')] = False,
) -> None:
    """Converts models of the Stable Audio family: 1.0, 2.0, Open, Open Small, and those trained like them."""
    try:
        _check_exists(weights)
        if config is not None:
            _check_exists(config)
        elif weights.is_file():
            raise UsageError(f'{weights} needs the model_config.json that was published with it: give --config')
        _check_output(output, overwrite=overwrite)
    except UsageError as error:
        raise _refused(error) from error
    if not quiet:
        console.say(f'reading {weights}')
    from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel

    _write(
        lambda: LatentDiffusionModel.from_stable_audio(
            config, weights, text_encoder=text_encoder, text_tokenizer=text_tokenizer
        ),
        output,
    )


@app.command('audio-flamingo2')
def audio_flamingo2(
    folder: Annotated[
        Path,
        typer.Argument(metavar='FOLDER', help='Released checkpoint: metadata.json and model_chunk_N.safetensors.'),
    ],
    output: Annotated[Path, typer.Option('-o', '--output', help='The .nemo file to write.')],
    language_model: Annotated[
        str,
        typer.Option(
            metavar='FOLDER|NAME',
            help='Qwen2.5 of the same size, like Qwen/Qwen2.5-3B: its configuration and tokenizer are used.',
        ),
    ],
    precision: Annotated[str, typer.Option(help='fp32 or bf16; bf16 takes half of memory and disk.')] = 'fp32',
    max_windows: Annotated[
        int, typer.Option(min=1, help='Windows of 10 s that are heard: 12 as released, 30 for five minutes.')
    ] = 12,
    overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace an existing file.')] = False,
    quiet: Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')] = False,
) -> None:
    """Converts NVIDIA's Audio Flamingo 2 of any size; memory holds the model once."""
    try:
        if precision not in ('fp32', 'bf16'):
            raise UsageError(f'--precision must be fp32 or bf16; got {precision}')
        _check_exists(folder)
        _check_output(output, overwrite=overwrite)
    except UsageError as error:
        raise _refused(error) from error
    if not quiet:
        console.say(f'reading {folder}')
    import torch

    from nemo_audio_restore.models.audio_language import AudioLanguageModel

    _write(
        lambda: AudioLanguageModel.from_audio_flamingo2(
            folder,
            language_model=language_model,
            dtype={'fp32': torch.float32, 'bf16': torch.bfloat16}[precision],
            max_windows=max_windows,
        ),
        output,
    )


@app.command('clap')
def clap(
    checkpoint: Annotated[Path, typer.Argument(metavar='FILE', help="LAION's .pt file with HTSAT and RoBERTa.")],
    output: Annotated[
        Path, typer.Option('-o', '--output', help='A .nemo file, or a .safetensors file for other programs.')
    ],
    tokenizer: Annotated[str, typer.Option(metavar='NAME', help="RoBERTa's tokenizer on the hub.")] = 'roberta-base',
    overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace an existing file.')] = False,
) -> None:
    """Converts LAION's CLAP, which is a pickle, without running any code from it."""
    try:
        _check_exists(checkpoint)
        if output.suffix == '.safetensors' and (overwrite or not output.exists()):
            from nemo_audio_restore.checkpoints.clap import convert_clap

            convert_clap(checkpoint, output)
            console.result(str(output))
            return
        _check_output(output, overwrite=overwrite)
    except UsageError as error:
        raise _refused(error) from error
    except (ValueError, OSError) as error:
        console.say(f'error: {error}')
        raise typer.Exit(1) from error
    from nemo_audio_restore.models.text_audio import TextAudioModel

    _write(lambda: TextAudioModel.from_clap(checkpoint, tokenizer=tokenizer), output)


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


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise UsageError(f'{path} does not exist')


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.suffix != '.nemo':
        raise UsageError(f'the output must end in .nemo; got {output}')
    if output.exists() and not overwrite:
        raise UsageError(f'{output} exists; allow it with --overwrite, or choose another name')


def _refused(error: UsageError) -> typer.Exit:
    console.say(f'error: {error}')
    return typer.Exit(2)


def _write(convert: Callable[[], 'BaseModel'], output: Path) -> None:
    """Converts, and writes a file that is there when it is complete."""
    try:
        model = convert()
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
    console.result(str(output))
