"""Restored files to write about, made with the engine's stand-in for a model."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'restoration'))


@pytest.fixture
def restored(tmp_path):
    """``restored(name, seconds, ...)`` restores noise and returns the report."""
    import soundfile
    from fake_restorer import FakeRestorer, noise_audio

    from nemo_audio_restore.restoration import SamplerSettings, restore_file

    settings = SamplerSettings(steps=1, tile_frames=32, tile_hop_frames=32)

    def make(name='tape.wav', seconds=0.5, *, rate=44100, channels=1, target='tape.restored.wav', **request):
        source = tmp_path / name
        soundfile.write(source, noise_audio(seconds, rate=rate, channels=channels).T, rate, 'FLOAT')
        return restore_file(FakeRestorer(), source, tmp_path / target, settings=settings, **request)

    return make
