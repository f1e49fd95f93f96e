import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording

from nemo_audio_restore.data.audio_dataset import AudioDataset
from nemo_audio_restore.data.degradation import FileDamage

RATE = 44100


def tone(path, frequency_hz=1000.0, rate=RATE, seconds=1.0, channels=1, level=0.5):
    time = np.arange(int(seconds * rate)) / rate
    audio = level * np.sin(2 * np.pi * frequency_hz * time)
    soundfile.write(path, np.stack([audio * (channel + 1) for channel in range(channels)], 1), rate, subtype='FLOAT')
    return Recording.from_file(path).to_cut()


def load(cut, **options):
    return AudioDataset(sample_rate=RATE, **options)[CutSet.from_cuts([cut])]


def test_any_rate_is_resampled_exactly_up_to_the_top_of_the_band(tmp_path):
    # Lhotse's own resampler has lost 3 dB and more here.
    cut = tone(tmp_path / 'a.wav', frequency_hz=20500.0, rate=48000, level=0.5).truncate(offset=0.2, duration=0.5)
    for prepared in (cut, cut.resample(RATE)):
        batch = load(prepared)
        time = 0.2 + np.arange(22050) / RATE
        expected = 0.5 * np.sin(2 * np.pi * 20500.0 * time)
        assert batch['audio'].shape == (1, 22050)
        assert np.abs(batch['audio'][0].numpy() - expected).max() < 2.5e-3


def test_true_bandwidth_is_that_of_the_file_not_of_the_loader(tmp_path):
    cut = tone(tmp_path / 'a.wav', rate=16000)
    assert load(cut.resample(RATE))['bandwidth_hz'].item() == 8000.0
    assert load(tone(tmp_path / 'b.wav', rate=96000))['bandwidth_hz'].item() == RATE / 2
    cut.custom = {'bandwidth_hz': 5000.0}
    assert load(cut.resample(RATE))['bandwidth_hz'].item() == 5000.0


def test_channels_are_averaged_or_drawn(tmp_path):
    cut = tone(tmp_path / 'a.wav', channels=2, level=0.2)
    assert load(cut)['audio'].abs().max() == pytest.approx(0.3, abs=1e-3)
    peaks = {round(load(cut, random_channel=True, seed=seed)['audio'].abs().max().item(), 1) for seed in range(20)}
    assert peaks == {0.2, 0.3, 0.4}


def test_shorter_items_are_padded_and_their_length_is_told(tmp_path):
    long, short = tone(tmp_path / 'a.wav'), tone(tmp_path / 'b.wav', seconds=0.25)
    batch = AudioDataset(sample_rate=RATE)[CutSet.from_cuts([long, short])]
    assert batch['audio_lens'].tolist() == [44100, 11025]
    assert batch['audio'][1, 11025:].abs().max() == 0 and batch['audio'].dtype == torch.float32


def test_level_is_that_of_the_track_or_else_of_the_crop(tmp_path):
    cut = tone(tmp_path / 'a.wav')
    rms = load(cut, level_rms=0.1)['audio'].square().mean().sqrt()
    assert rms == pytest.approx(0.1, rel=1e-3)
    cut.custom = {'rms': 0.5}
    assert load(cut, level_rms=0.1)['audio'].abs().max() == pytest.approx(0.1, rel=1e-3)


def test_level_jitter_changes_the_level_within_its_bounds(tmp_path):
    cut = tone(tmp_path / 'a.wav')
    peaks = [load(cut, level_jitter_db=6.0, seed=seed)['audio'].abs().max().item() for seed in range(30)]
    decibels = 20 * np.log10(np.array(peaks) / 0.5)
    assert np.abs(decibels).max() <= 6.01 and decibels.max() > 3 and decibels.min() < -3


def test_silence_stays_silent(tmp_path):
    assert load(tone(tmp_path / 'a.wav', level=0.0), level_rms=0.1)['audio'].abs().max() == 0


def test_padded_cuts_load_too(tmp_path):
    assert load(tone(tmp_path / 'a.wav').pad(duration=2.0))['audio'].shape == (1, 88200)


def test_file_damage_comes_beside_the_clean_audio(tmp_path):
    damage = FileDamage(filter_probability=1.0, codec_probability=0.0, cutoff_range_hz=(3000, 3000))
    cut = tone(tmp_path / 'a.wav', frequency_hz=8000.0)
    batch, plain = load(cut, degradation=damage), load(cut)
    assert torch.equal(batch['audio'], plain['audio'])
    assert batch['damaged'][:, 4000:-4000].abs().max() < 0.1 and batch['cutoff_hz'].shape == (1,)
    assert set(plain) == {'audio', 'audio_lens', 'bandwidth_hz'}


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match='sample_rate'):
        AudioDataset(sample_rate=0)
    with pytest.raises(ValueError, match='level_rms'):
        AudioDataset(sample_rate=RATE, level_rms=-1.0)
