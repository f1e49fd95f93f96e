import pytest
import torch

from nemo_audio_restore.signal.bandwidth import bandwidth_hz, long_term_spectrum


def noise(seconds=2.0, rate=44100, cutoff_hz=None):
    count = int(seconds * rate)
    audio = torch.randn(1, count, generator=torch.Generator().manual_seed(0))
    if cutoff_hz is None:
        return audio
    spectrum = torch.fft.rfft(audio)
    spectrum[:, torch.fft.rfftfreq(count, 1 / rate) > cutoff_hz] = 0
    return torch.fft.irfft(spectrum, count)


@pytest.mark.parametrize('cutoff_hz', [3000.0, 8000.0, 16000.0])
def test_bandwidth_is_the_cutoff_of_a_brick_wall(cutoff_hz):
    power = long_term_spectrum(noise(cutoff_hz=cutoff_hz))
    assert bandwidth_hz(power, 44100) == pytest.approx(cutoff_hz, abs=100)


def test_bandwidth_of_full_band_noise_is_half_the_rate():
    assert bandwidth_hz(long_term_spectrum(noise(rate=48000)), 48000) == 24000.0


def test_bandwidth_of_silence_is_zero():
    assert bandwidth_hz(long_term_spectrum(torch.zeros(2, 10000)), 44100) == 0.0


def test_bandwidth_does_not_depend_on_the_level():
    audio = noise(cutoff_hz=5000.0)
    assert bandwidth_hz(long_term_spectrum(audio), 44100) == bandwidth_hz(long_term_spectrum(1e-4 * audio), 44100)


def test_a_deeper_floor_finds_quieter_highs():
    audio = noise(cutoff_hz=4000.0) + 1e-4 * noise(cutoff_hz=10000.0)
    power = long_term_spectrum(audio)
    assert bandwidth_hz(power, 44100, floor_db=60) == pytest.approx(4000, abs=100)
    assert bandwidth_hz(power, 44100, floor_db=100) == pytest.approx(10000, abs=150)


def test_spectra_of_blocks_add_up():
    audio = noise()
    both = long_term_spectrum(torch.cat([audio, audio]))
    torch.testing.assert_close(both, 2 * long_term_spectrum(audio), rtol=1e-6, atol=0)


def test_audio_shorter_than_a_frame_has_an_empty_spectrum():
    assert long_term_spectrum(torch.ones(1, 100)).sum() == 0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r'\(C, T\)'):
        long_term_spectrum(torch.zeros(100))
    with pytest.raises(ValueError, match='floor_db'):
        bandwidth_hz(torch.ones(10), 44100, floor_db=-1)
