"""Truncated and mutated files: no traceback, nothing half-written, no hang, whatever the decoders make of them."""

import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_restorer import noise_audio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from nemo_audio_restore.apps.cli import app

RUNNER = CliRunner()
HANG_S = 60  # a file of this size takes a tenth of a second; a machine may be busy
HEADER_BYTES = 128
FORMATS = (
    ('a.wav', 'PCM_16'), ('b.wav', 'FLOAT'), ('c.wav', 'PCM_24'), ('d.wav', 'IMA_ADPCM'), ('e.flac', None),
    ('f.ogg', 'VORBIS'), ('g.ogg', 'OPUS'), ('h.mp3', None), ('i.aiff', 'PCM_16'),
)  # fmt: skip


@pytest.fixture(scope='module')
def intact(tmp_path_factory) -> dict[str, bytes]:
    """Small files of every kind, all with a title."""
    folder = tmp_path_factory.mktemp('intact')
    for name, subtype in FORMATS:
        rate = 48000 if subtype == 'OPUS' else 44100
        with soundfile.SoundFile(folder / name, 'w', rate, 2, subtype) as file:
            file.title = 'a title'
            file.write(noise_audio(0.07, rate=rate, channels=2).T)
    title = b'TIT2\0\0\0\x08\0\0\0a title'
    contents = {name: (folder / name).read_bytes() for name, _ in FORMATS}
    contents['h.mp3'] = b'ID3\3\0\0\0\0\0' + bytes([len(title)]) + title + contents['h.mp3']
    return contents


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[str, int, bytes, bool]]:
    """What is done to a file: (kind, place as a fraction of 2**16, bytes, whether in the header)."""
    kinds = st.sampled_from(['cut', 'set', 'set', 'set', 'insert', 'delete', 'repeat'])
    values = st.one_of(
        st.binary(min_size=1, max_size=4), st.sampled_from([b'\0' * 4, b'\xff' * 4, b'\x7f' + b'\xff' * 3])
    )
    # Headers decide more than samples do: most mutations go there.
    change = st.tuples(kinds, st.integers(0, 2**16 - 1), values, st.integers(0, 3).map(bool))
    return draw(st.lists(change, min_size=1, max_size=6))


def damaged(content: bytes, changes: list[tuple[str, int, bytes, bool]]) -> bytes:
    for kind, place, value, in_header in changes:
        if not content:
            break
        at = place * (min(len(content), HEADER_BYTES) if in_header and kind != 'cut' else len(content)) >> 16
        if kind == 'cut':
            content = content[:at]
        elif kind == 'set':
            content = content[:at] + value + content[at + len(value) :]
        elif kind == 'insert':
            content = content[:at] + value + content[at:]
        elif kind == 'delete':
            content = content[:at] + content[at + len(value) :]
        else:
            content = content[:at] + content[at : at + 64 * len(value)] + content[at:]
    return content


@pytest.mark.skipif(not hasattr(signal, 'setitimer'), reason='needs a timer that can interrupt a hang')
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(name=st.sampled_from([name for name, _ in FORMATS]), changes=damage())
def test_damaged_files_end_in_a_sentence_or_a_valid_file(tmp_path_factory, fake_model, intact, name, changes):
    folder = tmp_path_factory.mktemp('fuzz')
    source = folder / name
    source.write_bytes(damaged(intact[name], changes))
    check(source)


def check(source: Path) -> None:
    """Restores a file; fails if that ends in anything but a sentence or a valid file, or does not end."""

    def hang(*_: object) -> None:
        raise AssertionError(f'not finished after {HANG_S} s')

    previous = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    target = source.parent / 'out.wav'
    options = ('--cutoff', '4000', '--json', '--no-sidecar')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', RuntimeWarning)
            result = RUNNER.invoke(app, ['restore', str(source), '-o', str(target), *options])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert result.exit_code in (0, 1), result.stderr
    assert 'Traceback' not in result.stderr and '(-v shows the details)' not in result.stderr, result.stderr
    outputs = [path.name for path in source.parent.iterdir() if path.name.startswith(('out', '.'))]
    assert outputs == (['out.wav'] if result.exit_code == 0 else [])
    if result.exit_code == 0:
        audio, _ = soundfile.read(target)
        assert len(audio) and np.isfinite(audio).all()
