r"""Does Audio-SDS with a trained prior do what it says? Synthesizers that follow prompts, mixtures that come apart.

    pip install 'nemo-audio-restore[generate]'
    python examples/prepare_captions.py --out captions
    python benchmarks/distill_quality.py --data captions --out results

1. FM and impact synthesizers are fitted to drum prompts from random settings, several seeds a prompt. A classifier of
   mel statistics (the judge) names what it hears. It is trained on recordings of kits that the prior never saw: the
   kits held out of the caption corpus, and two Debian packages of drum samples. Its accuracy on the prior's own kits,
   which it never heard, stands in front. Compared: the same settings before the fit, fits to the other prompts, and
   what the prior itself generates from the prompt. The score of the text-audio model is no independent judge: it was
   trained on the clips that the prior was trained on.
2. Mixtures of two held-out clips at equal level are separated with and without the prior (gamma 0), with the same
   start, the same reconstruction, masks and number of steps. SDR and SI-SDR of the stems; beside them equal shares of
   the mixture, prompts exchanged, and the best that masks made by this autoencoder can do (of the true sources).
3. Held-out clips with white noise are drawn towards their captions, with and without the prior.

Everything made stays in --out, and the same command resumes. `--only` does one part.
"""

import argparse
import json
import platform
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from distill_separation import enhancement_report, separation_report
from scipy.stats import fisher_exact

from nemo_audio_restore.data.debian import fetch_package
from nemo_audio_restore.distillation.renderers import FMSynthesizer, ImpactSynthesizer, PatchRenderer, load_patch
from nemo_audio_restore.distillation.settings import FM_SYNTHESIS, SYNTHESIS
from nemo_audio_restore.distillation.tasks import follow_prompt
from nemo_audio_restore.evaluation.naming import ClassNamer, class_features, score_names
from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.files.audio import AudioFileError, probe, read_audio
from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
from nemo_audio_restore.models.latent_diffusion_prior import LatentDiffusionPrior

# Class of the judge: prompt, and names of files of the packages that are in no corpus.
DRUMS = {
    'kick drum': ('kick drum hit', r'^(?:kick|bassdrum|808_kick)'),
    'snare drum': ('snare drum hit', r'^(?:snare|808_snare)(?!.*rim)'),
    'hi-hat': ('hi-hat', r'^(?:hihat|hat|808_hat)'),
    'cymbal': ('cymbal crash', r'^(?:crash|ride|splash|24ride|808_cymbal)'),
}
SAMPLE_PACKAGES = ('hydrogen-data', 'lmms-common')
KITS = 'hydrogen-drumkits/'
HEARD_S = 1.0
SYNTHESIZERS = {'FM': FMSynthesizer, 'impact': ImpactSynthesizer}
SETTINGS = {'FM': FM_SYNTHESIS, 'impact': SYNTHESIS}


@dataclass(frozen=True)
class Hit:
    """A recording of a drum: its file, its class, and the kit it belongs to."""

    path: Path
    kind: str
    kit: str


def corpus_hits(data: Path, splits: Sequence[str]) -> list[Hit]:
    """Hits of drum kits in splits of the caption corpus."""
    from distill_separation import read_cuts

    return [
        Hit(cut.path, cut.kind, cut.group)
        for split in splits
        for cut in read_cuts(data / f'{split}.jsonl.gz')
        if cut.kind in DRUMS and cut.group.startswith(KITS)
    ]


def package_hits(folder: Path) -> list[Hit]:
    """Hits of Debian packages that no corpus of ours uses, but for files that cannot be read; fetched when missing."""
    found = []
    for package in SAMPLE_PACKAGES:
        root = folder / package
        if not root.exists():
            subprocess.run(['dpkg-deb', '-x', str(fetch_package(package, folder)), str(root)], check=True)
        for path in sorted(root.rglob('*')):
            if path.suffix.lower() not in ('.wav', '.flac', '.ogg') or path.parent.name in ('beats', 'bassloops'):
                continue
            kinds = [kind for kind, (_, pattern) in DRUMS.items() if re.search(pattern, path.stem.lower())]
            if kinds and readable(path):
                found.append(Hit(path, kinds[0], f'{package}/{path.parent.name}'))
    return found


def readable(path: Path) -> bool:
    """Whether a file is audio, whatever its name says."""
    try:
        probe(path)
    except AudioFileError:
        return False
    return True


def first_second(audio: np.ndarray, rate: int) -> np.ndarray:
    """What the judge hears of a recording: so much of it, silence behind shorter ones."""
    samples = round(HEARD_S * rate)
    return np.pad(audio, ((0, 0), (0, max(0, samples - audio.shape[1]))))[:, :samples]


def features_of(hits: Sequence[Hit], cache: Path) -> np.ndarray:
    """(N, D) features, read from the cache where it has them."""
    known: dict[str, np.ndarray] = {}
    if cache.exists():
        with np.load(cache) as kept:
            known = dict(zip(kept['names'].tolist(), kept['features'], strict=True))
    missing = [hit for hit in hits if str(hit.path) not in known]
    for hit in missing:
        audio, rate = read_audio(hit.path)
        known[str(hit.path)] = class_features(first_second(audio, rate), rate)
    if missing:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, names=np.array(list(known)), features=np.stack(list(known.values())))
    return np.stack([known[str(hit.path)] for hit in hits])


def train_judge(options: argparse.Namespace) -> tuple[ClassNamer, list[dict]]:
    """The classifier, and lines about its accuracy on kits that it never heard."""
    judged = corpus_hits(options.data, ('validation', 'test')) + package_hits(options.out / 'packages')
    unheard = corpus_hits(options.data, ('train',))
    shared = {hit.kit for hit in judged} & {hit.kit for hit in unheard}
    if shared:
        raise ValueError(f'the kits {sorted(shared)} are in both parts: prepare the captions anew')
    cache = options.out / 'judge.npz'
    judge = ClassNamer.fit(features_of(judged, cache), [hit.kind for hit in judged])
    named = judge.name(features_of(unheard, cache))
    lines = []
    for kind in DRUMS:
        own = [name for name, hit in zip(named, unheard, strict=True) if hit.kind == kind]
        score = score_names(own, [kind] * len(own), list(DRUMS))
        mistaken = Counter(name for name in own if name != kind).most_common(1)
        lines.append(
            {
                'class': kind,
                'hits it learned from': sum(hit.kind == kind for hit in judged),
                'hits of kits it never heard': len(own),
                'named right': f'{score.accuracy:.0%} ({score.low:.0%} to {score.high:.0%})',
                'mostly mistaken for': mistaken[0][0] if mistaken else '-',
            }
        )
    return judge, lines


def fitted(
    prior: LatentDiffusionPrior, name: str, kind: str, seed: int, folder: Path
) -> tuple[PatchRenderer, PatchRenderer]:
    """A synthesizer before and after its fit, from files where they exist."""
    start = SYNTHESIZERS[name].random(sample_rate=prior.sample_rate, generator=torch.Generator().manual_seed(seed))
    path = folder / f'{name}-{kind.replace(" ", "_")}-{seed}.json'
    if path.exists():
        return start, load_patch(path)
    end = SYNTHESIZERS[name].from_patch(start.to_patch())
    follow_prompt(prior, end, DRUMS[kind][0], seconds=HEARD_S, settings=SETTINGS[name], seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    end.save_patch(path)
    return start, load_patch(path)


def rendered(renderer: PatchRenderer) -> np.ndarray:
    """One second (C, T)."""
    with torch.no_grad():
        return renderer(round(HEARD_S * renderer.sample_rate)).numpy()


def generated(model: LatentDiffusionModel, kind: str, seeds: int, folder: Path) -> list[np.ndarray]:
    """What the prior itself makes of the prompt, one sound a seed."""
    path = folder / f'generated-{kind.replace(" ", "_")}-{seeds}.npy'
    if not path.exists():
        clips = model.generate(DRUMS[kind][0], seconds=HEARD_S, seed=list(range(seeds)))
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([clip.audio for clip in clips]))
    return list(np.load(path))


def synthesis_report(model: LatentDiffusionModel, options: argparse.Namespace) -> list[str]:
    """Fits, names, and the tables."""
    judge, lines = train_judge(options)
    report = ['The judge on drum kits that it never heard:', '', markdown_table(lines), '']
    prior, folder = LatentDiffusionPrior(model), options.out / 'synthesis'
    score_text = text_scorer(options.text_audio, prior.sample_rate)
    named: dict[tuple[str, str, str], list[str]] = {}
    agreement: dict[tuple[str, str], list[tuple[float, float, float, str]]] = {}

    def judge_of(sounds: Sequence[np.ndarray]) -> list[str]:
        return judge.name(np.stack([class_features(sound, prior.sample_rate) for sound in sounds]))

    for name in SYNTHESIZERS:
        for kind in DRUMS:
            begin = time.perf_counter()
            pairs = [fitted(prior, name, kind, seed, folder) for seed in range(options.seeds)]
            before, after = ([rendered(renderer) for renderer in side] for side in zip(*pairs, strict=True))
            named[name, kind, 'random settings'] = judge_of(before)
            named[name, kind, 'fitted'] = judge_of(after)
            agreement[name, kind] = score_text(kind, before, after)
            print(f'{name}, {kind}: {named[name, kind, "fitted"]}, {time.perf_counter() - begin:.0f} s', flush=True)
    for kind in DRUMS:
        named['prior', kind, 'generated'] = judge_of(generated(model, kind, options.seeds, folder))
    report += [f'Named as the class of the prompt, {options.seeds} seeds a prompt (chance 25 %):', '']
    report += [markdown_table(right_rows(named)), '']
    report += ['What was named, of fits to each prompt:', '', markdown_table(confusion_rows(named)), '']
    if options.text_audio:
        report += ['Text-audio score with the own prompt (mean ± half of the 95 % interval over seeds):', '']
        report += [markdown_table(agreement_rows(agreement)), '']
    return report


def right_rows(named: dict[tuple[str, str, str], list[str]]) -> list[dict]:
    """Shares of right names: random settings, wrong prompts, own prompt."""
    lines = []
    for name in SYNTHESIZERS:
        for kind in (*DRUMS, 'all'):
            kinds = list(DRUMS) if kind == 'all' else [kind]
            own = [found == k for k in kinds for found in named[name, k, 'fitted']]
            start = [found == k for k in kinds for found in named[name, k, 'random settings']]
            wrong = [found == k for k in kinds for o in DRUMS if o != k for found in named[name, o, 'fitted']]
            line = {'synthesizer': name, 'prompt': kind}
            for title, values in (('random settings', start), ('fitted to other prompts', wrong), ('fitted', own)):
                score = score_names([str(v) for v in values], ['True'] * len(values), list(DRUMS))
                line[title] = f'{score.accuracy:.0%} ({score.low:.0%} to {score.high:.0%})'
            for title, values in (('p against random', start), ('p against other prompts', wrong)):
                table = [[sum(own), len(own) - sum(own)], [sum(values), len(values) - sum(values)]]
                line[title] = f'{fisher_exact(table, alternative="greater").pvalue:.1g}'
            generated_right = [found == k for k in kinds for found in named['prior', k, 'generated']]
            line['generated by the prior'] = f'{np.mean(generated_right):.0%}'
            lines.append(line)
    return lines


def confusion_rows(named: dict[tuple[str, str, str], list[str]]) -> list[dict]:
    """How often each class was named for each prompt."""
    return [
        {'synthesizer': name, 'prompt': kind}
        | {other: Counter(named[name, kind, 'fitted'])[other] or '' for other in DRUMS}
        for name in SYNTHESIZERS
        for kind in DRUMS
    ]


def text_scorer(name: str | None, sample_rate: int) -> Callable:
    """From a class and its sounds before and after to their agreement with own and other prompts."""
    if name is None:
        return lambda kind, before, after: []
    from nemo_audio_restore.models.text_audio import TextAudioModel

    listener = TextAudioModel.from_pretrained(name).eval()
    texts = listener.embed_text([prompt for prompt, _ in DRUMS.values()])

    @torch.no_grad()
    def score(kind: str, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> list[tuple]:
        own = list(DRUMS).index(kind)
        lines = []
        for seed, (start, end) in enumerate(zip(before, after, strict=True)):
            heard = [
                listener.embed_audio(torch.from_numpy(sound).mean(0)[None], sample_rate=sample_rate)[0]
                for sound in (start, end)
            ]
            marks = (torch.stack(heard) @ texts.T).tolist()
            others = float(np.mean([mark for index, mark in enumerate(marks[1]) if index != own]))
            lines.append((marks[0][own], marks[1][own], others, str(seed)))
        return lines

    return score


def agreement_rows(agreement: dict[tuple[str, str], list[tuple[float, float, float, str]]]) -> list[dict]:
    """Means and intervals of the scores."""
    lines = []
    for name in SYNTHESIZERS:
        for kind in (*DRUMS, 'all'):
            marks = [mark for k in DRUMS for mark in agreement[name, k] if kind in ('all', k)]
            line = {'synthesizer': name, 'prompt': kind}
            for index, title in enumerate(('random settings', 'fitted', 'fitted, scored with other prompts')):
                mean, half = bootstrap_interval([mark[index] for mark in marks], [mark[3] for mark in marks])
                line[title] = f'{mean:.3f} ± {half:.3f}'
            mean, half = bootstrap_interval([mark[1] - mark[0] for mark in marks], [mark[3] for mark in marks])
            line['gain'] = f'{mean:+.3f} ± {half:.3f}'
            lines.append(line)
    return lines


PARTS = {'synthesis': synthesis_report, 'separation': separation_report, 'enhancement': enhancement_report}


def main() -> None:
    """Runs the parts, prints the tables and writes them into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder of prepare_captions.py')
    parser.add_argument('--out', type=Path, required=True, help='for patches, results and tables; a run resumes')
    parser.add_argument('--model', default='stable_audio_44k_small')
    parser.add_argument('--text-audio', help='name or .nemo file of a text-audio model; without it no text scores')
    parser.add_argument('--seeds', type=int, default=8, help='of every prompt; default 8')
    parser.add_argument('--mixtures', type=int, default=8, help='of two held-out clips; default 8')
    parser.add_argument('--only', choices=PARTS, help='do one part')
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = LatentDiffusionModel.from_pretrained(options.model).eval()
    for name, part in PARTS.items():
        if options.only not in (None, name):
            continue
        begin = time.perf_counter()
        lines = part(model, options)
        taken = (
            f'{time.perf_counter() - begin:.0f} s in this run (what was made before is kept), '
            f'{torch.get_num_threads()} threads on {platform.processor() or platform.machine()}'
        )
        text = '\n'.join([f'## {name}', '', *lines, taken, ''])
        print(text, flush=True)
        (options.out / f'{name}.md').write_text(text, encoding='utf-8')
    command = {key: str(value) for key, value in vars(options).items()}
    (options.out / 'command.json').write_text(json.dumps(command, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
