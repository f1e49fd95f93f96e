import json

import pytest
import torch

from nemo_audio_restore.distillation.effects import EffectsChain
from nemo_audio_restore.distillation.renderers import FMSynthesizer, ImpactSynthesizer, load_patch
from nemo_audio_restore.distillation.sources import LatentSources, WaveformBuffer, share_mixture

RATE = 16000
SYNTHESIZERS = [FMSynthesizer, ImpactSynthesizer]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('kind', SYNTHESIZERS)
def test_patch_round_trips_through_a_file(kind, tmp_path):
    renderer = kind.random(sample_rate=RATE, generator=seeded())
    renderer.save_patch(tmp_path / 'patch.json')
    again = load_patch(tmp_path / 'patch.json')
    assert isinstance(again, kind)
    expected = renderer(4000).detach()
    assert torch.allclose(again(4000), expected, atol=2e-3 * float(expected.abs().max()))
    assert json.loads((tmp_path / 'patch.json').read_text())['sample_rate'] == RATE


@pytest.mark.parametrize('kind', SYNTHESIZERS)
def test_patch_is_in_physical_units(kind):
    patch = kind.random(sample_rate=RATE, generator=seeded()).to_patch()
    assert all(20 <= hz <= 0.45 * RATE for hz in patch['frequency_hz'])
    assert all(1e-3 <= seconds <= 20 for seconds in patch['decay_s'])


@pytest.mark.parametrize('kind', SYNTHESIZERS)
def test_every_parameter_is_heard(kind):
    renderer = kind.random(sample_rate=RATE, generator=seeded())
    renderer(8000).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in renderer.parameters())


@pytest.mark.parametrize('kind', SYNTHESIZERS)
def test_optimisation_cannot_leave_the_limits(kind):
    renderer = kind.random(sample_rate=RATE, generator=seeded())
    with torch.no_grad():
        renderer.frequency.raw.fill_(1e4)
        renderer.decay.raw.fill_(-1e4)
    assert torch.isfinite(renderer(1000)).all()
    again = kind.from_patch(renderer.to_patch())
    assert torch.allclose(again.frequency(), renderer.frequency(), rtol=1e-3)


@pytest.mark.parametrize('kind', SYNTHESIZERS)
def test_seeds_make_different_sounds_and_one_seed_the_same(kind):
    a, b, c = (kind.random(sample_rate=RATE, generator=seeded(seed))(2000) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'renderer': 'organ'}, 'organ'),
        ({'version': 2}, 'version 2'),
        ({'colour': 'blue'}, 'colour'),
        ({'frequency_hz': [1.0, 2.0, 3.0, 4.0]}, 'frequency_hz must lie in 20'),
        ({'level': [1.0]}, 'one entry an oscillator'),
    ],
)
def test_a_wrong_patch_is_refused_with_a_reason(change, message, tmp_path):
    patch = FMSynthesizer.random(sample_rate=RATE, generator=seeded()).to_patch() | change
    (tmp_path / 'patch.json').write_text(json.dumps(patch))
    with pytest.raises(ValueError, match=message):
        load_patch(tmp_path / 'patch.json')


@pytest.mark.parametrize('text', ['{', '[1, 2]', '"fm"'])
def test_a_file_that_is_no_patch_is_refused(text, tmp_path):
    (tmp_path / 'patch.json').write_text(text)
    with pytest.raises(ValueError, match='patch.json'):
        load_patch(tmp_path / 'patch.json')


def test_a_new_effects_chain_is_transparent():
    audio = torch.randn(2, 4000, generator=seeded())
    chain = EffectsChain(audio, sample_rate=RATE, equaliser_hz=(250, 1000), room_hz=(500,))
    assert torch.allclose(chain(4000), audio, atol=0.02)


def test_equaliser_raises_its_band_and_leaves_the_rest():
    audio = torch.randn(1, RATE, generator=seeded())
    chain = EffectsChain(audio, sample_rate=RATE, equaliser_hz=(250, 4000))
    with torch.no_grad():
        chain.room_level.zero_()
        chain.equaliser_db.copy_(torch.tensor([0.0, 12.0]))
    ratio = torch.fft.rfft(chain(RATE).detach())[0].abs() / torch.fft.rfft(audio)[0].abs()
    assert 20 * torch.log10(ratio[3900:4100]).median() == pytest.approx(12, abs=0.5)
    assert 20 * torch.log10(ratio[100:400]).median() == pytest.approx(0, abs=0.1)
    assert chain.settings()['equaliser_db'][4000.0] == 12.0


def test_room_and_gain_are_heard():
    audio = torch.zeros(1, RATE)
    audio[0, 0] = 1
    chain = EffectsChain(audio, sample_rate=RATE, equaliser_hz=(250,), room_hz=(500,), room_seconds=0.5)
    with torch.no_grad():
        chain.room_level.fill_(0.1)
        dry = chain(RATE)
        chain.gain_db.fill_(6.0)
        loud = chain(RATE)
    assert dry[0, 2000:6000].abs().max() > 1e-3
    assert torch.allclose(loud, dry * 10 ** (6 / 20))


def test_bands_above_half_the_rate_are_refused():
    with pytest.raises(ValueError, match='8000'):
        EffectsChain(torch.zeros(1, 100), sample_rate=RATE, equaliser_hz=(9000,))


def test_waveform_buffer_cuts_and_fills():
    renderer = WaveformBuffer(torch.ones(1, 4), sample_rate=RATE)
    assert renderer(2).tolist() == [[1, 1]]
    assert renderer(6).tolist() == [[1, 1, 1, 1, 0, 0]]


class Codec:
    """A prior's codec with two latents a sample, one of them unused."""

    sample_rate = RATE

    def encode(self, audio):
        return torch.stack([audio, torch.zeros_like(audio)], dim=1)

    def decode(self, latents, *, num_samples):
        return latents[:, 0, :, :num_samples]


def test_latent_sources_start_as_equal_shares_and_add_up():
    mixture = torch.randn(2, 100, generator=seeded())
    renderer = LatentSources.from_mixture(Codec(), mixture, 4, spread=0.0, generator=seeded())
    assert torch.allclose(renderer(100), mixture, atol=1e-5)
    spread = LatentSources.from_mixture(Codec(), mixture, 4, spread=0.5, generator=seeded())
    stems = spread.sources(100)
    assert not torch.allclose(stems[0], stems[1])


def test_shared_mixture_adds_up_and_follows_the_estimates():
    time = torch.arange(RATE) / RATE
    low, high = torch.sin(2 * torch.pi * 300 * time)[None], 0.5 * torch.sin(2 * torch.pi * 3000 * time)[None]
    mixture = low + high
    stems = share_mixture(torch.stack([0.3 * low, 0.9 * high]), mixture)
    assert torch.allclose(stems.sum(0), mixture, atol=1e-5)
    assert (stems[0] - low)[:, 2048:-2048].abs().max() < 0.01
    assert (stems[1] - high)[:, 2048:-2048].abs().max() < 0.01
