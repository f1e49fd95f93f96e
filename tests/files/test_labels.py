"""Label tracks as Audacity writes them, and as people damage them."""

import math

import pytest

from nemo_audio_restore.files.audio import AudioFileError
from nemo_audio_restore.files.labels import Label, read_labels


def write(folder, text):
    path = folder / 'labels.txt'
    path.write_text(text, 'utf-8')
    return path


def test_labels_with_and_without_text_and_frequencies_are_read(tmp_path):
    path = write(
        tmp_path, '1.500000\t2.250000\tneedle jump\n\n3,5\t4\n\\\t1000.0\t4000.0\n5\t6\tbig hole\n\\\t-1\t-1\n'
    )
    assert read_labels(path) == [
        Label(1.5, 2.25, 'needle jump'),
        Label(3.5, 4.0, '', 1000.0, 4000.0),
        Label(5.0, 6.0, 'big hole', 0.0, math.inf),
    ]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('1\t2\tfine\n3\t3\tpoint\n', 'line 2.*no length'),
        ('1\t2\nhello\n', 'line 2.*start TAB end'),
        ('-1\t2\n', 'line 1.*before the recording'),
        ('nan\t2\n', 'line 1.*start TAB end'),
        ('\\\t100\t200\n', 'line 1.*must follow'),
        ('1\t2\n\\\t200\t100\n', 'line 2.*holds nothing'),
        ('1\t2\n\\\tlow\t100\n', 'line 2.*TAB low'),
        ('\n', 'no labels'),
    ],
)
def test_what_is_not_a_label_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(AudioFileError, match=message):
        read_labels(write(tmp_path, text))


def test_files_that_are_not_text_are_refused(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xff\xfe\x00')
    for name in ('a.txt', 'missing.txt'):
        with pytest.raises(AudioFileError, match='cannot be read as a label track'):
            read_labels(tmp_path / name)
