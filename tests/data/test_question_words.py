"""Claims about what is asked and answered."""

import random

import pytest

from nemo_audio_restore.data.question_words import FORMS, NUM_OPTIONS, TASKS, ask_about, distractors, labels_of


def asked(task, label, count=60, **how):
    generator = random.Random(0)
    return [ask_about(task, label, generator=generator, **how) for _ in range(count)]


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('form', FORMS)
def test_the_last_paraphrase_is_asked_if_held_out_and_never_else(task, form):
    label, present = labels_of(task)[0], labels_of(task)[1:2]
    texts = TASKS[task].claims if form == 'yes or no' else TASKS[task].questions
    claims = {text.format(claimed): text for text in texts for claimed in labels_of(task)}

    def words(one):
        return claims[one.question] if form == 'yes or no' else one.question.split(' (A) ')[0]

    assert {words(one) for one in asked(task, label, form=form, held_out=True, present=present)} == {texts[-1]}
    assert {words(one) for one in asked(task, label, 400, form=form, present=present)} == set(texts[:-1])


def test_half_of_the_claims_are_true_and_the_others_are_wrong():
    claims = asked('drum', 'cowbell', 400, form='yes or no')
    assert 160 < sum(one.answer == 'yes' for one in claims) < 240
    assert all(('cowbell' in one.question) == (one.answer == 'yes') for one in claims)


def test_options_hold_the_answer_in_changing_places():
    found = asked('instrument', 'flute', form='options')
    assert all(len(set(one.options)) == NUM_OPTIONS and one.answer == 'flute' for one in found)
    assert len({one.options.index('flute') for one in found}) > 1
    assert all(f') {option}.' in one.question for one in found for option in one.options)


def test_two_sounds_in_order_have_each_other_as_options():
    assert distractors('order', 'bird', present=('piano',), generator=random.Random(0)) == ['piano']
    assert asked('order', 'bird', 1, form='options', present=('piano',))[0].answer == 'bird'


def test_words_are_the_label_itself():
    assert {one.answer for one in asked('count', 'three', form='words')} == {'three'}


def test_labels_and_forms_must_be_known():
    with pytest.raises(ValueError, match="count asks for one of one, two, .* got 'six'"):
        ask_about('count', 'six', form='words', generator=random.Random(0))
    with pytest.raises(ValueError, match='in the forms words, yes or no, options'):
        ask_about('count', 'two', form='essay', generator=random.Random(0))
