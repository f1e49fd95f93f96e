r"""Turns captioned clips into latents and features of their prompts, once, for train_diffusion_plain.py.

    python examples/encode_latents_plain.py --cuts captions/train.jsonl.gz \\
        --autoencoder audio_autoencoder_44k_small.nemo --out runs/latents/train.pt

The file holds, for every clip, mean and deviation of its latents and the last hidden states of the packaged sentence
encoder for its caption and for prompts made of its metadata, all in half precision; it fits in memory many times over.
"""

import argparse
import gzip
import importlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import yaml
from torch import Tensor

from nemo_audio_restore.checkpoints.text_encoders import load_packaged_text_conditioner
from nemo_audio_restore.data.captions import metadata_prompt
from nemo_audio_restore.networks.latent_autoencoder import LatentAutoencoder
from nemo_audio_restore.signal.level import at_level

MAX_TOKENS = 48
SILENCE_LATENTS = 64
TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Clip:
    """What a cut says about a clip."""

    cut: dict
    folder: Path

    @property
    def caption(self) -> str:
        """The natural sentence."""
        return self.cut['supervisions'][0]['text']

    @property
    def custom(self) -> dict:
        """Task, class and metadata."""
        return self.cut['custom']

    def audio(self, sample_rate: int, longest_s: float) -> np.ndarray:
        """(2, T) float32, at most ``longest_s``; mono is on both sides."""
        with soundfile.SoundFile(self.folder / self.cut['recording']['sources'][0]['source']) as file:
            file.seek(round(self.cut['start'] * file.samplerate))
            count = round(min(self.cut['duration'], longest_s) * file.samplerate)
            audio, rate = file.read(count, dtype='float32', always_2d=True), file.samplerate
        audio = audio if rate == sample_rate else soxr.resample(audio, rate, sample_rate, quality='VHQ')
        return np.ascontiguousarray(audio[:, [0, -1]].T)

    def prompts(self, variants: int, seed: int) -> list[str]:
        """The caption, then prompts made of its metadata, the same in any corpus; without metadata the caption."""
        tags = self.custom.get('tags')
        generator = torch.Generator().manual_seed(seed + zlib.crc32(self.cut['id'].encode()))
        made = [metadata_prompt(tags, generator) for _ in range(variants)] if tags else []
        return list(dict.fromkeys([self.caption, *made]))


def load_autoencoder(path: Path, config: Path | None) -> tuple[LatentAutoencoder, int]:
    """The network and its sample rate.

    Args:
        path: .nemo file, or ``last.pt`` of train_autoencoder_plain.py.
        config: YAML of the run, for the latter.

    Returns:
        The network in evaluation mode, and its rate in Hz.
    """
    if config is None:
        from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel

        model = AudioAutoencoderModel.restore_from(path)
        return model.network.eval(), model.sample_rate
    block = yaml.safe_load(config.read_text())['model']
    network = _build(block.get('network') or block['autoencoder'])
    network.load_state_dict(torch.load(path, weights_only=True, map_location='cpu')['averaged'])
    return network.eval(), block['sample_rate']


def _build(block: dict) -> torch.nn.Module:
    module, name = block['_target_'].rsplit('.', 1)
    arguments = {k: _build(v) if isinstance(v, dict) else v for k, v in block.items() if k != '_target_'}
    return getattr(importlib.import_module(module), name)(**arguments)


@torch.no_grad()
def latents_of(network: LatentAutoencoder, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (L, D) of a clip (2, T), with one latent of the silence behind it."""
    samples = -(-audio.shape[1] // network.ratio) * network.ratio + network.ratio
    padded = torch.nn.functional.pad(audio, (0, samples - audio.shape[1]))
    posterior = network.posterior(padded[None])
    return tuple((part[0].T / network.latent_scale).half() for part in (posterior.mean, posterior.std))


@torch.no_grad()
def features_of(texts: list[str]) -> Iterator[Tensor]:
    """(S, E) of each text, without padding."""
    conditioner = load_packaged_text_conditioner(max_length=MAX_TOKENS)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found: list[Tensor | None] = [None] * len(texts)
    for begin in range(0, len(order), TEXTS_AT_ONCE):
        some = order[begin : begin + TEXTS_AT_ONCE]
        # Padding to the longest of these only: what is behind the mask changes nothing and is cut off below.
        tokens = conditioner.tokenizer(
            [texts[index] for index in some], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors='pt'
        )
        features = conditioner(tokens['input_ids'], tokens['attention_mask'])
        for row, index in enumerate(some):
            found[index] = features.features[row, features.mask[row].bool()].half()
    yield from found


def encode(options: argparse.Namespace) -> dict:
    """The content of the file."""
    torch.set_num_threads(options.threads)
    network, rate = load_autoencoder(options.autoencoder, options.config)
    with gzip.open(options.cuts, 'rt') as lines:
        clips = [Clip(json.loads(line), options.cuts.parent) for line in lines]
    means, deviations, seconds = [], [], []
    for index, clip in enumerate(clips):
        audio = at_level(torch.from_numpy(clip.audio(rate, options.longest_s)), rate, options.level_db)
        mean, deviation = latents_of(network, audio)
        means.append(mean)
        deviations.append(deviation)
        seconds.append(audio.shape[1] / rate)
        if index % 500 == 0:
            print(f'{index} of {len(clips)} clips', flush=True)
    silence, _ = latents_of(network, torch.zeros(2, SILENCE_LATENTS * network.ratio))
    prompts = [clip.prompts(options.variants, options.seed) for clip in clips]
    texts = list(dict.fromkeys(text for some in prompts for text in some))
    places = {text: place for place, text in enumerate(texts)}
    features = list(features_of(texts))
    return {
        'mean': torch.cat(means),
        'deviation': torch.cat(deviations),
        'latents': [len(mean) for mean in means],
        'seconds': seconds,
        'silence': silence[SILENCE_LATENTS // 2].float(),
        'latents_per_s': rate / network.ratio,
        'features': torch.cat(features),
        'tokens': [len(row) for row in features],
        'prompts': [[places[text] for text in some] for some in prompts],
        'texts': texts,
        'ids': [clip.cut['id'] for clip in clips],
        'tasks': [clip.custom['task'] for clip in clips],
        'classes': [clip.custom['class'] for clip in clips],
    }


def options_of(command_line: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cuts', type=Path, required=True, help='cut manifest with captions (.jsonl.gz)')
    parser.add_argument('--autoencoder', type=Path, required=True, help='.nemo file, or checkpoint of a plain run')
    parser.add_argument('--config', type=Path, help='YAML of the plain run')
    parser.add_argument('--out', type=Path, required=True, help='file to write')
    parser.add_argument('--variants', type=int, default=4, help='prompts made of the metadata of each clip')
    parser.add_argument('--longest-s', type=float, default=30.0, help='more of a clip is left out')
    parser.add_argument('--level-db', type=float, default=-16.0, help='of the loudest 0.1 s of every clip')
    parser.add_argument('--seed', type=int, default=0, help='of the prompts')
    parser.add_argument('--threads', type=int, default=1)
    return parser.parse_args(command_line)


def main(options: argparse.Namespace) -> None:
    """Writes the file."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = encode(options)
    torch.save(content, options.out)
    print(f'{options.out}: {len(content["ids"])} clips, {sum(content["seconds"]) / 60:.1f} minutes')


if __name__ == '__main__':
    main(options_of())
