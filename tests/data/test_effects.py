"""Sound effects: names to classes and captions, sources that stay whole, clips from short and long sounds."""

import zipfile

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.data.effects import (
    EFFECT_PACKAGES,
    MORE_EFFECT_PACKAGES,
    TESTED_EFFECT_PACKAGES,
    effect_rules,
    find_effects,
    make_effects,
    split_effects,
    unpack_archive,
)
from nemo_audio_restore.files.audio import read_audio

DRUMS = 'usr/share/hydrogen/data/drumkits'


def write(path, seconds: float = 0.2, rate: int = 44100, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.3 * np.random.default_rng(len(path.name)).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, noise.clip(-1, 1), rate)


@pytest.mark.parametrize(
    ('package', 'path', 'kind', 'word'),
    [
        ('hydrogen-drumkits', f'{DRUMS}/ForzeeStereo/Kick-1.wav', 'kick drum', 'drum'),
        ('hydrogen-drumkits', f'{DRUMS}/ForzeeStereo/SnareRim-1.wav', 'rim click', 'click'),
        ('hydrogen-drumkits', f'{DRUMS}/The Black Pearl 1.0/PearlSnare-Hardest.wav', 'snare drum', 'snare'),
        ('hydrogen-drumkits', f'{DRUMS}/The Black Pearl 1.0/SabianHatOpen-Soft.wav', 'hi-hat', 'hi-hat'),
        ('hydrogen-drumkits', f'{DRUMS}/Millo_MultiLayered3/t1_01.flac', 'tom drum', 'tom'),
        ('hydrogen-drumkits', f'{DRUMS}/circAfrique v4/Djembe3 Slap.flac', 'hand drum', 'hand drum'),
        ('sonic-pi-samples', 'usr/share/x/bd_808.flac', 'kick drum', 'kick'),
        ('sonic-pi-samples', 'usr/share/x/elec_hi_snare.flac', 'snare drum', 'snare'),
        ('0ad-data', 'audio/actor/fauna/animal/elephant_attack1.ogg', 'animal', 'elephant'),
        ('0ad-data', 'audio/resource/lumbering/lumber_tree_07.ogg', 'wood chopping', 'chopping'),
        ('wesnoth-1.16-data', 'core/sounds/wolf-growl-2.ogg', 'animal', 'wolf'),
        ('wesnoth-1.16-data', 'core/sounds/sword-1.ogg', 'sword and metal hit', ''),
        ('tuxpaint-stamps-default', 'stamps/animals/birds/owl.ogg', 'bird', 'owl'),
        ('supertuxkart-data', 'data/sfx/engine_small.ogg', 'engine', ''),
        ('berusky2-data', 'berusky2/sound/sound/stepsgrass.wav', 'footsteps', 'grass'),
        ('redeclipse-data', 'data/sounds/ambience/morph/wind1.ogg', 'wind', 'wind'),
        ('widelands-data', 'data/sound/smiths/smith_01.ogg', 'sword and metal hit', 'metal'),
        ('megaglest-data', 'commondata/sounds/archer_attack2.wav', 'bow and arrow', 'arrow'),
        ('minetest-data', 'default/sounds/default_snow_footstep.3.ogg', 'footsteps', 'snow'),
        ('ufoai-sound', 'sound/weapons/explosion-grenade.ogg', 'explosion and thunder', 'explosion'),
    ],
)
def test_a_name_gives_class_and_caption(tmp_path, package, path, kind, word):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    (effect,) = find_effects(package, tmp_path)
    assert effect.rule.kind == kind
    assert all(word in caption.format(**effect.words) for caption in effect.rule.captions)


@pytest.mark.parametrize(
    ('package', 'path'),
    [
        ('megaglest-data', 'commondata/sounds/archer_ack2.wav'),
        ('megaglest-data', 'commondata/sounds/archer_attack3.wav'),
        ('megaglest-data', 'commondata/sounds/swordman_die1.wav'),
        ('lincity-ng-data', 'sounds/OrganicFarm1.wav'),
        ('widelands-data', 'data/sound/farm/horse_00.ogg'),
        ('ufoai-sound', 'sound/soldiers/maledeath01.ogg'),
        ('boswars-data', 'units/engineer/engineer_die.wav'),
        ('scorched3d-data', 'apoc/data/wav/misc/scream1.wav'),
    ],
)
def test_voices_and_copies_of_tested_sounds_are_left_out(tmp_path, package, path):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert find_effects(package, tmp_path) == []


def test_names_without_a_rule_and_spoken_descriptions_are_left_out(tmp_path):
    for name in ('stamps/animals/birds/owl_desc.ogg', 'stamps/symbols/math/4.ogg', 'stamps/animals/birds/owl.txt'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_effects('tuxpaint-stamps-default', tmp_path) == []


def test_a_chord_is_spelled_out(tmp_path):
    path = tmp_path / DRUMS / 'belofilms_GuitarStrums/Fsharp minor7b5_UP_00.flac'
    path.parent.mkdir(parents=True)
    path.touch()
    (effect,) = find_effects('hydrogen-drumkits-effects', tmp_path)
    assert effect.rule.captions[0].format(**effect.words).endswith('F sharp minor7b5')
    assert effect.source == 'F sharp minor7b5'


def test_every_rule_belongs_to_a_package_that_is_unpacked_and_has_a_licence():
    packages = [*EFFECT_PACKAGES, *MORE_EFFECT_PACKAGES, *TESTED_EFFECT_PACKAGES]
    assert len(packages) == len(set(packages)) and {rule.package for rule in effect_rules()} == set(packages)
    assert all(rule.licence and rule.plural for rule in effect_rules())


def test_kits_stay_whole_and_classes_with_several_sources_are_tested(tmp_path):
    for kit in ('Millo_MultiLayered3', 'BJA_Pacific', 'ElectricEmpireKit'):
        for name in ('Kick-1.wav', 'Snare-1.wav'):
            write(tmp_path / 'drums' / DRUMS / kit / name)
    for animal in ('cattle', 'sheep', 'pig', 'lion', 'goat'):
        for index in range(4):
            write(tmp_path / f'0ad/audio/actor/fauna/animal/{animal}_{index}0.ogg')
    effects = find_effects('hydrogen-drumkits', tmp_path / 'drums') + find_effects('0ad-data', tmp_path / '0ad')
    splits = split_effects(effects)
    assert {splits[kind, 'Millo_MultiLayered3'] for kind in ('kick drum', 'snare drum')} == {'test'}
    assert {splits[kind, 'ElectricEmpireKit'] for kind in ('kick drum', 'snare drum')} == {'validation'}
    animals = [split for (kind, _), split in splits.items() if kind == 'animal']
    assert len(animals) == 5 and animals.count('test') >= 1 and animals.count('train') >= 2


def test_packages_that_only_train_are_never_tested_on(tmp_path):
    for name in ('bird1', 'bird2', 'bird3', 'bird4', 'bird5', 'bird6'):
        for index in range(2):
            write(tmp_path / f'data/sound/animals/{name}_0{index}.ogg')
    splits = split_effects(find_effects('widelands-data', tmp_path))
    assert len(splits) == 6 and set(splits.values()) == {'train', 'validation'}


def test_packages_that_are_only_tested_on_leave_the_splits_of_others_alone(tmp_path):
    for animal in ('camel', 'cattle', 'goat', 'horse', 'lion', 'sheep'):
        write(tmp_path / f'0ad/audio/actor/fauna/animal/{animal}_01.ogg')
    write(tmp_path / 'scratch/Media/Sounds/Animal/Cat.wav')
    others = find_effects('0ad-data', tmp_path / '0ad')
    alone, both = split_effects(others), split_effects([*others, *find_effects('scratch', tmp_path / 'scratch')])
    assert len(others) == 6 and both == {**alone, ('animal', 'scratch/cat'): 'test'}


def test_short_sounds_also_come_as_a_series_and_long_ones_in_excerpts(tmp_path):
    root = tmp_path / 'root'
    for index in range(4):
        write(root / f'audio/actor/fauna/animal/cattle_0{index}.ogg', seconds=0.3)
    write(root / 'audio/ambient/water/river_fast.ogg', seconds=26.0, channels=2)
    clips, messages = make_effects(find_effects('0ad-data', root), tmp_path / 'audio')
    lengths = {clip.name: read_audio(tmp_path / 'audio' / f'{clip.name}.flac')[0].shape[1] / 44100 for clip in clips}
    series = [clip for clip in clips if clip.tags['Count'] == 'several']
    assert not messages and len(series) == 2
    assert all(2 <= lengths[clip.name] <= 5 for clip in series)
    assert all('cattle calls' in clip.caption for clip in series)
    assert sorted(lengths[clip.name] for clip in clips if clip.kind == 'water') == pytest.approx([8.0, 8.0, 8.0])
    assert sum(lengths[clip.name] == pytest.approx(1.0) for clip in clips) == 4


def test_a_series_is_made_again_when_its_members_have_changed(tmp_path):
    root, folder = tmp_path / 'root', tmp_path / 'audio'
    first, second = (root / f'audio/actor/fauna/animal/cattle_{name}.ogg' for name in ('01', 'other'))
    for path in (first, second):
        write(path, seconds=0.3)
    clips, _ = make_effects(find_effects('0ad-data', root), folder)
    (name,) = (clip.name for clip in clips if clip.tags['Count'] == 'several')
    before = (folder / f'{name}.flac').read_bytes()
    make_effects(find_effects('0ad-data', root), folder)
    assert (folder / f'{name}.flac').read_bytes() == before
    second.unlink()
    make_effects(find_effects('0ad-data', root), folder)
    assert (folder / f'{name}.flac').read_bytes() != before


def test_silent_and_broken_files_are_named_and_left_out(tmp_path):
    root = tmp_path / 'root/audio/actor/fauna/animal'
    root.mkdir(parents=True)
    soundfile.write(root / 'pig_1.ogg', np.zeros(4410), 44100)
    (root / 'pig_2.ogg').write_bytes(b'no audio')
    clips, messages = make_effects(find_effects('0ad-data', tmp_path / 'root'), tmp_path / 'audio')
    assert clips == [] and len(messages) == 2


def test_the_kit_decides_licence_group_and_dynamics_are_said(tmp_path):
    write(tmp_path / DRUMS / 'The Black Pearl 1.0/PearlKick-Softest.wav')
    clips, _ = make_effects(find_effects('hydrogen-drumkits', tmp_path), tmp_path / 'audio')
    assert {(clip.licence, clip.group) for clip in clips} == {('GPL-2', 'hydrogen-drumkits/The Black Pearl 1.0')}
    assert any(clip.caption.startswith('soft ') for clip in clips)


def test_only_sounds_below_the_prefix_leave_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        for name in ('audio/actor/a.ogg', 'audio/voice/b.ogg', 'audio/actor/c.xml', 'audio/a/../../../d.ogg'):
            archive.writestr(name, 'x')
    unpack_archive(tmp_path / 'a.zip', tmp_path / 'out', 'audio/a')
    assert [path.name for path in sorted((tmp_path / 'out').rglob('*.*'))] == ['a.ogg']
    assert not (tmp_path / 'd.ogg').exists()
