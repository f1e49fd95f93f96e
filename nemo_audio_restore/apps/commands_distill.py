"""``audio-restore distill`` and ``separate``: a text-to-audio model pulls sounds towards prompts (Audio-SDS)."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_audio_restore.apps import clip_targets, console, inputs, loading

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_audio_restore.distillation.prior import AudioPrior
    from nemo_audio_restore.distillation.tasks import DistillationSettings

DEFAULT_MODEL = 'stable_audio_44k_small'

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

    settings: dict[str, Any]
    model: str
    device: str
    text_encoder: str | None
    seed: int
    overwrite: bool
    as_json: bool
    quiet: bool
    verbose: bool

    def checked(self) -> 'DistillationSettings':
        """The settings, or what is wrong with them."""
        from nemo_audio_restore.distillation.tasks import DistillationSettings

        try:
            return DistillationSettings(**self.settings)
        except ValueError as error:
            raise inputs.UsageError(str(error)) from error

    def prior(self) -> 'AudioPrior':
        """The model."""
        return loading.load_prior(self.model, self.device, text_encoder=self.text_encoder)

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """A bar over the iterations."""
        with console.progress(Path(name), quiet=self.quiet) as bar:
            yield lambda iteration, terms: bar(iteration, self.settings['iterations'])


@app.command('fm')
def fm(
    prompt: Prompt,
    output: Output,
    seconds: Seconds = 1.0,
    patch: Patch = None,
    start: Start = None,
    negative: Negative = None,
    iterations: Iterations = 300,
    learning_rate: Rate = 0.05,
    guidance: Guidance = 15.0,
    draws: Draws = 4,
    model: Model = DEFAULT_MODEL,
    text_encoder: TextEncoder = None,
    seed: Seed = 0,
    device: Device = 'auto',
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Finds settings of an FM synthesizer with four oscillators."""
    settings = {'iterations': iterations, 'learning_rate': learning_rate, 'guidance': guidance, 'draws': draws}
    run = _Run(settings, model, device, text_encoder, seed, overwrite, as_json, quiet, verbose)
    _guarded(run, lambda: _synthesizer(run, 'fm', prompt, output, seconds, patch, start, negative))


@app.command('impact')
def impact(
    prompt: Prompt,
    output: Output,
    seconds: Seconds = 1.0,
    patch: Patch = None,
    start: Start = None,
    negative: Negative = None,
    iterations: Iterations = 300,
    learning_rate: Rate = 0.05,
    guidance: Guidance = 15.0,
    draws: Draws = 4,
    model: Model = DEFAULT_MODEL,
    text_encoder: TextEncoder = None,
    seed: Seed = 0,
    device: Device = 'auto',
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Finds an object that is struck, and the room around it."""
    settings = {'iterations': iterations, 'learning_rate': learning_rate, 'guidance': guidance, 'draws': draws}
    run = _Run(settings, model, device, text_encoder, seed, overwrite, as_json, quiet, verbose)
    _guarded(run, lambda: _synthesizer(run, 'impact', prompt, output, seconds, patch, start, negative))


@app.command('enhance')
def enhance(
    source: Annotated[Path, typer.Argument(metavar='FILE', help='Recording, no longer than the model knows.')],
    prompt: Prompt,
    output: Output,
    gamma: Gamma = 0.5,
    iterations: Iterations = 300,
    learning_rate: Rate = 0.05,
    guidance: Guidance = 15.0,
    draws: Draws = 4,
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
    run = _Run(settings, model, device, text_encoder, seed, overwrite, as_json, quiet, verbose)

    def work() -> list[Path]:
        from nemo_audio_restore.distillation import tasks

        _check_targets(run, [output], source)
        chosen, prior = run.checked(), run.prior()
        recording = _recording(prior, source)
        with run.progress(source.name) as on_iteration:
            audio = tasks.enhance(prior, recording, prompt, settings=chosen, seed=seed, on_iteration=on_iteration)
        return [_write(run, output, audio, prior, clip='none')]

    _guarded(run, work)


def separate(
    source: Annotated[Path, typer.Argument(metavar='MIX', help='Recording, no longer than the model knows.')],
    prompts: Annotated[
        list[str], typer.Option('--prompt', metavar='TEXT', help='What one of the sounds is; give two or more.')
    ],
    output: Annotated[Path, typer.Option('-o', '--output', help='Folder for one file of each sound.')],
    gamma: Gamma = 0.5,
    iterations: Iterations = 300,
    learning_rate: Rate = 0.05,
    guidance: Guidance = 15.0,
    draws: Draws = 4,
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
    run = _Run(settings, model, device, text_encoder, seed, overwrite, as_json, quiet, verbose)

    def work() -> list[Path]:
        from nemo_audio_restore.distillation import tasks

        if len(prompts) < 2:
            raise inputs.UsageError(f'separation needs --prompt for each of at least two sounds; got {len(prompts)}')
        targets = [
            output / f'{source.stem}.{index}-{clip_targets.slug(prompt)}.wav'
            for index, prompt in enumerate(prompts, start=1)
        ]
        _check_targets(run, targets, source)
        chosen, prior = run.checked(), run.prior()
        mixture = _recording(prior, source)
        with run.progress(source.name) as on_iteration:
            stems = tasks.separate(prior, mixture, prompts, settings=chosen, seed=seed, on_iteration=on_iteration)
        return [_write(run, target, stem, prior, clip='none') for target, stem in zip(targets, stems, strict=True)]

    _guarded(run, work)


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
    if renderer is None:
        generator = torch.Generator().manual_seed(run.seed)
        renderer = kinds[kind].random(sample_rate=prior.sample_rate, generator=generator)
    with run.progress(output.name) as on_iteration:
        tasks.follow_prompt(
            prior, renderer, prompt, seconds=seconds, negative=negative, settings=chosen, seed=run.seed,
            on_iteration=on_iteration,
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


def _recording(prior: 'AudioPrior', source: Path) -> 'Tensor':
    """(C, T) at the rate of the prior."""
    import torch

    from nemo_audio_restore.generation.given import read_given

    return torch.from_numpy(read_given(source, sample_rate=prior.sample_rate, channels=prior.channels))


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
        console.say('interrupted: nothing was written')
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
