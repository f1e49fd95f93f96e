"""Claims about the metrics of generated audio, on networks that are simple enough to calculate by hand."""

import numpy as np
import pytest
import soundfile
import torch

from nemo_audio_restore.evaluation.embedders import WindowNetwork, embed_stereo, peak_normalised
from nemo_audio_restore.evaluation.generation import (
    GenerationError,
    GenerationMetrics,
    Reference,
    evaluate_generation,
    measure_reference,
    read_captions,
)
from nemo_audio_restore.evaluation.tag_divergence import tag_divergence, tag_probabilities

RATE = 8000


def loudness(audio):
    return torch.stack([audio.square().mean(dim=1), audio.abs().amax(dim=1)], dim=1)


LOUDNESS = WindowNetwork('loudness', RATE, 1000, 500, loudness)
TAGGER = WindowNetwork('sign', RATE, 1000, 1000, lambda audio: torch.stack([audio.mean(1), -audio.mean(1)], dim=1))


def folder_of(path, *, seed, names=('a', 'b/c'), scale=(0.1, 0.9)):
    rng = np.random.default_rng(seed)
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        envelope = np.linspace(*scale, 6000)[:, None]
        soundfile.write(path / f'{name}.wav', envelope * rng.uniform(-1, 1, (6000, 2)), RATE, subtype='FLOAT')
    return path


@pytest.fixture
def folders(tmp_path):
    return folder_of(tmp_path / 'real', seed=0), folder_of(tmp_path / 'made', seed=1, scale=(0.9, 0.8))


def test_windows_are_those_of_the_recording():
    audio = np.arange(2400.0)
    first = WindowNetwork('first', RATE, 1000, 500, lambda windows: windows[:, :1])
    assert first(audio, RATE)[:, 0].tolist() == [0, 500, 1000]
    last = WindowNetwork('last', RATE, 1000, 500, lambda windows: windows[:, -1:])
    assert last(np.ones(400), RATE).tolist() == [[0.0]]


def test_rates_are_brought_together():
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    network = WindowNetwork('power', 8000, 8000, 8000, lambda windows: windows.square().mean(dim=1, keepdim=True))
    assert network(tone, 16000).shape == (1, 1)
    assert network(tone, 16000)[0, 0] == pytest.approx(0.5, rel=1e-3)


def test_channels_stand_side_by_side_and_mono_twice():
    left, right = np.full(1000, 0.5), np.full(1000, 0.25)
    stereo = embed_stereo(LOUDNESS, np.stack([left, right]), RATE)
    np.testing.assert_allclose(stereo, [[0.25, 0.5, 0.0625, 0.25]])
    mono = embed_stereo(LOUDNESS, left[None], RATE)
    np.testing.assert_allclose(mono, [[0.25, 0.5, 0.25, 0.5]])


def test_peaks_are_brought_to_one_decibel_below_full_scale():
    made = peak_normalised(np.array([[0.1, -0.2]]))
    assert np.abs(made).max() == pytest.approx(10 ** (-1 / 20))
    assert not peak_normalised(np.zeros((1, 4))).any()


def test_logits_are_averaged_before_they_are_normalised():
    logits = np.array([[4.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(tag_probabilities(logits), np.exp([2.0, 0.0]) / np.exp([2.0, 0.0]).sum())


def test_divergence_has_the_closed_form():
    p, q = np.log([[0.75, 0.25]]), np.log([[0.5, 0.5]])
    assert tag_divergence(p, q) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), abs=1e-5)
    assert tag_divergence(p, p) == 0.0
    with pytest.raises(ValueError, match='different classifiers'):
        tag_divergence(p, np.zeros((1, 3)))


def test_a_folder_is_at_no_distance_from_itself(folders):
    real, made = folders
    metrics = GenerationMetrics([LOUDNESS], TAGGER)
    reference = measure_reference(real, metrics)
    same = evaluate_generation(reference, real, metrics)
    assert same.scores['FD (loudness)'] == pytest.approx(0.0, abs=1e-9)
    assert same.scores['KL (sign)'] == 0.0
    other = evaluate_generation(reference, made, metrics)
    assert other.scores['FD (loudness)'] > 0.01
    assert other.scores['KL (sign)'] > 0.0
    assert set(other.files) == {'a', 'b/c'}


def test_kept_statistics_give_the_same_numbers(folders, tmp_path):
    real, made = folders
    metrics = GenerationMetrics([LOUDNESS], TAGGER)
    reference = measure_reference(real, metrics)
    reference.save(tmp_path / 'reference.npz')
    again = Reference.load(tmp_path / 'reference.npz')
    assert evaluate_generation(again, made, metrics).scores == evaluate_generation(reference, made, metrics).scores


def test_captions_reach_the_score_of_their_file(folders, tmp_path):
    (tmp_path / 'captions.csv').write_text('file,caption\na.wav,"drums, fast"\nb/c,flute\n')
    captions = read_captions(tmp_path / 'captions.csv')
    scores = {'drums, fast': 0.5, 'flute': 0.25}
    metrics = GenerationMetrics([], None, lambda audio, rate, text: scores[text], 'mine')
    report = evaluate_generation(None, folders[1], metrics, captions=captions)
    assert report.scores == {'text-audio score (mine)': 0.375}
    assert report.files['b/c'] == {'text-audio score (mine)': 0.25}


def test_small_sets_and_missing_partners_are_said(folders, tmp_path):
    metrics = GenerationMetrics([WindowNetwork('wide', RATE, 1000, 500, lambda windows: windows[:, :50])], TAGGER)
    reference = measure_reference(folders[0], metrics)
    alone = folder_of(tmp_path / 'other', seed=3, names=('a', 'x'))
    notes = ' '.join(evaluate_generation(reference, alone, metrics).notes)
    assert 'so few raise the distance' in notes
    assert 'hears nothing above 4 kHz' in notes
    assert '1 of 2 files have a reference' in notes


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda path: evaluate_generation(None, path, GenerationMetrics([LOUDNESS])), 'nothing to compare with'),
        (lambda path: measure_reference(path / 'none', GenerationMetrics([LOUDNESS])), 'no folder with audio'),
        (lambda path: Reference.load(__file__), 'no reference statistics'),
        (lambda path: read_captions(__file__), 'columns file and caption'),
        (
            lambda path: evaluate_generation(
                None, path, GenerationMetrics([], None, lambda *_: 0.0), captions={'a': 'text'}
            ),
            'no caption for b/c',
        ),
        (
            lambda path: evaluate_generation(
                measure_reference(path, GenerationMetrics([LOUDNESS])), path, GenerationMetrics([TAGGER])
            ),
            'lack sign; they hold loudness',
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(folders, damage, message):
    with pytest.raises(GenerationError, match=message):
        damage(folders[0])
