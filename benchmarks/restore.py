"""Our path against the reference path, at small and at real size, in one run, as markdown.

    python benchmarks/restore.py                                  # the model that ships; its demo's clip
    python benchmarks/restore.py --real --frames 128 --forms fp32 bf16
    python benchmarks/restore.py --manifest corpus/test.jsonl.gz --clips 4

Networks: the same weights and inputs go through the plain form (plain_forms.py) and through each of ours, one after
the other and round after round, so that whatever else the machine does hits all of them. Times are the median of the
ratios of one round: CPU time on a CPU, else wall time. Memory is the largest resident set of a process of its own
that does nothing but build the network and evaluate it once (on a GPU: allocated there).

Samplers: clips of music lose everything above a cutoff. The reference path is the published sampler on the whole
spectrogram (49 evaluations of the plain network), decoded by one inverse STFT; ours is `restore` with the model's own
settings. LSD is taken above the cutoff.
"""

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf
from plain_forms import plain
from restoration_quality import clips, low_pass
from torch import Tensor, nn

from nemo_audio_restore.evaluation.metrics import lsd
from nemo_audio_restore.models.audio_restore import AudioRestoreModel
from nemo_audio_restore.processes.reference_sampler import sample_reference
from nemo_audio_restore.restoration.evaluator import Evaluator
from nemo_audio_restore.signal.corruption import bandwidth_mask, fill_with_noise

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT / 'conf' / 'a2sb_44k.yaml'
CLIP = ROOT / 'nemo_audio_restore' / 'pretrained' / 'demo' / 'original.flac'
RATE = 44100
REFERENCE_EVALUATIONS = 49
FORMS = {
    'fp32': {},
    'bf16': {'precision': 'bf16'},
    'fp16': {'precision': 'fp16'},
    'compile': {'compile': True},
}
TITLES = {
    'plain': 'plain form, fp32',
    'fp32': 'ours, fp32 (exact)',
    'bf16': 'ours, bf16',
    'fp16': 'ours, fp16',
    'compile': 'ours, fp32, compiled',
}
NOTHING = 'nothing'


def published_size() -> nn.Module:
    """The published network with random weights; layers that start at zero are woken, so that every part counts."""
    config = OmegaConf.to_container(OmegaConf.load(REAL).model.network)
    config.pop('_target_')
    from nemo_audio_restore.networks.spectrogram_unet import SpectrogramUNet

    torch.manual_seed(0)
    network = SpectrogramUNet(**config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02, generator=generator)
    return network


def build(arguments: argparse.Namespace) -> nn.Module:
    """The network that is to be measured."""
    network = published_size() if arguments.real else AudioRestoreModel.from_pretrained(arguments.model).network
    return network.to(arguments.device).eval()


def form(network: nn.Module, name: str, device: torch.device) -> Callable[..., Tensor]:
    """One way to call the network."""
    if name == 'plain':
        return Evaluator(plain(network), device=device, batch_size=64)
    return Evaluator(network, device=device, batch_size=64, on_warning=warn, **FORMS[name])


def warn(message: str) -> None:
    """Says what did not go as asked."""
    print(f'({message})', file=sys.stderr)


def tiles(arguments: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """One batch of states, times and masks."""
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randn(arguments.batch_size, 3, 1024, arguments.frames, generator=generator)
    mask = (torch.arange(1024) > 200).float()[None, None, :, None].expand(len(x_t), -1, -1, arguments.frames)
    times = torch.linspace(0.3, 0.9, len(x_t))
    return x_t.to(arguments.device), times.to(arguments.device), mask.contiguous().to(arguments.device)


class Clock:
    """CPU time on a CPU, where others may be at work, else wall time."""

    def __init__(self, device: torch.device):
        self._device = device

    def __call__(self) -> float:
        """Seconds."""
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)
        return time.process_time() if self._device.type == 'cpu' else time.perf_counter()


@dataclass
class Row:
    """What was measured of one form."""

    times: list[float]
    error: float = 0.0
    peak_mb: float = 0.0


@torch.no_grad()
def compare_networks(arguments: argparse.Namespace) -> dict[str, Row]:
    """Times and errors of all forms, interleaved."""
    network, inputs, clock = build(arguments), tiles(arguments), Clock(arguments.device)
    calls = {name: form(network, name, arguments.device) for name in ('plain', *arguments.forms)}
    rows = {name: Row([]) for name in calls}
    warm = {'compile'} if arguments.real else set(calls)
    for name, call in calls.items():
        if name in warm:
            call(*inputs)
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            started = clock()
            prediction = call(*inputs)
            rows[name].times.append(clock() - started)
            if name == 'plain':
                expected = prediction
            rows[name].error = float((prediction - expected).abs().max() / expected.abs().max())
    return rows


@torch.no_grad()
def print_peak(arguments: argparse.Namespace) -> None:
    """In a process of its own: the largest memory of one form."""
    import resource

    network = NOTHING if arguments.peak == NOTHING else build(arguments)
    if network is not NOTHING:
        form(network, arguments.peak, arguments.device)(*tiles(arguments))
    if arguments.device.type == 'cuda':
        print(torch.cuda.max_memory_allocated(arguments.device) / 2**20)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_mb(name: str) -> float:
    """Runs this program again for the memory of one form."""
    command = [sys.executable, __file__, *sys.argv[1:], '--peak', name]
    output = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return float(output.splitlines()[-1])


def print_networks(arguments: argparse.Namespace) -> None:
    """The table of the networks."""
    rows = compare_networks(arguments)
    base = peak_mb(NOTHING) if arguments.memory else math.nan
    for name, row in rows.items():
        row.peak_mb = peak_mb(name) if arguments.memory else math.nan
    name = '565.5 M parameters, random weights' if arguments.real else arguments.model
    print(
        f'\nNetwork: {name}; {arguments.batch_size} tile(s) of {arguments.frames} frames, {arguments.rounds} rounds.'
    )
    print(f'Python with its libraries takes {base:.0f} MB of the memory.\n')
    print('| form | speed | peak memory | largest difference / largest output |\n|---|---|---|---|')
    for name, row in rows.items():
        ratio = statistics.median(a / b for a, b in zip(rows['plain'].times, row.times, strict=True))
        error = '' if name == 'plain' else f'{row.error:.1e}'
        print(f'| {TITLES[name]} | {ratio:.2f} x | {row.peak_mb:.0f} MB | {error} |', flush=True)


def music(arguments: argparse.Namespace) -> list[np.ndarray]:
    """(T,) clips."""
    if arguments.manifest:
        found = clips(arguments.manifest, count=1, seconds=arguments.seconds, limit=arguments.clips)
        return [clip.audio for clip in found]
    audio, rate = soundfile.read(CLIP, dtype='float32', always_2d=True)
    assert rate == RATE
    size = round(arguments.seconds * RATE)
    return [audio[start : start + size].mean(axis=1) for start in range(0, len(audio) - size + 1, size)][
        : arguments.clips
    ]


@torch.no_grad()
def reference_path(model: AudioRestoreModel, network: nn.Module, audio: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """The published procedure on one clip."""
    representation, settings = model.representation, model.sampler
    clean = representation.encode(torch.from_numpy(audio)[None])
    mask = bandwidth_mask(cutoff_hz, representation).expand(1, 1, -1, clean.shape[-1])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, generator=generator)
    estimate = sample_reference(
        network, model.process, fill_with_noise(clean, mask, noise), mask,
        torch.linspace(1.0, 0.05, REFERENCE_EVALUATIONS + 1), stochastic=True, tile_frames=settings.tile_frames,
        tile_hop_frames=settings.tile_hop_frames, batch_size=4, generator=generator,
    )  # fmt: skip
    return representation.decode(estimate, length=len(audio))[0].numpy()


def print_samplers(arguments: argparse.Namespace) -> None:
    """The table of the samplers."""
    model = AudioRestoreModel.from_pretrained(arguments.model).to(arguments.device).eval()
    twin, clock = plain(model.network), Clock(arguments.device)
    cutoff = arguments.cutoff
    published = replace(model.sampler, steps=REFERENCE_EVALUATIONS, t_min=0.05, eta=1.0)

    def ours(settings: object) -> Callable[[np.ndarray], np.ndarray]:
        return lambda dull: model.restore(dull, sample_rate=RATE, cutoff_hz=cutoff, settings=settings)

    paths = {
        'reference path': lambda dull: reference_path(model, twin, dull, cutoff),
        f'ours, {REFERENCE_EVALUATIONS} evaluations': ours(published),
        f'ours, default sampler ({model.sampler.steps})': ours(model.sampler),
        'ours, default sampler, bf16': ours(replace(model.sampler, precision='bf16')),
    }
    scores: dict[str, list[float]] = {name: [] for name in paths}
    ratios: dict[str, list[float]] = {name: [] for name in paths}
    clipped = music(arguments)
    for audio in clipped:
        dull = low_pass(audio, cutoff).astype(np.float32)
        base = 0.0
        for name, restore in paths.items():
            started = clock()
            restored = restore(dull)
            seconds = clock() - started
            base = base or seconds
            ratios[name].append(base / seconds)
            scores[name].append(lsd(audio, restored, RATE, low_hz=cutoff))
    print(f'\nSampler: {arguments.model}, {len(clipped)} clip(s) of {arguments.seconds:g} s, cutoff {cutoff:g} Hz.\n')
    print('| path | speed | LSD above the cutoff |\n|---|---|---|')
    for name in paths:
        print(
            f'| {name} | {statistics.median(ratios[name]):.1f} x | {statistics.mean(scores[name]):.2f} |', flush=True
        )


def processor() -> str:
    """The processor by its name, where the system tells it."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--real', action='store_true', help='the published size with random weights; no samplers')
    parser.add_argument('--model', default='a2sb_44k_small')
    parser.add_argument('--forms', nargs='+', choices=FORMS, default=list(FORMS))
    parser.add_argument('--frames', type=int, help="of a tile; default: the model's, 256 at real size")
    parser.add_argument('--batch-size', type=int, default=1, help='tiles in one call')
    parser.add_argument('--rounds', type=int, default=3, help='of the networks; 0 leaves their table out')
    parser.add_argument('--no-memory', dest='memory', action='store_false', help='do not measure the memory')
    parser.add_argument('--manifest', type=Path, help='music for the samplers; default: the clip of the demo')
    parser.add_argument('--clips', type=int, default=2, help='for the samplers; 0 leaves their table out')
    parser.add_argument('--seconds', type=float, default=3.0, help='of a clip')
    parser.add_argument('--cutoff', type=float, default=4000.0)
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'))
    parser.add_argument('--peak', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.frames = arguments.frames or (256 if arguments.real else 128)
    if arguments.peak:
        print_peak(arguments)
        return
    gpu = f', {torch.cuda.get_device_name(arguments.device)}' if arguments.device.type == 'cuda' else ''
    print(f'{processor()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads{gpu}; torch {torch.__version__}')
    if arguments.rounds:
        print_networks(arguments)
    if arguments.clips and not arguments.real:
        print_samplers(arguments)


if __name__ == '__main__':
    main()
