"""A second of decoding and a step of denoising at the sizes of Stable Audio Open, beside the diffusers library.

    pip install diffusers
    python benchmarks/generate.py                               # both, one thread
    python benchmarks/generate.py --parts decode --seconds 1 6  # also six seconds
    python benchmarks/generate.py --parts memory --seconds 12   # decoding in chunks and at once
    python benchmarks/generate.py --bf16                        # half precision too: a gain where the processor has it

Both hold the same random weights: ``AutoencoderOobleck`` with 156,112,514 parameters and ``StableAudioDiTModel`` with
1,056,828,544. Every measurement runs in a process of its own that inherits the networks; ours and theirs take turns.
Time is that of the processor, one thread unless said otherwise, so that other work on the machine counts little;
still, compare ratios. A step of guidance is the network with the prompt and without: diffusers evaluates both in one
batch of two, ours leaves out the cross-attention of the second, which adds zeros. "As trained" is our decoder without
what makes it fast: weights folded once, convolutions as matrix products, activations in the cache.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_audio_restore.checkpoints.stable_audio_autoencoder import autoencoder_arguments, load_autoencoder
from nemo_audio_restore.checkpoints.stable_audio_diffusers import (
    autoencoder_config,
    autoencoder_tensors,
    diffusion_config,
    rotary_frequencies,
    transformer_tensors,
)
from nemo_audio_restore.checkpoints.stable_audio_networks import load_network
from nemo_audio_restore.evaluation.report import markdown_table
from nemo_audio_restore.networks.latent_condition import LatentCondition

RATE, RATIO = 44100, 2048
TEXT_TOKENS = 130
PARTS = ('decode', 'step', 'memory')
Work = Callable[[], Tensor]


@dataclass(frozen=True)
class Measured:
    """Processor seconds, megabytes beyond the networks, and the result."""

    cpu_s: float
    memory_mb: float
    result: Tensor


def noise(*shape: int) -> Tensor:
    """The same numbers for everybody."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def decoders(seconds: float, *, bf16: bool) -> dict[str, Work]:
    """Ways to decode so many seconds; the first is diffusers', the second ours."""
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    theirs = AutoencoderOobleck().eval()
    config = dict(theirs.config)
    tensors = autoencoder_tensors(theirs.state_dict(), blocks=len(config['downsampling_ratios']))
    arguments = autoencoder_arguments(autoencoder_config(config))
    ours = load_autoencoder(arguments, tensors, prefix='pretransform.model.', latent_scale=1.0, source='diffusers')
    latents = noise(1, 64, -(-round(seconds * RATE) // RATIO))
    with torch.no_grad():
        # Weights are folded once for a model, not for a clip.
        ours.decode(latents[..., :1])
    ways = {
        'diffusers': lambda: theirs.decode(latents).sample,
        'ours': lambda: ours.decode(latents),
        'ours, as trained': lambda: ours.decoder(latents),
    }
    if bf16:
        half = load_autoencoder(
            arguments, tensors, prefix='pretransform.model.', latent_scale=1.0, source='diffusers'
        ).bfloat16()
        ways['ours, bf16'] = lambda: half.decode(latents.bfloat16()).float()
    return ways


def chunked(seconds: float) -> dict[str, Work]:
    """Our decoder at once and in chunks."""
    from nemo_audio_restore.networks.waveform_autoencoder import WaveformAutoencoder
    from nemo_audio_restore.networks.waveform_coder import WaveformDecoder, WaveformEncoder

    torch.manual_seed(0)
    network = WaveformAutoencoder(encoder=WaveformEncoder(), decoder=WaveformDecoder()).eval()
    latents = noise(1, 64, -(-round(seconds * RATE) // RATIO))
    return {
        'at once': lambda: network.decode(latents, chunk_latents=latents.shape[2]),
        'in chunks of 128 latents': lambda: network.decode(latents),
        'in chunks of 32 latents': lambda: network.decode(latents, chunk_latents=32),
    }


def steps(latents: int, *, bf16: bool) -> dict[str, dict[str, Work]]:
    """A pass and a guided step, each with the ways to compute it; the first is diffusers', the second ours."""
    from diffusers import StableAudioDiTModel
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    torch.manual_seed(0)
    theirs = StableAudioDiTModel().eval()
    config = dict(theirs.config)
    tensors = transformer_tensors(theirs.state_dict())
    tensors['model.model.transformer.rotary_pos_emb.inv_freq'] = rotary_frequencies(config['attention_head_dim'])
    ours = load_network(diffusion_config(config), tensors, prefix='model.model.', source='diffusers')
    x, t, tokens, summary = noise(1, 64, latents), torch.tensor([0.5]), noise(1, TEXT_TOKENS, 768), noise(1, 1536)
    rotary = get_1d_rotary_pos_embed(
        config['attention_head_dim'] // 2, latents + 1, use_real=True, repeat_interleave_real=False
    )
    asked = LatentCondition(tokens=tokens, summary=summary)
    unasked = ours.null_condition(asked)

    def their_pass(x: Tensor, tokens: Tensor, summary: Tensor) -> Tensor:
        return theirs(x, t.expand(len(x)), tokens, summary[:, None], rotary_embedding=rotary, return_dict=False)[0]

    def their_guidance() -> Tensor:
        both = torch.cat([torch.zeros_like(tokens), tokens])
        without, given = their_pass(x.expand(2, -1, -1), both, summary.expand(2, -1)).chunk(2)
        return without + 7 * (given - without)

    def our_guidance() -> Tensor:
        given, without = ours(x, t, asked), ours(x, t, unasked)
        return without + 7 * (given - without)

    ways = {
        'one pass': {'diffusers': lambda: their_pass(x, tokens, summary), 'ours': lambda: ours(x, t, asked)},
        'guided step': {'diffusers': their_guidance, 'ours': our_guidance},
    }
    if bf16:
        half = load_network(diffusion_config(config), tensors, prefix='model.model.', source='diffusers').bfloat16()
        given = LatentCondition(tokens=tokens.bfloat16(), summary=summary.bfloat16())
        ways['one pass']['ours, bf16'] = lambda: half(x.bfloat16(), t, given).float()
    return ways


def measured(work: Work, *, threads: int) -> Measured:
    """One run in a process of its own."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)

    def child() -> None:
        torch.set_num_threads(threads)
        before, begun = _memory_mb(), time.process_time()
        with torch.no_grad():
            result = work()
        spent = time.process_time() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        # Numbers, not a tensor: a shared one would need the memory of this process.
        picked = result.flatten()[:: max(1, result.numel() // 50_000)]
        theirs.send((spent, peak - before, picked.tolist()))

    process = context.Process(target=child)
    process.start()
    theirs.close()
    spent, memory, values = ours.recv()
    process.join()
    return Measured(spent, memory, torch.tensor(values))


def compared(work: str, ways: dict[str, Work], *, repeats: int, threads: int) -> list[dict[str, str]]:
    """Rows of the table; all ways take turns, and everything is relative to the first."""
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            runs[name].append(measured(way, threads=threads))
    first = next(iter(ways))
    largest = float(runs[first][0].result.abs().max())
    rows = []
    for name, found in runs.items():
        ratios = [a.cpu_s / b.cpu_s for a, b in zip(runs[first], found, strict=True)]
        difference = float((found[0].result - runs[first][0].result).abs().max()) / largest
        rows.append(
            {
                'work': work,
                'by': name,
                'CPU time': f'{statistics.median(run.cpu_s for run in found):.2f} s',
                'times as fast': f'{statistics.median(ratios):.2f}',
                'memory': f'{statistics.median(run.memory_mb for run in found):.0f} MB',
                'difference': '' if name == first else f'{difference:.0e} of the maximum',
            }
        )
    return rows


def _memory_mb() -> float:
    """Resident memory of this process now."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=['decode', 'step'])
    parser.add_argument('--seconds', type=float, nargs='+', default=[1.0], help='of audio to decode')
    parser.add_argument('--latents', type=int, default=216, help='of the step; 216 are 10 s, 1024 the whole window')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--bf16', action='store_true', help='our networks in half precision too')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {arguments.threads} threads, '
        f'torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})\n',
        flush=True,
    )
    rows, how = [], {'repeats': arguments.repeats, 'threads': arguments.threads}
    if 'decode' in arguments.parts:
        for seconds in arguments.seconds:
            ways = decoders(seconds, bf16=arguments.bf16)
            rows += compared(f'decode {seconds:g} s', ways, **how)
            print(markdown_table(rows), '\n', flush=True)
    if 'memory' in arguments.parts:
        for seconds in arguments.seconds:
            rows += compared(f'decode {seconds:g} s', chunked(seconds), **how)
    if 'step' in arguments.parts:
        for work, ways in steps(arguments.latents, bf16=arguments.bf16).items():
            rows += compared(f'{work}, {arguments.latents} latents', ways, **how)
    print(markdown_table(rows))


if __name__ == '__main__':
    main()
