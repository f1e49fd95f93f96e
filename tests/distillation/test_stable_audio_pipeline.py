import math
from types import SimpleNamespace

import pytest
import torch

from nemo_audio_restore.distillation.distances import MultiScaleSpectralDistance
from nemo_audio_restore.distillation.fit import fit
from nemo_audio_restore.distillation.objectives import prompt_objective
from nemo_audio_restore.distillation.renderers import FMSynthesizer
from nemo_audio_restore.distillation.score_distillation import ScoreDistillation
from nemo_audio_restore.distillation.stable_audio_pipeline import StableAudioPipelinePrior

diffusers = pytest.importorskip('diffusers', reason='needs the extra [generate]')

RATE = 8000
WORDS = ['<pad>', '<unk>', 'kick', 'drum', 'clean', 'speech']


@pytest.fixture(scope='module')
def pipeline():
    """Every part of the pipeline, tiny and random. Its scheduler, which needs torchsde, is not used and left out."""
    from diffusers import AutoencoderOobleck, StableAudioDiTModel
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {
            'vae': AutoencoderOobleck(
                encoder_hidden_size=8,
                downsampling_ratios=[2, 4],
                decoder_channels=4,
                decoder_input_channels=4,
                audio_channels=2,
                channel_multiples=[1, 2],
                sampling_rate=RATE,
            ),
            'transformer': StableAudioDiTModel(
                sample_size=500,
                in_channels=4,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                num_key_value_attention_heads=1,
                out_channels=4,
                cross_attention_dim=8,
                time_proj_dim=8,
                global_states_input_dim=16,
                cross_attention_input_dim=8,
            ),
            'text_encoder': T5EncoderModel(
                T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=len(WORDS))
            ),
            'projection_model': StableAudioProjectionModel(
                text_encoder_dim=8, conditioning_dim=8, min_value=0, max_value=32
            ),
        }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token='<pad>', model_max_length=6)
    pipeline = SimpleNamespace(tokenizer=tokenizer, **parts)
    kind = diffusers.StableAudioPipeline
    pipeline.encode_prompt = kind.encode_prompt.__get__(pipeline)
    pipeline.encode_duration = kind.encode_duration.__get__(pipeline)
    return pipeline


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_denoise_is_the_identity_of_v_prediction(pipeline):
    prior = StableAudioPipelinePrior(pipeline)
    condition = prior.condition(['kick drum'], seconds=0.2)
    noised, t = torch.randn(2, 4, 20, generator=seeded()), torch.tensor([0.2, 0.7])
    clean = prior.denoise(noised, t, condition, guidance=1.0)
    v = prior._predict(noised, t, condition.tokens, condition.durations)
    alpha, sigma = torch.cos(t * math.pi / 2)[:, None, None], torch.sin(t * math.pi / 2)[:, None, None]
    noise = sigma * noised + alpha * v
    assert torch.allclose(alpha * clean + sigma * noise, noised, atol=1e-5)


def test_guidance_extrapolates_from_the_null_tokens(pipeline):
    prior = StableAudioPipelinePrior(pipeline)
    condition = prior.condition(['kick drum'], seconds=0.2)
    noised, t = torch.randn(1, 4, 20, generator=seeded()), torch.tensor([0.5])
    null, named, guided = (prior.denoise(noised, t, condition, guidance=w) for w in (0.0, 1.0, 7.0))
    assert torch.allclose(guided, null + 7 * (named - null), atol=1e-4)
    assert not torch.allclose(null, named, atol=1e-3)


def test_prompt_negative_prompt_and_duration_are_heard(pipeline):
    prior = StableAudioPipelinePrior(pipeline)
    noised, t = torch.randn(1, 4, 20, generator=seeded()), torch.tensor([0.5])

    def estimate(prompt, **settings):
        return prior.denoise(noised, t, prior.condition([prompt], **settings), guidance=3.0)

    plain = estimate('kick drum', seconds=0.2)
    assert not torch.allclose(plain, estimate('clean speech', seconds=0.2), atol=1e-4)
    assert not torch.allclose(plain, estimate('kick drum', seconds=0.4), atol=1e-4)
    assert not torch.allclose(plain, estimate('kick drum', seconds=0.2, negative=['speech']), atol=1e-4)


def test_one_prompt_serves_a_batch_like_repeated_prompts(pipeline):
    prior = StableAudioPipelinePrior(pipeline)
    noised, t = torch.randn(3, 4, 20, generator=seeded()), torch.tensor([0.2, 0.5, 0.7])
    one = prior.denoise(noised, t, prior.condition(['kick']), guidance=2.0)
    three = prior.denoise(noised, t, prior.condition(['kick'] * 3), guidance=2.0)
    assert torch.allclose(one, three, atol=1e-5)


def test_codec_keeps_the_length(pipeline):
    prior = StableAudioPipelinePrior(pipeline)
    audio = torch.randn(1, 2, 1003, generator=seeded())
    latents = prior.encode(audio)
    assert latents.shape[-1] == 126
    assert prior.decode(latents, num_samples=1003).shape == audio.shape


def test_a_synthesizer_is_fitted_and_the_pipeline_stays_frozen(pipeline):
    prior = StableAudioPipelinePrior(pipeline)
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    renderer = FMSynthesizer.random(sample_rate=RATE, generator=seeded())
    start = renderer.to_patch()
    distillation = ScoreDistillation(
        prior, distance=MultiScaleSpectralDistance((64, 128)), guidance=3.0, draws=2, denoising_steps=2
    )
    fit(renderer, prompt_objective(distillation, prior.condition(['kick']), num_samples=1000), iterations=2)
    assert renderer.to_patch() != start
    assert all(torch.equal(value, before[name]) for name, value in pipeline.transformer.state_dict().items())
    assert all(parameter.grad is None for parameter in pipeline.vae.parameters())


@pytest.mark.parametrize(
    ('prompts', 'settings', 'message'),
    [
        ([' '], {}, 'some text'),
        (['kick'], {'seconds': 0.0}, 'seconds'),
        (['kick'], {'seconds': 99.0}, 'at most 0.5'),
        (['kick'], {'negative': ['a', 'b']}, '2 negative'),
    ],
)
def test_impossible_conditions_are_refused(pipeline, prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        StableAudioPipelinePrior(pipeline).condition(prompts, **settings)
