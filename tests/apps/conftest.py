"""The command line with a cheap stand-in for the model."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'restoration'))


@pytest.fixture
def fake_model(monkeypatch):
    """What ``--model`` loads in these tests; counts its loads."""
    from fake_restorer import FakeRestorer

    from nemo_audio_restore.apps import loading
    from nemo_audio_restore.reporting import ModelIdentity
    from nemo_audio_restore.restoration import SamplerSettings, restore_file

    class FakeModel(FakeRestorer):
        loads = 0
        sampler = SamplerSettings(steps=2, tile_frames=32, tile_hop_frames=16)

        def restore(self, source, target, **options):
            return restore_file(self, source, target, **options)

    model = FakeModel()

    def load(name, device):
        model.loads += 1
        return model

    monkeypatch.setattr(loading, 'load_model', load)
    monkeypatch.setattr(loading, 'identify_model', lambda name, device: ModelIdentity(name, None, 'cpu'))
    return model
