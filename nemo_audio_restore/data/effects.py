"""Sound effects that Debian packages ship, named by what their files are called.

``debian_effects.csv`` beside this file turns names into classes and captions: the first rule whose pattern matches the
end of a path in the package wins, and files without a rule are left out (voices, and names that say nothing). Sources
(a kit, an actor, a chord) are in one split only.
"""

import csv
import random
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_audio_restore.data.clips import SAMPLE_RATE, Clip, clip_path, prepare_audio, save_clip, stable_hash
from nemo_audio_restore.files.audio import AudioFileError, read_audio

_TABLE = Path(__file__).with_name('debian_effects.csv')
# Kits stay whole; so they are not divided class by class.
_KIT_SPLITS = {'Millo_MultiLayered3': 'test', 'Gimme A Hand 1.0': 'test', 'ElectricEmpireKit': 'validation'}
_KIT_LICENCES = {
    'Audiophob': 'CC0',
    'BJA_Pacific': 'CC-BY-SA-3.0-us',
    'circAfrique v4': 'CC-BY-SA-3.0',
    'rumpf_kit_z01_h2': 'CC-BY-3.0',
    'ColomboAcousticDrumkit': 'GPL-2+ with composition exception',
    'ElectricEmpireKit': 'GPL-2+',
    'HardElectro1': 'GPL-2+',
    'VariBreaks': 'GPL-2+',
    'Millo-Drums_v.1': 'GPL-2',
    'Millo_MultiLayered2': 'GPL-2',
    'Millo_MultiLayered3': 'GPL-2',
    'Gimme A Hand 1.0': 'GPL-2',
    'The Black Pearl 1.0': 'GPL-2',
    'ForzeeStereo': 'GPL-2',
}
_SUFFIXES = ('.ogg', '.wav', '.flac', '.aiff')
_SILENCE = 10 ** (-50 / 20)
_MIN_S, _LONGEST_S, _EXCERPT_S, _MAX_EXCERPTS = 0.04, 10.0, 8.0, 6
_SINGLE_S, _SHORT_S = 1.0, 1.5
_TEST_SHARE, _VALIDATION_SHARE = 0.15, 0.06


@dataclass(frozen=True)
class EffectRule:
    """A row of the table."""

    package: str
    pattern: re.Pattern[str]
    kind: str
    captions: tuple[str, ...]
    plural: str
    licence: str


@dataclass(frozen=True)
class Effect:
    """A named sound in a package, before it is cut.

    Attributes:
        path: of the file.
        rule: that matched.
        source: what must not be torn apart by a split, such as the kit or the animal.
        words: what the captions' fields stand for.
    """

    path: Path
    rule: EffectRule
    source: str
    words: dict[str, str]


def effect_rules() -> list[EffectRule]:
    """Reads the table."""
    with _TABLE.open(newline='', encoding='utf-8') as file:
        return [
            EffectRule(
                package=row['package'],
                pattern=re.compile(row['pattern'], re.IGNORECASE),
                kind=row['class'],
                captions=tuple(row['captions'].split('|')),
                plural=row['plural'],
                licence=row['licence'],
            )
            for row in csv.DictReader(file)
        ]


def find_effects(package: str, root: Path) -> list[Effect]:
    """Names the sounds of an unpacked package.

    Args:
        package: Debian package.
        root: its unpacked tree.

    Returns:
        Those that a rule of the table matches, in the order of their paths.
    """
    rules = [rule for rule in effect_rules() if rule.package == package]
    found = []
    for path in sorted(root.rglob('*')):
        if path.suffix.lower() not in _SUFFIXES or '_desc' in path.stem:
            continue
        for rule in rules:
            match = rule.pattern.search(path.relative_to(root).as_posix())
            if match is not None:
                found.append(_effect(path, rule, match))
                break
    return found


def unpack_archive(archive: Path, folder: Path, prefix: str) -> None:
    """Takes the Ogg files below a prefix out of a zip archive; files that exist are kept."""
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            target = folder / name
            if name.startswith(prefix) and name.endswith('.ogg') and '..' not in name and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(opened.read(name))


def split_effects(effects: Iterable[Effect]) -> dict[tuple[str, str], str]:
    """Divides the sources of each class.

    Args:
        effects: of all packages.

    Returns:
        (class, source) to split. A class with three sources or more is tested on at least one of them, packages of
        ``MORE_EFFECT_PACKAGES`` aside, which are never tested on, and of ``TESTED_EFFECT_PACKAGES``, which always are.
    """
    sizes: dict[str, dict[str, int]] = {}
    splits = {}
    for effect in effects:
        if effect.rule.package in TESTED_EFFECT_PACKAGES:
            splits[effect.rule.kind, effect.source] = 'test'
            continue
        members = sizes.setdefault(effect.rule.kind, {})
        members[effect.source] = members.get(effect.source, 0) + 1
    for kind, members in sizes.items():
        kits = {source: _KIT_SPLITS.get(source, 'train') for source in members if source in _KIT_LICENCES}
        splits.update({(kind, source): split for source, split in kits.items()})
        others = sorted(set(members) - set(kits), key=lambda source: stable_hash('effect', kind, source))
        total = sum(members[source] for source in others)
        for split, share in (('test', _TEST_SHARE), ('validation', _VALIDATION_SHARE)):
            taken = sum(members[source] for source in kits if kits[source] == split)
            # A source that is most of its class stays in training.
            candidates = [source for source in others if members[source] <= 0.4 * total]
            while taken < share * sum(members.values()) and len(others) > 2 and candidates:
                source = candidates.pop(0)
                if split == 'test' and source.split('/')[0] in MORE_EFFECT_PACKAGES:
                    continue
                others.remove(source)
                splits[kind, source] = split
                taken += members[source]
        splits.update({(kind, source): 'train' for source in others})
    return splits


def make_effects(effects: list[Effect], folder: Path) -> tuple[list[Clip], list[str]]:
    """Cuts effects into clips of at most 10 s, and strings short ones of a kind together as a second set of clips.

    Args:
        effects: see :func:`find_effects`.
        folder: for the clips; single sounds on disk are kept.

    Returns:
        The clips, and messages on files that are unreadable, silent or too short.
    """
    splits = split_effects(effects)
    clips, messages = [], []
    short: dict[tuple[str, str, str], list[tuple[Effect, np.ndarray]]] = {}
    for effect in effects:
        split = splits[effect.rule.kind, effect.source]
        try:
            audio = _read(effect.path)
            for index, piece in enumerate(_pieces(audio)):
                clip = _clip(effect, split, index)
                _save(clip, piece, folder)
                clips.append(clip)
        except (AudioFileError, ValueError) as error:
            messages.append(f'{effect.path.name}: {error}')
            continue
        if audio.shape[1] < _SHORT_S * SAMPLE_RATE:
            short.setdefault((effect.rule.kind, effect.source, split), []).append((effect, audio))
    for (kind, source, split), members in sorted(short.items(), key=lambda item: item[0]):
        for index in range((len(members) + 1) // 2):
            clip = _series_clip(members[0][0], split, index)
            generator = random.Random(stable_hash('series', kind, source, index))
            # Always made again: its members may have changed since.
            save_clip(clip, _series([audio for _, audio in members], generator), folder)
            clips.append(clip)
    return clips, messages


def _effect(path: Path, rule: EffectRule, match: re.Match[str]) -> Effect:
    words = {
        key: re.sub(r'(?<=[A-G])(?=sharp|flat)', ' ', value or '').replace('_', ' ').replace('minro', 'minor')
        for key, value in match.groupdict().items()
    }
    stem = re.sub(r'[-_ ]*\d+\w?$', '', path.stem)
    words = {key: value if key in ('kit', 'chord') else value.lower() for key, value in words.items()}
    words['name'] = re.sub(r'[-_]+', ' ', re.sub(r'-?(miss|loop\w*)$', '', stem)).strip().lower()
    if 'kit' in words:
        source = words['kit'] = match.group('kit')
    elif 'chord' in words:
        source = f'{words["chord"]} {words["quality"]}'
    else:
        source = f'{rule.package}/{words.get("what") or words["name"]}'
    return Effect(path, rule, source, words)


def _read(path: Path) -> np.ndarray:
    """(C, T) at 44.1 kHz without silence around it."""
    audio, rate = read_audio(path)
    loud = np.flatnonzero(np.abs(audio).max(axis=0) > _SILENCE * max(1e-3, float(np.abs(audio).max())))
    if not len(loud) or len(loud) < _MIN_S * rate:
        raise ValueError('silent or too short')
    return prepare_audio(audio[:, loud[0] : loud[-1] + 1], rate)


def _pieces(audio: np.ndarray) -> list[np.ndarray]:
    """The sound itself, padded to a second; several excerpts of a long one."""
    length = audio.shape[1]
    if length <= _LONGEST_S * SAMPLE_RATE:
        return [np.pad(audio, ((0, 0), (0, max(0, round(_SINGLE_S * SAMPLE_RATE) - length))))]
    size = round(_EXCERPT_S * SAMPLE_RATE)
    count = min(_MAX_EXCERPTS, length // size)
    starts = np.linspace(0, length - size, count).astype(int) if count > 1 else [0]
    return [prepare_audio(audio[:, start : start + size], SAMPLE_RATE) for start in starts]


def _save(clip: Clip, audio: np.ndarray, folder: Path) -> None:
    if not clip_path(clip, folder).exists():
        save_clip(clip, audio, folder)


def _series(sounds: list[np.ndarray], generator: random.Random) -> np.ndarray:
    """A few short sounds one after another at a steady pace, 2 to 5 s."""
    seconds = generator.uniform(2.0, 5.0)
    pace = generator.uniform(0.35, 0.9)
    channels = max(sound.shape[0] for sound in sounds)
    audio = np.zeros((channels, round(seconds * SAMPLE_RATE)), np.float32)
    for beat in range(int(seconds / pace)):
        sound = generator.choice(sounds)
        start = round((beat * pace + generator.uniform(0.0, 0.02)) * SAMPLE_RATE)
        room = audio[:, start : start + sound.shape[1]]
        room += sound[:, : room.shape[1]] * np.float32(generator.uniform(0.6, 1.0))
    return prepare_audio(audio, SAMPLE_RATE)


def _clip(effect: Effect, split: str, index: int) -> Clip:
    name = _file_name(effect, 'effect', f'{effect.path.parent.name}-{effect.path.stem}-{index}')
    generator = random.Random(stable_hash(name))
    dynamics = re.search(r'(soft|hard)(?=$|[\W_]|est)', effect.path.stem, re.IGNORECASE)
    caption = generator.choice(effect.rule.captions).format(**effect.words)
    if dynamics is not None and effect.source in _KIT_LICENCES:
        caption = f'{dynamics.group(1).lower()} {caption}'
    return _describe(effect, name, split, caption, {'Count': 'one'})


def _series_clip(effect: Effect, split: str, index: int) -> Clip:
    name = _file_name(effect, 'series', f'{effect.rule.kind}-{effect.source.split("/")[-1]}-{index}')
    generator = random.Random(stable_hash(name))
    plural = effect.rule.plural.format(**effect.words)
    caption = generator.choice((f'several {plural}', f'{plural} in a row', f'{plural}, one after another'))
    return _describe(effect, name, split, caption, {'Count': 'several'})


def _describe(effect: Effect, name: str, split: str, caption: str, tags: dict[str, str]) -> Clip:
    rule = effect.rule
    sound = rule.captions[0].format(**effect.words)
    return Clip(
        name=name,
        split=split,
        task='effect',
        kind=rule.kind,
        caption=caption,
        licence=_KIT_LICENCES[effect.words['kit']] if 'kit' in effect.words else rule.licence,
        group=f'{rule.package}/{effect.words["kit"]}' if 'kit' in effect.words else rule.package,
        tags={'Type': 'sound effect', 'Class': rule.kind, 'Sound': sound, **tags},
    )


def _file_name(effect: Effect, prefix: str, rest: str) -> str:
    return re.sub(r'\W+', '-', f'{prefix}-{effect.rule.package}-{rest}').strip('-').lower()


EFFECT_PACKAGES = {
    '0ad-data': ('usr/share/games/0ad/mods/public',),
    'hydrogen-drumkits': ('usr/share/hydrogen/data/drumkits',),
    'hydrogen-drumkits-effects': ('usr/share/hydrogen/data/drumkits',),
    'sonic-pi-samples': ('usr/share',),
    'supertuxkart-data': ('usr/share/games/supertuxkart/data/sfx',),
    'tuxpaint-stamps-default': ('usr/share/tuxpaint/stamps/animals', 'usr/share/tuxpaint/stamps/household')
    + ('usr/share/tuxpaint/stamps/naturalforces', 'usr/share/tuxpaint/stamps/seasonal'),
    'wesnoth-1.16-data': ('usr/share/games/wesnoth/1.16/data/core/sounds',),
}
_MEGAPACK = 'usr/share/games/megaglest/techs/megapack'
_MEGAPACK_UNITS = {
    'egypt': ('chicken',),
    'indian': ('beehive', 'bull', 'thunderbird'),
    'magic': ('archmage_tower', 'dragon', 'evil_dragon', 'wicker_behemoth'),
    'norsemen': ('wild_sow',),
    'persian': ('elephant', 'sheep'),
}
MORE_EFFECT_PACKAGES = {
    'ardentryst': ('usr/share/games/ardentryst/Sounds',),
    'boswars-data': ('usr/share/games/boswars/sounds', 'usr/share/games/boswars/units'),
    'endless-sky-data': ('usr/share/games/endless-sky/sounds',),
    'flare-game': ('usr/share/games/flare/mods/fantasycore/soundfx',)
    + ('usr/share/games/flare/mods/empyrean_campaign/soundfx',),
    'freedroid-data': ('usr/share/games/freedroid/sound',),
    'freeorion-data': ('usr/share/games/freeorion/default/data/sound',),
    'lincity-ng-data': ('usr/share/games/lincity-ng/sounds',),
    'lugaru-data': ('usr/share/games/lugaru/Sounds',),
    'megaglest-data': (f'{_MEGAPACK}/commondata/sounds', 'usr/share/games/megaglest/data/core/water_sounds')
    + tuple(f'usr/share/games/megaglest/tilesets/{name}/sounds' for name in ('autumn', 'birch_forest', 'desert2'))
    + tuple(
        f'{_MEGAPACK}/factions/{key}/units/{unit}/sounds' for key, units in _MEGAPACK_UNITS.items() for unit in units
    ),
    'minetest-data': ('usr/share/games/minetest/games/minetest_game/mods',),
    'netpanzer-data': ('usr/share/games/netpanzer/sound',),
    'redeclipse-data': ('usr/share/games/redeclipse/data/sounds',),
    'scorched3d-data': ('usr/share/games/scorched3d/data/globalmods',),
    'starfighter-data': ('usr/share/starfighter/sound',),
    'ufoai-sound': ('usr/share/games/ufoai/base',),
    'unknown-horizons': ('usr/share/unknown-horizons/content/audio/sounds',),
    'warmux-data': ('usr/share/games/warmux/sound',),
    'widelands-data': ('usr/share/games/widelands/data/sound', 'usr/share/games/widelands/data/world/critters'),
    'wordwarvi-sound': ('usr/share/wordwarvi/sounds',),
}
"""Packages that are only trained on: none of their sounds is ever in the test split."""
TESTED_EFFECT_PACKAGES = {
    '7kaa-data': ('usr/share/games/7kaa/SOUND',),
    'berusky2-data': ('usr/share/games/berusky2/sound',),
    'brainparty-data': ('usr/share/games/brainparty',),
    'btanks-data': ('usr/share/games/btanks/data/sounds',),
    'plee-the-bear-data': ('usr/share/games/plee-the-bear/sound',),
    'scratch': ('usr/share/scratch/Media/Sounds',),
    'searchandrescue-data': ('usr/share/games/searchandrescue/sounds',),
    'simutrans-pak64': ('usr/share/games/simutrans/pak/sound',),
    'supertux-data': ('usr/share/games/supertux2/sounds',),
}
"""Packages that are only tested on: all of their sounds are in the test split."""
