"""Prompts to clips with a model in closed form: lengths, seeds, batches, guidance, level, progress."""

import numpy as np
import pytest
import torch
from stand_in_generator import RATE, GaussianGenerator, means, recording

from nemo_audio_restore.evaluation.loudness import integrated_loudness, true_peak
from nemo_audio_restore.generation import (
    SAMPLERS,
    Continuation,
    GenerationError,
    Inpainting,
    SamplerSettings,
    Variation,
    at_loudness,
    generate_clips,
)
from nemo_audio_restore.processes.diffusion import RectifiedFlow, VDiffusion

PROCESSES = [VDiffusion(), RectifiedFlow()]


def one(model, prompt='drums', **options):
    (clip,) = generate_clips(model, prompt, **options)
    return clip


@pytest.mark.parametrize('seconds', [0.5, 0.1234, 1 / RATE])
def test_a_clip_is_as_long_as_asked_and_only_that_much_is_decoded(seconds):
    model = GaussianGenerator()
    clip = one(model, seconds=seconds)
    assert clip.audio.shape == (2, round(seconds * RATE)) and clip.audio.dtype == np.float32
    assert model.decoded_lengths == [round(seconds * RATE)] and model.conditions[0][1] == seconds


def test_without_seconds_a_clip_fills_the_window():
    assert one(GaussianGenerator(window_s=0.3)).duration_s == 0.3


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_the_same_seed_gives_the_same_clip_in_any_company(sampler):
    alone = one(GaussianGenerator(), 'rain', seeds=(7,), settings=SamplerSettings(sampler, steps=6))
    model = GaussianGenerator()
    company = list(
        generate_clips(
            model, ['drums', 'rain'], seeds=(3, 7, 1), settings=SamplerSettings(sampler, steps=6), batch_size=4
        )
    )
    assert [(clip.prompt, clip.seed) for clip in company] == [(p, s) for p in ('drums', 'rain') for s in (3, 7, 1)]
    assert set(model.batches) == {4, 2}
    np.testing.assert_allclose(company[4].audio, alone.audio, atol=1e-6)
    assert np.abs(company[3].audio - alone.audio).max() > 0.1


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('process', PROCESSES, ids=['v', 'flow'])
def test_every_sampler_gives_what_the_prompt_means(sampler, process):
    for spacing in ('exponential', 'log_snr', 'linear'):
        settings = SamplerSettings(sampler, steps=20, guidance=1.0, spacing=spacing, sigma_min=0.05)
        model = GaussianGenerator(process, window_s=1.0)
        latents = model.encode(torch.from_numpy(one(model, settings=settings).audio)[None])[0]
        assert (latents.mean(dim=1) - means(['drums'])[0]).abs().max() < 0.8  # about 26 independent samples
        spread = latents.std(dim=1).mean().item()
        assert 0.6 < spread < 1.3 or sampler == 'ping_pong'  # made for networks whose estimates are samples


def test_both_objectives_follow_the_same_path_where_noise_and_signal_have_the_same_ratios():
    for sampler in SAMPLERS[:3]:
        clips = [one(GaussianGenerator(process, sampler=sampler)).audio for process in PROCESSES]
        np.testing.assert_allclose(*clips, atol=1e-4)


def test_more_guidance_leads_further_from_the_negative_prompt():
    model = GaussianGenerator(window_s=1.0)
    towards = means(['drums'])[0] - means(['rain'])[0]

    def distance(guidance):
        settings = SamplerSettings(steps=20, guidance=guidance)
        clip = one(model, negative='rain', settings=settings)
        return float(model.encode(torch.from_numpy(clip.audio)[None])[0].mean(dim=1) @ towards)

    assert distance(1.0) + 1 < distance(3.0) < distance(6.0) - 1
    assert model.conditions[-1] == (('drums',), 1.0, ('rain',))


@pytest.mark.parametrize(
    'change',
    [
        {'steps': 5},
        {'sampler': 'heun'},
        {'guidance': 2.0},
        {'guidance_rescale': 0.5},
        {'spacing': 'linear'},
        {'sigma_min': 0.1},
        {'sigma_max': 50.0},
        {'rho': 2.0},
    ],
)
def test_every_setting_of_the_sampler_changes_the_clip(change):
    model = GaussianGenerator()
    same = one(model, settings=SamplerSettings(steps=8))
    other = one(model, settings=SamplerSettings(**{'steps': 8, **change}))
    assert np.abs(same.audio - other.audio).max() > 1e-3


def test_without_the_full_window_only_needed_latents_are_sampled():
    lengths = []
    for multiple, full in ((1, True), (1, False), (4, False)):
        model = GaussianGenerator(latents_multiple=multiple, full_window=full, window_s=0.512)
        one(model, seconds=0.1, on_step=lambda step: lengths.append(step.clean_estimate.shape[-1]))
        one(model, seconds=0.1)
    assert sorted(set(lengths)) == [50, 52, 256]


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('given', [None, Variation(recording(), 0.6), Inpainting(recording(), ((0.1, 0.2),))])
def test_progress_counts_to_its_total(sampler, given):
    seen = []
    settings = SamplerSettings(sampler, steps=9, resamples=2)
    options = {'given': given, 'settings': settings, 'seeds': (0, 1, 2), 'batch_size': 2}
    clips = list(generate_clips(GaussianGenerator(), 'drums', on_step=seen.append, **options))
    assert [step.done for step in seen] == list(range(1, seen[-1].total + 1))
    assert {step.clips for step in seen} == {(0, 1), (2,)} and clips[0].steps * 2 == seen[-1].total
    assert seen[-1].clean_estimate.shape[:2] == (1, 8) and seen[0].time > seen[-1].time


def test_on_step_may_stop_the_run():
    def stop(step):
        raise InterruptedError

    clips = generate_clips(GaussianGenerator(), 'drums', on_step=stop)
    with pytest.raises(InterruptedError):
        next(clips)


def test_a_clip_gets_the_loudness_that_was_asked_for():
    clip = one(GaussianGenerator(window_s=1.0), loudness_lufs=-23.0)
    assert integrated_loudness(clip.audio, RATE) == pytest.approx(-23.0, abs=0.05)
    assert clip.loudness_lufs + clip.gain_db == pytest.approx(-23.0)
    short = one(GaussianGenerator(), seconds=0.2, loudness_lufs=-23.0)
    assert integrated_loudness(short.audio, RATE) == pytest.approx(-23.0, abs=0.05)


def test_loudness_never_lifts_the_waveform_above_full_scale():
    clip = one(GaussianGenerator(window_s=1.0), loudness_lufs=-5.0)
    assert true_peak(clip.audio) == pytest.approx(10 ** (-1 / 20), rel=1e-3)
    assert integrated_loudness(clip.audio, RATE) < -5.5


def test_silence_has_no_loudness_and_stays():
    clip = one(GaussianGenerator(), given=Variation(np.zeros((2, 4000)), 0.0))
    assert not at_loudness(clip, -20.0).audio.any()


def test_the_waveform_between_the_samples_counts():
    tone = np.sin(2 * np.pi * 0.25 * np.arange(400) + np.pi / 4)[None] / np.sin(np.pi / 4)
    assert np.abs(tone).max() == pytest.approx(1.0) and true_peak(tone) > 1.3


def test_facts_of_a_clip_are_plain_values():
    facts = one(GaussianGenerator(), negative='rain', seeds=(4,)).as_dict()
    assert facts['seed'] == 4 and facts['negative'] == 'rain' and facts['settings']['sampler'] == 'dpmpp_2m'
    assert facts['task'] == 'text to audio' and 'audio' not in facts and facts['peak'] > 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'prompts': ''}, 'the prompt is empty'),
        ({'prompts': ['drums', '  ']}, 'the prompt is empty'),
        ({'prompts': []}, 'at least one prompt'),
        ({'prompts': 'a' * 10000}, 'has 10000 characters; at most 2000'),
        ({'negative': ''}, 'the negative prompt is empty'),
        ({'negative': ['rain', 'wind']}, 'one for each of the 1; got 2'),
        ({'seconds': 0}, 'above 0, at most 0.50, the model'),
        ({'seconds': -1}, 'got -1'),
        ({'seconds': 0.6}, 'got 0.6'),
        ({'seconds': float('nan')}, 'got nan'),
        ({'seeds': ()}, 'at least one seed'),
        ({'batch_size': 0}, 'batch_size must be at least 1'),
        ({'loudness_lufs': 3.0}, 'loudness must be -60 to -5 LUFS; got 3'),
        ({'loudness_lufs': -20, 'given': Inpainting(recording(), ((0.1, 0.2),))}, 'leave it out'),
        ({'seconds': 0.2, 'given': Inpainting(recording(), ((0.1, 0.2),))}, 'keeps the length'),
        ({'given': Continuation(recording())}, 'how much is added'),
        ({'given': Continuation(recording()), 'seconds': 0.6}, 'at most 0.50'),
        ({'given': Continuation(recording()), 'seconds': 0.5}, 'must be known'),
        ({'given': Inpainting(recording(), ((0.0, 0.4),))}, 'nothing is known'),
        ({'given': Inpainting(recording(), ((0.3, 0.45),))}, 'outside the audio of 0.40 s'),
        ({'given': Inpainting(recording(), ((0.3, 0.30001),))}, 'shorter than one sample'),
        ({'given': Inpainting(recording(3.0), ((0.1, 0.2), (2.0, 2.1)))}, 'too much at once'),
        ({'given': Variation(np.zeros((3, 100)))}, 'makes 2 channels, the audio given has 3'),
        ({'given': Variation(np.zeros((2, 0)))}, 'with some samples'),
        ({'given': Variation(np.full((2, 9), np.nan))}, 'not numbers'),
    ],
)
def test_bad_requests_end_in_one_sentence_before_anything_is_computed(options, message):
    model = GaussianGenerator()
    with pytest.raises(GenerationError, match=message) as caught:
        generate_clips(model, **{'prompts': 'drums', **options})
    assert '\n' not in str(caught.value) and not model.batches


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'sampler': 'euler_a'}, 'sampler "euler_a" is unknown; choose from ddim, dpmpp_2m'),
        ({'spacing': 'cosine'}, 'choose from exponential, log_snr, linear'),
        ({'steps': 0}, 'steps must be a whole number, at least 1; got 0'),
        ({'resamples': 0}, 'resamples'),
        ({'guidance': -1.0}, 'guidance must be 0 or more'),
        ({'guidance': float('inf')}, 'guidance must be 0 or more'),
        ({'guidance_rescale': 1.5}, 'guidance_rescale'),
        ({'sigma_min': 600.0}, 'sigma_min < sigma_max'),
        ({'rho': 0.0}, 'rho must be above 0'),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(GenerationError, match=message):
        SamplerSettings(**options)
