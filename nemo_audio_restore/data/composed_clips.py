"""Clips whose order and number of sounds are known: single sounds, one after another or struck several times."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut

from nemo_audio_restore.data.clips import SAMPLE_RATE, Clip, clip_path, prepare_audio, save_clip, stable_hash
from nemo_audio_restore.data.contrasts import COUNTS, NUMBERS, ORDERS
from nemo_audio_restore.data.effects import effect_rules
from nemo_audio_restore.data.question_scenes import in_order, struck
from nemo_audio_restore.data.question_words import TASKS
from nemo_audio_restore.files.audio import read_audio

_LONGEST_S, _LONGEST_HIT_S = 2.5, 1.5


def compose_clips(manifest: Path, folder: Path, *, split: str, number: int, seed: int = 0) -> Iterator[Clip]:
    """Makes clips of two sounds in order and of counted hits, in turn, from single sound effects.

    Args:
        manifest: of one split, as ``examples/prepare_captions.py`` writes it.
        folder: for the clips, 5 s and a little more; those on disk are kept.
        split: of the manifest.
        number: of clips of each kind.
        seed: of the choices.

    Yields:
        The clips with their captions; none of a kind for which the manifest has too few sounds.
    """
    sounds: dict[str, list[Cut]] = {}
    for cut in CutSet.from_file(manifest):
        known = cut.custom or {}
        if (known.get('tags') or {}).get('Count') == 'one' and cut.duration <= _LONGEST_S:
            sounds.setdefault(known['class'], []).append(cut)
    plurals = {rule.kind: rule.plural for rule in effect_rules() if '{' not in rule.plural}
    hits = [
        cut
        for kind in sorted(set(TASKS['drum'].labels) & set(sounds) & set(plurals))
        for cut in sounds[kind]
        if cut.duration <= _LONGEST_HIT_S
    ]
    for index in range(number):
        if len(sounds) > 1:
            generator = random.Random(f'order/{seed}/{split}/{index}')
            pair = [generator.choice(sounds[kind]) for kind in generator.sample(sorted(sounds), 2)]
            first, second = (cut.supervisions[0].text for cut in pair)
            caption = generator.choice(ORDERS).format(first=first, second=second)
            tags = {'Type': 'sound effect', 'First': first, 'Second': second}
            name = f'order-{split}-{index:04d}-{_mark(seed, caption, pair)}'
            clip = _clip(name, split, 'sounds in order', caption, pair, tags)
            if not clip_path(clip, folder).exists():
                _save(clip, in_order([_mono(cut, manifest) for cut in pair], SAMPLE_RATE, generator), folder)
            yield clip
        if hits:
            # One of its own: clips on disk draw nothing.
            generator = random.Random(f'count/{seed}/{split}/{index}')
            hit, times = generator.choice(hits), generator.randrange(len(NUMBERS))
            words = {'number': NUMBERS[times], 'sounds': plurals[hit.custom['class']]}
            tags = {'Type': 'sound effect', 'Count': words['number'], 'Sounds': words['sounds']}
            caption = generator.choice(COUNTS).format(**words)
            name = f'count-{split}-{index:04d}-{_mark(seed, caption, [hit])}'
            clip = _clip(name, split, 'counted hits', caption, [hit], tags)
            if not clip_path(clip, folder).exists():
                _save(clip, struck(_mono(hit, manifest), SAMPLE_RATE, times + 2, generator), folder)
            yield clip


def _mark(seed: int, caption: str, cuts: list[Cut]) -> str:
    """What tells a clip on disk from one that other settings or another corpus would give."""
    return f'{stable_hash(seed, caption, *(cut.id for cut in cuts)):08x}'


def _clip(name: str, split: str, kind: str, caption: str, cuts: list[Cut], tags: dict[str, str]) -> Clip:
    licence, group = (' and '.join(sorted({cut.custom[key] for cut in cuts})) for key in ('licence', 'group'))
    return Clip(name, split, 'effect', kind, caption, licence, group, tags)


def _mono(cut: Cut, manifest: Path) -> np.ndarray:
    audio, _ = read_audio(manifest.parent / cut.recording.sources[0].source)  # all clips are of one rate
    return audio.mean(axis=0)


def _save(clip: Clip, audio: np.ndarray, folder: Path) -> None:
    save_clip(clip, prepare_audio(audio[None], SAMPLE_RATE), folder)
