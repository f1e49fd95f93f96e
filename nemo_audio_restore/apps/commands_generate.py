"""``audio-restore generate``: text to audio, variations, in-painting, continuations."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_audio_restore.apps import clip_targets, console, inputs, loading

if TYPE_CHECKING:
    from nemo_audio_restore.generation import GeneratedClip, GenerationStep, LatentGenerator, SamplerSettings
    from nemo_audio_restore.generation.given import Given
    from nemo_audio_restore.reporting import ModelIdentity

DEFAULT_MODEL = 'stable_audio_44k_small'
DEFAULT_SECONDS = 8.0
BITS = ('16', '24', 'float')
LIMIT = 'limit'
CLIP_POLICIES = ('none', LIMIT, 'clamp', 'rescale')


@dataclass(frozen=True)
class _Request:
    """What every clip of the command line has in common."""

    model: str
    device: str
    text_encoder: str | None
    seconds: float | None
    negative: str | None
    changes: dict[str, Any]
    given: 'Given | None'
    sources: tuple[Path, ...]
    loudness: float | None
    batch_size: int
    bits: str | None
    clip: str
    sidecar: bool
    overwrite: bool
    quiet: bool
    verbose: bool


@dataclass
class _Outcome:
    """What happened to one clip: status is generated, skipped, planned or failed."""

    job: clip_targets.ClipJob
    status: str = 'planned'
    error: str | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        head = {
            'target': str(self.job.target),
            'prompt': self.job.prompt,
            'seed': self.job.seed,
            'status': self.status,
        }
        return {**self.report, **head, **({'error': self.error} if self.error else {})}


def generate(
    output: Annotated[Path, typer.Option('-o', '--output', help='File for one prompt, else a folder.')],
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar='PROMPT...', help='What is to be heard; one clip for each.')
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option('--prompts-file', metavar='FILE', help='Further prompts, one a line.')
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help=f"Length; with --continue, of what is added; default: {DEFAULT_SECONDS:g}, or the audio's."),
    ] = None,
    negative: Annotated[str | None, typer.Option(metavar='TEXT', help='What is not wanted.')] = None,
    init_audio: Annotated[
        Path | None, typer.Option('--init-audio', metavar='FILE', help='Vary this clip; see --strength.')
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help='0 gives --init-audio back, 1 ignores it; default: 0.5.')
    ] = None,
    inpaint: Annotated[
        Path | None, typer.Option(metavar='FILE', help='Generate the spans of this recording, keep the rest.')
    ] = None,
    span: Annotated[
        list[str] | None, typer.Option(metavar='START:END', help='For --inpaint, in seconds; repeat for more.')
    ] = None,
    continue_from: Annotated[
        Path | None, typer.Option('--continue', metavar='FILE', help='Let this recording go on for --seconds.')
    ] = None,
    model: Annotated[
        str, typer.Option('-m', '--model', help='Name, .nemo file, folder, or ORG/NAME on the Hub.')
    ] = DEFAULT_MODEL,
    text_encoder: Annotated[
        str | None, typer.Option('--text-encoder', metavar='PLACE', help='Folder, file or name, if the model asks.')
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Times of evaluation; default: the model's.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strictly the prompt is followed; 1 is not at all; default: the model's.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help='ddim, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, heun, ping_pong or rk4.')
    ] = None,
    resamples: Annotated[
        int | None,
        typer.Option(
            min=1, help="For --inpaint and --continue: more fits better, and takes longer; default: the model's."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help='Same seed, same clip.')] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, metavar='N', help='N clips of each prompt, with seeds from --seed on.')
    ] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help='Clips at once: more memory, faster on a GPU.')] = 4,
    device: Annotated[str, typer.Option('-d', '--device', help='auto, cpu, cuda, cuda:N or mps.')] = 'auto',
    loudness: Annotated[
        float | None,
        typer.Option(metavar='LUFS', help='Integrated loudness, like -16; the true peak stays below -1 dB.'),
    ] = None,
    file_format: Annotated[str | None, typer.Option('--format', help='wav or flac.')] = None,
    bits: Annotated[str | None, typer.Option(help='16, 24 or float; default: float for wav, 24 for flac.')] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help='Above full scale: none (warn), limit, clamp, rescale; default: limit, none for recordings.'
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help=f'Name of files in folders: {{slug}} {{index}} {{seed}} {{ext}}; default {clip_targets.DEFAULT_NAME}.'
        ),
    ] = None,
    sidecar: Annotated[
        bool, typer.Option(help='Write a JSON file with prompt, seed, settings, hashes, versions.')
    ] = True,
    overwrite: Annotated[
        bool, typer.Option('--overwrite', help='Replace existing clips instead of skipping.')
    ] = False,
    dry_run: Annotated[bool, typer.Option('--dry-run', help='Only say what would be done.')] = False,
    as_json: Annotated[bool, typer.Option('--json', help='Report as JSON on stdout.')] = False,
    quiet: Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')] = False,
    verbose: Annotated[bool, typer.Option('-v', '--verbose', help='Full details of errors.')] = False,
) -> None:
    """Makes audio from a description; varies, repairs or continues what you have."""
    try:
        texts = clip_targets.read_prompts(prompts or [], prompts_file)
        changes = {'steps': steps, 'guidance': guidance, 'sampler': _sampler(sampler), 'resamples': resamples}
        request = _Request(
            model, device, text_encoder, seconds, negative,
            {key: value for key, value in changes.items() if value is not None},
            _given(init_audio, strength, inpaint, span or [], continue_from),
            tuple(path for path in (init_audio, inpaint, continue_from) if path is not None),
            loudness, batch_size, bits, clip or ('none' if inpaint or continue_from else LIMIT),
            sidecar, overwrite, quiet, verbose,
        )  # fmt: skip
        jobs = clip_targets.plan_clips(texts, range(seed, seed + seeds), output, file_format=file_format, name=name)
        _check(request, jobs)
        outcomes = [_Outcome(job) for job in jobs]
        if not dry_run:
            _run(outcomes, request)
        elif not quiet:
            for job in jobs:
                console.say(f'"{job.prompt}", seed {job.seed} -> {job.target}')
    except inputs.UsageError as error:
        console.say(f'error: {error}')
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.say('interrupted: finished clips are kept, there is nothing half-written')
        raise typer.Exit(130) from None
    failed = [outcome for outcome in outcomes if outcome.status == 'failed']
    if as_json:
        console.result_json({'clips': [outcome.as_dict() for outcome in outcomes], 'failed': len(failed)})
    else:
        for outcome in outcomes:
            if outcome.status in ('generated', 'planned'):
                console.result(str(outcome.job.target))
    if failed and len(outcomes) > 1:
        console.say(f'{len(failed)} of {len(outcomes)} clips failed')
    raise typer.Exit(1 if failed else 0)


def _sampler(name: str | None) -> str | None:
    """Our name of a sampler that may have the published program's."""
    from nemo_audio_restore.generation import GenerationError
    from nemo_audio_restore.models.latent_diffusion_sampling import sampler_name

    try:
        return None if name is None else sampler_name(name)
    except GenerationError as error:
        raise inputs.UsageError(str(error)) from error


def _given(
    init_audio: Path | None,
    strength: float | None,
    inpaint: Path | None,
    spans: Sequence[str],
    continue_from: Path | None,
) -> 'Given | None':
    """What is given besides the prompt, or what is wrong with it."""
    from nemo_audio_restore.generation import GenerationError, given_audio

    options = {'--init-audio': init_audio, '--inpaint': inpaint, '--continue': continue_from}
    asked = [option for option, path in options.items() if path is not None]
    if len(asked) > 1:
        raise inputs.UsageError(f'{" and ".join(asked)} exclude each other: give one of them')
    if strength is not None and init_audio is None:
        raise inputs.UsageError('--strength says how far --init-audio may change: give that too')
    if spans and inpaint is None:
        raise inputs.UsageError('--span says what of --inpaint is generated: give that too')
    if inpaint is not None and not spans:
        raise inputs.UsageError('--inpaint needs at least one --span START:END, in seconds')
    parsed = tuple(inputs.parse_span(text, option='--span', example='2.5:4') for text in spans)
    try:
        return given_audio(
            initial_audio=init_audio,
            strength=strength,
            inpaint=None if inpaint is None else (inpaint, parsed),
            continue_from=continue_from,
        )
    except GenerationError as error:
        raise inputs.UsageError(str(error)) from error


def _check(request: _Request, jobs: Sequence[clip_targets.ClipJob]) -> None:
    """Everything that can be checked without the model: a wrong value should not take seconds."""
    from nemo_audio_restore.files.audio import AudioFileError, probe
    from nemo_audio_restore.generation import GenerationError, SamplerSettings
    from nemo_audio_restore.generation.level import check_loudness
    from nemo_audio_restore.generation.plan import check_seconds
    from nemo_audio_restore.generation.prompts import check_negatives, check_prompts

    for option, value, allowed in (('--bits', request.bits, BITS), ('--clip', request.clip, CLIP_POLICIES)):
        if value is not None and value not in allowed:
            raise inputs.UsageError(f'{option} {value} is unknown; choose from {", ".join(allowed)}')
    if request.bits == 'float' and any(job.target.suffix.lower() == '.flac' for job in jobs):
        raise inputs.UsageError('--bits float is not possible in FLAC; choose 16 or 24, or write wav')
    try:
        check_prompts([job.prompt for job in jobs])
        check_negatives(request.negative, len(jobs))
        SamplerSettings(**request.changes)
        check_loudness(request.loudness, request.given)
        if request.seconds is not None:
            check_seconds(request.seconds)
        for source in request.sources:
            probe(source)
            if any(job.target.exists() and job.target.samefile(source) for job in jobs):
                raise inputs.UsageError(f'{source} is the input; the output needs another name')
    except (GenerationError, AudioFileError) as error:
        raise inputs.UsageError(str(error)) from error


def _run(outcomes: Sequence[_Outcome], request: _Request) -> None:
    """Makes every clip that is not there yet, and notes what came of it."""
    from nemo_audio_restore.networks.conditioners import TextCutWarning

    waiting = []
    for outcome in outcomes:
        if outcome.job.target.exists() and not request.overwrite:
            outcome.status = 'skipped'
            _note(request, f'{outcome.job.target} exists, skipped (--overwrite replaces it)')
        else:
            waiting.append(outcome)
    if not waiting:
        return
    generator = loading.load_generator(request.model, request.device, text_encoder=request.text_encoder)
    identity = loading.identify_generator(request.model, request.device) if request.sidecar else None
    _note(request, _planned(generator, request, len(waiting)))
    label = Path('1 clip' if len(waiting) == 1 else f'{len(waiting)} clips')
    with (
        console.said_warnings(TextCutWarning),
        console.progress(label, quiet=request.quiet) as on_progress,
    ):
        pending = list(waiting)
        try:
            for clip in _clips(generator, request, waiting, on_progress):
                _keep(clip, pending.pop(0), request, identity)
        except inputs.UsageError:
            raise
        except Exception as error:
            # Whatever went wrong, clips that are there stay, and the report says which are not.
            if request.verbose:
                console.say(traceback.format_exc())
            known = isinstance(error, (ImportError, FileNotFoundError))
            message = str(error) if known else f'{type(error).__name__}: {error} (-v shows the details)'
            for outcome in pending:
                outcome.status, outcome.error = 'failed', message
            console.say(f'error: {message}')


def _clips(
    generator: 'LatentGenerator',
    request: _Request,
    waiting: Sequence[_Outcome],
    on_progress: Callable[[int, int], None],
) -> Iterator['GeneratedClip']:
    """The clips in their order; prompts that lack the same seeds are made together."""
    from nemo_audio_restore.files.audio import AudioFileError
    from nemo_audio_restore.generation import GenerationError, generate_clips

    by_prompt = [(prompt, [item.job.seed for item in group]) for prompt, group in _grouped(waiting)]
    done = 0
    for seeds, group in groupby(by_prompt, key=lambda entry: entry[1]):
        texts = [prompt for prompt, _ in group]
        share = len(texts) * len(seeds)

        def tell(step: 'GenerationStep', done: int = done, share: int = share) -> None:
            on_progress(round(1000 * (done + share * step.done / step.total)), 1000 * len(waiting))

        try:
            clips = generate_clips(
                generator,
                texts,
                seconds=_seconds(generator, request),
                negative=request.negative,
                seeds=seeds,
                settings=_settings(generator, request),
                given=request.given,
                loudness_lufs=request.loudness,
                batch_size=request.batch_size,
                on_step=tell,
            )
        except (GenerationError, AudioFileError) as error:
            raise inputs.UsageError(str(error)) from error
        yield from clips
        done += share


def _grouped(waiting: Sequence[_Outcome]) -> Iterator[tuple[str, Iterator[_Outcome]]]:
    """Neighbours of one prompt; the same prompt given twice in a row counts as two where a seed comes again."""
    number, seen, numbers = 0, set(), []
    before = None
    for outcome in waiting:
        if outcome.job.prompt != before or outcome.job.seed in seen:
            number, seen, before = number + 1, set(), outcome.job.prompt
        seen.add(outcome.job.seed)
        numbers.append(number)
    paired = zip(numbers, waiting, strict=True)
    for _, group in groupby(paired, key=lambda pair: pair[0]):
        members = [outcome for _, outcome in group]
        yield members[0].job.prompt, iter(members)


def _seconds(generator: 'LatentGenerator', request: _Request) -> float | None:
    """What was asked for; 8 s, or less if the model's window is shorter, unless the audio says it."""
    from nemo_audio_restore.generation import Inpainting, Variation

    if request.seconds is not None or isinstance(request.given, Inpainting | Variation):
        return request.seconds
    window_s = generator.window_samples / generator.sample_rate
    return min(DEFAULT_SECONDS, window_s if request.given is None else 0.5 * window_s)


def _settings(generator: 'LatentGenerator', request: _Request) -> 'SamplerSettings':
    """The model's, but for what was asked; another sampler has its own spacing of the times."""
    from nemo_audio_restore.models.latent_diffusion_sampling import published_spacing

    sampler = request.changes.get('sampler', generator.sampler.sampler)
    if sampler == generator.sampler.sampler:
        return replace(generator.sampler, **request.changes)
    spacing = published_spacing(sampler, generator.process)
    return replace(generator.sampler, **{**request.changes, 'spacing': spacing})


def _planned(generator: 'LatentGenerator', request: _Request, count: int) -> str:
    settings = _settings(generator, request)
    clips = '1 clip' if count == 1 else f'{count} clips'
    return f'{clips} with {settings.steps} steps of {settings.sampler}, guidance {settings.guidance:g}'


def _keep(clip: 'GeneratedClip', outcome: _Outcome, request: _Request, identity: 'ModelIdentity | None') -> None:
    """Writes a clip and its record; a clip that cannot be written does not stop the others."""
    from nemo_audio_restore.files.audio import BLOCK_SAMPLES, AudioFileError
    from nemo_audio_restore.files.writer import AudioWriter
    from nemo_audio_restore.generation import limited
    from nemo_audio_restore.reporting import write_clip_provenance

    if request.clip == LIMIT:
        clip = limited(clip)
    target = outcome.job.target
    channels, num_samples = clip.audio.shape
    try:
        with AudioWriter(
            target, sample_rate=clip.sample_rate, channels=channels, num_samples=num_samples, bits=request.bits,
            clip='none' if request.clip == LIMIT else request.clip, overwrite=request.overwrite,
        ) as writer:  # fmt: skip
            for start in range(0, num_samples, BLOCK_SAMPLES):
                writer.write(clip.audio[:, start : start + BLOCK_SAMPLES])
        levels = {'clipped_samples': writer.clipped_samples, 'rescale_db': writer.rescale_db}
        outcome.status, outcome.report = 'generated', {**clip.as_dict(), **levels}
        if request.sidecar:
            path = write_clip_provenance(clip, target, model=identity, sources=request.sources)
            outcome.report['sidecar'] = str(path)
    except (AudioFileError, OSError) as error:
        outcome.status, outcome.error = 'failed', str(error)
        console.say(f'error: {error}')
        return
    if writer.clipped_samples and request.clip == 'none':
        _note(request, f'warning: {target}: {writer.clipped_samples} samples are above full scale (see --clip)')
    _note(request, f'"{clip.prompt}", seed {clip.seed} -> {target}: {clip.duration_s:.2f} s in {clip.seconds:.1f} s')


def _note(request: _Request, message: str) -> None:
    if not request.quiet:
        console.say(message)
