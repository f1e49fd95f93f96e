r"""Trains a restoration bridge with plain torch: no NeMo, no Lightning, one GPU or several CPU processes.

It reads the same YAML as train.py (representation, process, network, corruption, loss and optimizer) and the same
cut manifests, and writes a checkpoint that export_plain.py packs into a .nemo file. Use it where only torch is at
hand, or on a CPU that other programs use as well: the processes draw micro-batches from one counter, so that a slow
core does less instead of holding up the others.

    python examples/train_plain.py --config conf/a2sb_44k_small.yaml --cuts corpus/train.jsonl.gz \\
        --out runs/a2sb_44k_small --minutes 110 --processes 2
"""

import argparse
import copy
import gzip
import importlib
import json
import math
import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torch.distributed as dist
import yaml
from torch import nn

from nemo_audio_restore.models.bridge_training import bridge_training_loss
from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.signal.corruption import RandomCorruption
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram


class TrackStore:
    """Decoded tracks in one memory map per track, so that a random crop costs one read.

    Args:
        cuts_path: Lhotse cut manifest (.jsonl.gz); audio paths may be relative to it.
        cache: folder for the decoded float32 tracks.
        sample_rate: of the crops, in Hz.
    """

    def __init__(self, cuts_path: Path, cache: Path, sample_rate: int):
        cache.mkdir(parents=True, exist_ok=True)
        self.sample_rate = sample_rate
        self.tracks = []
        with gzip.open(cuts_path, 'rt') as lines:
            for cut in map(json.loads, lines):
                self.tracks.append((self._decode(cut, cuts_path.parent, cache), self._bandwidth(cut)))
        frames = np.array([len(track) for track, _ in self.tracks], dtype=np.float64)
        self.weights = frames / frames.sum()
        self.hours = frames.sum() / sample_rate / 3600

    def _decode(self, cut: dict, folder: Path, cache: Path) -> np.ndarray:
        target = cache / f'{cut["id"]}.npy'
        if not target.exists():
            sources = [folder / source['source'] for source in cut['recording']['sources']]
            mixed = 0.0
            for source in sources:
                audio, rate = soundfile.read(source, dtype='float32', always_2d=True)
                mixed = mixed + (audio if rate == self.sample_rate else soxr.resample(audio, rate, self.sample_rate))
            level = np.sqrt(np.mean(np.square(mixed), dtype=np.float64)) + 1e-9
            partial = target.with_suffix('.partial.npy')
            np.save(partial, (mixed / level).astype(np.float32))
            os.replace(partial, target)
        return np.load(target, mmap_mode='r')

    def _bandwidth(self, cut: dict) -> float:
        return min(cut['recording']['sampling_rate'], self.sample_rate) / 2

    def batch(self, size: int, samples: int, level_rms: float, jitter_db: float, rng: np.random.Generator) -> dict:
        """Random crops: audio (B, T), audio_lens (B,), bandwidth_hz (B,); a random channel or the mono mix."""
        rows, bandwidths = [], []
        while len(rows) < size:
            track, bandwidth = self.tracks[rng.choice(len(self.tracks), p=self.weights)]
            if len(track) <= samples:
                continue
            start = int(rng.integers(0, len(track) - samples))
            crop = np.asarray(track[start : start + samples])
            channel = int(rng.integers(0, crop.shape[1] + 1))
            mono = crop.mean(axis=1) if channel == crop.shape[1] else crop[:, channel]
            if np.abs(mono).max() < 1e-3:
                continue
            gain = level_rms * 10 ** (rng.uniform(-jitter_db, jitter_db) / 20)
            rows.append(torch.from_numpy(mono * np.float32(gain)))
            bandwidths.append(bandwidth)
        return {
            'audio': torch.stack(rows),
            'audio_lens': torch.full((size,), samples),
            'bandwidth_hz': torch.tensor(bandwidths),
        }


def build(block: dict, default: type | None = None) -> nn.Module:
    """Constructs ``default``, or the class that a YAML block names in ``_target_``, from the block's other keys."""
    arguments = {key: value for key, value in block.items() if key != '_target_'}
    if '_target_' in block:
        module, name = block['_target_'].rsplit('.', 1)
        default = getattr(importlib.import_module(module), name)
    return default(**arguments)


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first 2 %, constant until 55 %, then down to 2 % along a cosine."""
    if progress < 0.02:
        return max(progress / 0.02, 0.01)
    if progress < 0.55:
        return 1.0
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min((progress - 0.55) / 0.45, 1.0)))


def save(path: Path, **state: object) -> None:
    """Writes a checkpoint under its final name only when it is complete."""
    partial = path.with_suffix('.partial')
    torch.save(state, partial)
    os.replace(partial, path)


def train(rank: int, arguments: argparse.Namespace) -> None:
    """The loop of one process; every process ends each step with the same weights."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.processes > 1:
        os.nice(rank * arguments.nice_step)
        dist.init_process_group(
            'gloo',
            init_method=f'tcp://127.0.0.1:{arguments.port}',
            rank=rank,
            world_size=arguments.processes,
            timeout=timedelta(hours=6),
        )
        store = dist.TCPStore('127.0.0.1', arguments.port + 1, is_master=rank == 0)
    device = torch.device(arguments.device)
    config = yaml.safe_load(Path(arguments.config).read_text())['model']
    recipe = config['plain_training']
    representation = build(config['representation'], MagnitudePhaseSpectrogram).to(device)
    process = build(config['process'], SchrodingerBridge)
    corruption = build(config['corruption'], RandomCorruption)
    network = build(config['network']).to(device, memory_format=torch.channels_last).train()
    averaged = copy.deepcopy(network).requires_grad_(False)
    weights = config['loss'].get('channel_weights')
    channel_weights = torch.tensor(weights, device=device) if weights else None
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe['lr'], betas=(0.9, 0.99), weight_decay=recipe['weight_decay']
    )
    step, seconds_before = 0, 0.0
    out = Path(arguments.out)
    last = out / 'last.pt'
    if last.exists():
        state = torch.load(last, weights_only=True, map_location=device)
        network.load_state_dict(state['network'])
        averaged.load_state_dict(state['averaged'])
        optimizer.load_state_dict(state['optimizer'])
        step, seconds_before = state['step'], state['seconds']
    if arguments.processes > 1 and rank:
        dist.barrier()
    tracks = TrackStore(Path(arguments.cuts), out / 'decoded', representation.sample_rate)
    if arguments.processes > 1 and not rank:
        dist.barrier()
    rng = np.random.default_rng([recipe['seed'], rank, step])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    samples = (recipe['crop_frames'] - 1) * representation.hop_length
    micro = recipe['batch_size'] // recipe['micro_batches']
    parameters = [p for p in network.parameters() if p.requires_grad]
    began, saved, running = time.monotonic(), time.monotonic(), None
    log = (out / 'log.jsonl').open('a') if rank == 0 else None
    while True:
        seconds = seconds_before + time.monotonic() - began
        progress = max(seconds / (arguments.minutes * 60), step / arguments.max_steps)
        if arguments.processes > 1:
            shared = torch.tensor([progress], dtype=torch.float64)
            dist.broadcast(shared, 0)
            progress = float(shared)
        if progress >= 1:
            break
        total, taken = torch.zeros(4), 0
        while True:
            ticket = store.add(f'step-{step}', 1) if arguments.processes > 1 else taken + 1
            if ticket > recipe['micro_batches']:
                break
            batch = tracks.batch(micro, samples, recipe['level_rms'], recipe['level_jitter_db'], rng)
            batch = {key: value.to(device) for key, value in batch.items()}
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
                result = bridge_training_loss(
                    network,
                    process,
                    representation,
                    corruption,
                    batch,
                    generator=generator,
                    channel_weights=channel_weights,
                    time_power=config['loss']['time_power'],
                )
            (result.loss / recipe['micro_batches']).backward()
            parts = [result.loss.detach(), *(result.parts[name] for name in ('magnitude', 'cosine', 'sine'))]
            total += torch.stack(parts).float().cpu() / recipe['micro_batches']
            taken += 1
        if arguments.processes > 1:
            flat = torch.cat([_flat_gradient(p) for p in parameters] + [total])
            dist.all_reduce(flat)
            total = flat[-4:].clone()
            offset = 0
            for p in parameters:
                p.grad = flat[offset : offset + p.numel()].view_as(p).clone(memory_format=torch.preserve_format)
                offset += p.numel()
        nn.utils.clip_grad_norm_(parameters, recipe['gradient_clip'])
        for group in optimizer.param_groups:
            group['lr'] = recipe['lr'] * learning_rate_factor(progress)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        decay = min(recipe['ema_decay'], (1 + step) / (10 + step))
        with torch.no_grad():
            for target, source in zip(averaged.parameters(), network.parameters(), strict=True):
                target.lerp_(source, 1 - decay)
        if rank:
            continue
        running = total if running is None else running.lerp(total, 0.02)
        if step % 20 == 0:
            row = {
                'step': step,
                'minutes': round(seconds / 60, 2),
                'lr': optimizer.param_groups[0]['lr'],
                'loss': [round(v, 4) for v in running.tolist()],
            }
            print(json.dumps(row), file=log, flush=True)
        if time.monotonic() - saved > 60 * arguments.save_minutes:
            saved = time.monotonic()
            _save_all(last, network, averaged, optimizer, step, seconds)
    if rank == 0:
        _save_all(last, network, averaged, optimizer, step, seconds)
    if arguments.processes > 1:
        dist.destroy_process_group()


def _flat_gradient(parameter: nn.Parameter) -> torch.Tensor:
    """The gradient in one row; zeros when this process drew no micro-batch in the step."""
    gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    return gradient.contiguous().view(-1)


def _save_all(
    path: Path,
    network: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    save(
        path,
        network=network.state_dict(),
        averaged=averaged.state_dict(),
        optimizer=optimizer.state_dict(),
        step=step,
        seconds=seconds,
    )


def main() -> None:
    """Parses the command line and starts the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', required=True, help='YAML with model.plain_training')
    parser.add_argument('--cuts', required=True, help='cut manifest of the training music (.jsonl.gz)')
    parser.add_argument('--out', required=True, help='folder for decoded tracks, log and checkpoint; resumes from it')
    parser.add_argument('--minutes', type=float, default=110, help='wall-clock budget, resumed runs included')
    parser.add_argument('--max-steps', type=int, default=10**9)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--bf16', action='store_true', help='autocast the network to bfloat16')
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--threads', type=int, default=1, help='torch threads per process')
    parser.add_argument('--nice-step', type=int, default=0, help='lower the priority of process k by k times this')
    parser.add_argument('--port', type=int, default=29577)
    parser.add_argument('--save-minutes', type=float, default=3)
    arguments = parser.parse_args()
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    if arguments.processes == 1:
        train(0, arguments)
    else:
        torch.multiprocessing.spawn(train, args=(arguments,), nprocs=arguments.processes)


if __name__ == '__main__':
    main()
