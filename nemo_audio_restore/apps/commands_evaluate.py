"""``audio-restore evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_audio_restore.apps import console

if TYPE_CHECKING:
    from nemo_audio_restore.evaluation.speech_report import Recogniser


def evaluate(
    reference: Annotated[Path, typer.Argument(metavar='REF', help='Original file, or folder of originals.')],
    estimate: Annotated[Path, typer.Argument(metavar='EST', help='Restored file, or folder with the same names.')],
    cutoff: Annotated[float | None, typer.Option(metavar='HZ', help='Also report LSD above this frequency.')] = None,
    output: Annotated[Path | None, typer.Option('-o', '--output', help='Write a .csv or .md file too.')] = None,
    fast: Annotated[bool, typer.Option('--fast', help='Leave out the perceptual metrics.')] = False,
    visqol: Annotated[bool, typer.Option('--visqol', help='Add ViSQOL: slow, needs the metrics extra.')] = False,
    speech: Annotated[bool, typer.Option('--speech', help='Add what speech codecs are compared by.')] = False,
    language: Annotated[
        str | None,
        typer.Option(metavar='CODE', help='Add character error rates of speech in this language (en, de, ...).'),
    ] = None,
    overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace an existing output.')] = False,
    as_json: Annotated[bool, typer.Option('--json', help='Scores as JSON instead of a table.')] = False,
    quiet: Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')] = False,
) -> None:
    """Compares restored recordings with their originals: spectral distances and perceptual scores.

    --speech adds mel and STFT distance, ESTOI, PESQ and DNSMOS, after removing a delay that all files have in common.
    --language adds character error rates through Whisper base, against NAME.txt beside the original, or against what
    it recognises in the original.
    """
    if output is not None and output.suffix not in ('.csv', '.md'):
        console.say(f'error: the output must end in .csv or .md; got {output}')
        raise typer.Exit(2)
    if output is not None and output.exists() and not overwrite:
        console.say(f'error: {output} exists; allow it with --overwrite, or choose another name')
        raise typer.Exit(2)
    from nemo_audio_restore.checkpoints.errors import CheckpointError
    from nemo_audio_restore.evaluation.report import EvaluationError, evaluate_pairs, to_csv, to_markdown
    from nemo_audio_restore.files.audio import AudioFileError

    try:
        results = evaluate_pairs(
            reference,
            estimate,
            low_hz=cutoff,
            perceptual=not fast,
            visqol=visqol,
            speech=speech,
            recogniser=None if language is None else _recogniser(language),
            on_file=None if quiet else lambda scored: console.say(f'compared {scored.name}'),
        )
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(to_csv(results) if output.suffix == '.csv' else to_markdown(results) + '\n', 'utf-8')
    except (EvaluationError, AudioFileError, CheckpointError, ImportError, OSError) as error:
        console.say(f'error: {error}')
        raise typer.Exit(1) from error
    if as_json:
        console.result_json([{'file': scored.name, **scored.scores, 'notes': scored.notes} for scored in results])
    else:
        console.result(to_markdown(results))


def _recogniser(language: str) -> 'Recogniser':
    from nemo_audio_restore.checkpoints.whisper import load_whisper
    from nemo_audio_restore.evaluation.report import EvaluationError
    from nemo_audio_restore.evaluation.speech_report import Recogniser
    from nemo_audio_restore.evaluation.transcription import WhisperTranscriber

    whisper = load_whisper()
    try:
        return Recogniser(WhisperTranscriber(whisper.model, whisper.tokenizer, language=language), language)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
