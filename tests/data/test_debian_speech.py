"""Which recordings of Debian packages are found, with which language, text and split."""

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.data import debian_speech
from nemo_audio_restore.data.debian_speech import (
    SPEECH_PACKAGES,
    find_asterisk,
    find_festvox_ru,
    find_fillets,
    find_klettres,
    find_ktuberling,
    find_tuxpaint,
    is_tested,
    unpack,
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'')


def by_name(found) -> dict:
    return {item.path.stem: item for item in found}


@pytest.mark.parametrize(('language', 'tested'), [('en', True), ('en_GB', True), ('nn', True), ('nl', False)])
def test_regions_of_a_tested_language_are_tested_too(language, tested):
    assert is_tested(language) == tested


def test_levels_of_the_story_are_held_out_whole(tmp_path):
    base = 'usr/share/games/fillets-ng'
    touch(tmp_path, *[f'{base}/sound/level{level}/cs/line-{level}-{line}.ogg' for level in range(12) for line in '12'])
    found = find_fillets(tmp_path, 'GPL-2')
    splits = {}
    for item in found:
        splits.setdefault(item.group, set()).add(item.split)
    assert all(len(values) == 1 for values in splits.values())
    names = [next(iter(values)) for values in splits.values()]
    assert (names.count('test'), names.count('validation'), names.count('train')) == (5, 3, 4)


def test_dialogue_has_its_czech_text(tmp_path):
    base = tmp_path / 'usr/share/games/fillets-ng'
    touch(base, 'sound/city/cs/vit-1.ogg', 'sound/city/cs/unknown.ogg', 'sound/share/jokes/cs/joke.ogg')
    for level, name in (('city', 'vit-1'), ('share/jokes', 'joke')):
        script = base / 'script' / level / 'dialogs_cs.lua'
        script.parent.mkdir(parents=True)
        script.write_text(
            f'dialogId("{name}", "font", "English {name}.")\ndialogStr("Česky \\"{name}\\".")\n', 'utf-8'
        )
    found = by_name(find_fillets(tmp_path, 'GPL-2'))
    assert found['vit-1'].text == 'Česky "vit-1".'
    assert found['joke'].text == 'Česky "joke".'
    assert found['unknown'].text is None


def test_stamps_have_language_and_text_and_noises_are_left_out(tmp_path):
    stamps = tmp_path / 'usr/share/tuxpaint/stamps/animals'
    touch(stamps, 'cow_desc_da.ogg', 'cow_desc_fr.ogg', 'cow.ogg', 'cow_nl.ogg', 'cow_red.ogg', '7_zh_tw.ogg')
    (stamps / 'cow.txt').write_text('A cow.\nda.utf8=En ko.\nfr.utf8=Une vache.\n', 'utf-8')
    found = by_name(find_tuxpaint(tmp_path, 'GPL-2'))
    assert set(found) == {'cow_desc_da', 'cow_desc_fr', 'cow_nl', '7_zh_tw'}
    assert found['7_zh_tw'].language == 'zh_tw'
    assert (found['cow_desc_da'].split, found['cow_desc_da'].text) == ('test', 'En ko.')
    assert (found['cow_desc_fr'].split, found['cow_desc_fr'].text) == ('train', 'Une vache.')
    assert found['cow_nl'].text is None


def test_letters_of_tested_languages_are_left_out(tmp_path):
    touch(tmp_path / 'usr/share/klettres', 'da/alpha/a.ogg', 'en_GB/alpha/b.ogg', 'fr/syllab/ca.ogg')
    (found,) = find_klettres(tmp_path, 'GPL-2+')
    assert (found.path.stem, found.split, found.language) == ('ca', 'train', 'fr')


def test_words_are_split_by_language(tmp_path):
    touch(tmp_path / 'usr/share/ktuberling/sounds', 'en/hat.ogg', 'nn/hatt.opus', 'lt/k.ogg', 'fr/c.wav', 'da/hat.ogg')
    found = find_ktuberling(tmp_path, 'GPL-2+')
    assert {(item.language, item.split) for item in found} == {
        ('en', 'test'),
        ('nn', 'test'),
        ('lt', 'validation'),
        ('fr', 'train'),
    }


def test_no_tested_language_is_in_training_or_validation(tmp_path):
    touch(
        tmp_path / 'usr/share/ktuberling/sounds', *[f'{name}/a.ogg' for name in ('da', 'de', 'en', 'nb', 'nn', 'fr')]
    )
    touch(tmp_path / 'usr/share/klettres', *[f'{name}/a.ogg' for name in ('da', 'de', 'en', 'nb', 'nn', 'fr')])
    touch(tmp_path / 'usr/share/tuxpaint/stamps', *[f'x_{name}.ogg' for name in ('da', 'de', 'en', 'nb', 'nn', 'fr')])
    found = [item for find in (find_klettres, find_ktuberling, find_tuxpaint) for item in find(tmp_path, '')]
    assert {item.language for item in found if item.split != 'test'} == {'fr'}


def test_prompts_are_decoded_and_have_their_text(tmp_path, monkeypatch):
    touch(tmp_path, 'usr/share/asterisk/sounds/en_US_f_Allison/digits/one.g722')
    touch(tmp_path, 'usr/share/asterisk/sounds/en_US_f_Allison/beep.g722')
    folder = tmp_path / 'usr/share/doc/asterisk-core-sounds-en'
    folder.mkdir(parents=True)
    (folder / 'core-sounds-en.txt.gz').write_bytes(gzip.compress(b'; Comment\n\ndigits/one: One.\n'))
    commands = []
    monkeypatch.setattr(debian_speech.subprocess, 'run', lambda command, **_: commands.append(command))
    (found,) = find_asterisk(tmp_path, 'CC-BY-SA-3.0')
    assert (found.text, found.path.name, found.split) == ('One.', 'one.flac', 'test')
    assert commands[0][0] == 'ffmpeg'


def test_without_ffmpeg_the_error_says_what_to_install(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(debian_speech.subprocess, 'run', missing)
    with pytest.raises(RuntimeError, match='install it'):
        debian_speech._decode_g722(tmp_path / 'a.g722')


def test_stress_marks_are_taken_out_of_russian_sentences(tmp_path):
    voice = tmp_path / 'usr/share/festival/voices/russian/msu_ru_nsh_clunits'
    touch(voice, 'wav/ru_0002.wav', 'wav/ru_0003.wav')
    (voice / 'etc').mkdir()
    (voice / 'etc/txt.done.data').write_text('( ru_0002 "Она завела, прядь вол+ос." )\n', 'utf-8')
    (found,) = find_festvox_ru(tmp_path, 'BSD')
    assert found.text == 'Она завела, прядь волос.'


def test_only_the_wanted_folders_of_a_package_are_unpacked(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name in ('./usr/share/x/a.ogg', './usr/share/other/b.ogg', './usr/share/x/../../../../escaped'):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b'abc'))
    (tmp_path / 'tar').write_bytes(buffer.getvalue())
    popen = subprocess.Popen
    monkeypatch.setattr(
        debian_speech.subprocess, 'Popen', lambda command, **options: popen(['cat', str(tmp_path / 'tar')], **options)
    )
    unpack(Path('x.deb'), tmp_path / 'out', ['usr/share/x'])
    assert [path.relative_to(tmp_path / 'out').as_posix() for path in (tmp_path / 'out').rglob('*.ogg')] == [
        'usr/share/x/a.ogg'
    ]
    assert not (tmp_path.parent / 'escaped').exists()


def test_sentences_at_16_khz_are_marked():
    assert {name for name, item in SPEECH_PACKAGES.items() if item.recognition} == {
        'asterisk-core-sounds-en-g722',
        'festvox-ru',
    }


def test_manifests_carry_language_and_text(tmp_path):
    from lhotse import CutSet

    from nemo_audio_restore.data.corpus import Candidate, Limits, check_tracks, write_manifests

    path = tmp_path / 'a.wav'
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    tracks, _ = check_tracks([Candidate(path, 'g', 'GPL-2', 'test', language='da', text='En ko.')], Limits(0.1))
    manifests = write_manifests(tracks, [], tmp_path)
    (cut,) = CutSet.from_file(manifests['test'])
    assert (cut.supervisions[0].language, cut.supervisions[0].text) == ('da', 'En ko.')
