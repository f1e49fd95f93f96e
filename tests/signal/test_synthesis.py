import math

import torch

from nemo_audio_restore.signal.fm_synthesis import attack_decay_envelope, fm_synthesis, phase
from nemo_audio_restore.signal.modal_synthesis import (
    fft_convolve,
    modal_impulse,
    noise_band_impulse,
    octave_bands,
)

RATE = 16000


def test_phase_of_a_high_tone_is_right_after_a_minute():
    frequency = torch.tensor([7001.25])
    last = phase(frequency, 60 * RATE, RATE)[0, -1]
    expected = 2 * math.pi * ((7001.25 * (60 * RATE - 1) / RATE) % 1)
    assert abs(float(last) - expected) < 1e-3


def test_unmodulated_operator_is_a_sine_under_its_envelope():
    one = torch.ones(1)
    audio = fm_synthesis(
        frequency_hz=440 * one,
        modulation=torch.zeros(1, 1),
        level=0.5 * one,
        attack_s=0.01 * one,
        decay_s=0.3 * one,
        num_samples=RATE,
        sample_rate=RATE,
    )
    time = torch.arange(RATE, dtype=torch.float64) / RATE
    expected = 0.5 * (1 - torch.exp(-time / 0.01)) * torch.exp(-time / 0.3) * torch.sin(2 * math.pi * 440 * time)
    assert torch.allclose(audio.double(), expected, atol=1e-5)


def test_modulator_makes_the_sidebands_of_bessel_functions():
    # A steady carrier c modulated by m with index I has amplitude |J_n(I)| at c + n m (Chowning, 1973).
    slow = torch.full((2,), 1e6)
    audio = fm_synthesis(
        frequency_hz=torch.tensor([200.0, 2000.0]),
        modulation=torch.tensor([[0.0, 0.0], [1.5, 0.0]]),
        level=torch.tensor([0.0, 1.0]),
        attack_s=torch.full((2,), 1e-6),
        decay_s=slow,
        num_samples=RATE,
        sample_rate=RATE,
    )
    amplitude = torch.fft.rfft(audio.double()).abs() * 2 / RATE  # one bin per hertz
    assert abs(float(amplitude[2000]) - float(torch.special.bessel_j0(torch.tensor(1.5)))) < 1e-3
    assert abs(float(amplitude[2200]) - float(torch.special.bessel_j1(torch.tensor(1.5)))) < 1e-3


def test_modulation_above_the_diagonal_has_no_effect():
    settings = {
        'frequency_hz': torch.tensor([200.0, 300.0]),
        'level': torch.ones(2),
        'attack_s': torch.full((2,), 0.01),
        'decay_s': torch.full((2,), 0.5),
        'num_samples': 1000,
        'sample_rate': RATE,
    }
    lower = fm_synthesis(modulation=torch.tensor([[0.0, 0.0], [1.0, 0.0]]), **settings)
    full = fm_synthesis(modulation=torch.tensor([[5.0, 7.0], [1.0, 9.0]]), **settings)
    assert torch.equal(lower, full)


def test_envelope_rises_from_zero_and_decays():
    envelope = attack_decay_envelope(torch.tensor([0.01]), torch.tensor([0.1]), RATE, RATE)[0]
    assert envelope[0] == 0
    assert int(envelope.argmax()) in range(300, 500)  # attack * log(1 + decay / attack) = 24 ms
    assert envelope[-1] < 1e-4


def test_modal_impulse_equals_the_sum_of_its_modes():
    frequency, decay = torch.tensor([123.0, 1500.0, 6900.0]), torch.tensor([0.5, 0.1, 0.02])
    amplitude = torch.tensor([1.0, -0.5, 0.25])
    fast = modal_impulse(
        frequency_hz=frequency, decay_s=decay, amplitude=amplitude, num_samples=3 * RATE + 7, sample_rate=RATE
    )
    time = torch.arange(3 * RATE + 7, dtype=torch.float64) / RATE
    plain = sum(
        a * torch.exp(-time / d) * torch.sin(2 * math.pi * f * time)
        for f, d, a in zip(frequency.double(), decay.double(), amplitude.double(), strict=True)
    )
    assert torch.allclose(fast.double(), plain, atol=2e-6)


def test_gradients_of_modal_impulse_are_right():
    values = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([90.0, 200.0], [0.1, 0.2], [1.0, 2.0])
    ]

    def impulse(frequency, decay, amplitude):
        return modal_impulse(
            frequency_hz=frequency, decay_s=decay, amplitude=amplitude, num_samples=40, sample_rate=1000
        )

    assert torch.autograd.gradcheck(impulse, values)


def test_noise_band_keeps_its_energy_in_the_band():
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    impulse = noise_band_impulse(
        noise=noise,
        centre_hz=torch.tensor([1000.0]),
        width_octaves=torch.tensor([0.25]),
        decay_s=torch.tensor([10.0]),
        amplitude=torch.tensor([1.0]),
        sample_rate=RATE,
    )
    power = torch.fft.rfft(impulse).abs().square()
    assert power[500:2000].sum() > 0.99 * power.sum()  # within an octave, four standard deviations


def test_octave_bands_are_one_at_their_centre_and_fall_by_their_width():
    bands = octave_bands(torch.tensor([1000.0]), torch.tensor([0.5]), RATE, RATE)
    assert torch.allclose(bands[0, 1000], torch.tensor(1.0))
    assert torch.allclose(bands[0, 2000], torch.tensor(math.exp(-2)), atol=1e-5)
    assert bands[0, 0] == 0


def test_fft_convolution_equals_the_sum():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, generator=generator), torch.randn(9, generator=generator)
    expected = torch.nn.functional.conv1d(a[None, None], b.flip(0)[None, None], padding=8)[0, 0]
    assert torch.allclose(fft_convolve(a, b, 58), expected, atol=1e-5)
