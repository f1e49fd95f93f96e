r"""An autoencoder of music on held-out tracks, beside cheap baselines and the published rows, as markdown and CSV.

    python examples/prepare_music.py --out music
    python benchmarks/autoencoder_quality.py --manifest music/test.jsonl.gz --model audio_autoencoder_44k_small

Excerpts of ten seconds are spread evenly over every track. STFT and MEL are auraloss' defaults and SI-SDR is averaged
over both channels, as Stable Audio Open reports its autoencoder (arXiv 2407.14358, table 3); panning is how far the
level difference of the channels has moved, in six bands. The published rows are on other music (Song Describer without
singing) and at 2 to 4 times as many numbers a second: they say what is possible, not who is better. Baselines are on
the same excerpts: the model's latents with those of panning at zero; silence; the music below 344 Hz in mono, which
takes about as many numbers a second as the small model's latents; true magnitudes of 1024 samples with the phases of
noise; and where training starts, the principal components of levels, taken from the very excerpts that they are
measured on.

Intervals are 95 %, resampling whole tracks.
"""

import argparse
import csv
import gzip
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from nemo_audio_restore.evaluation.metrics import si_sdr
from nemo_audio_restore.evaluation.reconstruction import mel_distance, panning_distance, stft_distance
from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel
from nemo_audio_restore.models.blocks import build
from nemo_audio_restore.networks.spectral_autoencoder import SpectralAutoencoder
from nemo_audio_restore.networks.spectral_autoencoder_start import start_from_components

EXCERPT_S = 10.0
METRICS = ('STFT', 'MEL', 'SI-SDR', 'panning, dB')
# Numbers of the audio for each of the latents, then table 3 of arXiv 2407.14358, Song Describer without singing.
PUBLISHED = {
    'DAC (arXiv 2306.06546), quantised': ('', 0.96, 0.53, 11.30),
    'Stable Audio 1.0': (32, 1.20, 0.67, 9.12),
    'Stable Audio 2.0': (64, 1.21, 0.72, 7.65),
    'Stable Audio Open': (64, 1.29, 0.77, 6.28),
}


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a held-out track: (2, T) samples."""

    collection: str
    track: str
    audio: Tensor


def excerpts_of(manifest: Path, *, count: int, sample_rate: int) -> list[Excerpt]:
    """Excerpts spread evenly over every track of a manifest."""
    found = []
    with gzip.open(manifest, 'rt') as lines:
        for cut in map(json.loads, lines):
            path = manifest.parent / cut['recording']['sources'][0]['source']
            with soundfile.SoundFile(path) as file:
                room = cut['duration'] - EXCERPT_S
                for part in range(count if room > 0 else 0):
                    file.seek(int((cut['start'] + room * (part + 0.5) / count) * file.samplerate))
                    audio = file.read(int(EXCERPT_S * file.samplerate), dtype='float32', always_2d=True)
                    if file.samplerate != sample_rate:
                        audio = soxr.resample(audio, file.samplerate, sample_rate, quality='VHQ')
                    stereo = torch.from_numpy(np.ascontiguousarray(audio[:, [0, -1]].T))
                    if stereo.square().mean().sqrt() > 1e-3:
                        collection = cut.get('custom', {}).get('group', '').split('/')[0]
                        found.append(Excerpt(collection, cut['id'], stereo))
    return found


def low_passed(audio: Tensor, sample_rate: int, rate: float) -> Tensor:
    """What is left of audio at another rate, in mono."""
    mono = audio.mean(dim=0).numpy()
    back = soxr.resample(soxr.resample(mono, sample_rate, rate, quality='VHQ'), rate, sample_rate, quality='VHQ')
    kept = np.zeros_like(mono)
    kept[: len(back)] = back[: len(mono)]
    return torch.from_numpy(kept).expand(2, -1)


def with_phases_of_noise(audio: Tensor) -> Tensor:
    """The magnitudes of audio with the phases of one noise in both channels."""
    window = torch.hann_window(1024)
    noise = torch.randn(audio.shape[1], generator=torch.Generator().manual_seed(0))
    options = {'n_fft': 1024, 'hop_length': 256, 'window': window}
    magnitude = torch.stft(audio, **options, return_complex=True).abs()
    phase = torch.stft(noise, **options, return_complex=True).angle()
    return torch.istft(torch.polar(magnitude, phase.expand_as(magnitude)), **options, length=audio.shape[1])


def components_of(model: AudioAutoencoderModel, excerpts: list[Excerpt]) -> SpectralAutoencoder:
    """An untrained network of the model's kind with the head start that training has."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(model.cfg.network, where='network')
    whole = excerpts[0].audio.shape[1] // network.ratio * network.ratio
    start_from_components(network, torch.stack([excerpt.audio[:, :whole] for excerpt in excerpts]))
    return network.eval()


def scores(audio: Tensor, decoded: Tensor, sample_rate: int) -> tuple[float, ...]:
    """The metrics of an excerpt."""
    ratio = [si_sdr(a, b) for a, b in zip(audio, decoded, strict=True)] if decoded.abs().max() > 0 else [float('nan')]
    moved = panning_distance(audio, decoded, sample_rate)
    return stft_distance(audio, decoded), mel_distance(audio, decoded, sample_rate), float(np.mean(ratio)), moved


def main() -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--manifest', type=Path, required=True, help='cut manifest of held-out music')
    parser.add_argument('--model', default='audio_autoencoder_44k_small', help='name or .nemo file')
    parser.add_argument('--excerpts', type=int, default=3, help='of every track')
    parser.add_argument('--csv', type=Path, help='scores of every excerpt')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = AudioAutoencoderModel.from_pretrained(arguments.model)
    rate = model.sample_rate
    excerpts = excerpts_of(arguments.manifest, count=arguments.excerpts, sample_rate=rate)
    coders: dict[str, tuple[object, Callable[[Tensor], Tensor]]] = {
        arguments.model: (f'{model.compression:g}', lambda audio: _coded(model.network, audio)),
        'silence': ('', torch.zeros_like),
        'the music below 344 Hz, mono': ('128', lambda audio: low_passed(audio, rate, rate / 64)),
        'true magnitudes, phases of noise': ('', with_phases_of_noise),
    }
    if isinstance(model.network, SpectralAutoencoder):
        start = components_of(model, excerpts)
        if model.network.encoder.panning is not None:
            coders['without its panning'] = (
                f'{model.compression:g}',
                lambda audio: _in_the_middle(model.network, audio),
            )
        coders['where training starts'] = (f'{model.compression:g}', lambda audio: _coded(start, audio))
    table, rows = [], []
    for name, (compression, coder) in coders.items():
        found = [scores(excerpt.audio, coder(excerpt.audio), rate) for excerpt in excerpts]
        row = {'coder': name, 'fewer numbers': compression}
        for index, metric in enumerate(METRICS):
            values = [score[index] for score in found]
            mean, half = bootstrap_interval(values, [excerpt.track for excerpt in excerpts])
            row[metric] = '' if np.isnan(mean) else f'{mean:.2f} ± {half:.2f}'
        table.append(row)
        for excerpt, score in zip(excerpts, found, strict=True):
            rows.append([name, excerpt.collection, excerpt.track, *(round(value, 4) for value in score)])
    for name, (compression, *values) in PUBLISHED.items():
        published = dict(zip(METRICS, (*(f'{value:.2f}' for value in values), ''), strict=True))
        table.append({'coder': f'published: {name}', 'fewer numbers': compression, **published})
    minutes = sum(excerpt.audio.shape[1] for excerpt in excerpts) / rate / 60
    print(f'{len(excerpts)} excerpts, {minutes:.1f} min; `fewer numbers`: of the audio for each of the latents\n')
    print(markdown_table(table), '\n')
    collections = sorted({excerpt.collection for excerpt in excerpts})
    own = [row for row in rows if row[0] == arguments.model]
    by_collection = []
    for collection in collections:
        means = np.mean([row[3:] for row in own if row[1] == collection], axis=0)
        by_collection.append({'collection': collection, **dict(zip(METRICS, means.round(2), strict=True))})
    print(markdown_table(by_collection), '\n')
    print(_speed(model, excerpts[0].audio))
    if arguments.csv:
        with arguments.csv.open('w', newline='') as file:
            csv.writer(file).writerows([['coder', 'collection', 'track', *METRICS], *rows])


@torch.no_grad()
def _coded(network: torch.nn.Module, audio: Tensor) -> Tensor:
    return network.decode(network.encode(audio[None]), length=audio.shape[1])[0]


@torch.no_grad()
def _in_the_middle(network: SpectralAutoencoder, audio: Tensor) -> Tensor:
    latents = network.encode(audio[None])
    latents[:, network.encoder.learned_channels :] = 0
    return network.decode(latents, length=audio.shape[1])[0]


def _speed(model: AudioAutoencoderModel, audio: Tensor) -> str:
    """Processor seconds for a second of audio, one thread."""
    latents = model.encode(audio[None])
    model.decode(latents)
    seconds = audio.shape[1] / model.sample_rate
    begun = time.process_time()
    model.encode(audio[None])
    encoded = time.process_time()
    model.decode(latents)
    spent = (encoded - begun) / seconds, (time.process_time() - encoded) / seconds
    return (
        f'{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, one thread: {1000 * spent[0]:.1f} ms '
        f'to encode a second of audio, {1000 * spent[1]:.1f} ms to decode it'
    )


if __name__ == '__main__':
    main()
