"""``audio-restore restore``."""

import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_audio_restore.apps import console, inputs, loading
from nemo_audio_restore.apps.damage_options import Damage, parse_damage

if TYPE_CHECKING:
    from nemo_audio_restore.models.audio_restore import AudioRestoreModel
    from nemo_audio_restore.reporting import ModelIdentity
    from nemo_audio_restore.restoration import RestorationReport, SamplerSettings

DEFAULT_MODEL = 'a2sb_44k_small'
BITS = ('16', '24', 'float')
CLIP_POLICIES = ('none', 'clamp', 'rescale')
PRECISIONS = ('fp32', 'bf16', 'fp16')
STEREO_MODES = ('auto', 'shared', 'mid-side', 'independent')


@dataclass(frozen=True)
class _Options:
    """Options that hold for every file."""

    damage: Damage
    stereo: str
    steps: int | None
    batch_size: int | str | None
    precision: str | None
    compile: bool
    seeds: range
    bits: str | None
    clip: str
    overwrite: bool
    resume: bool
    sidecar: bool
    plot: bool
    page: bool
    quiet: bool
    verbose: bool


@dataclass
class _Outcome:
    """What happened to one file: status is restored, unchanged, skipped, planned or failed."""

    source: str
    target: str
    status: str
    error: str | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the report's own values come last."""
        head = {'source': self.source, 'target': self.target, 'status': self.status}
        return {**self.report, **head, **({'error': self.error} if self.error else {})}


def restore(
    sources: Annotated[list[str], typer.Argument(metavar='IN...', help='Audio files, folders, or patterns.')],
    output: Annotated[Path, typer.Option('-o', '--output', help='File for one input file, else a folder.')],
    cutoff: Annotated[
        str | None,
        typer.Option(
            metavar='auto|HZ',
            help='Generate everything above this frequency; auto finds it; default without gaps or regions.',
        ),
    ] = None,
    gap: Annotated[
        list[str] | None, typer.Option(metavar='START:END', help='Generate this stretch, in seconds; repeat for more.')
    ] = None,
    gaps: Annotated[
        Path | None, typer.Option(metavar='LABELS', help='Audacity label track that marks gaps and regions.')
    ] = None,
    detect_gaps: Annotated[
        bool, typer.Option('--detect-gaps', help='Look for digital silence, drop-outs and stuck samples.')
    ] = False,
    region: Annotated[
        list[str] | None,
        typer.Option(metavar='START:END,LOW:HIGH', help='Generate this box, in seconds and Hz; repeat for more.'),
    ] = None,
    force: Annotated[
        bool, typer.Option('--force', help='Allow gaps and regions longer than the model sees at once.')
    ] = False,
    stereo: Annotated[
        str, typer.Option(help='What channels share: auto, shared (noise), mid-side or independent.')
    ] = 'auto',
    model: Annotated[
        str, typer.Option('-m', '--model', help='Name, .nemo file, folder, or ORG/NAME on the Hub.')
    ] = DEFAULT_MODEL,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Network evaluations for each tile; default: the model's.")
    ] = None,
    seed: Annotated[int, typer.Option(help='Same seed, same result.')] = 0,
    seeds: Annotated[
        int,
        typer.Option(min=1, metavar='N', help='Write N variants, with seeds from --seed on, in names with the seed.'),
    ] = 1,
    device: Annotated[str, typer.Option('-d', '--device', help='auto, cpu, cuda, cuda:N or mps.')] = 'auto',
    batch_size: Annotated[
        str | None,
        typer.Option(metavar='auto|N', help="Tiles at once: more memory, faster on a GPU; default: the model's."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help='Of the network: fp32, bf16 or fp16 (half the memory, faster on a GPU).')
    ] = None,
    compile: Annotated[
        bool, typer.Option('--compile', help='Compile the network first: minutes once, faster afterwards.')
    ] = False,
    file_format: Annotated[str | None, typer.Option('--format', help='wav or flac.')] = None,
    bits: Annotated[str | None, typer.Option(help='16, 24 or float; default: float for wav, 24 for flac.')] = None,
    clip: Annotated[str, typer.Option(help='Above full scale: none (warn), clamp or rescale.')] = 'none',
    name: Annotated[
        str | None,
        typer.Option(
            help=f'Name of files in folders: {{stem}} {{suffix}} {{ext}} {{seed}}; default {inputs.DEFAULT_NAME}.'
        ),
    ] = None,
    plot: Annotated[bool, typer.Option('--plot', help='Also write a picture: spectrograms before and after.')] = False,
    page: Annotated[
        bool, typer.Option('--report', help='Also write an HTML page: what was generated, to see and to hear.')
    ] = False,
    sidecar: Annotated[
        bool, typer.Option(help='Write a JSON file with hashes, settings, versions and what was generated.')
    ] = True,
    overwrite: Annotated[
        bool, typer.Option('--overwrite', help='Replace existing results instead of skipping.')
    ] = False,
    resume: Annotated[
        bool, typer.Option(help='Go on where the same command was interrupted; else keep nothing and start again.')
    ] = True,
    dry_run: Annotated[bool, typer.Option('--dry-run', help='Only say what would be done.')] = False,
    as_json: Annotated[bool, typer.Option('--json', help='Report as JSON on stdout.')] = False,
    quiet: Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')] = False,
    verbose: Annotated[bool, typer.Option('-v', '--verbose', help='Say more; full details of errors.')] = False,
) -> None:
    """Generates what is missing above a cutoff, inside gaps and regions; everything else stays as recorded."""
    try:
        damage = parse_damage(
            cutoff=cutoff, gaps=gap or [], labels=gaps, regions=region or [], detect_gaps=detect_gaps, force=force,
            several_inputs=len(sources) > 1 or not Path(sources[0]).is_file(),
        )  # fmt: skip
        options = _Options(
            damage, stereo, steps, _batch_size(batch_size), precision, compile, range(seed, seed + seeds), bits,
            clip, overwrite, resume, sidecar, plot, page, quiet, verbose,
        )  # fmt: skip
        jobs = _jobs(sources, output, options, file_format=file_format, name=name)
        outcomes = _run(jobs, options, model=model, device=device, dry_run=dry_run)
    except inputs.UsageError as error:
        console.say(f'error: {error}')
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        kept = 'the same command goes on from the last checkpoint' if resume else 'unfinished files were removed'
        console.say(f'interrupted: {kept}')
        raise typer.Exit(130) from None
    failed = [outcome for outcome in outcomes if outcome.status == 'failed']
    if as_json:
        console.result_json({'files': [outcome.as_dict() for outcome in outcomes], 'failed': len(failed)})
    else:
        for outcome in outcomes:
            if outcome.status in ('restored', 'unchanged', 'planned'):
                console.result(outcome.target)
    if failed and len(outcomes) > 1:
        console.say(f'{len(failed)} of {len(outcomes)} files failed:')
        for outcome in failed:
            console.say(f'  {outcome.error}')
    raise typer.Exit(1 if failed else 0)


def _jobs(
    sources: list[str], output: Path, options: _Options, *, file_format: str | None, name: str | None
) -> list[inputs.Job]:
    """Everything that can be checked about the command line without opening a file."""
    from nemo_audio_restore.files.audio import READABLE_SUFFIXES

    for value, allowed, option in (
        (options.bits, BITS, '--bits'),
        (options.clip, CLIP_POLICIES, '--clip'),
        (options.stereo, STEREO_MODES, '--stereo'),
        (file_format, inputs.FORMATS, '--format'),
        (options.precision, PRECISIONS, '--precision'),
    ):
        if value is not None and value not in allowed:
            raise inputs.UsageError(f'{option} {value} is unknown; choose from {", ".join(allowed)}')
    found = inputs.find_inputs(sources, READABLE_SUFFIXES, exclude=output)
    single = len(sources) == 1 and len(found) == 1 and not Path(sources[0]).is_dir()
    jobs = inputs.plan_jobs(found, output, single=single, file_format=file_format, name=name, seeds=options.seeds)
    flac = any(job.target.suffix.lower() == '.flac' for job in jobs)
    if flac and options.bits == 'float':
        raise inputs.UsageError('--bits float is not possible in FLAC; choose 16 or 24, or write wav')
    return jobs


def _run(jobs: list[inputs.Job], options: _Options, *, model: str, device: str, dry_run: bool) -> list[_Outcome]:
    from nemo_audio_restore.files.audio import AudioFileError, probe

    outcomes = []
    loaded: AudioRestoreModel | None = None
    identity: ModelIdentity | None = None
    for job in jobs:
        outcome = _Outcome(str(job.source), str(job.target), 'planned')
        outcomes.append(outcome)
        try:
            info = probe(job.source)  # before the model is loaded: a wrong name should not take seconds
            outcome.report = {
                'channels': info.channels, 'duration_s': info.duration_s, 'input_rate': info.sample_rate
            }  # fmt: skip
        except AudioFileError as error:
            _fail(outcome, str(error))
            continue
        if job.target.exists() and not options.overwrite and not _is_same(job):
            outcome.status = 'skipped'
            if not options.quiet:
                console.say(f'{job.target} exists, skipped (--overwrite replaces it)')
            continue
        if dry_run:
            if not options.quiet:
                console.say(f'{job.source} ({info.duration_s:.1f} s, {info.channels} ch) -> {job.target}')
            continue
        loaded = loaded or loading.load_model(model, device)
        report = _restore_one(loaded, job, options, outcome)
        if report is not None and (options.sidecar or options.plot or options.page):
            identity = identity or loading.identify_model(model, device)
            _document(report, options, outcome, model=identity, settings=_settings(loaded, options))
    return outcomes


def _is_same(job: inputs.Job) -> bool:
    """Whether output and input are one file: an error, not a reason to skip."""
    return job.target.exists() and job.target.samefile(job.source)


def _restore_one(
    model: 'AudioRestoreModel', job: inputs.Job, options: _Options, outcome: _Outcome
) -> 'RestorationReport | None':
    from nemo_audio_restore.files.audio import AudioFileError
    from nemo_audio_restore.restoration import RestorationError

    try:
        with console.progress(job.source, quiet=options.quiet) as on_progress:
            report = model.restore(
                job.source,
                job.target,
                cutoff_hz=options.damage.cutoff_hz,
                gaps=options.damage.gaps,
                regions=options.damage.regions,
                detect_gaps=options.damage.detect_gaps,
                force=options.damage.force,
                stereo=options.stereo,
                settings=_settings(model, options),
                seed=job.seed,
                bits=options.bits,
                clip=options.clip,
                overwrite=options.overwrite,
                resume=options.resume,
                on_progress=on_progress,
            )
    except (AudioFileError, RestorationError) as error:
        _fail(outcome, str(error))
    except Exception as error:
        # One bad file must not end a batch of a thousand; the details are one option away.
        if options.verbose:
            console.say(traceback.format_exc())
        _fail(outcome, f'{job.source}: {type(error).__name__}: {error} (-v shows the details)')
    else:
        outcome.status, outcome.report = 'unchanged' if report.is_unchanged else 'restored', report.as_dict()
        if not options.quiet:
            for note in report.notes:
                console.say(f'{job.source}: {note}')
            for warning in report.warnings:
                console.say(f'warning: {job.source}: {warning}')
            console.say(_summary(report.as_dict()))
        return report
    return None


def _document(
    report: 'RestorationReport',
    options: _Options,
    outcome: _Outcome,
    *,
    model: 'ModelIdentity',
    settings: 'SamplerSettings',
) -> None:
    """Writes what is kept beside the restored file."""
    from nemo_audio_restore.files.audio import AudioFileError
    from nemo_audio_restore.reporting import write_documents

    try:
        written = write_documents(
            report, sidecar=options.sidecar, picture=options.plot, html=options.page, model=model, settings=settings
        )
    except (AudioFileError, OSError, ImportError) as error:
        _fail(outcome, f'{outcome.target} is complete, but what belongs beside it could not be written: {error}')
        return
    outcome.report['documents'] = [str(path) for path in written.paths]
    if not options.quiet:
        for path in (written.picture, written.page):
            if path is not None:
                console.say(f'wrote {path}')


def _settings(model: 'AudioRestoreModel', options: _Options) -> 'SamplerSettings':
    """The model's own settings, but for what the user asked."""
    asked = {
        'steps': options.steps,
        'batch_size': options.batch_size,
        'precision': options.precision,
        'compile': options.compile or None,
    }
    return replace(model.sampler, **{key: value for key, value in asked.items() if value is not None})


def _batch_size(text: str | None) -> int | str | None:
    """What ``--batch-size`` says."""
    if text is None or text == 'auto':
        return text
    if not text.isdecimal() or int(text) < 1:
        raise inputs.UsageError(f'--batch-size must be auto or a number of tiles, at least 1; got {text}')
    return int(text)


def _fail(outcome: _Outcome, message: str) -> None:
    outcome.status, outcome.error = 'failed', message
    console.say(f'error: {message}')


def _summary(report: dict[str, Any]) -> str:
    """One line about a restored file."""
    duration, seconds = report['duration_s'], report['seconds']
    if not report['tiles']:
        return f'{report["source"]} -> {report["target"]}: nothing was generated, the samples are those of the input'
    tiles = f'{report["tiles"]} of {report["tiles_total"]} tiles'
    return (
        f'{report["source"]} -> {report["target"]}: {duration:.1f} s of audio in {seconds:.1f} s '
        f'({duration / max(seconds, 1e-9):.2f} x real time), {tiles}, seed {report["seed"]}'
    )
