import hashlib
import io
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile

from nemo_audio_restore.data.debian import DebianTrack, debian_tracks, extract_tracks, fetch_package

PERMISSIVE = ('CC-BY', 'CC0', 'MIT', 'BSD', 'public-domain')
TEST_PACKAGES = {'freecol', 'hyperrogue-music', 'fretsonfire-songs-sectoid'}


def test_weights_that_ship_are_trained_on_permissive_licences_only():
    for track in debian_tracks():
        assert track.shipped_weights == any(name in track.licence for name in PERMISSIVE), track


def test_test_packages_are_never_trained_on():
    for track in debian_tracks():
        assert (track.package in TEST_PACKAGES) == (track.split == 'test'), track


def test_artists_do_not_span_splits():
    splits = {}
    for track in debian_tracks():
        if track.artist:
            assert splits.setdefault(track.group, track.split) == track.split, track


def test_a_gpl_track_among_free_ones_is_marked():
    track = next(item for item in debian_tracks(['supertuxkart-data']) if 'klabauter_dance' in item.members[0])
    assert not track.shipped_weights


def test_held_out_tracks_are_those_of_the_evaluation():
    counts = {name: sum(item.package == name for item in debian_tracks()) for name in TEST_PACKAGES}
    assert counts == {'freecol': 5, 'hyperrogue-music': 13, 'fretsonfire-songs-sectoid': 4}


def test_file_names_are_unique_in_a_package():
    names = [(track.package, track.file_name) for track in debian_tracks()]
    assert len(set(names)) == len(names)


def test_unknown_package_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match='nethack.*freecol'):
        debian_tracks(['nethack'])


def ogg(seed, seconds=1.0, level=0.7):
    buffer = io.BytesIO()
    audio = level * np.sin(np.arange(int(8000 * seconds)) * (0.1 + 0.1 * seed))
    soundfile.write(buffer, audio, 8000, format='OGG', subtype='VORBIS')
    return buffer.getvalue()


def row(*members, digest):
    return DebianTrack('toy', '1.0', members, 'CC0', '', 'train', True, tuple(digest))


def sha(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope='module')
def package(tmp_path_factory):
    """A real .deb with a plain track, two stems, and a track inside a zip archive."""
    if shutil.which('dpkg-deb') is None:
        pytest.skip('needs dpkg-deb')
    root = tmp_path_factory.mktemp('deb')
    tree = root / 'toy'
    (tree / 'DEBIAN').mkdir(parents=True)
    (tree / 'DEBIAN' / 'control').write_text(
        'Package: toy\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: toy\n'
    )
    (tree / 'usr/song').mkdir(parents=True)
    content = {'usr/plain': ogg(0), 'usr/song/guitar.ogg': ogg(1), 'usr/song/song.ogg': ogg(2, seconds=1.5)}
    for name, data in content.items():
        (tree / name).write_bytes(data)
    content['usr/all.zip!music/inner.ogg'] = ogg(3)
    with zipfile.ZipFile(tree / 'usr/all.zip', 'w') as archive:
        archive.writestr('music/inner.ogg', content['usr/all.zip!music/inner.ogg'])
    subprocess.run(['dpkg-deb', '--build', str(tree), str(root / 'toy_1.0_all.deb')], check=True, capture_output=True)
    return root / 'toy_1.0_all.deb', content


def test_tracks_come_out_as_they_are_in_the_package(package, tmp_path):
    deb, content = package
    names = ['usr/plain', 'usr/all.zip!music/inner.ogg']
    accepted, rejected = extract_tracks(deb, [row(n, digest=[sha(content[n])]) for n in names], tmp_path)
    assert rejected == []
    assert [item.path.name for item in accepted] == ['plain.ogg', 'inner.ogg']
    for candidate, name in zip(accepted, names, strict=True):
        assert candidate.path.read_bytes() == content[name]
        assert (candidate.split, candidate.licence, candidate.group) == ('train', 'CC0', 'toy')


def test_stems_are_summed_without_clipping(package, tmp_path):
    deb, content = package
    stems = ('usr/song/guitar.ogg', 'usr/song/song.ogg')
    accepted, _ = extract_tracks(deb, [row(*stems, digest=[sha(content[n]) for n in stems])], tmp_path)
    mixed, _ = soundfile.read(accepted[0].path)
    guitar, song = (soundfile.read(io.BytesIO(content[name]))[0] for name in stems)
    expected = song.copy()
    expected[: len(guitar)] += guitar
    assert len(mixed) == len(expected) and np.abs(expected).max() > 1
    np.testing.assert_allclose(mixed, expected / np.abs(expected).max(), atol=1e-5)


def test_a_track_that_changed_or_is_missing_is_reported(package, tmp_path):
    deb, content = package
    rows = [row('usr/plain', digest=['0' * 64]), row('usr/gone.ogg', digest=['0' * 64])]
    accepted, rejected = extract_tracks(deb, rows, tmp_path)
    assert accepted == []
    assert 'other bytes' in rejected[0].reason and 'does not hold' in rejected[1].reason


def test_a_package_that_is_there_is_not_downloaded(package):
    deb, _ = package
    assert fetch_package('toy', deb.parent) == deb


def test_a_machine_without_apt_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(RuntimeError, match='--deb-folder'):
        fetch_package('freecol', tmp_path / 'debs')
