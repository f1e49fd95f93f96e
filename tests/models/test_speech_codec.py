"""Claims about SpeechCodecModel: NeMo's files, our files, tokens, units. NeMo's topology with a few channels."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hydra import compose, initialize_config_dir
from nemo.collections.tts.models import AudioCodecModel
from omegaconf import OmegaConf

from nemo_audio_restore._nemo import UnsafeFileError
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.codec_context import decoder_context_frames, encoder_context_frames
from nemo_audio_restore.models.speech_codec import SpeechCodecModel

CONF = Path(__file__).parents[2] / 'conf'
STFT_DISCRIMINATOR = {
    '_target_': 'nemo.collections.tts.modules.audio_codec_modules.Discriminator',
    'discriminators': [
        {
            '_target_': 'nemo.collections.tts.modules.encodec_modules.MultiResolutionDiscriminatorSTFT',
            'resolutions': [[64, 16, 64]],
        }
    ],
}


def load(name):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(name)


@pytest.fixture(scope='module')
def nemo_codec(tiny):
    """NeMo's own model with random weights, spread so that many codes are used."""
    torch.manual_seed(0)
    losses = 'nemo.collections.tts.losses.audio_codec_loss.'
    config = {
        **tiny.networks,
        'discriminator': STFT_DISCRIMINATOR,
        'loss_resolutions': tiny.loss['resolutions'],
        'mel_loss_dims': tiny.loss['mel_dims'],
        'commit_loss_scale': 0.0,
        'generator_loss': {'_target_': f'{losses}GeneratorSquaredLoss'},
        'discriminator_loss': {'_target_': f'{losses}DiscriminatorSquaredLoss'},
        'optim': {'_target_': 'torch.optim.Adam', 'lr': 2e-4},
        # What the files of others hold, and what no other machine must read.
        'log_config': {'log_dir': '/home/somebody/logs'},
    }
    model = AudioCodecModel(OmegaConf.create(config)).eval()
    with torch.no_grad():
        model.audio_encoder.post_conv.conv.parametrizations.weight.original0.mul_(40)
    return model


@pytest.fixture(scope='module')
def nemo_file(nemo_codec, tmp_path_factory):
    path = tmp_path_factory.mktemp('nemo') / 'theirs.nemo'
    nemo_codec.save_to(str(path))
    return path


@pytest.fixture(scope='module')
def codec(nemo_file):
    return SpeechCodecModel.restore_from(nemo_file)


@pytest.fixture
def audio():
    return 0.3 * torch.randn(2, 2000, generator=torch.Generator().manual_seed(1)), torch.tensor([2000, 1201])


def rewritten(path, target, *, config=None, weights=None):
    """A copy of a .nemo file with another config or other weights."""
    with tarfile.open(path) as source, tarfile.open(target, 'w') as copy:
        for member in source.getmembers():
            if not member.isfile():
                continue
            data = source.extractfile(member).read()
            if member.name.endswith('.yaml') and config is not None:
                data = yaml.safe_dump(config(yaml.safe_load(data))).encode()
            if member.name.endswith('.ckpt') and weights is not None:
                buffer = io.BytesIO()
                torch.save(weights(torch.load(io.BytesIO(data), weights_only=True)), buffer)
                data = buffer.getvalue()
            member.size = len(data)
            copy.addfile(member, io.BytesIO(data))
    return target


def test_tokens_and_audio_are_those_of_nemos_model(nemo_codec, codec, audio):
    with torch.no_grad():
        theirs, theirs_len = nemo_codec.encode(audio=audio[0], audio_len=audio[1])
        their_audio, their_audio_len = nemo_codec.decode(tokens=theirs, tokens_len=theirs_len)
    tokens, tokens_len = codec.encode(audio=audio[0], audio_len=audio[1])
    decoded, decoded_len = codec.decode(tokens=tokens, tokens_len=tokens_len)
    assert len(tokens.unique()) > 20
    assert tokens.dtype == theirs.dtype and torch.equal(tokens, theirs)
    assert torch.equal(tokens_len, theirs_len) and torch.equal(decoded_len, their_audio_len)
    assert (decoded - their_audio).abs().max() < 1e-5
    assert their_audio.abs().max() > 1e-3


def test_other_rate_is_resampled_as_nemo_does(nemo_codec, codec, audio, tiny):
    with torch.no_grad():
        theirs, _ = nemo_codec.encode(audio=audio[0], audio_len=audio[1], sample_rate=tiny.rate // 2)
    tokens, tokens_len = codec.encode(*audio, sample_rate=tiny.rate // 2)
    assert torch.equal(tokens, theirs) and tokens_len.tolist() == [63, 38]


def test_forward_is_encode_then_decode(codec, audio):
    decoded, _ = codec.decode(*codec.encode(*audio))
    with torch.no_grad():
        torch.testing.assert_close(codec(*audio)[0], decoded, atol=1e-5, rtol=0)


def test_nemos_file_is_taken_by_every_way_of_loading(nemo_file, codec, audio):
    wanted = codec.encode(*audio)[0]
    assert torch.equal(SpeechCodecModel.from_pretrained(nemo_file).encode(*audio)[0], wanted)
    with tarfile.open(nemo_file) as archive:
        archive.extractall(nemo_file.parent / 'unpacked', filter='data')
    unpacked = SpeechCodecModel.restore_from(nemo_file.parent / 'unpacked')
    assert torch.equal(unpacked.encode(*audio)[0], wanted) and not unpacked.training


def test_only_what_encodes_and_decodes_is_taken_from_nemos_file(nemo_file, nemo_codec, codec):
    assert any(name.startswith('discriminator.') for name in nemo_codec.state_dict())
    assert {name.split('.')[0] for name in codec.state_dict()} == {
        'audio_encoder',
        'audio_decoder',
        'vector_quantizer',
    }
    config = SpeechCodecModel.restore_from(nemo_file, return_config=True)
    assert 'discriminator' not in config and 'log_config' not in config


def test_speech_model_named_in_nemos_file_is_not_fetched(nemo_file, tmp_path, audio, codec):
    def with_speech_model(config):
        slm = 'nemo.collections.tts.modules.audio_codec_modules.SLMDiscriminator'
        config['discriminator']['discriminators'].append({'_target_': slm, 'slm_model_name': 'nobody/nothing'})
        return config

    path = rewritten(nemo_file, tmp_path / 'slm.nemo', config=with_speech_model)
    assert torch.equal(SpeechCodecModel.restore_from(path).encode(*audio)[0], codec.encode(*audio)[0])


def test_missing_and_unexpected_weights_are_named(nemo_file, tmp_path):
    name = 'audio_encoder.pre_conv.conv.bias'
    without = rewritten(nemo_file, tmp_path / 'less.nemo', weights=lambda w: {n: t for n, t in w.items() if n != name})
    with pytest.raises(CheckpointError, match=name):
        SpeechCodecModel.restore_from(without)
    extra = rewritten(nemo_file, tmp_path / 'more.nemo', weights=lambda w: {**w, 'gate.weight': torch.zeros(1)})
    with pytest.raises(CheckpointError, match='gate.weight'):
        SpeechCodecModel.restore_from(extra)
    wrong = rewritten(nemo_file, tmp_path / 'wrong.nemo', weights=lambda w: {**w, name: torch.zeros(5)})
    with pytest.raises(CheckpointError, match=name):
        SpeechCodecModel.restore_from(wrong)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'output_sample_rate': 16000}, '16000'),
        ({'semantic_codec_path': 'a.nemo'}, 'semantic_codec_path'),
        ({'vector_quantizer': None}, 'vector_quantizer'),
    ],
)
def test_codecs_of_other_kinds_are_refused_with_the_reason(nemo_file, tmp_path, changes, reason):
    path = rewritten(nemo_file, tmp_path / 'other.nemo', config=lambda config: {**config, **changes})
    with pytest.raises(ConfigError, match=reason):
        SpeechCodecModel.restore_from(path)


def test_nemos_file_that_reads_from_this_machine_is_refused(nemo_file, tmp_path):
    def climbing(config):
        config['audio_encoder']['activation'] = '${oc.env:HOME}'
        return config

    with pytest.raises(UnsafeFileError, match='oc.env'):
        SpeechCodecModel.restore_from(rewritten(nemo_file, tmp_path / 'evil.nemo', config=climbing))


def test_card_carries_the_licence_of_published_weights(nemo_file, tmp_path):
    path = tmp_path / 'low-frame-rate-speech-codec-22khz.nemo'
    path.write_bytes(nemo_file.read_bytes())
    card = SpeechCodecModel.restore_from(path).generate_model_card(template_kwargs={'model_name': 'x', 'repo_id': 'y'})
    header = yaml.safe_load(card.split('---')[1])
    assert header['license_name'] == 'nsclv1'
    assert header['base_model'] == 'nvidia/low-frame-rate-speech-codec-22khz'
    unknown = SpeechCodecModel.restore_from(nemo_file).card
    assert unknown.license == 'other' and 'theirs.nemo' in unknown.license_name


def test_our_file_gives_the_same_tokens_and_holds_no_more_than_that_takes(codec, audio, tmp_path):
    codec.save_to(tmp_path / 'ours.nemo')
    restored = SpeechCodecModel.restore_from(tmp_path / 'ours.nemo')
    assert torch.equal(restored.encode(*audio)[0], codec.encode(*audio)[0])
    config = SpeechCodecModel.restore_from(tmp_path / 'ours.nemo', return_config=True)
    assert config.target.endswith('SpeechCodecModel')


def test_discriminator_of_a_config_is_not_built_for_inference_and_not_written(tiny, tmp_path):
    config = OmegaConf.create({**tiny.networks, 'discriminator': tiny.discriminator, 'loss': tiny.loss})
    config.discriminator.discriminators[2].speech_model = {
        '_target_': 'nemo_audio_restore.models.speech_models.PretrainedSpeechModel',
        'name': '/a/folder/of/the/maker',
    }
    model = SpeechCodecModel(config)
    assert model.discriminator is None
    model.save_to(tmp_path / 'a.nemo')
    stored = SpeechCodecModel.restore_from(tmp_path / 'a.nemo', return_config=True)
    assert 'discriminator' not in stored and stored.loss.mel_dims == tiny.loss['mel_dims']


def test_published_config_has_the_published_numbers():
    config = load('speech_codec_22k').model
    with torch.device('meta'):
        encoder, decoder = (build(config[name], where=name) for name in ('audio_encoder', 'audio_decoder'))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (encoder, decoder)]
    assert sizes == [57_641_200, 55_056_258] and sum(sizes) == 112_697_458
    assert encoder_context_frames(encoder, 1024) == 6
    assert decoder_context_frames(decoder, 1024) == 13
    tiny = OmegaConf.merge(
        config, {'audio_encoder': {'base_channels': 1}, 'audio_decoder': {'base_channels': 32}, 'train_ds': None}
    )
    tiny.validation_ds = None
    model = SpeechCodecModel(tiny)
    assert (model.sample_rate, model.samples_per_frame) == (22050, 1024)
    assert (model.num_codebooks, model.codebook_size) == (8, 2016)
    assert model.frame_rate == pytest.approx(21.533, abs=1e-3)
    assert model.bitrate == pytest.approx(1891.0, abs=0.1)


def test_small_config_has_the_same_tokens_and_fits_in_16_megabytes_of_half_precision():
    config = load('speech_codec_22k_small').model
    config.train_ds = config.validation_ds = None
    model = SpeechCodecModel(config)
    assert (model.sample_rate, model.samples_per_frame) == (22050, 1024)
    assert (model.num_codebooks, model.codebook_size) == (8, 2016)
    assert 2 * sum(parameter.numel() for parameter in model.parameters()) < 16 * 2**20
    assert model.encode_context_frames == model.audio_encoder.context_frames
    assert model.decode_context_frames == model.audio_decoder.context_frames


def reach(touched, at):
    """How far from ``at`` something was touched, on the farther side."""
    return int((touched.nonzero().flatten() - at).abs().max())


def test_context_is_exactly_how_far_a_frame_is_felt(codec):
    # NaN goes wherever an input goes.
    frames, at = 41, 20
    audio = torch.zeros(1, frames * 64)
    audio[:, at * 64 : (at + 1) * 64] = float('nan')
    with torch.no_grad():
        encoded, _ = codec.audio_encoder(audio=audio, audio_len=torch.tensor([audio.shape[1]]))
        assert reach(encoded.isnan().any(1)[0], at) == codec.encode_context_frames
        inputs = torch.zeros(1, 8, frames)
        inputs[..., at] = float('nan')
        decoded, _ = codec.audio_decoder(inputs=inputs, input_len=torch.tensor([frames]))
        assert reach(decoded.isnan().reshape(frames, 64).any(1), at) == codec.decode_context_frames


def test_context_of_an_unknown_network_is_an_error():
    with pytest.raises(TypeError, match='context_frames'):
        encoder_context_frames(torch.nn.Linear(1, 1), 64)
    with pytest.raises(TypeError, match='context_frames'):
        decoder_context_frames(torch.nn.Linear(1, 1), 64)


def test_caller_keeps_its_tensors(codec, audio):
    kept = audio[0].clone(), audio[1].clone()
    tokens, tokens_len = codec.encode(*audio)
    kept_tokens = tokens.clone()
    codec.decode(tokens, tokens_len)
    assert torch.equal(audio[0], kept[0]) and torch.equal(audio[1], kept[1]) and torch.equal(tokens, kept_tokens)


def test_batch_mates_change_only_frames_that_see_the_end(codec, audio):
    samples = audio[0].clone()
    samples[1, 1920:] = 0
    tokens, tokens_len = codec.encode(samples, torch.tensor([2000, 1901]))
    alone, _ = codec.encode(samples[1:, :1901], torch.tensor([1901]))
    inside = 30 - codec.encode_context_frames
    assert tokens_len.tolist() == [32, 30] and inside > 5
    assert torch.equal(alone[0, :, :inside], tokens[1, :, :inside]) and not tokens[1, :, 30:].any()


def test_one_frame_is_enough(codec, audio):
    tokens, tokens_len = codec.encode(audio[0][:, :10], torch.tensor([10, 7]))
    assert tokens.shape == (2, 2, 1) and tokens_len.tolist() == [1, 1]
    decoded, decoded_len = codec.decode(tokens, tokens_len)
    assert decoded.shape == (2, 64) and decoded_len.tolist() == [64, 64]


def test_tokens_of_another_codec_and_stereo_are_refused(codec, audio):
    with pytest.raises(ValueError, match='less than 2016; got 0 to 2016'):
        codec.decode(torch.tensor([[[0], [2016]]]), torch.tensor([1]))
    with pytest.raises(ValueError, match=r'\(B, 2, N\)'):
        codec.decode(torch.zeros(1, 3, 5, dtype=torch.int32), torch.tensor([5]))
    with pytest.raises(ValueError, match='mono'):
        codec.encode(audio[0][None], audio[1])


def test_gradient_passes_the_rounding(codec, audio, tiny):
    model = SpeechCodecModel(OmegaConf.create(tiny.networks))
    model.load_state_dict(codec.state_dict())
    decoded, _ = model(*audio)
    decoded.square().mean().backward()
    for network in (model.audio_encoder, model.audio_decoder):
        assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters() if parameter.ndim > 1)


def test_files_come_back_with_their_length(codec, tiny, tmp_path):
    audio = 0.1 * np.random.default_rng(0).standard_normal((6001, 2))
    soundfile.write(tmp_path / 'in.wav', audio, 2 * tiny.rate)
    codec.train()
    report = codec.encode_file(tmp_path / 'in.wav', tmp_path / 'a.nac', channels='each')
    assert report.frames == -(-3001 // 64) and report.channels == 2
    codec.decode_file(tmp_path / 'a.nac', tmp_path / 'out.wav', sample_rate=2 * tiny.rate)
    assert soundfile.info(tmp_path / 'out.wav').frames == 6001
    assert codec.training
    codec.eval()


@pytest.mark.parametrize('changes', [{'sample_rate': None}, {'samples_per_frame': 0}, {'sample_rte': 8000}])
def test_config_without_units_or_with_unknown_keys_is_refused(tiny, changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        SpeechCodecModel(OmegaConf.create({**tiny.networks, **changes}))
