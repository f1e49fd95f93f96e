"""Claims about the training step of the bridge."""

import pytest
import torch
from torch import nn

from nemo_audio_restore.models.bridge_training import bridge_training_loss, draw_times, frame_mask
from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.signal.corruption import Corruption
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram


class _UpperHalf:
    """Damages the upper half of the bins; files below half the bandwidth are not trained at all."""

    def __call__(self, representation, clean, bandwidth_hz, generator):
        mask = torch.zeros_like(clean[:, :1])
        mask[:, :, clean.shape[2] // 2 :] = 1.0
        noise = torch.randn(clean.shape, generator=generator)
        known = (bandwidth_hz > representation.sample_rate / 4).float().view(-1, 1, 1, 1)
        return Corruption(mask, mask * known, clean * (1 - mask) + 0.5 * noise * mask)


class _Recorder(nn.Module):
    """Predicts one constant and remembers what it was given."""

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x_t, t, condition):
        self.seen = (x_t, t, condition)
        return torch.ones_like(x_t) * self.value


class _Oracle(nn.Module):
    """Knows the clean spectrogram and so the exact target."""

    def __init__(self, clean, process):
        super().__init__()
        self.clean, self.process = clean, process

    def forward(self, x_t, t, condition):
        return self.process.target(x_t, self.clean, t)


@pytest.fixture
def parts():
    representation = MagnitudePhaseSpectrogram(sample_rate=16000, n_fft=64, hop_length=16)
    audio = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0)) * 0.1
    batch = {
        'audio': audio,
        'audio_lens': torch.tensor([1024, 1024, 512]),
        'bandwidth_hz': torch.tensor([8000.0, 8000.0, 8000.0]),
    }
    return representation, SchrodingerBridge(), batch


def _loss(parts, network, seed=1, **options):
    representation, process, batch = parts
    generator = torch.Generator().manual_seed(seed)
    return bridge_training_loss(network, process, representation, _UpperHalf(), batch, generator=generator, **options)


def test_network_that_knows_the_clean_signal_has_zero_loss(parts):
    representation, process, batch = parts
    assert _loss(parts, _Oracle(representation.encode(batch['audio']), process)).loss < 1e-8


def test_same_generator_seed_gives_the_same_loss_and_leaves_the_global_generator_alone(parts):
    before = torch.get_rng_state()
    first, second, other = _loss(parts, _Recorder()), _loss(parts, _Recorder()), _loss(parts, _Recorder(), seed=2)
    assert first.loss == second.loss != other.loss
    assert torch.equal(before, torch.get_rng_state())


def test_network_sees_the_damage_mask_and_times_of_the_asked_range(parts):
    network = _Recorder()
    _loss(parts, network, time_range=(0.5, 1.0))
    _, t, mask = network.seen
    assert (t >= 0.5).all() and (t <= 1.0).all()
    assert mask[:, :, 16:].min() == 1.0 and mask[:, :, :16].max() == 0.0


def test_padding_behind_a_short_clip_is_not_trained(parts):
    representation, _, batch = parts
    mask = frame_mask(representation, batch['audio_lens'], 65)
    assert mask.flatten(1).sum(1).tolist() == [65, 65, 33]
    whole = _loss(parts, _Recorder()).parts['trained_fraction']
    assert float(whole) == pytest.approx(0.5 * (65 + 65 + 33) / (3 * 65))


def test_cells_outside_the_loss_mask_do_not_change_the_loss(parts):
    representation, process, batch = parts
    narrow = {**batch, 'bandwidth_hz': torch.zeros(3)}
    result = _loss((representation, process, narrow), _Recorder(5.0))
    assert result.loss == 0.0 and result.parts['trained_fraction'] == 0.0


def test_loss_is_the_mean_of_its_channels_and_weights_change_it(parts):
    result = _loss(parts, _Recorder())
    channels = [result.parts[name] for name in ('magnitude', 'cosine', 'sine')]
    assert result.loss.item() == pytest.approx(float(sum(channels)) / 3, rel=1e-5)
    weighted = _loss(parts, _Recorder(), channel_weights=torch.tensor([3.0, 0.0, 0.0]))
    assert weighted.loss.item() == pytest.approx(float(channels[0]), rel=1e-5)


def test_gradient_reaches_the_network_and_the_batch_is_untouched(parts):
    network, before = _Recorder(1.0), parts[2]['audio'].clone()
    _loss(parts, network).loss.backward()
    assert network.value.grad.abs() > 0
    assert torch.equal(before, parts[2]['audio'])


def test_higher_time_power_draws_more_early_times_and_never_time_zero():
    def draw(power):
        generator = torch.Generator().manual_seed(0)
        return draw_times(4000, time_range=(0.0, 1.0), time_power=power, generator=generator)

    assert draw(1.0).mean() == pytest.approx(0.5, abs=0.02)
    assert draw(2.0).mean() == pytest.approx(1 / 3, abs=0.02)
    assert draw(8.0).min() > 0.0


def test_frames_beyond_the_networks_multiple_are_left_out(parts):
    network = _Recorder()
    network.frames_multiple = 8
    _loss(parts, network)
    assert network.seen[0].shape[-1] == 64
    network.frames_multiple = 128
    with pytest.raises(ValueError, match='needs 128 frames or more; the batch has 65'):
        _loss(parts, network)


@pytest.mark.parametrize('time_range', [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.1)])
def test_impossible_time_range_is_refused(time_range, parts):
    with pytest.raises(ValueError, match='time_range'):
        _loss(parts, _Recorder(), time_range=time_range)
