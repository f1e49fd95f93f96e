"""``audio-restore ask`` and ``caption``: questions about recordings."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_audio_restore.apps import console, inputs, loading
from nemo_audio_restore.apps.answer_files import AnswerFile, Record, Work, in_order

if TYPE_CHECKING:
    from nemo_audio_restore.models.audio_language import AudioLanguageModel
    from nemo_audio_restore.models.conversations import HeardRecording
    from nemo_audio_restore.models.text_decoding import TextSettings

DEFAULT_MODEL = 'audio_flamingo2_small'

Model = Annotated[str, typer.Option('-m', '--model', help='Name, .nemo file, folder, or ORG/NAME on the Hub.')]
Device = Annotated[str, typer.Option('-d', '--device', help='auto, cpu, cuda, cuda:N or mps.')]
MaxTokens = Annotated[int, typer.Option(min=1, help='Longest answer in words, in tokens.')]
BatchSize = Annotated[
    int, typer.Option('-b', '--batch-size', min=1, help='Files that are answered at once, in words.')
]
AsJsonl = Annotated[bool, typer.Option('--jsonl', help='A line of JSON for every file.')]
Output = Annotated[
    Path | None,
    typer.Option(
        '-o', '--output', help='Write lines of JSON to this file; the same command goes on where a run was stopped.'
    ),
]
Overwrite = Annotated[bool, typer.Option('--overwrite', help='Replace an existing output.')]
Quiet = Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')]
Verbose = Annotated[bool, typer.Option('-v', '--verbose', help='Full details of errors.')]


def ask(
    sources: Annotated[
        list[str],
        typer.Argument(metavar='IN... QUESTION', help='Audio files, folders or patterns; then the question.'),
    ],
    model: Model = DEFAULT_MODEL,
    option: Annotated[
        list[str] | None, typer.Option(help='A possible answer; repeat for each. The likeliest is chosen.')
    ] = None,
    max_tokens: MaxTokens = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, help='0 gives the likeliest words; 1 draws them as the model weighs them.')
    ] = 0.0,
    seed: Annotated[int, typer.Option(help='Of the draws at a temperature above 0.')] = 0,
    batch_size: BatchSize = 16,
    as_jsonl: AsJsonl = False,
    output: Output = None,
    overwrite: Overwrite = False,
    device: Device = 'auto',
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Answers a question about recordings, in words or by choosing among options."""
    files, question = _files_and_question(sources)
    if option and temperature > 0:
        raise _refused('--temperature is for answers in words; options are scored, nothing is drawn')
    listener = _loaded(model, device)
    from nemo_audio_restore.models.text_decoding import TextSettings

    settings = TextSettings(max_new_tokens=max_tokens, temperature=temperature, seed=seed)
    asked: Record = {'question': question, 'model': model}
    if option:
        asked |= {'options': option}
    else:
        asked |= {'max_tokens': max_tokens, 'temperature': temperature} | ({'seed': seed} if temperature else {})

    # The answer about one file appears word by word.
    watched = len(files) == 1 and not (option or as_jsonl or output)

    def answer(heard: Sequence['HeardRecording']) -> list[Record]:
        if option:
            chosen = [listener.ask(recording, question, option) for recording in heard]
            return [{'answer': choice.text, 'probabilities': choice.probabilities} for choice in chosen]
        return [{'answer': text} for text in _written(listener, question, heard, settings, watched=watched)]

    work = Work(listener.listen, answer, asked, batch_size, verbose)
    _run(files, work, output=output, overwrite=overwrite, as_jsonl=as_jsonl, quiet=quiet, watched=watched)


def caption(
    sources: Annotated[list[str], typer.Argument(metavar='IN...', help='Audio files, folders, or patterns.')],
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str | None, typer.Option(help='What the model is asked to do; default: describe.')] = None,
    max_tokens: MaxTokens = 256,
    batch_size: BatchSize = 16,
    as_jsonl: AsJsonl = False,
    output: Output = None,
    overwrite: Overwrite = False,
    device: Device = 'auto',
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Describes recordings."""
    files = _files(sources)
    listener = _loaded(model, device)
    from nemo_audio_restore.models.audio_language_answers import CAPTION_PROMPT
    from nemo_audio_restore.models.text_decoding import TextSettings

    settings = TextSettings(max_new_tokens=max_tokens)
    wanted = CAPTION_PROMPT if prompt is None else prompt

    def answer(heard: Sequence['HeardRecording']) -> list[Record]:
        return [{'caption': text} for text in _written(listener, wanted, heard, settings, watched=False)]

    asked = {'prompt': wanted, 'model': model, 'max_tokens': max_tokens}
    work = Work(listener.listen, answer, asked, batch_size, verbose)
    _run(files, work, output=output, overwrite=overwrite, as_jsonl=as_jsonl, quiet=quiet)


def _written(
    listener: 'AudioLanguageModel',
    question: str,
    heard: Sequence['HeardRecording'],
    settings: 'TextSettings',
    *,
    watched: bool,
) -> list[str]:
    said = ''

    def show(item: int, piece: str) -> None:
        nonlocal said
        said += piece
        console.result_piece(piece)

    texts = listener.generate(
        prompts=[question] * len(heard), audios=list(heard), settings=settings, on_text=show if watched else None
    )
    if watched:
        # Half a character, where the answer was cut, is held back.
        console.result(texts[0].removeprefix(said))
    return texts


def _run(
    files: Sequence[Path],
    work: Work,
    *,
    output: Path | None,
    overwrite: bool,
    as_jsonl: bool,
    quiet: bool,
    watched: bool = False,
) -> None:
    """Works on the files and says what comes of it; ends with 1 if any failed, else 0."""
    from nemo_audio_restore.data.question_text import QuestionError

    try:
        kept = None if output is None else AnswerFile(output, work.asked, overwrite=overwrite)
    except inputs.UsageError as error:
        raise _refused(str(error)) from error
    done = {} if kept is None else {str(path): kept.done[str(path)] for path in files if str(path) in kept.done}
    if done and not quiet:
        console.say(f'{len(done)} of {len(files)} files were answered by an earlier run')
    fresh = work.records([path for path in files if str(path) not in done])
    failed, several = 0, len(files) > 1
    try:
        with (
            kept or contextlib.nullcontext(),
            console.progress(Path(f'{len(files)} files'), quiet=quiet or not several) as on_progress,
        ):
            for count, (record, is_new) in enumerate(in_order(files, done, fresh), start=1):
                _say_problems(record, quiet=quiet)
                if kept is not None and is_new:
                    kept.write(record)
                if (kept is None or as_jsonl) and not watched:
                    _show(record, as_jsonl=as_jsonl, several=several)
                failed += 'error' in record
                on_progress(count, len(files))
    except QuestionError as error:
        raise _refused(str(error)) from error
    if failed and several:
        console.say(f'{failed} of {len(files)} files failed')
    if output is not None and not as_jsonl:
        console.result(str(output))
    raise typer.Exit(1 if failed else 0)


def _say_problems(record: Record, *, quiet: bool) -> None:
    for note in record.get('warnings', ()):
        if not quiet:
            console.say(f'warning: {note}')
    if record.get('cut') and not quiet:
        limit = record['max_tokens']
        console.say(f'warning: {record["audio"]}: the answer is cut at {limit} tokens; --max-tokens allows more')
    if 'error' in record:
        console.say(f'error: {record["error"]}')


def _show(record: Record, *, as_jsonl: bool, several: bool) -> None:
    if as_jsonl:
        console.result(json.dumps(record, ensure_ascii=False))
        return
    if 'error' in record:
        return
    text = record.get('answer', record.get('caption'))
    console.result(f'{record["audio"]}: {text}' if several else text)
    probabilities: dict[str, Any] = record.get('probabilities') or {}
    for option, probability in probabilities.items():
        console.result(f'  {probability:.3f} {option}')


def _files_and_question(arguments: Sequence[str]) -> tuple[list[Path], str]:
    """The last argument is the question; a forgotten one is noticed, not searched for as a file."""
    if len(arguments) < 2:
        raise _refused('a file and a question are needed, like: audio-restore ask song.wav "Which instruments play?"')
    *sources, question = arguments
    if not question.strip():
        raise _refused('the question is empty')
    if os.path.exists(question):  # unlike Path.exists, no error for a text too long to be a name
        raise _refused(f'the last argument must be the question, but {question} is a file or folder')
    return _files(sources), question


def _files(sources: Sequence[str]) -> list[Path]:
    from nemo_audio_restore.files.audio import READABLE_SUFFIXES

    try:
        # No output lies among the inputs: nothing is to be left out.
        return [path for path, _ in inputs.find_inputs(sources, READABLE_SUFFIXES, exclude=Path('/nowhere'))]
    except inputs.UsageError as error:
        raise _refused(str(error)) from error


def _loaded(model: str, device: str) -> 'AudioLanguageModel':
    try:
        return loading.load_listener(model, device)
    except inputs.UsageError as error:
        raise _refused(str(error)) from error


def _refused(message: str) -> typer.Exit:
    console.say(f'error: {message}')
    return typer.Exit(2)
