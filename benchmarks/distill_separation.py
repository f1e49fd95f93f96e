"""The parts of benchmarks/distill_quality.py that start from recordings: separation and enhancement."""

import argparse
import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.distillation.settings import ENHANCEMENT, SEPARATION
from nemo_audio_restore.distillation.sources import share_mixture
from nemo_audio_restore.distillation.tasks import enhance, separate
from nemo_audio_restore.evaluation.metrics import si_sdr
from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.files.audio import read_audio
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
from nemo_audio_restore.models.latent_diffusion_prior import LatentDiffusionPrior

# What is mixed: (task, class) of the one and of the other sound.
PAIRS = (
    (('effect', 'hi-hat'), ('instrument', 'strings')),
    (('effect', 'snare drum'), ('instrument', 'organ')),
    (('effect', 'bird'), ('instrument', 'bass')),
    (('effect', 'footsteps'), ('instrument', 'choir')),
    (('instrument', 'drum kit'), ('instrument', 'flute')),
    (('effect', 'water'), ('instrument', 'piano')),
    (('effect', 'kick drum'), ('instrument', 'accordion')),
    (('effect', 'hand clap'), ('instrument', 'brass')),
)
MIXED_S = 1.0
LEVEL = 0.08
NOISE_DB = -10.0


@dataclass(frozen=True)
class Cut:
    """A captioned recording of the corpus."""

    name: str
    path: Path
    caption: str
    task: str
    kind: str
    group: str
    seconds: float


def read_cuts(manifest: Path) -> list[Cut]:
    """The recordings of a manifest."""
    with gzip.open(manifest, 'rt', encoding='utf-8') as lines:
        cuts = [json.loads(line) for line in lines]
    return [
        Cut(
            cut['id'],
            manifest.parent / cut['recording']['sources'][0]['source'],
            cut['supervisions'][0]['text'],
            cut['custom']['task'],
            cut['custom']['class'],
            cut['custom']['group'],
            cut['duration'],
        )
        for cut in cuts
    ]


def chosen(cuts: Sequence[Cut], task: str, kind: str) -> Cut:
    """One recording of a class that is long enough; which one depends on the names only."""
    members = [cut for cut in cuts if (cut.task, cut.kind) == (task, kind)]
    long = [cut for cut in members if cut.seconds >= MIXED_S] or members
    return min(long, key=lambda cut: hashlib.sha256(cut.name.encode()).hexdigest())


def loudest_part(cut: Cut, sample_rate: int) -> Tensor:
    """(2, T), its loudest part, at a common level."""
    audio, rate = read_audio(cut.path)
    if rate != sample_rate:
        raise ValueError(f'{cut.path} has {rate} Hz, the model {sample_rate}')
    samples = round(MIXED_S * rate)
    audio = np.broadcast_to(audio, (2, audio.shape[1]))
    audio = np.pad(audio, ((0, 0), (0, max(0, samples - audio.shape[1]))))
    energy = np.cumsum(np.pad(np.square(audio).sum(0), (1, 0)))
    starts = np.arange(0, audio.shape[1] - samples + 1, rate // 10)
    start = int(starts[np.argmax(energy[starts + samples] - energy[starts])])
    part = torch.tensor(audio[:, start : start + samples], dtype=torch.float32)
    return part * (LEVEL / part.square().mean().sqrt())


def sdr(reference: Tensor, estimate: Tensor) -> float:
    """Signal over everything that is not, in dB; the level counts."""
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum().clamp_min(1e-12)))


def stem_scores(sources: Tensor, stems: Tensor) -> dict[str, float]:
    """Means over stems, and over channels for SI-SDR."""
    scale_free = [
        si_sdr(left, right)
        for source, stem in zip(sources, stems, strict=True)
        for left, right in zip(source, stem, strict=True)
    ]
    plain = [sdr(source, stem) for source, stem in zip(sources, stems, strict=True)]
    return {'SDR': float(np.mean(plain)), 'SI-SDR': float(np.mean(scale_free))}


def remembered(path: Path, key: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Numbers from a file of JSON lines, made and added if they are not there."""
    if path.exists():
        for line in path.read_text(encoding='utf-8').splitlines():
            entry = json.loads(line)
            if entry['key'] == key:
                return entry['numbers']
    numbers = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', encoding='utf-8') as file:
        file.write(json.dumps({'key': key, 'numbers': numbers}) + '\n')
    return numbers


def separation_report(model: LatentDiffusionModel, options: argparse.Namespace) -> list[str]:
    """Separates the mixtures, and the tables."""
    prior, cuts = LatentDiffusionPrior(model), read_cuts(options.data / 'test.jsonl.gz')
    path = options.out / 'separation.jsonl'
    found: dict[str, list[tuple[str, dict[str, float]]]] = {}
    lines = []
    for pair in PAIRS[: options.mixtures]:
        members = [chosen(cuts, *place) for place in pair]
        name = ' + '.join(cut.kind for cut in members)
        sources = torch.stack([loudest_part(cut, prior.sample_rate) for cut in members])
        mixture, prompts = sources.sum(0), [cut.caption for cut in members]
        systems = fixed_systems(prior, sources) | {
            'without SDS': lambda seed, m=mixture, p=prompts: separate(
                prior, m, p, settings=replace(SEPARATION, gamma=0.0), seed=seed
            ),
            'with SDS': lambda seed, m=mixture, p=prompts: separate(prior, m, p, seed=seed),
            'with SDS, prompts exchanged': lambda seed, m=mixture, p=prompts: separate(prior, m, p[::-1], seed=seed),
        }
        own: dict[str, list[dict[str, float]]] = {}
        for system, make in systems.items():
            seeds = range(options.seeds) if system.startswith('with') and 'exchanged' not in system else range(1)
            for seed in seeds:
                key = f'{name}/{system}/{seed}'
                scores = remembered(path, key, lambda m=make, s=seed, t=sources: stem_scores(t, m(s)))
                own.setdefault(system, []).append(scores)
                found.setdefault(system, []).append((name, scores))
        gain = [a['SDR'] - b['SDR'] for a, b in zip(own['with SDS'], own['without SDS'], strict=True)]
        mean, half = bootstrap_interval(gain, [str(seed) for seed in range(len(gain))])
        lines.append(
            {'mixture': name, 'prompts': ' / '.join(prompts)}
            | {
                system: f'{np.mean([s["SDR"] for s in own[system]]):.1f} / '
                f'{np.mean([s["SI-SDR"] for s in own[system]]):.1f}'
                for system in systems
            }
            | {'gain in SDR': f'{mean:+.1f} ± {half:.1f}'}
        )
        print(lines[-1], flush=True)
    report = [f'SDR / SI-SDR of the stems in dB, {options.seeds} seeds; the gain over seeds:', '']
    report += [markdown_table(lines), '', 'All mixtures (intervals over mixtures):', '']
    return [*report, markdown_table(overall_rows(found)), '']


def fixed_systems(prior: LatentDiffusionPrior, sources: Tensor) -> dict[str, Callable[[int], Tensor]]:
    """What needs no seed: equal shares, and masks of what the autoencoder makes of the true sources."""
    mixture = sources.sum(0)

    def decoded(seed: int) -> Tensor:
        with torch.no_grad():
            return share_mixture(prior.decode(prior.encode(sources), num_samples=mixture.shape[-1]), mixture)

    return {
        'equal shares': lambda seed: mixture.expand_as(sources) / len(sources),
        'masks of the true sources, coded': decoded,
    }


def overall_rows(found: dict[str, list[tuple[str, dict[str, float]]]]) -> list[dict]:
    """Means over all mixtures, and how far each system is above the same without SDS."""
    base = {}
    for name, scores in found['without SDS']:
        base.setdefault(name, []).append(scores)
    lines = []
    for system, entries in found.items():
        groups = [name for name, _ in entries]
        line = {'system': system}
        for metric in ('SDR', 'SI-SDR'):
            mean, half = bootstrap_interval([scores[metric] for _, scores in entries], groups)
            line[f'{metric}, dB'] = f'{mean:.2f} ± {half:.2f}'
        for metric in ('SDR', 'SI-SDR'):
            gains = [scores[metric] - np.mean([b[metric] for b in base[name]]) for name, scores in entries]
            mean, half = bootstrap_interval(gains, groups)
            line[f'over no SDS, {metric}'] = f'{mean:+.2f} ± {half:.2f}'
        lines.append(line)
    return lines


def enhancement_report(model: LatentDiffusionModel, options: argparse.Namespace) -> list[str]:
    """Draws noisy clips towards their captions, and the table."""
    prior, cuts = LatentDiffusionPrior(model), read_cuts(options.data / 'test.jsonl.gz')
    path = options.out / 'enhancement.jsonl'
    lines = []
    for _, place in PAIRS[: options.mixtures]:
        cut = chosen(cuts, *place)
        clean = loudest_part(cut, prior.sample_rate)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        noisy = clean + noise * LEVEL * 10 ** (NOISE_DB / 20)
        systems = {
            'noisy': lambda seed, x=noisy: x,
            'without SDS': lambda seed, x=noisy, c=cut: enhance(
                prior, x, c.caption, settings=replace(ENHANCEMENT, gamma=0.0), seed=seed
            ),
            'with SDS': lambda seed, x=noisy, c=cut: enhance(prior, x, c.caption, seed=seed),
        }
        line = {'clip': cut.kind, 'prompt': cut.caption}
        for system, make in systems.items():
            seeds = range(options.seeds) if system == 'with SDS' else range(1)
            scores = [
                remembered(
                    path, f'{cut.name}/{system}/{seed}',
                    lambda m=make, s=seed, t=clean: stem_scores(t[None], m(s)[None]),
                )
                for seed in seeds
            ]  # fmt: skip
            mean, half = bootstrap_interval([s['SDR'] for s in scores], [str(seed) for seed in seeds])
            line[f'{system}: SDR, dB'] = f'{mean:.1f} ± {half:.1f}' if len(scores) > 1 else f'{mean:.1f}'
        lines.append(line)
        print(line, flush=True)
    title = f'Clips with white noise {-NOISE_DB:g} dB below them, drawn towards their captions:'
    return [title, '', markdown_table(lines), '']
