"""Prompts for a separation that nobody wrote: a model that hears names the sounds of the mixture."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

SOURCES_QUESTION = 'Which instruments or sounds are heard?'
CHOICE_QUESTION = 'Which instrument is playing?'
# What is weighed where a listener names too few sounds in its own words; the small models know these.
COMMON_SOUNDS = (
    *('accordion', 'acoustic guitar', 'bass', 'brass', 'choir', 'drum kit', 'electric guitar', 'flute'),
    *('mallet percussion', 'organ', 'piano', 'saxophone', 'strings', 'birds', 'footsteps', 'water', 'wind'),
)


class Heard(Protocol):
    """What a listener says."""

    text: str
    probabilities: dict[str, float] | None


class Listener(Protocol):
    """A model that answers questions about a recording, in words or by weighing options."""

    def ask(self, audio: Path, question: str, options: Sequence[str] | None = None) -> Heard:
        """The answer to one question about one recording."""


def propose_prompts(
    listener: Listener, recording: str | Path, count: int, *, candidates: Sequence[str] = ()
) -> list[str]:
    """Prompts for the sounds of a mixture.

    Args:
        listener: model that is asked.
        recording: file of the mixture.
        count: sounds to name, at least two.
        candidates: sounds to choose the likeliest from; without them the listener uses its own words, and if these
            name too few sounds, ``COMMON_SOUNDS``.

    Returns:
        ``count`` different prompts, the likeliest or first named in front.

    Raises:
        ValueError: there are fewer than two to find, or fewer candidates than that.

    Source: Audio-SDS (arXiv 2505.04621), section 4.3, where a captioner and a language model share this work.
    """
    if count < 2:
        raise ValueError(f'separation needs at least two sounds; got {count}')
    wanted = list(dict.fromkeys(candidate.strip() for candidate in candidates if candidate.strip()))
    if not wanted:
        named = named_sounds(listener.ask(Path(recording), SOURCES_QUESTION).text)
        if len(named) >= count:
            return named[:count]
        wanted = list(COMMON_SOUNDS)
    if len(wanted) < count:
        raise ValueError(f'{count} sounds cannot be chosen from {len(wanted)} candidates; give more')
    scores = listener.ask(Path(recording), CHOICE_QUESTION, wanted).probabilities
    return sorted(wanted, key=lambda name: -scores[name])[:count]


def named_sounds(text: str) -> list[str]:
    """The different sounds that a sentence lists, in its order.

    Args:
        text: such as "Drums, a bass guitar and strings."

    Returns:
        Such as ["drums", "bass guitar", "strings"].
    """
    parts = re.split(r'[,;.:\n]|\b(?:and|with|over|plus)\b', text.lower())
    names = (re.sub(r'^(?:an?|the|some)\s+', '', part.strip(' "\'-')) for part in parts)
    return list(dict.fromkeys(name for name in names if name))
