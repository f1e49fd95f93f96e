"""The speech codec that ships: what its card promises, on the clip of speech that ships too."""

import numpy as np
import pytest
import soundfile
import soxr
import torch

from nemo_audio_restore.checkpoints.registry import PRETRAINED_FOLDER, list_models
from nemo_audio_restore.codec import StreamingDecoder, StreamingEncoder
from nemo_audio_restore.losses.sampled_spectra import SampledSpectralLoss
from nemo_audio_restore.models.speech_codec import SpeechCodecModel

NAME = 'speech_codec_22k_small'


@pytest.fixture(scope='module')
def model() -> SpeechCodecModel:
    return SpeechCodecModel.from_pretrained(NAME)


@pytest.fixture(scope='module')
def speech() -> torch.Tensor:
    """Four seconds at the rate of the model, (1, T)."""
    samples, rate = soundfile.read(PRETRAINED_FOLDER / 'demo' / 'speech.flac', dtype='float32', always_2d=True)
    return torch.from_numpy(soxr.resample(samples.mean(axis=1), rate, 22050)[None, : 4 * 22050].astype(np.float32))


def coded(model: SpeechCodecModel, audio: torch.Tensor) -> torch.Tensor:
    tokens, frames = model.encode(audio, torch.tensor([audio.shape[1]]))
    return model.decode(tokens, frames)[0][:, : audio.shape[1]]


def test_file_is_as_small_as_promised():
    (entry,) = [item for item in list_models('SpeechCodecModel') if item.name == NAME]
    assert entry.path.stat().st_size < 16e6
    assert entry.path.stat().st_size == pytest.approx(1e6 * entry.size_mb, rel=0.05)
    assert entry.path.with_suffix('.md').exists()


def test_rate_and_tokens_are_those_of_the_published_codec(model: SpeechCodecModel):
    assert (model.sample_rate, model.samples_per_frame) == (22050, 1024)
    assert (model.num_codebooks, model.codebook_size) == (8, 2016)
    assert model.bitrate == pytest.approx(1891, abs=1)


def test_decoded_speech_is_much_nearer_than_noise_with_its_spectrum(model: SpeechCodecModel, speech: torch.Tensor):
    loss = SampledSpectralLoss(sample_rate=22050, num_drawn=7)
    phases = torch.polar(torch.ones(()), 6.28 * torch.rand(speech.shape[1] // 2 + 1, generator=torch.manual_seed(0)))
    noise = torch.fft.irfft(torch.fft.rfft(speech).abs() * phases, n=speech.shape[1])
    assert loss(speech, coded(model, speech)) < 0.5 * loss(speech, noise)


def test_level_is_kept_within_three_decibels(model: SpeechCodecModel, speech: torch.Tensor):
    change = 10 * torch.log10(coded(model, speech).square().mean() / speech.square().mean())
    assert change.abs() < 3


def test_streaming_gives_the_tokens_and_the_audio_of_the_whole(model: SpeechCodecModel, speech: torch.Tensor):
    whole, frames = model.encode(speech, torch.tensor([speech.shape[1]]))
    encoder, decoder = StreamingEncoder(model, chunk_frames=16), StreamingDecoder(model, chunk_frames=16)
    parts = [encoder.push(block) for block in speech.split(5000, dim=1)] + [encoder.flush()]
    tokens = torch.cat(parts, dim=-1)
    assert torch.equal(tokens, whole)
    audio = torch.cat([decoder.push(block) for block in tokens.split(7, dim=2)] + [decoder.flush()], dim=-1)
    torch.testing.assert_close(audio, model.decode(whole, frames)[0], rtol=0, atol=1e-5)
