"""Peak memory of restoring stereo files of several lengths, as markdown.

    python benchmarks/memory.py --minutes 1 5 15 60

Every length runs in a process of its own, which loads the model, restores a file from disk to disk and reports its
largest resident set: Python, PyTorch, NeMo, weights, activations and the engine's buffers together. The engine holds
the same things whatever the network computes, so hours need not be spent on evaluations: the network runs once on a
full batch, which makes its activations count, and then answers with zeros (``--evaluate`` runs it on every tile).
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

RATE = 44100
CONFIG = Path(__file__).resolve().parents[1] / 'conf' / 'a2sb_44k_small.yaml'


def write_noise(path: Path, minutes: float) -> None:
    """Writes stereo noise, 16 bit, without ever holding more than a second of it."""
    from nemo_audio_restore.files.writer import AudioWriter

    rng = np.random.default_rng(0)
    num_samples = round(minutes * 60 * RATE)
    with AudioWriter(path, sample_rate=RATE, channels=2, num_samples=num_samples, bits='16') as writer:
        for start in range(0, num_samples, RATE):
            block = 0.1 * rng.standard_normal((2, min(RATE, num_samples - start)))
            writer.write(block.astype(np.float32))


def idle(network: object) -> object:
    """A network that answers with zeros and shares what the engine asks of the real one."""
    import torch

    class Idle:
        frames_multiple = network.frames_multiple
        training = False

        def __call__(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
            return torch.zeros_like(x_t)

    return Idle()


class WithNetwork:
    """A model with another network in it."""

    def __init__(self, model: object, network: object):
        self.representation, self.process, self.device = model.representation, model.process, model.device
        self.network = network


def restore_one(arguments: argparse.Namespace) -> None:
    """In a process of its own: restores one file and prints seconds and the peak in MB."""
    import resource

    import torch
    from omegaconf import OmegaConf

    from nemo_audio_restore.models.audio_restore import AudioRestoreModel
    from nemo_audio_restore.restoration import restore_file

    if arguments.model:
        model = AudioRestoreModel.from_pretrained(arguments.model)
    else:
        config = OmegaConf.load(CONFIG).model
        for key in ('train_ds', 'validation_ds', 'optim'):
            config.pop(key)
        model = AudioRestoreModel(config).eval()
    settings = replace(model.sampler, **({'steps': arguments.steps} if arguments.steps else {}))
    restorer = model
    if not arguments.evaluate:
        shape = (settings.batch_size, 3, model.representation.num_bins, settings.tile_frames)
        with torch.no_grad():
            model.network(torch.zeros(shape), torch.ones(shape[0]), torch.ones(shape[0], 1, *shape[2:]))
        restorer = WithNetwork(model, idle(model.network))
    started = time.monotonic()
    restore_file(restorer, *arguments.one, cutoff_hz=4000.0, settings=settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(time.monotonic() - started, peak, settings.steps, settings.batch_size)


def measure(arguments: argparse.Namespace, minutes: float, folder: Path) -> str:
    """One line of the table."""
    source, target = folder / 'in.wav', folder / 'out.wav'
    write_noise(source, minutes)
    command = [sys.executable, __file__, '--one', str(source), str(target)]
    command += [f'--model={arguments.model}'] if arguments.model else []
    command += [f'--steps={arguments.steps}'] if arguments.steps else []
    command += ['--evaluate'] if arguments.evaluate else []
    output = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]
    seconds, peak, steps, batch = output.split()
    source.unlink()
    target.unlink()
    return f'| {minutes:g} min | {float(peak):.0f} MB | {steps} | {batch} | {float(seconds):.0f} s |'


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, nargs='+', default=[1, 5, 15, 60])
    parser.add_argument('--model', help='name or .nemo; default: conf/a2sb_44k_small.yaml with random weights')
    parser.add_argument('--steps', type=int, help="network evaluations for each tile; default: the model's")
    parser.add_argument('--evaluate', action='store_true', help='evaluate the network on every tile')
    parser.add_argument('--folder', type=Path, help='where the audio files go for a while: 2 GB an hour of stereo')
    parser.add_argument('--one', nargs=2, type=Path, metavar=('SOURCE', 'TARGET'), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        restore_one(arguments)
        return
    network = 'evaluated on every tile' if arguments.evaluate else 'idle after one batch'
    print(
        f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs; stereo, {RATE} Hz; network {network}.'
    )
    print('\n| length | peak memory | evaluations a tile | batch | wall time |\n|---|---|---|---|---|', flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for minutes in arguments.minutes:
            print(measure(arguments, minutes, Path(folder)), flush=True)


if __name__ == '__main__':
    main()
