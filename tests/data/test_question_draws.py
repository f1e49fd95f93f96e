"""Claims about drawing questions and facts."""

from collections import Counter

import numpy as np

from nemo_audio_restore.data.question_corpus import Fact, Known, save_recording, write_question_manifests
from nemo_audio_restore.data.question_draws import Draws, fact_labels, facts_of, read_questions


def test_rare_labels_are_drawn_as_often_as_frequent_ones_and_tasks_by_their_share():
    items = [('drum', 'snare', 'kit', index) for index in range(50)]
    items += [('drum', 'tom', 'kit', 99), ('key', 'major', 'font', 7)]
    draws, rng = Draws(items, {'drum': 3.0}, other_share=1.0), np.random.default_rng(0)
    drawn = Counter(draws.draw(rng) for _ in range(4000))
    assert 900 < drawn['key', 7] < 1100
    assert 1400 < drawn['drum', 99] < 1600
    assert Draws(items, {}, other_share=2.0).draw(np.random.default_rng(1))[0] in ('drum', 'key')


def test_a_large_package_is_not_all_that_a_label_is():
    items = [('sound', 'metal', 'large', 'large') for _ in range(64)] + [('sound', 'metal', 'small', 'small')] * 4
    draws, rng = Draws(items, {}, other_share=1.0), np.random.default_rng(0)
    drawn = Counter(draws.draw(rng)[1] for _ in range(4000))
    assert 3100 < drawn['large'] < 3300 and drawn['small'] == 4000 - drawn['large']


def test_a_manifest_gives_its_questions_and_facts_back(tmp_path):
    save_recording('a', np.ones(8000, np.float32), 16000, tmp_path)
    known = Known('a', 'test', (Fact('order', 'bird', ('piano',)),), 'bird, then piano', 'here', 'CC0')
    write_question_manifests([known], tmp_path, tmp_path)
    questions, cuts = read_questions(tmp_path / 'test.jsonl.gz')
    assert [(one.recording, one.task, one.label) for one in questions] == 3 * [('a', 'order', 'bird')]
    assert facts_of(cuts['a']) == {'order': 'bird', 'second': 'piano'}
    assert fact_labels('second') == fact_labels('order')
