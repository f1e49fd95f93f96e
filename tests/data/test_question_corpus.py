"""Claims about manifests of questions."""

import gzip
import json

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from nemo_audio_restore.data.question_corpus import (
    Fact,
    Known,
    questions_about,
    save_recording,
    write_question_manifests,
)
from nemo_audio_restore.data.question_dataset import question_and_answer
from nemo_audio_restore.data.question_words import TASKS

COWBELL = (Fact('drum', 'cowbell'),)


def known(name='x', split='train', facts=COWBELL, **more):
    return Known(name, split, facts, 'a cowbell', 'kit', 'CC0', **more)


def test_manifests_hold_a_cut_for_every_question(tmp_path):
    for name in ('a', 'b'):
        save_recording(name, np.ones(44100, np.float32), 44100, tmp_path / 'audio')
    recordings = [known('b', 'test', near=True), known('a')]
    manifests = write_question_manifests(recordings, tmp_path / 'audio', tmp_path, number=3)
    assert sorted(manifests) == ['test', 'train']
    cuts = list(CutSet.from_file(manifests['test']))
    assert [cut.custom['form'] for cut in cuts] == ['words', 'yes or no', 'options']
    assert all(question_and_answer(cut)[0].startswith(('What kind of drum', 'Do you hear')) for cut in cuts)
    assert cuts[0].custom['near'] and cuts[0].custom['facts'] == {'drum': 'cowbell'}
    with gzip.open(manifests['train'], 'rt') as lines:
        row = json.loads(next(lines))
    assert row['custom']['source'] == 'kit' and row['custom']['licence'] == 'CC0'
    assert (tmp_path / row['recording']['sources'][0]['source']).exists()


def test_more_questions_about_a_training_recording_on_demand():
    counts = [len(questions_about(known(), number=number)) for number in (1, 5)]
    assert counts[0] <= 2 < counts[1]


def test_another_seed_asks_otherwise_and_the_same_seed_the_same():
    first, again, other = (questions_about(known(), number=4, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_trained_recordings_are_never_asked_about_in_held_out_words():
    for index in range(40):
        for fact, asked in questions_about(known(f'x{index}'), number=6):
            if fact is not None:
                assert not asked.question.startswith(TASKS['drum'].questions[-1])
                assert not asked.question.startswith('Do you hear')


def test_the_second_sound_is_known_and_what_follows_is_an_option(tmp_path):
    save_recording('a', np.ones(8000, np.float32), 16000, tmp_path)
    fact = Fact('order', 'bird', ('piano',))
    write_question_manifests([known('a', 'test', (fact,))], tmp_path, tmp_path)
    cuts = {cut.custom['form']: cut for cut in CutSet.from_file(tmp_path / 'test.jsonl.gz')}
    assert cuts['options'].custom['options'] in (['bird', 'piano'], ['piano', 'bird'])
    assert cuts['words'].custom['second'] == 'piano'


def test_recordings_are_mono_at_16_khz_and_do_not_clip(tmp_path):
    save_recording('loud', 3 * np.ones(4410, np.float32), 44100, tmp_path)
    audio, rate = soundfile.read(tmp_path / 'loud.flac')
    assert rate == 16000 and audio.shape == (1600,) and np.abs(audio).max() <= 0.96


def test_names_must_differ(tmp_path):
    with pytest.raises(ValueError, match='2 recordings, but each needs a name of its own'):
        write_question_manifests([known(), known()], tmp_path, tmp_path)
