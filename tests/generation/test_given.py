"""Audio that is given: how far variations go, that known parts stay, and that what is generated fits them."""

import numpy as np
import pytest
import soundfile
import torch
from stand_in_generator import RATE, GaussianGenerator, covariance, means, recording

from nemo_audio_restore.generation import (
    SAMPLERS,
    Continuation,
    GenerationError,
    Inpainting,
    SamplerSettings,
    Variation,
    generate_clips,
    given_audio,
)
from nemo_audio_restore.generation.given import read_given
from nemo_audio_restore.generation.placement import CROSSFADE_S, place_spans
from nemo_audio_restore.generation.sampling import strength_time
from nemo_audio_restore.processes.diffusion import RectifiedFlow, VDiffusion

PROCESSES = [VDiffusion(), RectifiedFlow()]
FADE = round(CROSSFADE_S * RATE)


def one(model, prompt='rain', **options):
    (clip,) = generate_clips(model, prompt, **options)
    return clip


def test_no_strength_gives_the_audio_back_at_the_length_that_was_asked_for():
    audio = recording(0.4)
    model = GaussianGenerator()
    assert np.array_equal(one(model, given=Variation(audio, 0.0)).audio, audio)
    longer = one(model, given=Variation(audio, 0.0), seconds=0.5).audio
    assert np.array_equal(longer[:, :3200], audio) and not longer[:, 3200:].any() and longer.shape[1] == 4000
    assert np.array_equal(one(model, given=Variation(audio, 0.0), seconds=0.1).audio, audio[:, :800])
    assert not model.batches


@pytest.mark.parametrize('process', PROCESSES, ids=['v', 'flow'])
def test_full_strength_ignores_the_audio(process):
    model = GaussianGenerator(process)
    assert np.array_equal(one(model, given=Variation(recording(0.5), 1.0)).audio, one(model).audio)


@pytest.mark.parametrize('sampler', ['ddim', 'dpmpp_2m', 'dpmpp_3m_sde', 'heun', 'rk4'])
def test_more_strength_leads_further_away_and_the_same_way_for_both_objectives(sampler):
    audio = recording(0.5)
    distances = []
    for process in PROCESSES:
        model = GaussianGenerator(process, sampler=sampler, steps=16, sigma_min=0.02)
        clips = [one(model, given=Variation(audio, strength)) for strength in np.linspace(0, 1, 8)]
        assert {clip.task for clip in clips} == {'variation'}
        distances.append([np.linalg.norm(clip.audio - audio) for clip in clips])
    assert (np.diff(distances, axis=1) > 0).all()
    np.testing.assert_allclose(*distances, rtol=0.02 if sampler != 'rk4' else 0.1)


def test_strength_is_a_ratio_of_signal_to_noise():
    for process in PROCESSES:
        for strength, ratio in ((0.5, 1.0), (2 / 3, 3**0.5), (1 / 3, 3**-0.5)):
            t = torch.tensor(strength_time(strength, process), dtype=torch.float64)
            assert float(process.sigma(t) / process.alpha(t)) == pytest.approx(ratio)
        assert strength_time(1.0, process) == 1.0
    with pytest.raises(GenerationError, match='0, 1'):
        strength_time(0.0, process)


def test_the_input_of_a_variation_is_cut_to_the_window():
    clip = one(GaussianGenerator(), given=Variation(recording(0.8), 0.3))
    assert clip.duration_s == 0.5 and clip.strength == 0.3


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_outside_the_spans_every_sample_stays(sampler):
    audio = recording(0.5)
    before = audio.copy()
    for process in PROCESSES:
        model = GaussianGenerator(process, sampler=sampler)
        clip = one(model, given=Inpainting(audio, ((0.1, 0.15), (0.3, 0.4))))
        stays = np.ones(4000, bool)
        for start, end in ((800, 1200), (2400, 3200)):
            stays[start - FADE : end + FADE] = False
        assert np.array_equal(clip.audio[:, stays], audio[:, stays])
        assert np.abs(clip.audio - audio)[:, 800:1200].max() > 0.1
    assert np.array_equal(audio, before) and clip.spans == ((0.1, 0.15), (0.3, 0.4))
    assert model.decoded_lengths == [3200 + FADE]


def exact_mean(audio, span, prompt='rain'):
    """What the latents of a span are on average, given all others, (D, n); and where they are."""
    model = GaussianGenerator()
    latents = model.encode(torch.from_numpy(audio)[None])[0]
    known = place_spans(audio, [span], sample_rate=RATE, window_samples=4000).known_latents(250, 16)
    cov, mean = covariance(250), means([prompt])[0][:, None]
    weights = torch.linalg.solve(cov[known][:, known], cov[known][:, ~known])
    return mean + (latents[:, known] - mean) @ weights, ~known


def test_what_is_generated_fits_its_surroundings_the_better_the_more_often_the_way_is_gone():
    audio, span = recording(0.5), (0.25, 0.27)
    mean, where = exact_mean(audio, span)
    model = GaussianGenerator(steps=24, sigma_min=0.02)
    off = {}
    for resamples in (1, 6):
        settings = SamplerSettings(steps=24, guidance=1.0, sigma_min=0.02, resamples=resamples)
        clips = generate_clips(
            model, 'rain', seeds=range(24), batch_size=24, given=Inpainting(audio, (span,)), settings=settings
        )
        inner = torch.stack([model.encode(torch.from_numpy(clip.audio)[None])[0] for clip in clips])[:, :, where]
        off[resamples] = (inner.mean(dim=0) - mean).square().mean().sqrt().item()
    assert off[6] < 0.7 * off[1] and off[6] < 0.35


def test_a_span_is_not_heard_in_what_the_model_is_shown():
    audio = recording(0.5)
    loud = audio.copy()
    loud[:, 1000:2000] = 50.0
    clips = [one(GaussianGenerator(), given=Inpainting(a, ((0.125, 0.25),))).audio for a in (audio, loud)]
    assert np.array_equal(*(clip[:, :2000] for clip in clips)) and np.array_equal(*(clip[:, 2000:] for clip in clips))


def test_a_long_recording_is_repaired_where_it_needs_it():
    audio = recording(3.0)
    model = GaussianGenerator()
    clip = one(model, given=Inpainting(audio, ((2.0, 2.1),)))
    changed = np.flatnonzero((clip.audio != audio).any(axis=0))
    assert clip.audio.shape == audio.shape and model.conditions[0][1] == 0.5
    assert 2.0 * RATE - FADE <= changed[0] and changed[-1] < 2.1 * RATE + FADE


def test_the_crossfade_has_no_steps():
    audio = np.tile(np.sin(np.arange(4000) / 40).astype(np.float32), (2, 1))
    placement = place_spans(audio, [(0.2, 0.25), (0.26, 0.3), (0.49, 0.5)], sample_rate=RATE, window_samples=4000)
    joined = placement.joined(audio + 1)
    assert np.abs(np.diff(joined - audio)).max() < 0.01
    np.testing.assert_allclose((joined - audio)[:, 1600:2000], 1.0, atol=1e-6)
    np.testing.assert_allclose((joined - audio)[:, -80:], 1.0, atol=1e-6)


def test_spans_that_touch_are_one():
    placement = place_spans(recording(0.5), [(0.2, 0.3), (0.1, 0.2)], sample_rate=RATE, window_samples=4000)
    assert placement.spans == ((800, 2400),)


@pytest.mark.parametrize('before_s', [0.2, 3.0])
def test_a_continuation_keeps_what_was_there_and_adds_what_was_asked_for(before_s):
    audio = recording(before_s)
    model = GaussianGenerator(window_s=1.5)
    clip = one(model, given=Continuation(audio), seconds=0.3)
    kept = audio.shape[1] - FADE
    assert clip.audio.shape[1] == audio.shape[1] + 2400 and clip.task == 'continuation'
    assert np.array_equal(clip.audio[:, :kept], audio[:, :kept])
    assert clip.audio[:, audio.shape[1] :].std() > 0.1
    assert clip.spans == ((before_s, pytest.approx(before_s + 0.3)),)


def test_a_continuation_begins_where_the_recording_ends():
    audio = recording(0.3)
    model = GaussianGenerator(steps=24, sigma_min=0.02, resamples=4)
    clips = generate_clips(model, 'rain', seeds=range(16), batch_size=16, given=Continuation(audio), seconds=0.1)
    latents = torch.stack([model.encode(torch.from_numpy(clip.audio)[None])[0] for clip in clips])
    step = (latents[:, :, 150] - latents[:, :, 149]).square().mean()
    far = (latents[:, :, 199] - latents[:, :, 149]).square().mean()
    assert step < 0.5 and far > 2 * step  # neighbours differ by 2 (1 - 0.9) = 0.2 in the model itself


def test_files_of_any_rate_and_channels_are_taken(tmp_path):
    path = tmp_path / 'in.wav'
    soundfile.write(path, np.sin(np.arange(22050) / 20), 44100)
    audio = read_given(path, sample_rate=RATE, channels=2)
    assert audio.shape == (2, 4000) and np.array_equal(audio[0], audio[1])
    np.testing.assert_allclose(audio[0, 100:-100], np.sin(np.arange(4000) * 44100 / RATE / 20)[100:-100], atol=0.01)
    mono = read_given(torch.ones(2, 5) * torch.tensor([[1.0], [3.0]]), sample_rate=RATE, channels=1)
    assert mono.shape == (1, 5) and (mono == 2).all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'initial_audio': 'a.wav', 'continue_from': 'b.wav'}, 'initial_audio and continue_from exclude each other'),
        ({'strength': 0.5}, 'give that too'),
        ({'initial_audio': 'a.wav', 'strength': 1.5}, r'strength must lie between 0 .* and 1 .*; got 1.5'),
        ({'initial_audio': 'a.wav', 'strength': float('nan')}, 'got nan'),
        ({'inpaint': ('a.wav', [])}, 'at least one span'),
        ({'inpaint': ('a.wav', [(2.0, 1.0)])}, 'got 2 to 1'),
        ({'inpaint': ('a.wav', [(-1.0, 1.0)])}, 'got -1 to 1'),
        ({'inpaint': ('a.wav', [(0.0, float('nan'))])}, 'got 0 to nan'),
    ],
)
def test_contradictions_are_named(options, message):
    with pytest.raises(GenerationError, match=message):
        given_audio(**options)


def test_what_is_given_is_one_thing():
    assert given_audio() is None
    assert given_audio(initial_audio='a.wav') == Variation('a.wav', 0.5)
    assert given_audio(inpaint=('a.wav', [(1, 2)])) == Inpainting('a.wav', ((1.0, 2.0),))
    assert given_audio(continue_from='a.wav') == Continuation('a.wav')
