"""Claims about frozen speech models and the discriminator that looks through them."""

import pytest
import torch
from nemo.collections.tts.modules.audio_codec_modules import SLMDiscriminator
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from nemo_audio_restore.models.speech_discriminator import SpeechModelDiscriminator
from nemo_audio_restore.models.speech_models import (
    FrozenSpeechModel,
    PretrainedSpeechModel,
    RandomSpeechModel,
    WhisperSpeechModel,
    log_mel_spectrogram,
)


@pytest.fixture(scope='module')
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3200, generator=generator), torch.randn(2, 3200, generator=generator)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny):
    path = tmp_path_factory.mktemp('wavlm')
    RandomSpeechModel(config=tiny.wavlm).model.save_pretrained(path)
    return str(path)


def test_answers_are_those_of_nemos_discriminator(pair, folder, tiny):
    theirs = SLMDiscriminator(
        slm_model_name=folder, slm_sr=16000, input_sr=tiny.rate, slm_hidden=16, slm_layers=3, initial_channel=4
    ).eval()
    ours = SpeechModelDiscriminator(speech_model=PretrainedSpeechModel(name=folder), sample_rate=tiny.rate, channels=4)
    ours.load_state_dict({n: t for n, t in theirs.state_dict().items() if not n.startswith('slm_model.')})
    with torch.no_grad():
        wanted, found = (judge(audio_real=pair[0], audio_gen=pair[1]) for judge in (theirs, ours))
    for kind in (0, 1):
        torch.testing.assert_close(found[kind][0], wanted[kind][0])
        for mine, other in zip(found[kind + 2][0], wanted[kind + 2][0], strict=True):
            torch.testing.assert_close(mine, other)


def test_speech_model_is_never_trained_and_never_saved_but_moves_along(tiny):
    judge = SpeechModelDiscriminator(
        speech_model=RandomSpeechModel(config=tiny.wavlm), sample_rate=tiny.rate, channels=4
    )
    judge.train()
    speech_model = judge.speech_model
    assert not speech_model.training and not speech_model.model.encoder.layers[0].training
    held = {id(parameter) for parameter in speech_model.parameters()}
    assert not held & {id(parameter) for parameter in judge.parameters()}
    assert all(name.split('.')[0] in ('pre', 'convs', 'conv_post', 'resample') for name in judge.state_dict())
    speech_model.train()
    assert not speech_model.model.training
    judge.double()
    assert next(speech_model.parameters()).dtype == torch.float64


def test_gradient_reaches_the_generated_audio_and_not_the_speech_model(pair, tiny):
    judge = SpeechModelDiscriminator(
        speech_model=RandomSpeechModel(config=tiny.wavlm), sample_rate=tiny.rate, channels=4
    )
    generated = pair[1].clone().requires_grad_()
    _, scores, real_features, features = judge(audio_real=pair[0], audio_gen=generated)
    (scores[0].sum() + sum(layer.sum() for layer in features[0])).backward()
    assert generated.grad.abs().max() > 0
    assert judge.pre.parametrizations.weight.original1.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in judge.speech_model.parameters())


def test_random_weights_depend_on_the_seed_alone(tiny):
    torch.manual_seed(3)
    first = RandomSpeechModel(config=tiny.wavlm, seed=1)
    torch.manual_seed(4)
    same, other = RandomSpeechModel(config=tiny.wavlm, seed=1), RandomSpeechModel(config=tiny.wavlm, seed=2)
    audio = torch.randn(1, 1600)
    assert torch.equal(first(audio)[-1], same(audio)[-1])
    assert not torch.allclose(first(audio)[-1], other(audio)[-1])
    with pytest.raises(ValueError, match='model_type'):
        RandomSpeechModel(config={'hidden_size': 16})


def test_log_mel_spectrogram_is_whispers():
    audio = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 1, 16000)
    extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    wanted = extractor(audio[0].numpy(), sampling_rate=16000, return_tensors='pt').input_features
    found = log_mel_spectrogram(audio, torch.tensor(extractor.mel_filters, dtype=torch.float32))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_whisper_states_are_those_of_transformers_and_shorter_audio_needs_no_padding(tiny):
    torch.manual_seed(0)
    sizes = {name: value for name, value in tiny.whisper.items() if name != 'model_type'}
    whisper = WhisperModel(WhisperConfig(**sizes)).eval()
    frozen = FrozenSpeechModel(whisper)
    audio = torch.randn(2, 16000)
    with torch.no_grad():
        features = log_mel_spectrogram(audio, frozen.mel_filters)
        wanted = whisper.encoder(features).last_hidden_state
        states = frozen(audio)
    assert len(states) == frozen.num_layers + 1 == 3
    torch.testing.assert_close(states[-1], wanted)
    assert frozen(audio[:, :3200])[0].shape == (2, 10, 16)
    assert not any('decoder' in name for name, _ in frozen.named_parameters())
    with pytest.raises(ValueError, match='at most 1 s'):
        frozen(torch.randn(1, 16400))


def test_whisper_of_the_package_judges_like_any_other_speech_model(pair, tiny, monkeypatch):
    sizes = {name: value for name, value in tiny.whisper.items() if name != 'model_type'}
    encoder = WhisperModel(WhisperConfig(**sizes)).encoder
    monkeypatch.setattr('nemo_audio_restore.models.speech_models.whisper_encoder', lambda: encoder)
    judge = SpeechModelDiscriminator(speech_model=WhisperSpeechModel(), sample_rate=tiny.rate, channels=4)
    assert judge.speech_model.model is encoder and not encoder.training
    generated = pair[1].clone().requires_grad_()
    judge(audio_real=pair[0], audio_gen=generated)[1][0].sum().backward()
    assert generated.grad.abs().max() > 0 and encoder.conv1.weight.grad is None
