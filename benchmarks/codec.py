"""Time and memory of encoding and decoding beside NeMo's ``AudioCodecModel`` with the same weights, as markdown.

    python benchmarks/codec.py                                        # the published network, 10 s
    python benchmarks/codec.py --channels 4 64 --seconds 10 600       # the same layers with few channels, also 10 min
    python benchmarks/codec.py --model speech_codec_22k_small --seconds 10 600

Every measurement runs in a process of its own that inherits the loaded networks; ours and NeMo's take turns. Time is
that of the processor, one thread, so that other work on the machine counts little; still, compare ratios. Memory is
what a process needs at its peak beyond what it had when the networks were loaded. "file" goes from an audio file to a
token file or back, the others from tensor to tensor. Weights are random unless a model is named: they cost the same.
NeMo's class takes only its own networks, so that a named model with others is measured alone.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from nemo_audio_restore.codec import decode_chunked, decode_file, encode_chunked, encode_file, weights_hash
from nemo_audio_restore.files.token_file import TokenWriter
from nemo_audio_restore.files.token_header import TokenInfo
from nemo_audio_restore.files.writer import write_audio
from nemo_audio_restore.models.speech_codec import SpeechCodecModel

CONFIG = Path(__file__).resolve().parents[1] / 'conf' / 'speech_codec_22k.yaml'
TASKS = ('encode', 'decode')


@dataclass(frozen=True)
class Measured:
    """One run: processor seconds, megabytes, and a few numbers of the result to compare."""

    cpu_s: float
    memory_mb: float
    result: np.ndarray


def our_codec(arguments: argparse.Namespace) -> SpeechCodecModel:
    """A named model, or the published layers with random weights."""
    if arguments.model:
        return SpeechCodecModel.from_pretrained(arguments.model)
    blocks = ('sample_rate', 'samples_per_frame', 'audio_encoder', 'vector_quantizer', 'audio_decoder')
    config = {key: value for key, value in OmegaConf.load(CONFIG).model.items() if key in blocks}
    if arguments.channels:
        config['audio_encoder']['base_channels'], config['audio_decoder']['base_channels'] = arguments.channels
    return SpeechCodecModel(OmegaConf.create(config)).eval()


def nemo_codec(codec: SpeechCodecModel) -> Any | None:
    """NeMo's class with the networks of a codec; None where it cannot have them."""
    from nemo.collections.tts.models import AudioCodecModel

    networks = {key: codec.cfg[key] for key in ('audio_encoder', 'audio_decoder')}
    if any(not block['_target_'].startswith('nemo.') for block in networks.values()):
        return None
    tts = 'nemo.collections.tts'
    # What its constructor demands for training costs nothing here.
    model = AudioCodecModel(
        DictConfig(
            {
                **networks,
                'sample_rate': codec.sample_rate,
                'samples_per_frame': codec.samples_per_frame,
                'vector_quantizer': {
                    '_target_': f'{tts}.modules.audio_codec_modules.GroupFiniteScalarQuantizer',
                    **codec.cfg.vector_quantizer,
                },
                'commit_loss_scale': 0.0,
                'loss_resolutions': [[512, 128, 512]],
                'mel_loss_dims': [20],
                'generator_loss': {'_target_': f'{tts}.losses.audio_codec_loss.GeneratorSquaredLoss'},
                'discriminator_loss': {'_target_': f'{tts}.losses.audio_codec_loss.DiscriminatorSquaredLoss'},
            }
        )
    )
    for name in ('audio_encoder', 'vector_quantizer', 'audio_decoder'):
        setattr(model, name, getattr(codec, name))  # the very same weights, held once
    return model.eval()


def measure(codec: SpeechCodecModel, nemo: Any, who: str, task: str, seconds: float, folder: Path) -> Measured:
    """One run of one task in this process."""
    num_samples = round(seconds * codec.sample_rate)
    # What Python and the libraries load at the first call is no part of the work.
    prepared(codec, nemo, who, task, 4 * codec.samples_per_frame, folder)()
    work = prepared(codec, nemo, who, task, num_samples, folder)
    before, started = _memory_mb(), time.process_time()
    result = work()
    cpu = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # Enough to see that both give the same; the whole of ten minutes need not go through a pipe.
    picked = result.flatten()[:: max(1, result.numel() // 20_000)].numpy() if who != 'file' else np.zeros(0)
    return Measured(cpu, peak - before, picked)


def prepared(
    codec: SpeechCodecModel, nemo: Any, who: str, task: str, num_samples: int, folder: Path
) -> Callable[[], Any]:
    """The work, with everything it starts from in memory or on disk."""
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(1, num_samples, generator=generator)
    shape = (1, codec.num_codebooks, -(-num_samples // codec.samples_per_frame))
    tokens = torch.randint(codec.codebook_size, shape, generator=generator, dtype=torch.int32)
    audio_len, tokens_len = torch.tensor([num_samples]), torch.tensor([shape[2]])
    sound, coded = folder / 'audio.wav', folder / 'tokens.nac'
    if who == 'file' and task == 'encode':
        write_audio(sound, audio.numpy(), codec.sample_rate, overwrite=True)
        return lambda: encode_file(codec, sound, folder / 'out.nac', overwrite=True)
    if who == 'file':
        _write_tokens(codec, tokens.numpy(), coded, num_samples)
        return lambda: decode_file(codec, coded, folder / 'out.wav', overwrite=True)
    if who == 'ours':
        return (lambda: encode_chunked(codec, audio)) if task == 'encode' else lambda: decode_chunked(codec, tokens)

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        if task == 'encode':
            return nemo.encode(audio=audio, audio_len=audio_len)[0]
        return nemo.decode(tokens=tokens, tokens_len=tokens_len)[0]

    return theirs


def _write_tokens(codec: SpeechCodecModel, tokens: np.ndarray, target: Path, num_samples: int) -> None:
    """A token file as :func:`encode_file` would have written it."""
    info = TokenInfo(
        codec.sample_rate, codec.samples_per_frame, codec.num_codebooks, codec.codebook_size, 1, codec.sample_rate,
        num_samples, tokens.shape[2], '', weights_hash(codec),
    )  # fmt: skip
    with TokenWriter(target, info, overwrite=True) as writer:
        writer.write(tokens)
        writer.finish(num_samples)


def _memory_mb() -> float:
    """Resident memory of this process now."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def in_process(limit_gb: float, *given: Any) -> Measured | str:
    """Runs :func:`measure` in a child of this process; what went wrong if it did."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)

    def child() -> None:
        limit = round(limit_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            theirs.send(measure(*given))
        except (MemoryError, RuntimeError) as error:
            theirs.send(f'needs more than {limit_gb:g} GB' if 'memory' in str(error).lower() else str(error)[:60])

    process = context.Process(target=child)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return 'was killed'
    finally:
        process.join()


def row(codec: SpeechCodecModel, nemo: Any, task: str, seconds: float, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    runs: dict[str, list[Measured | str]] = {'ours': [], 'NeMo': [], 'file': []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for _ in range(arguments.repeats):
            for who in ('ours', 'NeMo') if nemo is not None else ('ours',):
                runs[who].append(in_process(arguments.limit_gb, codec, nemo, who, task, seconds, Path(folder)))
        runs['file'].append(in_process(arguments.limit_gb, codec, nemo, 'file', task, seconds, Path(folder)))
    pairs = [(a, b) for a, b in zip(runs['ours'], runs['NeMo'], strict=False) if not isinstance(b, str)]
    ratio = same = '-'
    if pairs and not any(isinstance(a, str) for a, _ in pairs):
        ratio = f'{statistics.median(a.cpu_s / b.cpu_s for a, b in pairs):.2f}'
        difference = float(np.abs(pairs[0][0].result.astype(float) - pairs[0][1].result).max())
        same = 'identical' if difference == 0 else f'to {difference:.0e}'
    cells = [f'{seconds:g} s', task, *(_cell(runs[who], 'cpu_s', '{:.1f} s') for who in ('ours', 'NeMo')), ratio]
    cells += [_cell(runs[who], 'memory_mb', '{:.0f} MB') for who in ('ours', 'file', 'NeMo')]
    return '| ' + ' | '.join([*cells, same]) + ' |'


def _cell(runs: list[Measured | str], name: str, form: str) -> str:
    failed = [run for run in runs if isinstance(run, str)]
    if failed or not runs:
        return failed[0] if failed else '-'
    return form.format(statistics.median(getattr(run, name) for run in runs))


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, nargs='+', default=[10])
    parser.add_argument('--model', help='name or .nemo; default: conf/speech_codec_22k.yaml with random weights')
    parser.add_argument('--channels', type=int, nargs=2, metavar=('ENCODER', 'DECODER'), help='base_channels of both')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--limit-gb', type=float, default=12.0, help='a process that wants more has failed')
    parser.add_argument('--folder', type=Path, help='where audio files go for a while')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = our_codec(arguments)
    nemo = nemo_codec(codec)
    count = sum(parameter.numel() for parameter in codec.parameters())
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, one thread; {count:,} parameters.\n')
    print('| audio | task | ours | NeMo | ratio | memory: ours | ours, file to file | NeMo | results |')
    print('|---|---|---|---|---|---|---|---|---|', flush=True)
    for seconds in arguments.seconds:
        for task in TASKS:
            print(row(codec, nemo, task, seconds, arguments), flush=True)


if __name__ == '__main__':
    main()
