"""Claims about the questions that are trained."""

from collections import Counter

import numpy as np
import pytest

from nemo_audio_restore.data.question_prompts import Prompts, fact_items, held_out_prompt
from nemo_audio_restore.data.question_words import TASKS, labels_of


@pytest.fixture(scope='module')
def prompts():
    return Prompts(['a loud bird'], lists=8)


def test_held_out_words_are_never_trained(prompts):
    for task, what in TASKS.items():
        held = what.questions[-1]
        own = [prompt.text for prompt in prompts.all if prompt.task == task]
        assert not [text for text in own if text.startswith(held)]
        claims = {what.claims[-1].format(label) for label in labels_of(task)}
        assert not claims & set(own)
        assert held_out_prompt(task).text == held and held_out_prompt(task).answers == labels_of(task)


@pytest.mark.parametrize('task', [task for task in TASKS if task != 'order'])
def test_every_label_is_an_option_about_equally_often(prompts, task):
    counts = Counter(
        answer
        for prompt in prompts.all
        if (prompt.task, prompt.form) == (task, 'options')
        for answer in prompt.answers
    )
    assert set(counts) == set(labels_of(task)) and max(counts.values()) - min(counts.values()) <= 8
    assert min(counts.values()) >= 5


def test_drawn_prompts_fit_the_fact(prompts):
    rng = np.random.default_rng(0)
    for form in ('words', 'options'):
        place, answer = prompts.draw('drum', 'cowbell', form, rng)
        assert prompts.all[place].answers[answer] == 'cowbell' and prompts.all[place].form == form
    place, answer = prompts.draw('order', 'bird', 'options', rng, second='fire')
    assert set(prompts.all[place].answers) == {'bird', 'fire'} and prompts.all[place].answers[answer] == 'bird'
    place, answer = prompts.draw('caption', 'a loud bird', 'words', rng)
    assert prompts.all[place].answers[answer] == 'a loud bird'


def test_half_of_the_claims_are_true_and_false_ones_are_often_about_the_second_sound(prompts):
    rng = np.random.default_rng(0)
    drawn = [prompts.draw('order', 'bird', 'yes or no', rng, second='fire') for _ in range(200)]
    about = {claim.format(label): label for claim in TASKS['order'].claims for label in labels_of('order')}
    claims = [(about[prompts.all[place].text], prompts.all[place].answers[answer]) for place, answer in drawn]
    assert all((claimed == 'bird') == (said == 'yes') for claimed, said in claims)
    shares = Counter(claimed for claimed, _ in claims)
    assert 70 < shares['bird'] < 130 and 25 < shares['fire'] < 80 and len(shares) > 10


def test_only_tasks_that_are_named_are_asked_about():
    assert {prompt.task for prompt in Prompts(tasks=['key', 'tempo']).all} == {'key', 'tempo'}


def test_a_fact_that_nobody_asks_about_is_refused(prompts):
    with pytest.raises(ValueError, match='no prompt'):
        prompts.draw('drum', 'violin', 'options', np.random.default_rng(0))
    assert fact_items({'order': 'bird', 'second': 'fire'}) == [('order', 'bird')]
