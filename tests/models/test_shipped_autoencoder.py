"""What the autoencoder that ships promises."""

import pytest
import torch

from nemo_audio_restore.checkpoints.registry import PRETRAINED_FOLDER
from nemo_audio_restore.evaluation.reconstruction import mel_distance, panning_distance, stft_distance
from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel


@pytest.fixture(scope='module')
def model():
    return AudioAutoencoderModel.from_pretrained('audio_autoencoder_44k_small')


@pytest.fixture(scope='module')
def chords():
    """Three seconds of plucked chords, one on the left and one on the right."""
    time = torch.arange(3 * 44100) / 44100
    generator = torch.Generator().manual_seed(0)
    audio = 0.002 * torch.randn(2, len(time), generator=generator)
    for index, (pitch, pan) in enumerate(((220, 0.8), (277, 0.2), (330, 0.5), (440, 0.7), (554, 0.3), (660, 0.5))):
        since = (time - 0.5 * index).clamp_min(0)
        tone = sum(
            torch.sin(2 * torch.pi * pitch * k * since) * torch.exp(-3 * k**0.5 * since) / k for k in range(1, 12)
        )
        audio = audio + 0.1 * tone * (time >= 0.5 * index) * torch.tensor([[pan], [1 - pan]])
    return audio


def test_file_is_small_and_holds_the_network_alone(model):
    assert (PRETRAINED_FOLDER / 'audio_autoencoder_44k_small.nemo').stat().st_size < 4e6
    assert {name.split('.')[0] for name in model.state_dict()} == {'network'}
    assert model.cfg.card.license == 'apache-2.0'


def test_latents_are_of_about_unit_deviation(model, chords):
    latents = model.encode(chords[None])
    assert latents.shape == (1, 36, 65)
    assert 0.4 < float(latents.square().mean().sqrt()) < 2.0


def test_decoded_music_has_the_spectrum_of_the_music(model, chords):
    decoded = model(chords[None])[0].detach()
    assert stft_distance(chords, decoded) < 1.6 and mel_distance(chords, decoded, 44100) < 1.5
    assert stft_distance(chords, chords.flip(1)) > 1.6


def test_width_is_that_of_the_music(model, chords):
    mono = chords.mean(dim=0).expand(2, -1)
    wide = torch.stack([mono[0], mono[0].roll(44100)])
    widths = []
    for audio in (mono, wide):
        left, right = model(audio[None].contiguous())[0].detach()
        widths.append(10 * torch.log10((left - right).square().mean() / (left + right).square().mean()))
    assert widths[0] < -8 and widths[1] > widths[0] + 4


def test_sounds_come_back_on_their_side(model, chords):
    decoded = model(chords[None])[0].detach()
    in_the_middle = decoded.mean(dim=0).expand(2, -1)
    assert panning_distance(chords, decoded, 44100) < 0.5 * panning_distance(chords, in_the_middle, 44100)
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(44100) / 44100)
    left, right = model(torch.stack([tone, 0.25 * tone])[None])[0].detach().square().mean(dim=1).log10() * 10
    assert float(left - right) == pytest.approx(12, abs=0.5)


def test_chunks_equal_the_whole(model, chords):
    latents = model.encode(chords[None])
    with torch.no_grad():
        whole = model.network.encode(chords[None], chunk_latents=1000)
        torch.testing.assert_close(model.network.encode(chords[None], chunk_latents=7), whole, atol=1e-4, rtol=0)
        decoded = model.network.decode(latents, chunk_latents=7)
    torch.testing.assert_close(decoded, model.decode(latents), atol=1e-4, rtol=0)
