r"""Trains the small speech codec with plain torch on one CPU core: no NeMo trainer, no Lightning.

    python examples/prepare_speech.py --out speech
    python examples/train_codec_plain.py --config conf/speech_codec_22k_small.yaml --data speech \\
        --out runs/speech_codec_22k_small --minutes 70

It reads networks and quantizer from the same YAML as train.py and the same cut manifests. What makes it fast: small
batches, losses at two resolutions drawn for each step, all speech in memory, nothing logged in between. The same
command again resumes the run. export_plain.py packs the averaged weights into a .nemo file.
"""

import argparse
import copy
import gzip
import importlib
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import yaml
from torch import Tensor, nn

from nemo_audio_restore.evaluation.speech import estoi, mel_distance, stft_distance
from nemo_audio_restore.losses.sampled_spectra import SampledSpectralLoss
from nemo_audio_restore.networks.spectral_start import start_from_components


class SpeechStore:
    """All recordings of a cut manifest in memory, as 16-bit samples."""

    def __init__(self, manifest: Path, sample_rate: int):
        rows = []
        with gzip.open(manifest, 'rt') as lines:
            for cut in map(json.loads, lines):
                path = manifest.parent / cut['recording']['sources'][0]['source']
                audio, rate = soundfile.read(path, dtype='float32', always_2d=True)
                mono = audio.mean(axis=1)
                mono = mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate, quality='VHQ')
                rows.append(np.clip(np.round(32767 * mono), -32768, 32767).astype(np.int16))
        self.lengths = np.array([len(row) for row in rows])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.samples = np.concatenate(rows)

    def clip(self, index: int) -> np.ndarray:
        """One recording, float32."""
        begin = self.starts[index]
        return self.samples[begin : begin + self.lengths[index]].astype(np.float32) / 32768

    def batch(self, size: int, length: int, rng: np.random.Generator) -> Tensor:
        """Crops (B, T) at levels of -32 to -14 dB below full scale, either way up; every second equally likely."""
        room = np.maximum(self.lengths - length, 1)
        rows = []
        while len(rows) < size:
            index = rng.choice(len(room), p=room / room.sum())
            begin = self.starts[index] + rng.integers(0, room[index])
            crop = self.samples[begin : begin + length].astype(np.float32) / 32768
            level, peak = np.sqrt(np.square(crop).mean()), np.abs(crop).max()
            if len(crop) < length or peak < 0.01:
                continue
            gain = min(10 ** (rng.uniform(-32, -14) / 20) / level, 0.98 / peak)
            rows.append(torch.from_numpy(crop * np.float32(gain if rng.random() < 0.5 else -gain)))
        return torch.stack(rows)


class Rounding(nn.Module):
    """Finite scalar quantisation of all groups at once, with the numbers of NeMo's GroupFiniteScalarQuantizer.

    Source: FSQ (arXiv 2309.15505), section 3.1.
    """

    def __init__(self, *, num_groups: int, num_levels_per_group: list[int], eps: float = 1e-3):
        super().__init__()
        levels = torch.tensor(num_levels_per_group * num_groups, dtype=torch.float32)[:, None]
        self.register_buffer('steps', levels // 2, persistent=False)
        self.register_buffer('scale', (levels - 1) / 2 * (1 - eps), persistent=False)
        self.register_buffer('offset', torch.where(levels % 2 == 0, 0.5, 0.0), persistent=False)

    def forward(self, encoded: Tensor) -> Tensor:
        """(B, D, N) to the same shape; the gradient passes the rounding unchanged."""
        squeezed = self.scale * (encoded + (self.offset / self.scale).tan()).tanh() - self.offset
        return (squeezed + (squeezed.round() - squeezed).detach()) / self.steps


class Codec(nn.Module):
    """Encoder, rounding and decoder of a YAML's model block."""

    def __init__(self, config: dict):
        super().__init__()
        self.audio_encoder = build(config['audio_encoder'])
        self.rounding = Rounding(**config['vector_quantizer'])
        self.audio_decoder = build(config['audio_decoder'])

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) to the decoded (B, T), and the log magnitudes and phases that it is made of."""
        lengths = torch.full((len(audio),), audio.shape[1])
        encoded, frames = self.audio_encoder(audio=audio, audio_len=lengths)
        log_magnitude, phase = self.audio_decoder.spectra(self.rounding(encoded), frames)
        decoded, _ = self.audio_decoder.synthesize(log_magnitude, phase, frames)
        return decoded[:, : audio.shape[1]], log_magnitude, phase


def build(block: dict) -> nn.Module:
    """Constructs what a YAML block names in ``_target_`` from the block's other keys."""
    module, name = block['_target_'].rsplit('.', 1)
    return getattr(importlib.import_module(module), name)(**{k: v for k, v in block.items() if k != '_target_'})


def parameter_groups(codec: Codec, lr: float) -> list[dict]:
    """Slower steps for the direct paths: they start near their goal, and the encoder's adds up 2052 inputs."""
    slow = [
        (list(codec.audio_encoder.direct.parameters()), 0.02),
        (list(codec.audio_decoder.direct.parameters()), 0.2),
    ]
    known = {id(parameter) for parameters, _ in slow for parameter in parameters}
    others = [parameter for parameter in codec.parameters() if id(parameter) not in known]
    return [{'params': parameters, 'peak': lr * factor} for parameters, factor in [(others, 1.0), *slow]]


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first hundredth, constant for half of the time, then down to 2 % along a cosine."""
    if progress < 0.5:
        return min(1.0, max(progress / 0.01, 0.02))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(2 * progress - 1, 1.0)))


@torch.no_grad()
def validate(codec: Codec, store: SpeechStore, indices: Iterable[int], sample_rate: int) -> dict[str, float]:
    """Mean distances and ESTOI of decoded recordings."""
    rows = []
    for index in indices:
        clip = store.clip(index)
        decoded = codec(torch.from_numpy(clip)[None])[0][0].numpy()
        rows.append([metric(clip, decoded, sample_rate) for metric in (mel_distance, stft_distance, estoi)])
    return dict(zip(('mel', 'stft', 'estoi'), np.mean(rows, axis=0).round(4).tolist(), strict=True))


def mean(values: list[float]) -> float:
    """Rounded for the log; 0 for no values."""
    return round(sum(values) / max(1, len(values)), 4)


def save(path: Path, state: dict) -> None:
    """Writes a checkpoint under its final name only when it is complete."""
    partial = path.with_suffix('.partial')
    torch.save(state, partial)
    os.replace(partial, path)


def train(options: argparse.Namespace) -> None:
    """The loop."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = yaml.safe_load(options.config.read_text())['model']
    rate = config['sample_rate']
    codec = Codec(config)
    averaged = copy.deepcopy(codec).requires_grad_(False)
    loss_of = SampledSpectralLoss(sample_rate=rate, num_drawn=options.resolutions)
    parameters = list(codec.parameters())
    optimizer = torch.optim.AdamW(
        parameter_groups(codec, options.lr), lr=options.lr, betas=(0.8, 0.99), weight_decay=0.01, fused=True
    )
    store = SpeechStore(options.data / 'train.jsonl.gz', rate)
    length = options.crop_frames * config['samples_per_frame']
    step, seconds_before, last = 0, 0.0, options.out / 'last.pt'
    if not last.exists():
        some = store.batch(320, length, np.random.default_rng(0))
        error = start_from_components(codec.audio_encoder, codec.audio_decoder, codec.rounding, some)
        print(f'the direct paths start with an error of {error:.3f} nepers')
        averaged.load_state_dict(codec.state_dict())
    else:
        state = torch.load(last, weights_only=True)
        codec.load_state_dict(state['codec'])
        averaged.load_state_dict(state['averaged'])
        optimizer.load_state_dict(state['optimizer'])
        step, seconds_before = state['step'], state['seconds']
    heard = SpeechStore(options.data / 'validation.jsonl.gz', rate)
    long_enough = np.flatnonzero(heard.lengths > 0.8 * rate)
    shown = long_enough[:: max(1, len(long_enough) // 32)]
    rng = np.random.default_rng([1, step])
    generator = torch.Generator().manual_seed(step + 1)
    began, validated, losses, phases = time.monotonic(), time.monotonic(), [], []
    with (options.out / 'log.jsonl').open('a') as log:
        while True:
            seconds = seconds_before + time.monotonic() - began
            progress = max(seconds / (60 * options.minutes), step / options.max_steps)
            due = time.monotonic() - validated > 60 * options.validation_minutes
            if due or progress >= 1:
                state = {'codec': codec.state_dict(), 'averaged': averaged.state_dict()}
                save(last, state | {'optimizer': optimizer.state_dict(), 'step': step, 'seconds': seconds})
                row = {
                    'step': step,
                    'minutes': round(seconds / 60, 1),
                    'loss': round(float(np.mean(losses or [0])), 4),
                }
                print(json.dumps(row | validate(averaged, heard, shown, rate)), file=log, flush=True)
                validated, losses, phases = time.monotonic(), [], []
            if progress >= 1:
                return
            for group in optimizer.param_groups:
                group['lr'] = group['peak'] * learning_rate_factor(progress)
            audio = store.batch(options.batch_size, length, rng)
            decoded, log_magnitude, phase = codec(audio)
            loss = loss_of(audio, decoded, generator=generator) + loss_of.of_windows(audio, log_magnitude)
            if options.phase_weight > 0:
                turning = loss_of.of_phases(audio, phase)
                phases.append(turning.item())
                loss = loss + options.phase_weight * turning
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            losses.append(loss.item())
            with torch.no_grad():
                decay = min(options.ema_decay, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(averaged.parameters()), parameters, 1 - decay)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML with the networks')
    parser.add_argument('--data', type=Path, required=True, help='folder with train.jsonl.gz and validation.jsonl.gz')
    parser.add_argument('--out', type=Path, required=True, help='folder for log and checkpoint; resumes from it')
    parser.add_argument('--minutes', type=float, default=70, help='wall-clock budget, resumed runs included')
    parser.add_argument('--max-steps', type=int, default=10**9, help='of resumed runs too')
    parser.add_argument('--batch-size', type=int, default=6)
    parser.add_argument('--crop-frames', type=int, default=24, help='codec frames of a crop')
    parser.add_argument('--resolutions', type=int, default=2, help='resolutions drawn for each step')
    parser.add_argument('--lr', type=float, default=1.5e-3)
    parser.add_argument('--phase-weight', type=float, default=0.3, help='of the steps of the phase')
    parser.add_argument('--ema-decay', type=float, default=0.999)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--validation-minutes', type=float, default=8)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)


if __name__ == '__main__':
    main()
