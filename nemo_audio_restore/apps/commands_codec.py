"""``audio-restore encode``, ``decode`` and ``tokens``: speech to a few bits and back."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_audio_restore.apps import console, inputs, loading

if TYPE_CHECKING:
    from nemo_audio_restore.codec import DecodeReport, EncodeReport

DEFAULT_CODEC = 'speech_codec_22k_small'
CHANNEL_MODES = ('mono', 'each')
BITS = ('16', '24', 'float')
ENCODED_NAME = '{stem}.{ext}'
DECODED_NAME = '{stem}.decoded.{ext}'
TOKEN_FORMAT = 'nac'

Sources = Annotated[list[str], typer.Argument(metavar='IN...', help='Audio files, folders, or patterns.')]
TokenSources = Annotated[list[str], typer.Argument(metavar='IN...', help='.nac files, folders, or patterns.')]
Output = Annotated[Path, typer.Option('-o', '--output', help='File for one input file, else a folder.')]
Device = Annotated[str, typer.Option('-d', '--device', help='auto, cpu, cuda, cuda:N or mps.')]
Overwrite = Annotated[bool, typer.Option('--overwrite', help='Replace existing results instead of skipping.')]
AsJson = Annotated[bool, typer.Option('--json', help='Report as JSON on stdout.')]
Quiet = Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')]
Verbose = Annotated[bool, typer.Option('-v', '--verbose', help='Full details of errors.')]


@dataclass
class _Outcome:
    """What happened to one file: status is encoded, decoded, skipped or failed."""

    source: str
    target: str
    status: str
    error: str | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        head = {'source': self.source, 'target': self.target, 'status': self.status}
        return {**self.report, **head, **({'error': self.error} if self.error else {})}


@dataclass(frozen=True)
class _Batch:
    """What encoding and decoding have in common: many files, of which some may fail."""

    done: str
    overwrite: bool
    as_json: bool
    quiet: bool
    verbose: bool

    def run(
        self,
        jobs: Sequence[inputs.Job],
        work: Callable[[inputs.Job, Callable[[int, int], None]], 'EncodeReport | DecodeReport'],
    ) -> list[_Outcome]:
        """Does the work for each file and says what came of it."""
        from nemo_audio_restore.codec import CodecError
        from nemo_audio_restore.files.audio import AudioFileError

        outcomes = []
        for job in jobs:
            outcome = _Outcome(str(job.source), str(job.target), self.done)
            outcomes.append(outcome)
            if job.target.exists() and not self.overwrite and not _is_same(job):
                outcome.status = 'skipped'
                self._note(f'{job.target} exists, skipped (--overwrite replaces it)')
                continue
            try:
                with console.progress(job.source, quiet=self.quiet) as on_progress:
                    report = work(job, on_progress)
            except inputs.UsageError:
                raise
            except (AudioFileError, CodecError) as error:
                _fail(outcome, str(error))
            except Exception as error:
                # One bad file must not end a batch of a thousand; the details are one option away.
                if self.verbose:
                    console.say(traceback.format_exc())
                _fail(outcome, f'{job.source}: {type(error).__name__}: {error} (-v shows the details)')
            else:
                outcome.report = report.as_dict()
                clipped = outcome.report.get('clipped_samples')
                if clipped:
                    self._note(f'warning: {job.target}: {clipped} samples above full scale are clipped (write float)')
                self._note(_summary(outcome.report))
        return outcomes

    def report(self, outcomes: Sequence[_Outcome]) -> None:
        """Prints the result and ends the program: 1 if any file failed, else 0."""
        failed = [outcome for outcome in outcomes if outcome.status == 'failed']
        if self.as_json:
            console.result_json({'files': [outcome.as_dict() for outcome in outcomes], 'failed': len(failed)})
        else:
            for outcome in outcomes:
                if outcome.status == self.done:
                    console.result(outcome.target)
        if failed and len(outcomes) > 1:
            console.say(f'{len(failed)} of {len(outcomes)} files failed:')
            for outcome in failed:
                console.say(f'  {outcome.error}')
        raise typer.Exit(1 if failed else 0)

    def _note(self, message: str) -> None:
        if not self.quiet:
            console.say(message)


def encode(
    sources: Sources,
    output: Output,
    model: Annotated[
        str, typer.Option('-m', '--model', help='Name, .nemo file, folder, or ORG/NAME on the Hub.')
    ] = DEFAULT_CODEC,
    channels: Annotated[
        str, typer.Option(help='mono encodes the mean of all channels, each every channel by itself.')
    ] = 'mono',
    device: Device = 'auto',
    name: Annotated[
        str, typer.Option(help='Name of files in folders, from {stem} and {suffix} of the input and {ext}.')
    ] = ENCODED_NAME,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turns speech into token files (.nac) of about 1.9 kbit/s; any rate and length, in bounded memory."""
    batch = _Batch('encoded', overwrite, as_json, quiet, verbose)

    def start() -> list[_Outcome]:
        from nemo_audio_restore.codec import encode_file
        from nemo_audio_restore.files.audio import READABLE_SUFFIXES, probe

        _check_choice('--channels', channels, CHANNEL_MODES)
        jobs = _jobs(sources, output, READABLE_SUFFIXES, formats=(TOKEN_FORMAT,), name=name)
        codecs = _Codecs(device)

        def work(job: inputs.Job, on_progress: Callable[[int, int], None]) -> 'EncodeReport':
            probe(job.source)  # before the model is loaded: a wrong name should not take seconds
            return encode_file(
                codecs.load(model),
                job.source,
                job.target,
                channels=channels,
                model_name=Path(model).stem if model.endswith('.nemo') else model,
                overwrite=overwrite,
                on_progress=on_progress,
            )

        return batch.run(jobs, work)

    batch.report(_guarded(start))


def decode(
    sources: TokenSources,
    output: Output,
    model: Annotated[
        str | None,
        typer.Option('-m', '--model', help="Codec; default: the one the file names, if it is among `models list`'s."),
    ] = None,
    device: Device = 'auto',
    rate: Annotated[
        int | None, typer.Option(metavar='HZ', help="Sample rate of the output; default: the codec's.")
    ] = None,
    file_format: Annotated[str | None, typer.Option('--format', help='wav or flac.')] = None,
    bits: Annotated[str | None, typer.Option(help='16, 24 or float; default: float for wav, 24 for flac.')] = None,
    name: Annotated[
        str, typer.Option(help='Name of files in folders, from {stem} and {suffix} of the input and {ext}.')
    ] = DECODED_NAME,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turns token files (.nac) back into speech of exactly the encoded length."""
    batch = _Batch('decoded', overwrite, as_json, quiet, verbose)

    def start() -> list[_Outcome]:
        from nemo_audio_restore.codec import decode_file
        from nemo_audio_restore.files.audio import SAMPLE_RATES
        from nemo_audio_restore.files.token_file import SUFFIX, probe_tokens

        _check_choice('--bits', bits, BITS)
        _check_choice('--format', file_format, inputs.FORMATS)
        if rate is not None and not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise inputs.UsageError(f'--rate must be {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz; got {rate}')
        formats = inputs.FORMATS if file_format is None else (file_format,)
        jobs = _jobs(sources, output, (SUFFIX,), formats=formats, name=name)
        if bits == 'float' and any(job.target.suffix.lower() == '.flac' for job in jobs):
            raise inputs.UsageError('--bits float is not possible in FLAC; choose 16 or 24, or write wav')
        codecs = _Codecs(device)

        def work(job: inputs.Job, on_progress: Callable[[int, int], None]) -> 'DecodeReport':
            info = probe_tokens(job.source)
            return decode_file(
                codecs.load(model or _named(info.model_name, job.source)),
                job.source,
                job.target,
                sample_rate=rate,
                bits=bits,
                overwrite=overwrite,
                on_progress=on_progress,
            )

        return batch.run(jobs, work)

    batch.report(_guarded(start))


def tokens(
    source: Annotated[Path, typer.Argument(metavar='FILE', help='A .nac file.')], as_json: AsJson = False
) -> None:
    """Shows what a token file holds, and checks that it is undamaged."""
    from dataclasses import asdict

    import numpy as np

    from nemo_audio_restore.files.audio import AudioFileError
    from nemo_audio_restore.files.token_file import probe_tokens, read_token_blocks

    try:
        info = probe_tokens(source)
        counts = np.zeros((info.num_codebooks, info.codebook_size), np.int64)
        for block in read_token_blocks(source):
            for codebook, row in enumerate(counts):
                row += np.bincount(block[:, codebook].reshape(-1), minlength=info.codebook_size)
    except AudioFileError as error:
        console.say(f'error: {error}')
        raise typer.Exit(1) from error
    share = counts / counts.sum(axis=1, keepdims=True)
    entropy = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(axis=1)
    facts = {
        **asdict(info),
        'duration_s': info.duration_s,
        'size_bytes': info.size_bytes,
        'bits_per_second': 8 * info.size_bytes / info.duration_s,
        'codes_used': (counts > 0).sum(axis=1).tolist(),
        'entropy_bits': entropy.round(2).tolist(),
    }
    if as_json:
        console.result_json(facts)
        return
    for key, value in facts.items():
        console.result(f'{key}: {value}')


class _Codecs:
    """Loads each codec once, when the first file needs it."""

    def __init__(self, device: str):
        self._device = device
        self._loaded: dict[str, Any] = {}

    def load(self, name: str) -> Any:
        """The codec of a name."""
        if name not in self._loaded:
            self._loaded[name] = loading.load_codec(name, self._device)
        return self._loaded[name]


def _named(model_name: str, source: Path) -> str:
    """The registered codec that a file names: a file must not make us open other files, or any address."""
    from nemo_audio_restore.checkpoints.registry import list_models
    from nemo_audio_restore.codec import CodecError

    names = [entry.name for entry in list_models('SpeechCodecModel')]
    if model_name in names:
        return model_name
    if not model_name:
        return DEFAULT_CODEC
    raise CodecError(f'{source} was made by "{model_name}", which has no name here: give the codec with --model')


def _jobs(
    sources: list[str], output: Path, suffixes: Sequence[str], *, formats: Sequence[str], name: str
) -> list[inputs.Job]:
    """Where each result goes; everything that can be checked without opening a file."""
    found = inputs.find_inputs(sources, suffixes, exclude=output)
    single = len(sources) == 1 and len(found) == 1 and not Path(sources[0]).is_dir()
    ending = output.suffix.lower().lstrip('.')
    if single and ending and not output.is_dir():
        if ending not in formats:
            endings = ' or '.join(f'.{choice}' for choice in formats)
            raise inputs.UsageError(f'the output must end in {endings}, or be a folder; got {output}')
        return [inputs.Job(found[0][0], output, 0)]
    if ending in formats and not output.is_dir():
        raise inputs.UsageError(f'{output} is a file, but the input may be several: give a folder')
    return inputs.plan_jobs(found, output, single=single, file_format=formats[0], name=name, seeds=[0])


def _guarded(start: Callable[[], list[_Outcome]]) -> list[_Outcome]:
    """Runs a batch; a command line that makes no sense ends the program with 2, Ctrl-C with 130."""
    try:
        return start()
    except inputs.UsageError as error:
        console.say(f'error: {error}')
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.say('interrupted: unfinished files were removed')
        raise typer.Exit(130) from None


def _check_choice(option: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise inputs.UsageError(f'{option} {value} is unknown; choose from {", ".join(allowed)}')


def _is_same(job: inputs.Job) -> bool:
    """Whether output and input are one file: an error, not a reason to skip."""
    return job.target.exists() and job.source.exists() and job.target.samefile(job.source)


def _fail(outcome: _Outcome, message: str) -> None:
    outcome.status, outcome.error = 'failed', message
    console.say(f'error: {message}')


def _summary(report: dict[str, Any]) -> str:
    """One line about a finished file."""
    duration, seconds = report['duration_s'], max(report['seconds'], 1e-9)
    size = f', {report["size_bytes"]} bytes, {report["bits_per_second"]:.0f} bit/s' if 'size_bytes' in report else ''
    return (
        f'{report["source"]} -> {report["target"]}: {duration:.1f} s of audio in {seconds:.1f} s '
        f'({duration / seconds:.1f} x real time){size}'
    )
