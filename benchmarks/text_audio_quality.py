r"""Measures a text-audio model on held-out recordings: retrieval by caption, and zero-shot classification.

    python benchmarks/text_audio_quality.py --data captions --model text_audio_small

Beside the zero-shot accuracy of each task stand chance, the most frequent class, and what supervised training of a
linear classifier on the same labels reaches: on the means and deviations of mel bands, and on the model's own audio
embeddings. Intervals are 95 %, from resampling whole sources (package, kit or soundfont and class).
"""

import argparse
import gzip
import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from nemo_audio_restore.evaluation.report import bootstrap_interval, markdown_table
from nemo_audio_restore.evaluation.retrieval import text_audio_scores
from nemo_audio_restore.models.text_audio import TextAudioModel

RIDGE = 1.0


@dataclass(frozen=True)
class Recordings:
    """A split.

    Attributes:
        embeddings: (N, E) of the model.
        bands: (N, 2 F) means and deviations of the levels of mel bands.
        captions: of each.
        names: class of each.
        tasks: of each.
        groups: source of each, with its class.
    """

    embeddings: Tensor
    bands: np.ndarray
    captions: list[str]
    names: list[str]
    tasks: list[str]
    groups: list[str]


def read_split(manifest: Path, model: TextAudioModel, *, num_crops: int) -> Recordings:
    """Embeds the recordings of a cut manifest."""
    with gzip.open(manifest, 'rt') as lines:
        cuts = [json.loads(line) for line in lines]
    embeddings, bands = [], []
    for cut in cuts:
        path = manifest.parent / cut['recording']['sources'][0]['source']
        rate = cut['recording']['sampling_rate']
        start, frames = round(cut['start'] * rate), round(cut['duration'] * rate)
        audio, rate = soundfile.read(path, start=start, frames=frames, dtype='float32', always_2d=True)
        mono = torch.from_numpy(audio.mean(axis=1))[None]
        embeddings.append(model.embed_audio(mono, sample_rate=rate, num_crops=num_crops)[0])
        window = mono[:, : model.window_samples]
        padded = torch.nn.functional.pad(window, (0, model.window_samples - window.shape[1]))
        levels = model.audio_tower.features(padded)[0]
        bands.append(torch.cat([levels.mean(dim=1), levels.std(dim=1)]).numpy())
    return Recordings(
        torch.stack(embeddings),
        np.stack(bands),
        [cut['supervisions'][0]['text'] for cut in cuts],
        [cut['custom']['class'] for cut in cuts],
        [cut['custom']['task'] for cut in cuts],
        [f'{cut["custom"]["group"]}/{cut["custom"]["class"]}' for cut in cuts],
    )


def linear_probe(inputs: np.ndarray, names: Sequence[str], queries: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Scores (N, L) of a ridge regression onto the classes."""
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    rows = np.concatenate([(inputs - mean) / deviation, np.ones((len(inputs), 1))], axis=1)
    targets = np.array([[name == label for label in classes] for name in names], dtype=np.float64)
    weights = np.linalg.solve(rows.T @ rows + RIDGE * np.eye(rows.shape[1]), rows.T @ targets)
    return np.concatenate([(queries - mean) / deviation, np.ones((len(queries), 1))], axis=1) @ weights


def classification(task: str, train: Recordings, test: Recordings, model: TextAudioModel, template: str) -> dict:
    """One line of the table: accuracies of a task, in percent."""
    rows = [i for i, one in enumerate(test.tasks) if one == task]
    known = [i for i, one in enumerate(train.tasks) if one == task]
    labels = sorted({test.names[i] for i in rows})
    own = [test.names[i] for i in rows]
    text = model.embed_text([template.replace('{}', label) for label in labels])
    similarity = test.embeddings[rows] @ text.T
    right = [float(labels[index] == name) for index, name in zip(similarity.argmax(dim=1).tolist(), own, strict=True)]
    mean, half = bootstrap_interval(right, [test.groups[i] for i in rows])
    common = Counter(train.names[i] for i in known if train.names[i] in labels).most_common(1)
    line = {
        'task': task,
        'recordings': len(rows),
        'classes': len(labels),
        'chance': f'{100 / len(labels):.1f}',
        'most frequent': f'{100 * own.count(common[0][0]) / len(own):.1f}' if common else '',
        'zero-shot': f'{100 * mean:.1f} ± {100 * half:.1f}',
    }
    for name, inputs, queries in (
        ('linear on mel bands (supervised)', train.bands, test.bands),
        ('linear on our embeddings (supervised)', train.embeddings.numpy(), test.embeddings.numpy()),
    ):
        scores = linear_probe(inputs[known], [train.names[i] for i in known], queries[rows], labels)
        found = np.mean([labels[index] == name for index, name in zip(scores.argmax(axis=1), own, strict=True)])
        line[name] = f'{100 * found:.1f}'
    return line


def retrieval(test: Recordings, model: TextAudioModel) -> list[dict]:
    """Lines of the table: recalls and mean average precision in percent, beside those of a random order."""
    different = list(dict.fromkeys(test.captions))
    vectors = dict(zip(different, model.embed_text(different), strict=True))
    text = torch.stack([vectors[caption] for caption in test.captions])
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(text), generator=generator)
    lines = []
    for way in ('text_to_audio', 'audio_to_text'):
        for name, embeddings in (('model', test.embeddings), ('random order', test.embeddings[shuffled])):
            scores = text_audio_scores(embeddings, text, test.captions)
            lines.append(
                {'search': f'{way.replace("_", " ")}, {name}'}
                | {key: f'{100 * scores[f"{way}_{key}"]:.1f}' for key in ('r@1', 'r@5', 'r@10', 'map@10')}
            )
    return lines


def main() -> None:
    """Parses the command line, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder of prepare_captions.py')
    parser.add_argument('--model', default='text_audio_small', help='name or .nemo file')
    parser.add_argument('--template', default='{}', help='sentence around a class')
    parser.add_argument('--num-crops', type=int, default=4)
    options = parser.parse_args()
    model = TextAudioModel.from_pretrained(options.model)
    train, test = (
        read_split(options.data / f'{split}.jsonl.gz', model, num_crops=options.num_crops)
        for split in ('train', 'test')
    )
    print(f'{platform.processor() or platform.machine()}, torch {torch.__version__}, model {options.model}')
    print(f'{len(test.captions)} recordings, {len(set(test.captions))} different captions\n')
    print(markdown_table(retrieval(test, model)), end='\n\n')
    kinds = sorted(set(zip(test.tasks, test.names, strict=True)))
    tasks = [task for task, count in Counter(task for task, _ in kinds).items() if count > 1]
    print(markdown_table([classification(task, train, test, model, options.template) for task in tasks]))


if __name__ == '__main__':
    main()
