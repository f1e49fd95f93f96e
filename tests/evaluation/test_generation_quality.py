"""benchmarks/generation_quality.py with a generator that is made up here: one that listens, and one that does not."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from nemo_audio_restore.data.clips import Clip, clip_path, write_clip_manifests

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'generation_quality.py'
RATE = 44100
PITCHES = {'flute': 2000.0, 'bass': 80.0, 'organ': 500.0}


@pytest.fixture(scope='module')
def bench():
    spec = importlib.util.spec_from_file_location('generation_quality', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules['generation_quality'] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules['generation_quality']


def sound(kind: str, seconds: float, seed: int) -> np.ndarray:
    hz = PITCHES[kind] * (1 + 0.1 * np.random.default_rng(seed).random())
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp('captions')
    (folder / 'audio').mkdir()
    clips = []
    for split, count in (('train', 12), ('test', 4)):
        for kind in PITCHES:
            for index in range(count):
                name = f'{split}-{kind}-{index}'
                caption = f'{kind} number {index // 2}'
                clips.append(Clip(name, split, 'instrument', kind, caption, 'CC0', 'kit'))
                soundfile.write(
                    clip_path(clips[-1], folder / 'audio'),
                    sound(kind, 0.5 + 0.1 * (index % 3), index + 50 * len(split)),
                    RATE,
                )
    write_clip_manifests(clips, folder / 'audio', folder)
    return folder


class Generator:
    """Answers with the sound that the prompt names, or always with the same; falls silent at the asked length."""

    sample_rate, window_s, window_latents, device = RATE, 11.0, 11, torch.device('cpu')

    def __init__(self, *, listens: bool):
        self.listens = listens
        self.made = 0
        self.autoencoder = SimpleNamespace(
            audio_channels=1,
            latent_channels=1,
            encode=lambda audio: audio,
            decode=lambda latents, length=None: latents[..., :length],
        )

    def eval(self):
        return self

    def _audio(self, prompt: str, seconds: float, seed: int) -> np.ndarray:
        return sound(prompt.split()[0] if self.listens else 'organ', seconds, seed)[None]

    def generate(self, prompts, *, seconds, seed, steps, guidance):
        self.made += len(prompts)
        return [SimpleNamespace(audio=self._audio(prompt, seconds, seed)) for prompt in prompts]

    def condition(self, prompts, seconds):
        return prompts[0], seconds[0]

    def sample(self, *, noise, condition, steps, guidance, generators):
        audio = self._audio(*condition, seed=0)
        whole = np.zeros((1, 1, round(self.window_s * RATE)), np.float32)
        whole[0, :, : audio.shape[1]] = audio
        return torch.from_numpy(whole)


class Listener:
    """Hears the pitch, reads the name."""

    def embed_text(self, prompts):
        return torch.stack([self._vector(PITCHES[prompt.split()[0]]) for prompt in prompts])

    def embed_audio(self, audio, *, sample_rate):
        spectrum = torch.fft.rfft(audio[0]).abs()
        return self._vector(float(spectrum.argmax()) * sample_rate / audio.shape[1])[None]

    def _vector(self, hz: float) -> torch.Tensor:
        distance = torch.tensor([abs(np.log(max(hz, 1.0) / pitch)) for pitch in PITCHES.values()])
        return torch.softmax(-4 * distance, dim=0)


@pytest.fixture
def options(bench, corpus, tmp_path):
    return bench.parse_arguments(['--data', str(corpus), '--out', str(tmp_path / 'out'), '--per-class', '3'])


def test_prompts_are_the_same_in_every_run_and_different_captions_come_first(bench, corpus):
    train, test = (bench.read_split(corpus / f'{split}.jsonl.gz') for split in ('train', 'test'))
    chosen = bench.choose_prompts(train, test, per_class=2)
    assert chosen == bench.choose_prompts(train, list(reversed(test)), per_class=2)
    for kind in PITCHES:
        assert len({clip.caption for clip in chosen if clip.kind == kind}) == 2


def test_classes_with_few_training_clips_are_not_asked_for(bench, corpus):
    train, test = (bench.read_split(corpus / f'{split}.jsonl.gz') for split in ('train', 'test'))
    few = [clip for clip in train if clip.kind != 'bass' or clip.name.endswith('-0')]
    assert bench.known_classes(few, test, 'instrument') == ['flute', 'organ']
    assert bench.known_classes(train, [], 'instrument') == []


@pytest.mark.parametrize('listens', [True, False])
def test_a_generator_that_listens_is_told_from_one_that_does_not(bench, corpus, options, listens):
    train, test = (bench.read_split(corpus / f'{split}.jsonl.gz') for split in ('train', 'test'))
    features = [bench.cached_features(clips, options.out / f'{i}.npz') for i, clips in enumerate((train, test))]
    namers, lines = bench.train_namers(train, features[0], test, features[1])
    assert lines[0]['named right'].startswith('100.0 %') and lines[0]['chance'] == '33.3 %'
    prompts = bench.choose_prompts(train, test, per_class=3)
    model = Generator(listens=listens)
    systems = {
        'generated': bench.generated(model, prompts, options.out / 'generated', options),
        'recording after the autoencoder': bench.autoencoded(model),
        **bench.baselines(prompts, train, 0),
    }
    _, naming = bench.naming_rows(systems, prompts, namers, options.out)
    assert naming['held-out recording']['instrument']['accuracy'] == 1
    assert naming['recording after the autoencoder']['instrument']['accuracy'] == 1
    assert naming['generated']['instrument']['accuracy'] == (1 if listens else pytest.approx(1 / 3))
    assert naming['noise of the mean spectrum']['instrument']['accuracy'] < 0.7
    rows, agreement = bench.agreement_rows(systems, prompts, Listener(), options.out)
    assert (agreement['generated']['all']['p_value'] < 0.01) == listens
    assert [row['audio'] for row in rows] == list(systems)


def test_what_was_generated_is_kept(bench, corpus, options):
    train, test = (bench.read_split(corpus / f'{split}.jsonl.gz') for split in ('train', 'test'))
    prompts = bench.choose_prompts(train, test, per_class=1)
    model = Generator(listens=True)
    for _ in range(2):
        bench.generated(model, prompts, options.out / 'generated', options)
    assert model.made == len(prompts)
    cache = options.out / 'features.npz'
    first = bench.cached_features(test, cache)
    test[0].path.rename(test[0].path.with_suffix('.away'))
    np.testing.assert_array_equal(bench.cached_features(test, cache), first)
    test[0].path.with_suffix('.away').rename(test[0].path)


def test_lengths_that_are_kept_and_lengths_that_are_not(bench, corpus, options):
    train, test = (bench.read_split(corpus / f'{split}.jsonl.gz') for split in ('train', 'test'))
    prompts = bench.choose_prompts(train, test, per_class=1)[:2]
    lines, measured = bench.length_rows(Generator(listens=True), prompts, options)
    assert [line['asked, s'] for line in lines] == ['2', '5', '10']
    assert all('100 % within 10 %' in line['length of the file'] for line in lines)
    for one in measured:
        assert one['sounds_in_window_s'] == pytest.approx(one['asked_s'], abs=0.05)
    endless = Generator(listens=True)
    endless.sample = lambda **_: torch.ones(1, 1, round(11 * RATE))
    _, measured = bench.length_rows(endless, prompts, options)
    assert all(one['sounds_in_window_s'] == pytest.approx(11) for one in measured)


def test_without_a_model_the_classifier_is_examined(bench, corpus, tmp_path, capsys):
    bench.main(['--data', str(corpus), '--out', str(tmp_path)])
    results = json.loads((tmp_path / 'results.json').read_text())
    assert set(results['naming']) == {'held-out recording', 'random training clip', 'noise of the mean spectrum'}
    assert 'instrument family' in capsys.readouterr().out
