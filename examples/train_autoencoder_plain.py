r"""Trains the small stereo autoencoder with plain torch on one CPU core: no NeMo trainer, no Lightning.

    python examples/train_autoencoder_plain.py --config conf/audio_autoencoder_44k_small.yaml \\
        --data music/train.jsonl.gz --data captions/train.jsonl.gz --validation music/validation.jsonl.gz \\
        --out runs/audio_autoencoder_44k_small --minutes 50

It reads the networks from the same YAML as train.py and the same cut manifests; every manifest gives the same share of
each batch. Excerpts of the recordings are held in memory as 16-bit samples. The same command again resumes the run,
with the manifests that it names. export_plain.py packs the averaged weights into a .nemo file.
"""

import argparse
import copy
import gzip
import importlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import yaml
from torch import Tensor, nn

from nemo_audio_restore.evaluation.metrics import si_sdr
from nemo_audio_restore.evaluation.reconstruction import mel_distance, stft_distance
from nemo_audio_restore.losses.sampled_spectra import SampledSpectralLoss
from nemo_audio_restore.networks.spectral_autoencoder import SpectralAutoencoder
from nemo_audio_restore.networks.spectral_autoencoder_start import start_from_components
from nemo_audio_restore.networks.vae_bottleneck import latent_posterior

WINDOWS = (256, 512, 1024, 2048, 4096)
MELS = (24, 40, 64, 96, 160)
EXCERPT_S = 10.0


class StereoStore:
    """Excerpts of the recordings of a cut manifest in memory, stereo, as 16-bit samples."""

    def __init__(self, manifest: Path, sample_rate: int, *, minutes: float, rng: np.random.Generator):
        with gzip.open(manifest, 'rt') as lines:
            cuts = [json.loads(line) for line in lines]
        share = 60 * minutes / len(cuts)
        self.clips = []
        for cut in cuts:
            kept = min(share, cut['duration'])
            count = max(1, math.ceil(kept / EXCERPT_S))
            length, stretch = kept / count, cut['duration'] / count
            for part in range(count):
                begin = cut['start'] + part * stretch + rng.random() * (stretch - length)
                self.clips.append(self._read(manifest.parent, cut, begin, length, sample_rate))
        self.weights = np.array([clip.shape[1] for clip in self.clips], dtype=np.float64)
        self.weights /= self.weights.sum()

    @staticmethod
    def _read(folder: Path, cut: dict, begin: float, length: float, sample_rate: int) -> np.ndarray:
        with soundfile.SoundFile(folder / cut['recording']['sources'][0]['source']) as file:
            file.seek(int(begin * file.samplerate))
            audio = file.read(int(length * file.samplerate), dtype='float32', always_2d=True)
            rate = file.samplerate
        audio = audio if rate == sample_rate else soxr.resample(audio, rate, sample_rate, quality='VHQ')
        stereo = audio[:, [0, -1]] if audio.shape[1] <= 2 else audio.mean(axis=1, keepdims=True).repeat(2, axis=1)
        return np.clip(np.round(32767 * stereo.T), -32768, 32767).astype(np.int16)

    def crop(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """A stretch (2, T) that is not silent, at a random gain, either way up and round."""
        while True:
            clip = self.clips[rng.choice(len(self.clips), p=self.weights)]
            begin = rng.integers(0, max(1, clip.shape[1] - length + 1))
            crop = clip[:, begin : begin + length].astype(np.float32) / 32768
            peak = np.abs(crop).max(initial=0)
            if peak < 0.003:
                continue
            crop = np.pad(crop, ((0, 0), (0, length - crop.shape[1])))
            gain = min(10 ** (rng.uniform(-9, 3) / 20), 0.98 / peak)
            crop = crop[::-1] if rng.random() < 0.5 else crop
            return crop * np.float32(gain if rng.random() < 0.5 else -gain)


def batch_of(stores: list[StereoStore], size: int, length: int, rng: np.random.Generator) -> Tensor:
    """(B, 2, T), from the manifests in turn."""
    first = rng.integers(0, len(stores))
    crops = [stores[(first + row) % len(stores)].crop(length, rng) for row in range(size)]
    return torch.from_numpy(np.stack(crops))


def build(block: dict) -> nn.Module:
    """Constructs what a YAML block names in ``_target_`` from the block's other keys."""
    module, name = block['_target_'].rsplit('.', 1)
    arguments = {k: build(v) if isinstance(v, dict) else v for k, v in block.items() if k != '_target_'}
    return getattr(importlib.import_module(module), name)(**arguments)


def parameter_groups(network: SpectralAutoencoder, lr: float) -> list[dict]:
    """Slower steps for the straight paths: they start near their goal, and the encoder's adds up 1264 inputs."""
    slow = [(list(network.encoder.direct.parameters()), 0.02), (list(network.decoder.direct.parameters()), 0.2)]
    known = {id(parameter) for parameters, _ in slow for parameter in parameters}
    others = [parameter for parameter in network.parameters() if id(parameter) not in known]
    return [{'params': parameters, 'peak': lr * factor} for parameters, factor in [(others, 1.0), *slow]]


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first hundredth, constant for half of the time, then down to 2 % along a cosine."""
    if progress < 0.5:
        return min(1.0, max(progress / 0.01, 0.02))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(2 * progress - 1, 1.0)))


def sum_and_difference(audio: Tensor) -> Tensor:
    """(B, 2, T) of left and right to (2 B, T) of their half sum and half difference."""
    left, right = audio.unbind(dim=1)
    return torch.cat([(left + right) / 2, (left - right) / 2])


@torch.no_grad()
def validate(network: SpectralAutoencoder, clips: Tensor, sample_rate: int) -> dict[str, float]:
    """Mean distances of decoded clips (B, 2, T), and the statistics of their latents."""
    latents = network.encode(clips)
    decoded = network.decode(latents, length=clips.shape[2])
    rows = [
        (
            stft_distance(clip, estimate),
            mel_distance(clip, estimate, sample_rate),
            float(np.mean([si_sdr(a, b) for a, b in zip(clip, estimate, strict=True)])),
        )
        for clip, estimate in zip(clips, decoded, strict=True)
    ]
    result = dict(zip(('stft', 'mel', 'si_sdr'), np.mean(rows, axis=0).round(4).tolist(), strict=True))
    deviations = latents.std(dim=(0, 2))
    steps = latents.diff(dim=2).square().mean().sqrt() / latents.square().mean().sqrt()
    return result | {
        'latent_rms': round(float(latents.square().mean().sqrt()), 3),
        'least_std': round(float(deviations.min()), 3),
        'most_std': round(float(deviations.max()), 3),
        'jump': round(float(steps), 3),
        'spread': round(float(network.posterior(clips[:4]).std.mean()), 4),
    }


@torch.no_grad()
def latent_statistics(network: SpectralAutoencoder, crops: Tensor) -> dict[str, Tensor]:
    """Mean and deviation of every latent channel (D,): what export_plain.py makes 0 and 1."""
    latents = torch.cat([network.encode(crop[None]) for crop in crops])
    return {'latent_mean': latents.mean(dim=(0, 2)), 'latent_std': latents.std(dim=(0, 2))}


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
    network = build(config['network'])
    averaged = copy.deepcopy(network).requires_grad_(False)
    loss_of = SampledSpectralLoss(
        sample_rate=rate,
        window_lengths=WINDOWS,
        mel_channels=MELS,
        num_drawn=options.resolutions,
        mel_guard=options.guard,
        magnitude_guard=options.guard,
    )
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameter_groups(network, options.lr), lr=options.lr, betas=(0.8, 0.99), weight_decay=0.01, fused=True
    )
    picks = np.random.default_rng(0)
    stores = [StereoStore(path, rate, minutes=options.minutes_in_memory, rng=picks) for path in options.data]
    heard = StereoStore(options.validation, rate, minutes=3, rng=picks)
    shown = [clip[:, : 6 * rate] for clip in heard.clips if clip.shape[1] >= 6 * rate][:16]
    if not shown:
        raise ValueError(f'{options.validation} holds no recording of 6 seconds')
    shown = torch.from_numpy(np.stack(shown).astype(np.float32) / 32768)
    print(*(f'{sum(clip.shape[1] for clip in store.clips) / rate / 60:.0f} minutes' for store in stores), flush=True)
    length = options.crop_latents * network.ratio
    measured = batch_of(stores, 256, length, picks)
    step, seconds_before, last = 0, 0.0, options.out / 'last.pt'
    if not last.exists():
        error = start_from_components(network, batch_of(stores, 320, length, picks))
        averaged.load_state_dict(network.state_dict())
        print(f'the straight paths start with an error of {error:.3f} nepers', validate(averaged, shown, rate))
    else:
        state = torch.load(last, weights_only=True)
        network.load_state_dict(state['network'])
        averaged.load_state_dict(state['averaged'])
        optimizer.load_state_dict(state['optimizer'])
        step, seconds_before = state['step'], state['seconds']
    rng = np.random.default_rng([1, step])
    generator = torch.Generator().manual_seed(step + 1)
    began, validated, parts = time.monotonic(), time.monotonic(), []
    with (options.out / 'log.jsonl').open('a') as log:
        while True:
            seconds = seconds_before + time.monotonic() - began
            progress = max(seconds / (60 * options.minutes), step / options.max_steps)
            due = time.monotonic() - validated > 60 * options.validation_minutes
            if due or progress >= 1:
                state = {'network': network.state_dict(), 'averaged': averaged.state_dict()}
                state |= latent_statistics(averaged, measured)
                save(last, state | {'optimizer': optimizer.state_dict(), 'step': step, 'seconds': seconds})
                row = {'step': step, 'minutes': round(seconds / 60, 1)}
                row |= {'losses': np.mean(parts or [[0]], axis=0).round(4).tolist()}
                print(json.dumps(row | validate(averaged, shown, rate)), file=log, flush=True)
                validated, parts = time.monotonic(), []
            if progress >= 1:
                return
            for group in optimizer.param_groups:
                group['lr'] = group['peak'] * learning_rate_factor(progress)
            audio = batch_of(stores, options.batch_size, length, rng)
            posterior = latent_posterior(network.encoder(audio))
            latents = posterior.sample(torch.randn(posterior.mean.shape, generator=generator))
            latents = latents + options.latent_noise * torch.randn(latents.shape, generator=generator)
            log_magnitude, phase = network.decoder.spectra(latents)
            decoded = network.decoder.synthesize(log_magnitude, phase)
            channels = audio.flatten(0, 1)
            if step % 2:
                waveform = loss_of(channels, decoded.flatten(0, 1), generator=generator)
            else:
                waveform = loss_of(sum_and_difference(audio), sum_and_difference(decoded), generator=generator)
            windows = loss_of.of_windows(channels, log_magnitude.flatten(0, 1))
            # The phases of the two channels differ little: one of them tells nearly as much as both.
            side = step // 2 % 2
            turning = loss_of.of_phases(audio[:, side], phase[:, side])
            kl = posterior.kl()
            loss = waveform + windows + options.phase_weight * turning + options.kl_weight * kl
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            parts.append([part.item() for part in (waveform, windows, turning, kl)])
            with torch.no_grad():
                decay = min(options.ema_decay, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(averaged.parameters()), parameters, 1 - decay)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML with the networks')
    parser.add_argument('--data', type=Path, action='append', required=True, help='cut manifest; several are allowed')
    parser.add_argument('--validation', type=Path, required=True, help='cut manifest')
    parser.add_argument('--out', type=Path, required=True, help='folder for log and checkpoint; resumes from it')
    parser.add_argument('--minutes', type=float, default=50, help='wall-clock budget, resumed runs included')
    parser.add_argument('--max-steps', type=int, default=10**9, help='of resumed runs too')
    parser.add_argument('--minutes-in-memory', type=float, default=120, help='of each manifest')
    parser.add_argument('--batch-size', type=int, default=6)
    parser.add_argument('--crop-latents', type=int, default=24, help='latents of a crop')
    parser.add_argument('--resolutions', type=int, default=2, help='resolutions drawn for each step')
    parser.add_argument('--guard', type=float, default=0.01, help='magnitude below which differences count little')
    parser.add_argument('--lr', type=float, default=1.5e-3)
    parser.add_argument('--phase-weight', type=float, default=0.3, help='of the steps of the phase')
    parser.add_argument('--kl-weight', type=float, default=1e-4)
    parser.add_argument('--latent-noise', type=float, default=0.1, help='deviation of noise on the latents')
    parser.add_argument('--ema-decay', type=float, default=0.999)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--validation-minutes', type=float, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train(options)


if __name__ == '__main__':
    main()
