from types import SimpleNamespace

import pytest

from nemo_audio_restore.distillation.proposals import COMMON_SOUNDS, named_sounds, propose_prompts


class Listener:
    """Says one thing, or weighs options by their length."""

    def __init__(self, says=''):
        self.says = says
        self.asked = []

    def ask(self, audio, question, options=None):
        self.asked.append((audio.name, question, options))
        scores = None if options is None else {option: len(option) for option in options}
        return SimpleNamespace(text=self.says, probabilities=scores)


@pytest.mark.parametrize(
    ('text', 'sounds'),
    [
        ('Drums, a bass guitar and strings.', ['drums', 'bass guitar', 'strings']),
        ('the piano with some rain; piano', ['piano', 'rain']),
        ('an organ', ['organ']),
        ('Sandy landing', ['sandy landing']),
        ('', []),
    ],
)
def test_sounds_are_read_from_a_sentence(text, sounds):
    assert named_sounds(text) == sounds


def test_a_listener_names_the_sounds_in_its_own_words():
    listener = Listener('Drums and a flute, and wind.')
    assert propose_prompts(listener, 'mix.wav', 2) == ['drums', 'flute']
    ((name, question, options),) = listener.asked
    assert name == 'mix.wav' and question.endswith('?') and options is None


def test_of_candidates_the_likeliest_are_taken():
    listener = Listener()
    chosen = propose_prompts(listener, 'mix.wav', 2, candidates=['bass', 'electric guitar', 'piano', 'bass'])
    assert chosen == ['electric guitar', 'piano']
    assert listener.asked[0][2] == ['bass', 'electric guitar', 'piano']


def test_a_listener_of_few_words_is_asked_to_choose():
    listener = Listener('A piano.')
    chosen = propose_prompts(listener, 'mix.wav', 3)
    assert chosen == sorted(COMMON_SOUNDS, key=lambda name: -len(name))[:3]
    assert [options for _, _, options in listener.asked] == [None, list(COMMON_SOUNDS)]


@pytest.mark.parametrize(
    ('count', 'candidates', 'message'),
    [(1, [], 'at least two sounds; got 1'), (3, ['a', 'b', 'b'], '3 sounds cannot be chosen from 2')],
)
def test_too_few_sounds_are_refused(count, candidates, message):
    with pytest.raises(ValueError, match=message):
        propose_prompts(Listener('drums'), 'mix.wav', count, candidates=candidates)
