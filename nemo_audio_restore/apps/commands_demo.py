"""``audio-restore demo``: restores the clip that ships, measures it and draws it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_audio_restore.apps import commands_restore, console, inputs, loading

if TYPE_CHECKING:
    import numpy as np

CLIP_FOLDER = Path(__file__).resolve().parent.parent / 'pretrained' / 'demo'
CUTOFF_HZ = 4000.0
GAP_S = (5.0, 5.3)
TITLES = ('before', 'after', 'original')


def demo(
    output: Annotated[Path, typer.Option('-o', '--output', help='Folder for the sound files and the picture.')] = Path(
        'audio-restore-demo'
    ),
    model: Annotated[
        str, typer.Option('-m', '--model', help='Name, .nemo file, folder, or ORG/NAME on the Hub.')
    ] = commands_restore.DEFAULT_MODEL,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Network evaluations for each tile; default: the model's.")
    ] = None,
    seed: Annotated[int, typer.Option(help='Same seed, same result.')] = 0,
    device: Annotated[str, typer.Option('-d', '--device', help='auto, cpu, cuda, cuda:N or mps.')] = 'auto',
) -> None:
    """Restores nine seconds of music without treble and with a hole; prints numbers, writes a before/after picture."""
    try:
        restorer = loading.load_model(model, device)
    except inputs.UsageError as error:
        console.say(f'error: {error}')
        raise typer.Exit(2) from error
    output.mkdir(parents=True, exist_ok=True)
    original = Path(shutil.copy(CLIP_FOLDER / 'original.flac', output))
    before = Path(shutil.copy(CLIP_FOLDER / 'dull_with_gap.flac', output))
    after, picture = output / 'restored.flac', output / 'before_after.png'

    settings = restorer.sampler if steps is None else replace(restorer.sampler, steps=steps)
    with console.progress(before, quiet=False) as on_progress:
        report = restorer.restore(
            before,
            after,
            cutoff_hz=CUTOFF_HZ,
            gaps=[GAP_S],
            settings=settings,
            seed=seed,
            overwrite=True,
            on_progress=on_progress,
        )
    console.say(f'{report.duration_s:.0f} s of {report.channels}-channel audio took {report.seconds:.1f} s')
    for line in comparison(original, before, after):
        console.result(line)
    draw(original, before, after, picture)
    for path in (original, before, after, picture):
        console.result(str(path))


def comparison(original: Path, before: Path, after: Path) -> list[str]:
    """A table of distances to the original, before and after restoring; means over channels.

    Args:
        original: the recording as it was.
        before: damaged as the demonstration clip is.
        after: restored.

    Returns:
        Lines of text; the perceptual score is left out where its package is not installed.
    """
    from nemo_audio_restore.evaluation import metrics
    from nemo_audio_restore.files.audio import read_audio

    reference, rate = read_audio(original)
    whole = round(GAP_S[0] * rate)  # the part in front of the hole: digital silence has no logarithm

    def above_cutoff(x: 'np.ndarray', y: 'np.ndarray') -> float:
        return metrics.lsd(x[:whole], y[:whole], rate, low_hz=CUTOFF_HZ)

    def in_gap(x: 'np.ndarray', y: 'np.ndarray') -> float:
        return metrics.gap_lsd(x, y, rate, start_s=GAP_S[0], end_s=GAP_S[1])

    def heard(x: 'np.ndarray', y: 'np.ndarray') -> float:
        return metrics.zimtohrli_mos(x, y, rate)

    rows = [
        (f'distance above {CUTOFF_HZ / 1000:g} kHz (LSD, lower is better)', above_cutoff),
        ('distance in the gap (LSD, lower is better)', in_gap),
        ('perceived quality (Zimtohrli, 1 to 5)', heard),
    ]
    estimates = [read_audio(path)[0] for path in (before, after)]
    lines = [f'{"":48}{"before":>8}{"after":>8}']
    for label, measure in rows:
        try:
            values = [
                sum(measure(x, y) for x, y in zip(reference, estimate, strict=True)) / len(reference)
                for estimate in estimates
            ]
        except ImportError as error:
            console.say(str(error))
            continue
        lines.append(f'{label:48}{values[0]:8.2f}{values[1]:8.2f}')
    return lines


def draw(original: Path, before: Path, after: Path, picture: Path) -> None:
    """Writes the spectrograms of the three files, one below the other.

    Args:
        original: the recording as it was.
        before: damaged as the demonstration clip is.
        after: restored.
        picture: file to write; its suffix chooses the format.
    """
    from nemo_audio_restore.evaluation.plots import save_spectrogram_sheet
    from nemo_audio_restore.files.audio import read_audio

    recordings = {title: read_audio(path) for title, path in zip(TITLES, (before, after, original), strict=True)}
    rate = next(iter(recordings.values()))[1]
    audio = {title: samples for title, (samples, _) in recordings.items()}
    save_spectrogram_sheet(picture, audio, rate, cutoff_hz=CUTOFF_HZ, gaps=[GAP_S])
