"""Captions that say the same, and captions in which one thing is wrong: what AF-CLAP learns from.

Rules write them from what is known of a clip, its tags, so that nothing is wrong by chance: an altered caption states
the other order, another number, key, tempo or loudness than the clip has, in words that are true of it otherwise.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NUMBERS = ('two', 'three', 'four', 'five')
ORDERS = (
    '{first}, then {second}',
    '{first} followed by {second}',
    'first {first}, later {second}',
    '{second} after {first}',
    'before {second} comes {first}',
)
COUNTS = (
    '{number} {sounds}',
    '{sounds}, {number} of them',
    'a series of {number} {sounds}',
    'exactly {number} {sounds}',
)
_SERIES = ('several {sounds}', '{sounds} in a row', '{sounds}, one after another', 'a series of {sounds}')
_FRAMES = ('the sound of {}', 'a recording of {}', 'you can hear {}', 'audio: {}')
_SOLOS = (
    '{phrase} played by {player}{facts}',
    'a recording of {player}: {phrase}{facts}',
    '{player}, {phrase}{facts}',
)
_GROOVES = (
    '{style} backing track{facts}',
    'an accompaniment in the style of {style}{facts}',
    'a band plays {style}{facts}',
)
_OPPOSITES = (('slow', 'fast'), ('loud and energetic', 'quiet and calm'), ('bright', 'dark'), ('soft', 'hard'))
# In words, with a letter, and as the other neighbour calls it.
_NOTES = (
    *(('C',), ('C sharp', 'Db', 'D flat'), ('D',), ('E flat', 'Eb', 'D sharp'), ('E',), ('F',)),
    *(('F sharp', 'Gb', 'G flat'), ('G',), ('A flat', 'Ab', 'G sharp'), ('A',), ('B flat', 'Bb', 'A sharp'), ('B',)),
)
# Only what cannot be mistaken: a scale is also a melody, and chords may be broken into an arpeggio.
_OTHER_PHRASES = {
    **dict.fromkeys(('chords', 'slow chords'), 'a scale'),
    **dict.fromkeys(('a scale', 'a melody', 'a slow melody', 'a riff', 'a bass line', 'long notes'), 'chords'),
    **dict.fromkeys(('a steady beat', 'a busy beat', 'a half-time beat'), 'a drum fill'),
    'an arpeggio': 'a scale',
    'a drum fill': 'a steady beat',
}


@dataclass(frozen=True)
class Contrasts:
    """Other captions of a clip."""

    paraphrases: tuple[str, ...]
    """Say the same, or less."""
    altered: tuple[str, ...]
    """Each says one thing that is wrong."""


def contrasts_of(
    caption: str, tags: Mapping[str, str], *, seed: str, paraphrases: int = 3, altered: int = 3
) -> Contrasts:
    """Writes other captions of a clip.

    Args:
        caption: of the clip.
        tags: what is known of it, as ``examples/prepare_captions.py`` writes them. Without any, there are paraphrases
            alone: nothing is known to be wrong.
        seed: of the choices.
        paraphrases: at most so many.
        altered: at most so many of the caption and of each paraphrase.

    Returns:
        The captions; each is there once.

    Source: Audio Flamingo 2 (arXiv 2503.03983), section 3.1, where a language model writes them.
    """
    generator = random.Random(f'contrasts/{seed}')
    same = [text for text in dict.fromkeys(_rewordings(caption, tags)) if text != caption]
    frames = [frame.format(caption) for frame in _FRAMES]
    # Other words teach more than a frame around the same ones.
    chosen = generator.sample(same, min(paraphrases, len(same)))
    chosen += generator.sample(frames, min(paraphrases - len(chosen), len(frames)))
    wrong: list[str] = []
    for text in (caption, *chosen):
        found = list(dict.fromkeys(_falsehoods(text, tags)))
        wrong += generator.sample(found, min(altered, len(found)))
    return Contrasts(tuple(chosen), tuple(dict.fromkeys(wrong)))


def _rewordings(caption: str, tags: Mapping[str, str]) -> Iterator[str]:
    """The same in other words, of as many kinds as the tags tell."""
    series = re.fullmatch(r'several (.+)|(.+) in a row|(.+), one after another', caption)
    if 'First' in tags:
        forms, words = ORDERS, {'first': tags['First'], 'second': tags['Second']}
    elif tags.get('Count') in NUMBERS:
        forms, words = COUNTS, {'number': tags['Count'], 'sounds': tags['Sounds']}
    elif tags.get('Count') == 'several' and series is not None:
        forms, words = _SERIES, {'sounds': next(filter(None, series.groups()))}
    elif 'Phrase' in tags:
        words = {'player': tags['Instruments'], 'phrase': tags['Phrase'], 'facts': _facts(caption, tags)}
        forms = _SOLOS
    elif 'Genre' in tags and 'Instruments' in tags:
        forms, words = _GROOVES, {'style': tags['Genre'], 'facts': _facts(caption, tags)}
    else:
        # An effect has a name, music a kind and a description; each stands for the other.
        names = [tags[name] for name in ('Sound', 'Genre', 'Description') if name in tags]
        forms, words = [f'{name} {tags.get("Rhythm", "")}'.strip() for name in names], {}
        forms = [form.replace('{', '{{').replace('}', '}}') for form in forms]
    return (form.format(**words) for form in forms)


def _facts(caption: str, tags: Mapping[str, str]) -> str:
    """What a caption of music tells beside instrument and style."""
    facts = [f'{tags["BPM"]} BPM', tags.get('Key', ''), f'{tags["Pace"]} tempo'.replace('mid-tempo', 'moderate')]
    told = [f'{tags["BPM"]} BPM' in caption, bool(facts[1]) and facts[1] in caption, tags['Pace'] in caption.split()]
    return ''.join(f', {fact}' for fact, is_told in zip(facts, told, strict=True) if is_told)


def _falsehoods(text: str, tags: Mapping[str, str]) -> Iterator[str]:
    """The text with one thing exchanged that the tags know to be otherwise."""
    for exchanged in _exchanges(text, tags):
        words = sorted(exchanged, key=len, reverse=True)  # the longest first: one may be part of another
        pattern = re.compile(rf'(?<!\w)({"|".join(map(re.escape, words))})(?!\w)')
        if sorted(pattern.findall(text)) == sorted(words):  # each of them once, or another meaning may be hit
            yield pattern.sub(lambda match: exchanged[match.group()], text)  # noqa: B023
    if tags.get('Count') == 'several':
        yield f'{tags["Sound"]}, only once'
        yield f'a single sound: {tags["Sound"]}'


def _exchanges(text: str, tags: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """True words with false ones."""
    if 'First' in tags:
        yield {tags['First']: tags['Second'], tags['Second']: tags['First']}
    if tags.get('Count') in NUMBERS:
        yield from ({tags['Count']: other} for other in NUMBERS if other != tags['Count'])
    if 'BPM' in tags:
        # As far as can be from half and double tempo, which are the same beat counted otherwise.
        tempo = int(tags['BPM'])
        yield {f'{tempo} BPM': f'{round(tempo / 2**0.5 if tempo > 110 else tempo * 2**0.5)} BPM'}
    chord = re.search(r'chord, (.+ (?:major|minor))$', tags.get('Sound', ''))
    key = chord.group(1) if chord else tags.get('Key', '')
    if key:
        yield {key: _tritone(key)}  # of all keys the one with the fewest notes in common
    if chord or (key and 'Genre' in tags):  # a solo may leave out the notes that tell
        yield {key: key.replace('major', 'MINOR').replace('minor', 'major').replace('MINOR', 'minor')}
    phrase = tags.get('Phrase', '')
    if phrase:
        yield {phrase: _OTHER_PHRASES[phrase]}
    played = f'{phrase} {tags.get("Instruments", "")}'  # may have a pace of its own: slow strings, a slow melody
    for pair in _OPPOSITES:
        for true, false in (pair, pair[::-1]):
            pace = true == tags.get('Pace') and not re.search('slow|long|half|busy', played)
            mood = true in tags.get('Mood', '').split(', ')
            struck = tags.get('Count') == 'one' and text.startswith(f'{true} ') and not text.startswith(tags['Sound'])
            if pace or mood or (struck and true in ('soft', 'hard')):
                yield {true: false}
    if tags.get('Rhythm') == 'without a clear beat':
        yield {'without': 'with'}


def _tritone(key: str) -> str:
    root, mode = key.rsplit(' ', 1)
    place = next(number for number, names in enumerate(_NOTES) if root in names)
    names = _NOTES[(place + 6) % 12]
    return f'{names[min(len(names) - 1, len(root) == 2)]} {mode}'
