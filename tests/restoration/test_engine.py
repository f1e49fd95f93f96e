"""The whole engine against a plain form that holds everything in memory; what is computed; what it costs."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_restorer import FakeRestorer, level_db, noise_audio
from test_wavefront import whole

from nemo_audio_restore.restoration import RestorationError, SamplerSettings, engine, mix, restore_array
from nemo_audio_restore.restoration.blend import GapGate, filtered, high_pass_taps
from nemo_audio_restore.restoration.engine import CROSSFADE_S
from nemo_audio_restore.restoration.noise import FILL_DRAW, FrameNoise
from nemo_audio_restore.restoration.plan import grid_tiles
from nemo_audio_restore.signal.corruption import bandwidth_mask, fill_with_noise

SETTINGS = SamplerSettings(steps=3, tile_frames=32, tile_hop_frames=16, batch_size=4)


def plain_restoration(restorer, audio, *, cutoff_hz, gaps, seed, settings):
    """Bandwidth extension and gaps at the model's rate with nothing streamed."""
    rep = restorer.representation
    num_samples = audio.shape[1]
    num_frames = rep.num_frames(num_samples)
    tiles = grid_tiles(num_frames, settings.tile_frames, settings.tile_hop_frames)
    padded_frames = (tiles - 1) * settings.tile_hop_frames + settings.tile_frames
    spans = [(int(np.floor(a * rep.sample_rate)), int(np.ceil(b * rep.sample_rate))) for a, b in gaps]
    blank, damaged = audio.copy(), np.zeros(num_samples)
    for start, stop in spans:
        blank[:, start:stop], damaged[start:stop] = 0, 1
    extra = (padded_frames + 4) * rep.hop_length + rep.n_fft - num_samples
    blank_long = torch.from_numpy(np.pad(blank, ((0, 0), (0, extra)), mode='reflect'))
    damaged_long = np.pad(damaged, (0, extra), mode='reflect')

    spectrum = rep.stft(blank_long)[..., :padded_frames]
    mask = bandwidth_mask(cutoff_hz, rep).repeat(1, padded_frames)
    for frame in range(padded_frames):
        centre = frame * rep.hop_length
        # The periodic Hann window weighs its first sample with zero.
        if damaged_long[max(centre - rep.n_fft // 2 + 0, 0) : centre + rep.n_fft // 2].any():
            mask[:, frame] = 1
    mask = mask[None, None]
    noise = FrameNoise(seed, channels=3, bins=rep.num_bins)
    degraded = fill_with_noise(rep.from_complex(spectrum[:, 1:]), mask, noise.frames(FILL_DRAW, 0, padded_frames))
    estimate = whole(restorer.network, restorer.process, degraded, mask, settings=settings, noise=noise)
    difference = (rep.to_complex(estimate) - spectrum[:, 1:]) * mask[0]
    constant = -spectrum[:, :1] * mask[0, :, :1]
    difference = torch.cat([constant, difference], dim=1)[..., :num_frames]
    change = rep.istft(difference, length=num_samples)

    gate = GapGate(spans, fade_samples=int(np.ceil(CROSSFADE_S * rep.sample_rate)))(0, num_samples)
    gate = np.zeros(num_samples, np.float32) if gate is None else gate
    taps = high_pass_taps(cutoff_hz, 8 * rep.bin_width_hz, rep.sample_rate)
    band = torch.cat(list(filtered(iter([(1 - torch.from_numpy(gate)) * change]), taps)), dim=1)
    return (1 - gate) * audio + gate * (blank + change.numpy()) + band.numpy()


@pytest.mark.parametrize('seconds', [0.02, 0.1, 0.5])
@pytest.mark.parametrize('gaps', [(), ((0.005, 0.009),), ((0.3, 0.34), (0.37, 0.38), (0.49, 0.5))])
def test_streaming_engine_equals_the_plain_form(seconds, gaps):
    gaps = [gap for gap in gaps if gap[1] <= seconds]
    audio = noise_audio(seconds, channels=2)
    request = {'cutoff_hz': 6000, 'gaps': gaps, 'seed': 11, 'settings': SETTINGS}
    expected = plain_restoration(FakeRestorer(), audio, **request)
    actual = restore_array(FakeRestorer(), audio, 44100, stereo='shared', **request)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_only_tiles_with_a_gap_are_computed():
    restorer, audio = FakeRestorer(), noise_audio(3.0)
    restore_array(restorer, audio, 44100, gaps=[(0.5, 0.51), (2.0, 2.01)], settings=SETTINGS)
    assert restorer.network.tiles == 2 * SETTINGS.steps


def test_gaps_that_share_a_tile_are_solved_together():
    restorer, audio = FakeRestorer(), noise_audio(1.0)
    restore_array(restorer, audio, 44100, gaps=[(0.5, 0.505), (0.51, 0.515)], settings=SETTINGS)
    assert restorer.network.tiles == SETTINGS.steps


def test_digital_silence_is_not_computed_and_stays_silent():
    audio = noise_audio(4.0)
    audio[:, 44100 : 3 * 44100] = 0
    restorer = FakeRestorer()
    output = restore_array(restorer, audio, 44100, cutoff_hz=6000, settings=SETTINGS)
    all_tiles = grid_tiles(restorer.representation.num_frames(audio.shape[1]), 32, 16)
    assert restorer.network.tiles < 0.6 * all_tiles * SETTINGS.steps
    middle = output[:, 44100 + 2000 : 3 * 44100 - 2000]
    assert not middle.any()
    assert level_db(output[:, :44100] - audio[:, :44100]) > -50


def test_progress_counts_every_evaluation_and_ends_at_the_total():
    seen, audio = [], noise_audio(0.5, channels=2)
    restorer = FakeRestorer()
    restore_array(
        restorer,
        audio,
        44100,
        cutoff_hz=6000,
        settings=SETTINGS,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1] == restorer.network.tiles
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize('field', ['steps', 'eta', 't_min', 'time_power', 'order', 'tile_hop_frames', 'tile_frames'])
def test_every_sampler_setting_changes_the_result(field):
    changed = {'steps': 5, 'eta': 0.9, 't_min': 0.2, 'time_power': 2, 'order': 2, 'tile_hop_frames': 8}
    changed |= {'tile_frames': 48}
    audio = noise_audio(0.4)
    base = dataclasses.replace(SETTINGS, steps=4)
    settings = dataclasses.replace(base, **{field: changed[field]})
    first, second = (
        restore_array(FakeRestorer(), audio, 44100, cutoff_hz=6000, settings=each) for each in (base, settings)
    )
    assert level_db(first - second) > -80


@pytest.mark.parametrize(
    ('request_', 'message'),
    [
        ({'cutoff_hz': 'full'}, "or 'auto'"),
        ({'regions': [(0.1, 0.2, 3000, 2000)]}, 'lower value first'),
        ({'regions': [(0.1, 0.2, 23000, 24000)]}, 'above the audio'),
        ({'regions': [(0.4, 0.6, 1000, 2000)]}, 'outside the audio'),
        ({'gaps': [(0.1, 0.3)]}, 'sees at once.*--force'),
        ({'cutoff_hz': 30000}, 'outside the audio'),
        ({'cutoff_hz': 10}, 'outside the audio'),
        ({'cutoff_hz': 22050}, 'leaves nothing'),
        ({'cutoff_hz': -5}, 'positive'),
        ({'cutoff_hz': float('nan')}, 'positive'),
        ({'gaps': [(0.4, 0.6)]}, 'outside the audio'),
        ({'gaps': [(-0.1, 0.1)]}, '0 s or later'),
        ({'gaps': [(0.2, 0.2)]}, 'end after'),
        ({'gaps': [(0.2, float('inf'))]}, 'START:END'),
        ({'gaps': [(0.0, 0.5)]}, 'whole audio'),
        ({'gaps': [(0.0, 0.3), (0.2, 0.5)]}, 'whole audio'),
    ],
)
def test_requests_outside_the_audio_are_refused_in_the_users_terms(request_, message):
    with pytest.raises(RestorationError, match=message):
        restore_array(FakeRestorer(), noise_audio(0.5), 44100, settings=SETTINGS, **request_)


@pytest.mark.parametrize(
    ('audio', 'message'),
    [
        (np.zeros((1, 10), np.float32), 'too short'),
        (np.zeros((1, 44100), np.float32), 'digital silence'),
        (np.full((1, 44100), np.nan, np.float32), 'not numbers'),
        (np.zeros((1, 2, 3), np.float32), 'must be'),
        (np.zeros((1, 44100), np.int16), 'must be'),
    ],
)
def test_unusable_audio_is_refused_in_the_users_terms(audio, message):
    with pytest.raises(RestorationError, match=message):
        restore_array(FakeRestorer(), audio, 44100, cutoff_hz=6000, settings=SETTINGS)


def test_settings_that_do_not_fit_are_refused():
    for wrong in (
        {'steps': 0},
        {'t_min': 0},
        {'time_power': 0},
        {'order': 3},
        {'eta': 2},
        {'batch_size': 0},
        {'tile_hop_frames': 5},
        {'tile_hop_frames': 64},
    ):
        with pytest.raises(RestorationError):
            SamplerSettings(**{**SETTINGS.__dict__, **wrong})
    with pytest.raises(RestorationError, match='multiple of 4'):
        odd = SamplerSettings(tile_frames=30, tile_hop_frames=15)
        restore_array(FakeRestorer(), noise_audio(0.5), 44100, cutoff_hz=6000, settings=odd)


def test_a_model_that_produces_nonsense_is_reported():
    restorer = FakeRestorer()
    restorer.network = lambda x_t, t, condition: x_t * float('nan')
    restorer.network.frames_multiple = 4
    with pytest.raises(RestorationError, match='not numbers'):
        restore_array(restorer, noise_audio(0.5), 44100, cutoff_hz=6000, settings=SETTINGS)


_MEMORY_PROGRAM = """
import resource, sys
import soundfile
from fake_restorer import FakeRestorer, noise_audio
from nemo_audio_restore.restoration import SamplerSettings, restore_file
folder, seconds = sys.argv[1], int(sys.argv[2])
block = noise_audio(1.0, rate=48000, channels=2).T
with soundfile.SoundFile(f'{folder}/in{seconds}.wav', 'w', 48000, 2, 'PCM_16') as file:
    for _ in range(seconds):
        file.write(block)
settings = SamplerSettings(steps=2, tile_frames=64, tile_hop_frames=32)
restore_file(FakeRestorer(), f'{folder}/in{seconds}.wav', f'{folder}/out{seconds}.wav', cutoff_hz=6000,
             gaps=[(1.0, 1.02), (seconds - 2.0, seconds - 1.98)], settings=settings)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_length(tmp_path):
    pytest.importorskip('resource', reason='peak memory is read from getrusage, which Windows lacks')
    here = Path(__file__).resolve()
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(here.parent), str(here.parents[2])])}
    peaks = []
    for seconds in (10, 80):
        program = subprocess.run(
            [sys.executable, '-c', _MEMORY_PROGRAM, str(tmp_path), str(seconds)],
            cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(float(program.stdout))
    # 70 s more of stereo at 48 kHz are 27 MB as float32, and 150 MB for each set of spectrograms.
    assert peaks[1] < peaks[0] + 20


def test_band_gain_raises_the_generated_band_and_no_gap():
    audio, gap = noise_audio(0.6), (0.25, 0.28)

    def restored(gain_db: float) -> np.ndarray:
        settings = SamplerSettings(steps=1, tile_frames=32, tile_hop_frames=16, band_gain_db=gain_db)
        return restore_array(FakeRestorer(), audio, 44100, cutoff_hz=6000, gaps=[gap], settings=settings)[0]

    def level_above(samples: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        return float(np.sqrt(np.square(spectrum[np.fft.rfftfreq(len(samples), 1 / 44100) > 7000]).mean()))

    plain, raised = restored(0.0), restored(6.0)
    assert level_above(raised[:9000]) / level_above(plain[:9000]) == pytest.approx(2.0, rel=0.05)
    assert np.allclose(raised[11300:12100], plain[11300:12100], atol=1e-4)


@pytest.mark.parametrize('rate', [44100, 48000])
def test_the_same_seed_gives_the_same_samples_for_any_block_size(monkeypatch, rate):
    audio = noise_audio(0.6, rate=rate, channels=2)

    def restored(block_samples: int) -> np.ndarray:
        for module in (engine, mix):
            monkeypatch.setattr(module, 'BLOCK_SAMPLES', block_samples)
        return restore_array(FakeRestorer(), audio, rate, cutoff_hz=6000.0, gaps=[(0.3, 0.33)], settings=SETTINGS)

    expected = restored(1 << 16)
    for block_samples in (777, 5000):
        np.testing.assert_array_equal(restored(block_samples), expected)
