"""``audio-restore ask`` and ``caption``: questions about recordings."""

import json
import os
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_audio_restore.apps import console, inputs, loading

if TYPE_CHECKING:
    from nemo_audio_restore.models.audio_language import AudioLanguageModel

Model = Annotated[str, typer.Option('-m', '--model', help='Name, .nemo file, folder, or ORG/NAME on the Hub.')]
Device = Annotated[str, typer.Option('-d', '--device', help='auto, cpu, cuda, cuda:N or mps.')]
MaxTokens = Annotated[int, typer.Option(min=1, help='Longest answer, in tokens.')]
Quiet = Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')]
Verbose = Annotated[bool, typer.Option('-v', '--verbose', help='Full details of errors.')]


def ask(
    sources: Annotated[
        list[str],
        typer.Argument(metavar='IN... QUESTION', help='Audio files, folders or patterns; then the question.'),
    ],
    model: Model,
    option: Annotated[
        list[str] | None, typer.Option(help='A possible answer; repeat for each. The likeliest is chosen.')
    ] = None,
    max_tokens: MaxTokens = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, help='0 gives the likeliest words; 1 draws them as the model weighs them.')
    ] = 0.0,
    seed: Annotated[int, typer.Option(help='Of the draws.')] = 0,
    as_jsonl: Annotated[bool, typer.Option('--jsonl', help='A line of JSON for every file.')] = False,
    device: Device = 'auto',
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Answers a question about recordings, in words or by choosing among options."""
    files, question = _files_and_question(sources)
    options = option or None
    if options is not None and temperature > 0:
        raise _refused('--temperature is for answers in words; options are scored, nothing is drawn')
    listener = _loaded(model, device)
    from nemo_audio_restore.data.question_text import QuestionError
    from nemo_audio_restore.models.text_decoding import TextSettings

    settings = TextSettings(max_new_tokens=max_tokens, temperature=temperature, seed=seed)

    def work(path: Path) -> dict[str, Any]:
        stream = not (quiet or as_jsonl or len(files) > 1 or options)
        if options is not None:
            answer = listener.ask(path, question, options)
            return {'answer': answer.text, 'probabilities': answer.probabilities}
        # One file: words appear as they are written.
        said = listener.generate(
            prompts=[question],
            audios=[path],
            settings=settings,
            on_text=(lambda item, piece: console.say_piece(piece)) if stream else None,
        )
        if stream:
            console.say('')
        return {'answer': said[0]}

    try:
        _run(files, work, head={'question': question}, as_jsonl=as_jsonl, quiet=quiet, verbose=verbose)
    except QuestionError as error:
        raise _refused(str(error)) from error


def caption(
    sources: Annotated[list[str], typer.Argument(metavar='IN...', help='Audio files, folders, or patterns.')],
    model: Model,
    prompt: Annotated[str | None, typer.Option(help='What the model is asked to do; default: describe.')] = None,
    max_tokens: MaxTokens = 256,
    as_jsonl: Annotated[bool, typer.Option('--jsonl', help='A line of JSON for every file.')] = False,
    device: Device = 'auto',
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Describes recordings."""
    files = _files(sources)
    listener = _loaded(model, device)
    from nemo_audio_restore.data.question_text import QuestionError
    from nemo_audio_restore.models.audio_language_answers import CAPTION_PROMPT
    from nemo_audio_restore.models.text_decoding import TextSettings

    settings = TextSettings(max_new_tokens=max_tokens)

    def work(path: Path) -> dict[str, Any]:
        text = listener.caption(path, prompt=CAPTION_PROMPT if prompt is None else prompt, settings=settings)
        return {'caption': text}

    try:
        _run(files, work, head={}, as_jsonl=as_jsonl, quiet=quiet, verbose=verbose)
    except QuestionError as error:
        raise _refused(str(error)) from error


def _run(
    files: Sequence[Path],
    work: Callable[[Path], dict[str, Any]],
    *,
    head: dict[str, Any],
    as_jsonl: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Works on each file and prints what comes of it; ends with 1 if any failed, else 0."""
    from nemo_audio_restore.data.listening import InputWarning, NothingToHearError
    from nemo_audio_restore.data.question_text import QuestionError
    from nemo_audio_restore.files.audio import AudioFileError

    failed = []
    with console.progress(Path(f'{len(files)} files'), quiet=quiet or len(files) == 1) as on_progress:
        for done, path in enumerate(files):
            record: dict[str, Any] = {'audio': str(path), **head}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always', InputWarning)
                try:
                    record |= work(path)
                except QuestionError:
                    raise
                except (AudioFileError, NothingToHearError) as error:
                    record['error'] = str(error)
                except Exception as error:
                    # One bad file must not end a folder of a thousand; the details are one option away.
                    if verbose:
                        console.say(traceback.format_exc())
                    record['error'] = f'{path}: {type(error).__name__}: {error} (-v shows the details)'
            notes = [str(warning.message) for warning in caught if issubclass(warning.category, InputWarning)]
            if notes:
                record['warnings'] = notes
            _report(record, as_jsonl=as_jsonl, several=len(files) > 1, quiet=quiet)
            if 'error' in record:
                failed.append(record['error'])
            on_progress(done + 1, len(files))
    if failed and len(files) > 1:
        console.say(f'{len(failed)} of {len(files)} files failed')
    raise typer.Exit(1 if failed else 0)


def _report(record: dict[str, Any], *, as_jsonl: bool, several: bool, quiet: bool) -> None:
    for note in record.get('warnings', ()):
        if not quiet:
            console.say(f'warning: {note}')
    if 'error' in record:
        console.say(f'error: {record["error"]}')
    if as_jsonl:
        console.result(json.dumps(record, ensure_ascii=False))
        return
    if 'error' in record:
        return
    text = record.get('answer', record.get('caption'))
    console.result(f'{record["audio"]}: {text}' if several else text)
    for option, probability in (record.get('probabilities') or {}).items():
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
        return load_listener(model, device)
    except inputs.UsageError as error:
        raise _refused(str(error)) from error


def load_listener(name: str, device: str) -> 'AudioLanguageModel':
    """An audio-language model in evaluation mode on a device.

    Args:
        name: of a registered model, a ``.nemo`` file, an unpacked folder, or ORG/NAME on the Hub.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        The model.

    Raises:
        UsageError: there is no such model or device, or the model has no tokenizer.
    """
    where = loading.find_device(device)
    from nemo_audio_restore._nemo import logging
    from nemo_audio_restore.models.audio_language import AudioLanguageModel

    logging.setLevel(logging.ERROR)
    try:
        model = AudioLanguageModel.from_pretrained(name)
        _ = model.questions  # a model without words cannot be asked
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise inputs.UsageError(f'the model {name} cannot be loaded: {error}') from error
    return model.to(where).eval()


def _refused(message: str) -> typer.Exit:
    console.say(f'error: {message}')
    return typer.Exit(2)
