"""``audio-restore evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_audio_restore.apps import console
from nemo_audio_restore.apps.generation_metrics import (
    DEFAULT_TEXT_MODEL,
    evaluate_folders,
    report_csv,
    report_markdown,
)
from nemo_audio_restore.apps.inputs import UsageError

if TYPE_CHECKING:
    from nemo_audio_restore.evaluation.generation import GenerationReport
    from nemo_audio_restore.evaluation.speech_report import Recogniser


def evaluate(
    reference: Annotated[Path, typer.Argument(metavar='REF', help='Original file, or folder of originals.')],
    estimate: Annotated[Path, typer.Argument(metavar='EST', help='Restored file, or folder with the same names.')],
    cutoff: Annotated[float | None, typer.Option(metavar='HZ', help='Also report LSD above this frequency.')] = None,
    output: Annotated[Path | None, typer.Option('-o', '--output', help='Write a .csv or .md file too.')] = None,
    fast: Annotated[bool, typer.Option('--fast', help='Leave out the perceptual metrics.')] = False,
    visqol: Annotated[bool, typer.Option('--visqol', help='Add ViSQOL: slow, needs the visqol extra.')] = False,
    speech: Annotated[bool, typer.Option('--speech', help='Add what speech codecs are compared by.')] = False,
    language: Annotated[
        str | None,
        typer.Option(metavar='CODE', help='Add character error rates of speech in this language (en, de, ...).'),
    ] = None,
    generation: Annotated[
        bool, typer.Option('--generation', help='Compare generated audio with real audio as sets; both are folders.')
    ] = False,
    captions: Annotated[
        Path | None, typer.Option(metavar='CSV', help='With --generation: columns file and caption.')
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option(metavar='NAME', help='With --generation: musicnn, whisper or text-audio; repeat for several.'),
    ] = None,
    text_model: Annotated[
        str, typer.Option(metavar='MODEL', help='With --generation: name or file that scores captions.')
    ] = DEFAULT_TEXT_MODEL,
    save_statistics: Annotated[
        Path | None, typer.Option(metavar='NPZ', help='With --generation: keep the statistics of REF, to give as REF.')
    ] = None,
    overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace an existing output.')] = False,
    as_json: Annotated[bool, typer.Option('--json', help='Scores as JSON instead of a table.')] = False,
    quiet: Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')] = False,
) -> None:
    """Compares restored recordings with their originals: spectral distances and perceptual scores.

    --speech adds mel and STFT distance, ESTOI, PESQ and DNSMOS, after removing a delay that all files have in common.
    --language adds character error rates through Whisper base, against NAME.txt beside the original, or against what
    it recognises in the original.
    --generation reports the Frechet distance of embeddings, the divergence of tags between files of the same name and,
    with --captions, how well the audio fits what was asked for. REF may be the file of --save-statistics.
    """
    if output is not None and output.suffix not in ('.csv', '.md'):
        console.say(f'error: the output must end in .csv or .md; got {output}')
        raise typer.Exit(2)
    if output is not None and output.exists() and not overwrite:
        console.say(f'error: {output} exists; allow it with --overwrite, or choose another name')
        raise typer.Exit(2)
    if generation:
        report = _generation(reference, estimate, embedder, captions, text_model, save_statistics, quiet=quiet)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            text = report_csv(report) if output.suffix == '.csv' else report_markdown(report) + '\n'
            output.write_text(text, 'utf-8')
        if as_json:
            console.result_json({'scores': report.scores, 'files': report.files, 'notes': report.notes})
        else:
            console.result(report_markdown(report))
        return
    if captions or embedder or save_statistics:
        console.say('error: --captions, --embedder and --save-statistics belong to --generation')
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


def _generation(
    reference: Path,
    generated: Path,
    embedder: list[str] | None,
    captions: Path | None,
    text_model: str,
    save_statistics: Path | None,
    *,
    quiet: bool,
) -> 'GenerationReport':
    from nemo_audio_restore.checkpoints.errors import CheckpointError
    from nemo_audio_restore.evaluation.generation import GenerationError
    from nemo_audio_restore.files.audio import AudioFileError

    try:
        return evaluate_folders(
            reference,
            generated,
            embedders=embedder or ['musicnn'],
            captions=captions,
            text_model=text_model,
            save_statistics=save_statistics,
            on_file=None if quiet else lambda name: console.say(f'heard {name}'),
        )
    except UsageError as error:
        console.say(f'error: {error}')
        raise typer.Exit(2) from error
    except (GenerationError, AudioFileError, CheckpointError, ImportError, OSError, ValueError) as error:
        console.say(f'error: {error}')
        raise typer.Exit(1) from error


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
