"""What ``doctor`` says."""

import pytest

from nemo_audio_restore import __version__
from nemo_audio_restore.reporting import environment as module
from nemo_audio_restore.reporting.environment import as_text, describe_environment, versions


def test_versions_name_this_package_and_libsndfile():
    found = versions()
    assert found['nemo-audio-restore'] == __version__ and found['libsndfile'][0].isdigit()
    assert found['torch'] != 'missing'


def test_a_sound_machine_has_its_devices_formats_and_models():
    sections = describe_environment()
    assert 'threads' in sections['devices']['cpu'] and 'MP3' in sections['audio']['formats']
    assert 'a2sb_44k_small' in sections['models']
    assert {'memory', 'disk'} <= set(sections['machine'])


@pytest.mark.parametrize(
    ('name', 'value', 'problem', 'words'),
    [
        ('_version', lambda package: 'missing', 'soxr', 'pip install soxr'),
        ('_memory_gb', lambda: (8.0, 0.5), 'memory', 'close other programs'),
        ('backend', lambda: {'libsndfile': '1.0', 'formats': 'WAV'}, 'MP3', 'pip install -U soundfile'),
    ],
)
def test_what_is_wrong_is_listed_with_what_to_do(monkeypatch, name, value, problem, words):
    monkeypatch.setattr(module, name, value)
    assert words in describe_environment()['problems'][problem]


def test_what_an_extra_would_bring_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(module, '_version', lambda package: 'missing' if package == 'gguf' else '1.0')
    found = describe_environment()['optional packages']
    assert found['gguf'] == "missing: pip install 'nemo-audio-restore[language]'" and found['diffusers'] == '1.0'


def test_text_is_aligned_and_says_none():
    assert as_text({'a': {'x': '1', 'long': '2'}, 'problems': {}}) == 'a:\n  x     1\n  long  2\nproblems: none'
