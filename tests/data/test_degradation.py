import pytest
import torch

from nemo_audio_restore.data.degradation import FileDamage, lost_above_hz, soft_low_pass

RATE = 44100


def noise(seconds=1.0, seed=0):
    return 0.1 * torch.randn(int(RATE * seconds), generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def band_power(audio, low, high):
    frequency = torch.fft.rfftfreq(len(audio), 1 / RATE)
    return torch.fft.rfft(audio).abs().square()[(frequency >= low) & (frequency < high)].sum()


def test_low_pass_is_3_db_down_at_its_cutoff_and_falls_with_its_order():
    audio = noise(4.0)
    for order in (4, 8):
        filtered = soft_low_pass(audio, RATE, 5000.0, order=order)

        def gain_db(hz, filtered=filtered):
            low, high = hz * 0.99, hz * 1.01
            return float(10 * torch.log10(band_power(filtered, low, high) / band_power(audio, low, high)))

        assert gain_db(5000) == pytest.approx(-3.0, abs=0.3)
        assert gain_db(10000) == pytest.approx(-6.02 * order, abs=2.5)
        assert gain_db(1000) == pytest.approx(0.0, abs=0.1)


def test_low_pass_does_not_shift_time():
    audio = torch.zeros(8192)
    audio[4000] = 1.0
    assert int(soft_low_pass(audio, RATE, 3000.0, order=6).abs().argmax()) == 4000


def test_what_a_filter_removed_is_found():
    audio = noise(2.0)
    filtered = soft_low_pass(audio, RATE, 6000.0, order=24)
    assert lost_above_hz(audio, filtered, RATE) == pytest.approx(6000, rel=0.06)


def test_nothing_is_lost_in_an_identical_or_silent_file():
    assert lost_above_hz(noise(), noise(), RATE) == RATE / 2
    assert lost_above_hz(torch.zeros(RATE), torch.zeros(RATE), RATE) == RATE / 2


def test_a_filter_alone_gives_the_drawn_cutoff():
    damage = FileDamage(
        filter_probability=1.0, codec_probability=0.0, cutoff_range_hz=(7000, 7000), order_range=(30, 30)
    )
    damaged, cutoff_hz = damage(noise(2.0), RATE, generator())
    assert cutoff_hz == pytest.approx(7000, rel=0.06)
    assert band_power(damaged, 9000, 20000) < 1e-4 * band_power(noise(2.0), 9000, 20000)


@pytest.mark.parametrize('codec', ['mp3', 'vorbis'])
def test_a_codec_alone_changes_what_it_keeps(codec):
    damage = FileDamage(filter_probability=0.0, codec_probability=1.0, codecs=[codec], compression_range=(0.9, 0.9))
    audio = noise(2.0)
    damaged, cutoff_hz = damage(audio, RATE, generator())
    error = band_power(damaged - audio, 200, 5000) / band_power(audio, 200, 5000)
    assert damaged.shape == audio.shape and 1e-4 < error < 0.5
    assert cutoff_hz < (16000 if codec == 'mp3' else 22050)


def test_shares_of_zero_leave_the_audio_alone():
    audio = noise()
    damaged, cutoff_hz = FileDamage(filter_probability=0.0, codec_probability=0.0)(audio, RATE, generator())
    assert torch.equal(damaged, audio) and cutoff_hz == RATE / 2


def test_same_generator_gives_the_same_damage_and_the_clean_audio_stays():
    audio = noise()
    before = audio.clone()
    damage = FileDamage()
    results = [damage(audio, RATE, generator(seed))[0] for seed in (5, 5, 6, 7, 8)]
    assert torch.equal(results[0], results[1])
    assert any(not torch.equal(results[0], other) for other in results[2:])
    assert torch.equal(audio, before)


def test_a_rate_without_mp3_falls_back_to_vorbis():
    damage = FileDamage(filter_probability=0.0, codec_probability=1.0, codecs=['mp3'])
    damaged, _ = damage(noise(), 40000, generator())
    assert not torch.equal(damaged, noise())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'filter_probability': 2.0}, 'filter_probability'),
        ({'codecs': ['aac']}, 'mp3, vorbis'),
        ({'cutoff_range_hz': (5000, 100)}, 'cutoff_range_hz'),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FileDamage(**arguments)
