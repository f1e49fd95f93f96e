"""``audio-restore distill`` and ``separate``: a text-to-audio model pulls sounds towards prompts (Audio-SDS)."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_audio_restore.apps import clip_targets, console, inputs, loading
from nemo_audio_restore.distillation.settings import (
    ENHANCEMENT,
    FM_SYNTHESIS,
    SEPARATION,
    SYNTHESIS,
    DistillationSettings,
)

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_audio_restore.distillation.prior import AudioPrior

DEFAULT_MODEL = 'stable_audio_44k_small'
DEFAULT_LISTENER = 'audio_flamingo2_small'

Prompt = Annotated[str, typer.Option('--prompt', metavar='TEXT', help='What is to be heard.')]
Output = Annotated[Path, typer.Option('-o', '--output', help='.wav or .flac to write.')]
Seconds = Annotated[float, typer.Option(help='Length of the sound.')]
Negative = Annotated[str | None, typer.Option(metavar='TEXT', help='What is not wanted.')]
Patch = Annotated[
    Path | None, typer.Option(metavar='JSON', help='Write the settings of the synthesizer; default: beside the sound.')
]
Start = Annotated[Path | None, typer.Option('--start', metavar='JSON', help='Patch to begin with, not a random one.')]
Iterations = Annotated[int, typer.Option(min=1, help='Steps of the optimisation.')]
Rate = Annotated[float, typer.Option('--learning-rate', help='Of the first step.')]
Guidance = Annotated[float, typer.Option(help='How strictly the prompt is followed.')]
Draws = Annotated[int, typer.Option(min=1, help='Noises that a step averages over.')]
Gamma = Annotated[float, typer.Option(help='Weight of the prompts beside the recording.')]
Segment = Annotated[
    float | None,
    typer.Option('--segment', metavar='SECONDS', help='Length of a piece; default: what the model knows.'),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar='FILE', help='Keep the state here; after an interruption the same command goes on from it.'),
]
Model = Annotated[str, typer.Option('-m', '--model', help='Name, .nemo file, folder, or ORG/NAME on the Hub.')]
TextEncoder = Annotated[
    str | None, typer.Option('--text-encoder', metavar='PLACE', help='Folder, file or name, if the model asks.')
]
Seed = Annotated[int, typer.Option(help='Same seed, same sound.')]
Device = Annotated[str, typer.Option('-d', '--device', help='auto, cpu, cuda, cuda:N or mps.')]
Overwrite = Annotated[bool, typer.Option('--overwrite', help='Replace existing results.')]
AsJson = Annotated[bool, typer.Option('--json', help='Report as JSON on stdout.')]
Quiet = Annotated[bool, typer.Option('-q', '--quiet', help='Errors only.')]
Verbose = Annotated[bool, typer.Option('-v', '--verbose', help='Full details of errors.')]

app = typer.Typer(
    help='Sounds from synthesizers and recordings, drawn towards a prompt by a text-to-audio model.',
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class _Run:
    """What all of these commands need."""

    preset: DistillationSettings
    settings: dict[str, Any]
    model: str
    device: str
    text_encoder: str | None
    seed: int
    checkpoint: Path | None
    overwrite: bool
    as_json: bool
    quiet: bool
    verbose: bool

    def checked(self) -> DistillationSettings:
        """The settings, or what is wrong with them."""
        try:
            return replace(self.preset, **self.settings)
        except ValueError as error:
            raise inputs.UsageError(str(error)) from error

    def prior(self) -> 'AudioPrior':
        """The model."""
        return loading.load_prior(self.model, self.device, text_encoder=self.text_encoder)

    @contextmanager
    def progress(self, name: str, *, segments: int = 1) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """A bar over the iterations of all segments."""
        with console.progress(Path(name), quiet=self.quiet) as bar:
            yield lambda iteration, terms: bar(iteration, segments * self.settings['iterations'])


def _synthesizer_command(kind: str, title: str, preset: DistillationSettings) -> None:
    """Adds ``distill KIND``: the commands differ in what they fit, not in what they can be told."""

    def command(
        prompt: Prompt,
        output: Output,
        seconds: Seconds = 1.0,
        patch: Patch = None,
        start: Start = None,
        negative: Negative = None,
        iterations: Iterations = preset.iterations,
        learning_rate: Rate = preset.learning_rate,
        guidance: Guidance = preset.guidance,
        draws: Draws = preset.draws,
        checkpoint: Checkpoint = None,
        model: Model = DEFAULT_MODEL,
        text_encoder: TextEncoder = None,
        seed: Seed = 0,
        device: Device = 'auto',
        overwrite: Overwrite = False,
        as_json: AsJson = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        chosen = {'iterations': iterations, 'learning_rate': learning_rate, 'guidance': guidance, 'draws': draws}
        run = _Run(preset, chosen, model, device, text_encoder, seed, checkpoint, overwrite, as_json, quiet, verbose)
        _guarded(run, lambda: _synthesizer(run, kind, prompt, output, seconds, patch, start, negative))

    app.command(kind, help=title)(command)


_synthesizer_command('fm', 'Finds settings of an FM synthesizer with four oscillators.', FM_SYNTHESIS)
_synthesizer_command('impact', 'Finds an object that is struck, and the room around it.', SYNTHESIS)


@app.command('enhance')
def enhance(
    source: Annotated[Path, typer.Argument(metavar='FILE', help='Recording.')],
    prompt: Prompt,
    output: Output,
    gamma: Gamma = ENHANCEMENT.gamma,
    iterations: Iterations = ENHANCEMENT.iterations,
    learning_rate: Rate = ENHANCEMENT.learning_rate,
    guidance: Guidance = ENHANCEMENT.guidance,
    draws: Draws = ENHANCEMENT.draws,
    segment: Segment = None,
    checkpoint: Checkpoint = None,
    model: Model = DEFAULT_MODEL,
    text_encoder: TextEncoder = None,
    seed: Seed = 0,
    device: Device = 'auto',
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draws a recording towards a description such as "clean speech"."""
    settings = {
        'iterations': iterations, 'learning_rate': learning_rate, 'guidance': guidance, 'draws': draws, 'gamma': gamma
    }  # fmt: skip
    run = _Run(
        ENHANCEMENT, settings, model, device, text_encoder, seed, checkpoint, overwrite, as_json, quiet, verbose
    )

    def work() -> list[Path]:
        from nemo_audio_restore.distillation import tasks

        _check_targets(run, [output], source)
        chosen, prior = run.checked(), run.prior()
        recording, segments = _recording(prior, source, segment)
        with run.progress(source.name, segments=segments) as on_iteration:
            audio = tasks.enhance(
                prior, recording, prompt, settings=chosen, seed=seed, on_iteration=on_iteration,
                checkpoint=checkpoint, segment_s=segment,
            )  # fmt: skip
        return [_write(run, output, audio, prior, clip='none')]

    _guarded(run, work)


def separate(
    source: Annotated[Path, typer.Argument(metavar='MIX', help='Recording.')],
    output: Annotated[Path, typer.Option('-o', '--output', help='Folder for one file of each sound.')],
    prompts: Annotated[
        list[str] | None,
        typer.Option('--prompt', metavar='TEXT', help='What one of the sounds is; give two or more, or none.'),
    ] = None,
    sources: Annotated[int, typer.Option(min=2, help='Without --prompt: sounds that the listener names.')] = 2,
    candidates: Annotated[
        list[str] | None,
        typer.Option('--candidate', metavar='TEXT', help='Without --prompt: what it may choose from.'),
    ] = None,
    listener: Annotated[str, typer.Option(help='Without --prompt: model that listens.')] = DEFAULT_LISTENER,
    gamma: Gamma = SEPARATION.gamma,
    iterations: Iterations = SEPARATION.iterations,
    learning_rate: Rate = SEPARATION.learning_rate,
    guidance: Guidance = SEPARATION.guidance,
    draws: Draws = SEPARATION.draws,
    segment: Segment = None,
    checkpoint: Checkpoint = None,
    model: Model = DEFAULT_MODEL,
    text_encoder: TextEncoder = None,
    seed: Seed = 0,
    device: Device = 'auto',
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Divides a mixture into sounds that you describe; together they are the mixture again."""
    settings = {
        'iterations': iterations, 'learning_rate': learning_rate, 'guidance': guidance, 'draws': draws, 'gamma': gamma
    }  # fmt: skip
    run = _Run(SEPARATION, settings, model, device, text_encoder, seed, checkpoint, overwrite, as_json, quiet, verbose)

    def work() -> list[Path]:
        from nemo_audio_restore.distillation import tasks

        _check_targets(run, [], source)
        named = list(prompts or _proposed(source, sources, candidates or [], listener, run))
        if len(named) < 2:
            raise inputs.UsageError(f'separation needs --prompt for each of at least two sounds; got {len(named)}')
        targets = [
            output / f'{source.stem}.{index}-{clip_targets.slug(prompt)}.wav'
            for index, prompt in enumerate(named, start=1)
        ]
        _check_targets(run, targets, source)
        chosen, prior = run.checked(), run.prior()
        mixture, segments = _recording(prior, source, segment)
        with run.progress(source.name, segments=segments) as on_iteration:
            stems = tasks.separate(
                prior, mixture, named, settings=chosen, seed=seed, on_iteration=on_iteration, checkpoint=checkpoint,
                segment_s=segment,
            )  # fmt: skip
        return [_write(run, target, stem, prior, clip='none') for target, stem in zip(targets, stems, strict=True)]

    _guarded(run, work)


def _proposed(source: Path, count: int, candidates: list[str], listener: str, run: _Run) -> list[str]:
    """Prompts of the model that listens."""
    from nemo_audio_restore.distillation.proposals import propose_prompts

    if candidates and len(candidates) < count:
        raise inputs.UsageError(f'{count} sounds cannot be chosen from {len(candidates)}: give more --candidate')
    try:
        model = loading.load_listener(listener, run.device)
    except (inputs.UsageError, ImportError) as error:
        raise inputs.UsageError(
            f'without --prompt a model must listen to {source.name}, and it cannot: {error}; '
            'give --prompt for each sound'
        ) from error
    named = propose_prompts(model, source, count, candidates=candidates)
    if not run.quiet:
        console.say(f'heard: {", ".join(named)}')
    return named


def _synthesizer(
    run: _Run,
    kind: str,
    prompt: str,
    output: Path,
    seconds: float,
    patch: Path | None,
    start: Path | None,
    negative: str | None,
) -> list[Path]:
    """Fits a synthesizer, writes its sound and its patch."""
    import torch

    from nemo_audio_restore.distillation import renderers, tasks

    patch = output.with_suffix('.json') if patch is None else patch
    _check_targets(run, [output, patch], start)
    if not 0 < seconds < float('inf'):
        raise inputs.UsageError(f'--seconds must be above 0; got {seconds:g}')
    chosen = run.checked()
    kinds = {'fm': renderers.FMSynthesizer, 'impact': renderers.ImpactSynthesizer}
    renderer = None
    if start is not None:
        try:
            renderer = renderers.load_patch(start)
        except (ValueError, OSError) as error:
            raise inputs.UsageError(f'--start {start} cannot be used: {error}') from error
        if renderer.kind != kind:
            raise inputs.UsageError(f'--start {start} is a patch of the {renderer.kind} synthesizer, not of {kind}')
    prior = run.prior()
    if renderer is not None and renderer.sample_rate != prior.sample_rate:
        raise inputs.UsageError(
            f'--start {start} is a patch at {renderer.sample_rate} Hz, {run.model} works at {prior.sample_rate} Hz'
        )
    if renderer is None:
        generator = torch.Generator().manual_seed(run.seed)
        renderer = kinds[kind].random(sample_rate=prior.sample_rate, generator=generator)
    with run.progress(output.name) as on_iteration:
        tasks.follow_prompt(
            prior, renderer, prompt, seconds=seconds, negative=negative, settings=chosen, seed=run.seed,
            on_iteration=on_iteration, checkpoint=run.checkpoint,
        )  # fmt: skip
    with torch.no_grad():
        audio = renderer(round(seconds * prior.sample_rate))
    written = _write(run, output, audio, prior, clip='rescale')
    renderer.save_patch(patch)
    return [written, patch]


def _check_targets(run: _Run, targets: list[Path], source: Path | None) -> None:
    """Everything about the files, before the model is loaded."""
    from nemo_audio_restore.files.audio import AudioFileError, probe
    from nemo_audio_restore.files.writer import check_overwrite, check_target

    try:
        if source is not None and source.suffix.lower() != '.json':
            probe(source)
        for target in targets:
            if target.suffix.lower() != '.json':
                check_target(target, bits=None, clip='none', channels=2, sample_rate=44100)
            if source is not None and target.exists() and source.exists() and target.samefile(source):
                raise AudioFileError(f'{target} is the input; the output needs another name')
            check_overwrite(target, overwrite=run.overwrite)
    except AudioFileError as error:
        raise inputs.UsageError(str(error)) from error


def _recording(prior: 'AudioPrior', source: Path, segment_s: float | None) -> tuple['Tensor', int]:
    """(C, T) at the rate of the prior, and the number of pieces in which it is worked on."""
    import torch

    from nemo_audio_restore.distillation.tasks import count_segments
    from nemo_audio_restore.generation.given import read_given

    audio = torch.from_numpy(read_given(source, sample_rate=prior.sample_rate, channels=prior.channels))
    try:
        return audio, count_segments(prior, audio.shape[-1], segment_s=segment_s)
    except ValueError as error:
        raise inputs.UsageError(f'--segment: {error}') from error


def _write(run: _Run, target: Path, audio: 'Tensor', prior: 'AudioPrior', *, clip: str) -> Path:
    from nemo_audio_restore.files.writer import write_audio

    write_audio(target, audio.cpu().numpy(), prior.sample_rate, clip=clip, overwrite=run.overwrite)
    return target


def _guarded(run: _Run, work: Callable[[], list[Path]]) -> None:
    """Does the work and ends the program: 2 for a command line that makes no sense, 1 for what failed."""
    started = time.monotonic()
    try:
        written = work()
    except inputs.UsageError as error:
        console.say(f'error: {error}')
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        kept = run.checkpoint is not None and run.checkpoint.exists()
        console.say(f'interrupted: {"the same command goes on from here" if kept else "nothing was written"}')
        raise typer.Exit(130) from None
    except Exception as error:
        if run.verbose:
            console.say(traceback.format_exc())
        console.say(f'error: {error} (-v shows the details)')
        raise typer.Exit(1) from error
    seconds = time.monotonic() - started
    if run.as_json:
        console.result_json({'files': [str(path) for path in written], 'seconds': seconds, **run.settings})
        return
    if not run.quiet:
        console.say(f'{run.settings["iterations"]} iterations in {seconds:.0f} s')
    for path in written:
        console.result(str(path))
