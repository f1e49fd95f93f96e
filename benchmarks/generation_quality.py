r"""Is generated audio about its prompt? Class named, agreement with the text, length and speed, beside baselines.

    pip install 'nemo-audio-restore[generate]'
    python examples/prepare_captions.py --out captions
    python benchmarks/generation_quality.py --data captions --model stable_audio_44k_small \
        --text-audio text_audio_small --out results

Held-out captions (programs, groove variants, kits and animals that no training clip has) are generated at the length
of their recording. A classifier of mel statistics, trained on the real training clips of each task (instrument family,
groove style, effect class), names what it hears; and a text-audio model scores own against shuffled captions
(permutation test). Every number stands beside those of

- the held-out recordings themselves, and those after the model's autoencoder: what could be reached;
- a random training clip of the task, and noise with the training clips' mean spectrum: what needs no prompt.

The text-audio model was trained on the same training clips as the generator: it is no independent judge, the
classifier is simpler but sees neither captions nor generated audio.

Lengths: accompaniments of 2, 5 and 10 s are asked for. The file is cut to the asked length, so its length says little;
so the time at which it falls silent (40 dB below its loudest 20 ms) is compared, too, and the same where the network
makes its whole window and only the condition says when to stop.

Audio and features stay in --out; the same command resumes. Without --model only the classifier is examined.
"""

import argparse
import gzip
import hashlib
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nemo_audio_restore.evaluation.adherence import ShuffleTest, shaped_noise, shuffle_test, sounding_seconds, within
from nemo_audio_restore.evaluation.naming import ClassNamer, class_features, score_names
from nemo_audio_restore.evaluation.report import markdown_table
from nemo_audio_restore.files.audio import read_audio
from nemo_audio_restore.files.writer import write_audio

if TYPE_CHECKING:
    from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel
    from nemo_audio_restore.models.text_audio import TextAudioModel

TASKS = {'instrument': 'instrument family', 'groove': 'groove style', 'effect': 'effect class'}
FEWEST_TRAINING_CLIPS = 12
ASKED_S = (2.0, 5.0, 10.0)
LENGTH_PROMPTS = 6
NOISE_EXAMPLES = 200
SAVE_EVERY = 200


@dataclass(frozen=True)
class Clip:
    """A recording of the corpus.

    Attributes:
        name: unique.
        path: of its file.
        caption: in words.
        task: instrument, groove, effect or music.
        kind: its class.
        seconds: length.
    """

    name: str
    path: Path
    caption: str
    task: str
    kind: str
    seconds: float


def read_split(manifest: Path) -> list[Clip]:
    """The clips of a manifest, in its order."""
    with gzip.open(manifest, 'rt', encoding='utf-8') as lines:
        cuts = [json.loads(line) for line in lines]
    return [
        Clip(
            cut['id'],
            manifest.parent / cut['recording']['sources'][0]['source'],
            cut['supervisions'][0]['text'],
            cut['custom']['task'],
            cut['custom']['class'],
            cut['duration'],
        )
        for cut in cuts
    ]


def known_classes(train: Sequence[Clip], test: Sequence[Clip], task: str) -> list[str]:
    """Classes of a task with enough training clips and at least one test clip."""
    counts = Counter(clip.kind for clip in train if clip.task == task)
    tested = {clip.kind for clip in test if clip.task == task}
    return sorted(kind for kind, count in counts.items() if count >= FEWEST_TRAINING_CLIPS and kind in tested)


def choose_prompts(train: Sequence[Clip], test: Sequence[Clip], *, per_class: int) -> list[Clip]:
    """Test clips of every class, in an order that depends on their names only; captions that differ come first."""
    chosen = []
    for task in TASKS:
        for kind in known_classes(train, test, task):
            members = [clip for clip in test if (clip.task, clip.kind) == (task, kind)]
            members.sort(key=lambda clip: hashlib.sha256(clip.name.encode()).hexdigest())
            first = {clip.caption: clip for clip in reversed(members)}
            different = [clip for clip in members if first[clip.caption] is clip]
            rest = [clip for clip in members if first[clip.caption] is not clip]
            chosen += (different + rest)[:per_class]
    return chosen


def cached_features(clips: Sequence[Clip], cache: Path) -> np.ndarray:
    """(N, D) features of recordings; what was computed before is read from ``cache``."""
    known: dict[str, np.ndarray] = {}
    if cache.exists():
        with np.load(cache) as kept:
            known = dict(zip(kept['names'].tolist(), kept['features'], strict=True))
    missing = [clip for clip in clips if clip.name not in known]
    for index, clip in enumerate(missing, start=1):
        known[clip.name] = class_features(*read_audio(clip.path))
        if index % SAVE_EVERY == 0 or index == len(missing):
            cache.parent.mkdir(parents=True, exist_ok=True)
            np.savez(cache, names=np.array(list(known)), features=np.stack(list(known.values())))
            print(f'features: {index} of {len(missing)}', flush=True)
    return np.stack([known[clip.name] for clip in clips])


def train_namers(
    train: Sequence[Clip], train_features: np.ndarray, test: Sequence[Clip], test_features: np.ndarray
) -> tuple[dict[str, ClassNamer], list[dict]]:
    """A classifier for each task, and the lines of the table about them."""
    namers, lines = {}, []
    for task, title in TASKS.items():
        kinds = known_classes(train, test, task)
        if len(kinds) < 2:
            continue
        rows = [i for i, clip in enumerate(train) if clip.task == task and clip.kind in kinds]
        own = [i for i, clip in enumerate(test) if clip.task == task and clip.kind in kinds]
        namers[task] = ClassNamer.fit(train_features[rows], [train[i].kind for i in rows])
        score = score_names(namers[task].name(test_features[own]), [test[i].kind for i in own], kinds)
        frequent = Counter(train[i].kind for i in rows).most_common(1)[0][0]
        lines.append(
            {
                'task': title,
                'classes': len(kinds),
                'training clips': len(rows),
                'held-out clips': len(own),
                'chance': f'{100 * score.chance:.1f} %',
                'most frequent class': f'{100 * np.mean([test[i].kind == frequent for i in own]):.1f} %',
                'named right': f'{100 * score.accuracy:.1f} % ({100 * score.low:.0f} to {100 * score.high:.0f})',
            }
        )
    return namers, lines


def keep(path: Path, make: Callable[[], tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """Audio from a file, which is made first if it is not there."""
    if not path.exists():
        audio, rate = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, np.asarray(audio, np.float32), rate, bits='16', clip='rescale', overwrite=True)
    return read_audio(path)


def baselines(prompts: Sequence[Clip], train: Sequence[Clip], seed: int) -> dict[str, Callable]:
    """What needs no model: from a prompt to audio and rate."""
    rng = np.random.default_rng(seed)
    examples = [train[i] for i in rng.choice(len(train), min(NOISE_EXAMPLES, len(train)), replace=False)]
    heard: list[np.ndarray] = []

    def noise(clip: Clip) -> tuple[np.ndarray, int]:
        if not heard:
            heard.extend(read_audio(example.path)[0] for example in examples)
        rate = 44100
        return shaped_noise(heard, round(clip.seconds * rate), seed=number(clip, seed)), rate

    def another(clip: Clip) -> tuple[np.ndarray, int]:
        members = [other for other in train if other.task == clip.task]
        return read_audio(members[number(clip, seed) % len(members)].path)

    return {
        'held-out recording': lambda clip: read_audio(clip.path),
        'random training clip': another,
        'noise of the mean spectrum': noise,
    }


def number(clip: Clip, seed: int) -> int:
    """A seed for a clip that depends on nothing else."""
    return int.from_bytes(hashlib.sha256(f'{seed}/{clip.name}'.encode()).digest()[:4], 'big') >> 1


def autoencoded(model: 'LatentDiffusionModel') -> Callable[[Clip], tuple[np.ndarray, int]]:
    """The held-out recording after the model's autoencoder."""

    def make(clip: Clip) -> tuple[np.ndarray, int]:
        audio, rate = read_audio(clip.path)
        if rate != model.sample_rate:
            raise ValueError(f'{clip.path} has {rate} Hz, the model {model.sample_rate} Hz')
        given = torch.from_numpy(audio)[None].to(model.device)
        if given.shape[1] != model.autoencoder.audio_channels:
            given = given.mean(dim=1, keepdim=True).expand(-1, model.autoencoder.audio_channels, -1)
        with torch.inference_mode():
            coded = model.autoencoder.decode(model.autoencoder.encode(given), length=audio.shape[1])
        return coded[0].float().cpu().numpy(), rate

    return make


def generated(
    model: 'LatentDiffusionModel', prompts: Sequence[Clip], folder: Path, options: argparse.Namespace
) -> Callable[[Clip], tuple[np.ndarray, int]]:
    """Generates what is missing, and returns the way to read it; every prompt has a seed of its own."""
    missing = [clip for clip in prompts if not (folder / f'{clip.name}.flac').exists()]
    for done, clip in enumerate(missing, start=1):
        (made,) = model.generate(
            [clip.caption],
            seconds=asked_seconds(clip, model),
            seed=number(clip, options.seed),
            steps=options.steps,
            guidance=options.guidance,
        )
        audio = np.asarray(made.audio, np.float32)
        keep(folder / f'{clip.name}.flac', lambda audio=audio: (audio, model.sample_rate))
        if done % 10 == 0 or done == len(missing):
            print(f'generated {done} of {len(missing)}', flush=True)
    return lambda clip: read_audio(folder / f'{clip.name}.flac')


def asked_seconds(clip: Clip, model: 'LatentDiffusionModel') -> float:
    """The recording's length to a tenth, within the model's window."""
    return min(max(round(clip.seconds, 1), 0.5), model.window_s)


def naming_rows(
    systems: dict[str, Callable], prompts: Sequence[Clip], namers: dict[str, ClassNamer], folder: Path
) -> tuple[list[dict], dict[str, dict]]:
    """Lines of the table of classes, and the scores as numbers."""
    lines, numbers = [], {}
    for system, make in systems.items():
        line, found = {'audio': system}, {}
        for task, title in TASKS.items():
            members = [clip for clip in prompts if clip.task == task]
            if task not in namers or not members:
                continue
            audio = [
                keep(folder / slug(system) / f'{clip.name}.flac', lambda c=clip, m=make: m(c)) for clip in members
            ]
            features = np.stack([class_features(samples, rate) for samples, rate in audio])
            named = namers[task].name(features)
            score = score_names(named, [clip.kind for clip in members], namers[task].classes)
            facts = f'{score.times_chance:.1f} x, p = {score.p_value:.1g}, n = {score.count}'
            line[f'{title} (chance {100 * score.chance:.1f} %)'] = f'{100 * score.accuracy:.1f} % ({facts})'
            found[task] = asdict(score) | {
                'accuracy': score.accuracy,
                'times_chance': score.times_chance,
                'named': {clip.name: name for clip, name in zip(members, named, strict=True)},
            }
        lines.append(line)
        numbers[system] = found
    return lines, numbers


def agreement_rows(
    systems: dict[str, Callable], prompts: Sequence[Clip], text_audio: 'TextAudioModel', folder: Path
) -> tuple[list[dict], dict[str, dict]]:
    """Lines of the table of text-audio scores, and the tests as numbers."""
    captions = [clip.caption for clip in prompts]
    texts = torch.cat([text_audio.embed_text(captions[i : i + 32]) for i in range(0, len(captions), 32)])
    lines, numbers = [], {}
    for system, make in systems.items():
        heard = []
        for clip in prompts:
            path = folder / slug(system) / f'{clip.name}.flac'
            audio, rate = keep(path, lambda c=clip, m=make: m(c))
            heard.append(text_audio.embed_audio(torch.from_numpy(audio).mean(dim=0)[None], sample_rate=rate)[0])
        similarity = (torch.stack(heard) @ texts.T).float().cpu().numpy()
        tests: dict[str, ShuffleTest] = {'all': shuffle_test(similarity)}
        for task, title in TASKS.items():
            rows = [i for i, clip in enumerate(prompts) if clip.task == task]
            if len(rows) > 1:
                tests[title] = shuffle_test(similarity[np.ix_(rows, rows)])
        lines.append(
            {'audio': system}
            | {
                title: f'{test.own:.3f} / {test.shuffled:.3f} (p = {test.p_value:.1g}, '
                f'above {100 * test.better_than:.0f} % of the others)'
                for title, test in tests.items()
            }
        )
        numbers[system] = {title: asdict(test) for title, test in tests.items()}
    return lines, numbers


def length_rows(
    model: 'LatentDiffusionModel', prompts: Sequence[Clip], options: argparse.Namespace
) -> tuple[list[dict], list[dict]]:
    """Lines of the table of lengths, and every measurement."""
    members = [clip for clip in prompts if clip.task == 'groove'][:LENGTH_PROMPTS] or list(prompts[:LENGTH_PROMPTS])
    lines, measured = [], []
    for asked in ASKED_S:
        if asked > model.window_s + 1e-6:
            continue
        found = []
        for clip in members:
            seed = number(clip, options.seed)
            (made,) = model.generate(
                [clip.caption], seconds=asked, seed=seed, steps=options.steps, guidance=options.guidance
            )
            audio = np.asarray(made.audio)
            found.append(
                {
                    'asked_s': asked,
                    'prompt': clip.caption,
                    'file_s': audio.shape[1] / model.sample_rate,
                    'sounds_in_file_s': sounding_seconds(audio, model.sample_rate),
                }
            )
            whole = sample_window(model, clip.caption, asked, seed, options)
            found[-1]['sounds_in_window_s'] = sounding_seconds(whole, model.sample_rate)
        measured += found
        line = {'asked, s': f'{asked:g}', 'clips': len(found)}
        for key, title in (
            ('file_s', 'length of the file'),
            ('sounds_in_file_s', 'sounds until, in the file'),
            ('sounds_in_window_s', f'sounds until, in the whole window of {model.window_s:.1f} s'),
        ):
            values = [one[key] for one in found]
            share = np.mean([within(value, asked) for value in values])
            line[title] = f'{statistics.median(values):.2f} s, {100 * share:.0f} % within 10 %'
        lines.append(line)
    return lines, measured


def sample_window(
    model: 'LatentDiffusionModel', caption: str, seconds: float, seed: int, options: argparse.Namespace
) -> np.ndarray:
    """The whole window (C, T) of the network that was told a length."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, model.autoencoder.latent_channels, model.window_latents)
    noise = torch.randn(shape, generator=generator).to(model.device)
    with torch.inference_mode():
        latents = model.sample(
            noise=noise,
            condition=model.condition([caption], [seconds]),
            steps=options.steps,
            guidance=options.guidance,
            generators=[generator],
        )
        return model.autoencoder.decode(latents)[0].float().cpu().numpy()


def seconds_per_clip(model: 'LatentDiffusionModel', caption: str, options: argparse.Namespace) -> dict:
    """Wall time of one clip of ten seconds (or the window), median of three."""
    length = min(10.0, model.window_s)
    taken = []
    for seed in range(4):
        begin = time.perf_counter()
        model.generate([caption], seconds=length, seed=seed, steps=options.steps, guidance=options.guidance)
        taken.append(time.perf_counter() - begin)
    # The first one loads the text encoder.
    return {'clip_s': length, 'median_s': statistics.median(taken[1:]), 'threads': torch.get_num_threads()}


def slug(system: str) -> str:
    """Folder of a system's audio."""
    return system.replace(' ', '_').replace('-', '_')


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder of prepare_captions.py')
    parser.add_argument('--out', type=Path, required=True, help='for audio, features and results; a run resumes')
    parser.add_argument('--model', help='name or .nemo file of a latent diffusion model')
    parser.add_argument('--text-audio', help='name or .nemo file of a text-audio model; without it no text scores')
    parser.add_argument('--per-class', type=int, default=3, help='captions of each class; default 3')
    parser.add_argument('--steps', type=int, help="default: the model's")
    parser.add_argument('--guidance', type=float, help="default: the model's")
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--no-lengths', action='store_true', help='leave out the table of lengths and the timing')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, prints the tables and writes report.md and results.json."""
    options = parse_arguments(arguments)
    train, test = (read_split(options.data / f'{split}.jsonl.gz') for split in ('train', 'test'))
    judged = [[clip for clip in clips if clip.task in TASKS] for clips in (train, test)]
    features = [
        cached_features(clips, options.out / f'features_{split}.npz')
        for clips, split in zip(judged, ('train', 'test'), strict=True)
    ]
    namers, lines = train_namers(judged[0], features[0], judged[1], features[1])
    report = ['The classifier on held-out recordings:', '', markdown_table(lines)]
    print('\n'.join(report), flush=True)
    results: dict[str, object] = {'classifier': lines, 'command': vars(options) | {'data': str(options.data)}}
    prompts = choose_prompts(judged[0], judged[1], per_class=options.per_class)
    systems = baselines(prompts, judged[0], options.seed)
    model = None
    if options.model:
        from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel

        model = LatentDiffusionModel.from_pretrained(options.model).eval()
        folder = options.out / slug('generated')
        made = generated(model, prompts, folder, options)
        systems = {'generated': made, 'recording after the autoencoder': autoencoded(model), **systems}
    rows, results['naming'] = naming_rows(systems, prompts, namers, options.out)
    report += ['', f'Class named right, {len(prompts)} held-out captions:', '', markdown_table(rows)]
    if options.text_audio:
        from nemo_audio_restore.models.text_audio import TextAudioModel

        text_audio = TextAudioModel.from_pretrained(options.text_audio).eval()
        rows, results['agreement'] = agreement_rows(systems, prompts, text_audio, options.out)
        report += ['', 'Text-audio score, own / shuffled captions (10,000 permutations):', '', markdown_table(rows)]
    if model is not None and not options.no_lengths:
        rows, results['lengths'] = length_rows(model, prompts, options)
        report += ['', 'Asked lengths:', '', markdown_table(rows)]
        speed = seconds_per_clip(model, prompts[0].caption, options)
        results['speed'] = speed
        report += [
            '',
            f'One clip of {speed["clip_s"]:g} s takes {speed["median_s"]:.1f} s with {speed["threads"]} threads on '
            f'{platform.processor() or platform.machine()}, torch {torch.__version__} (median of 3).',
        ]
    text = '\n'.join(report) + '\n'
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'report.md').write_text(text, encoding='utf-8')
    (options.out / 'results.json').write_text(json.dumps(results, indent=1, default=str), encoding='utf-8')


if __name__ == '__main__':
    main()
