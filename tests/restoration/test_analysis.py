"""What the engine does with what it finds: cutoffs, full-band recordings, holes, boxes."""

import numpy as np
import pytest
import soundfile
from fake_restorer import FakeRestorer, level_db, noise_audio

from nemo_audio_restore.restoration import RestorationError, SamplerSettings, restore_array, restore_file
from nemo_audio_restore.restoration.generated import generated_parts, in_words

SETTINGS = SamplerSettings(steps=1, tile_frames=32, tile_hop_frames=32)
RATE = 44100


def low_passed(seconds=0.6, cutoff_hz=6000, channels=1):
    audio = noise_audio(seconds, channels=channels)
    spectrum = np.fft.rfft(audio)
    spectrum[:, np.fft.rfftfreq(audio.shape[1], 1 / RATE) > cutoff_hz] = 0
    return np.fft.irfft(spectrum, audio.shape[1]).astype(np.float32)


def restored_file(folder, audio, subtype='PCM_24', **request):
    source, target = folder / 'in.wav', folder / 'out.wav'
    soundfile.write(source, audio.T, RATE, subtype)
    report = restore_file(FakeRestorer(), source, target, settings=SETTINGS, **request)
    return report, soundfile.read(source, always_2d=True)[0].T, soundfile.read(target, always_2d=True)[0].T


def test_without_a_request_the_cutoff_is_found_and_the_band_above_generated(tmp_path):
    report, before, after = restored_file(tmp_path, low_passed())
    assert report.detected_cutoff.cutoff_hz == pytest.approx(6000, rel=0.05)
    assert report.cutoff_hz == report.detected_cutoff.wall_hz < 6000
    assert any('cutoff found at' in note for note in report.notes)
    change = np.fft.rfft((after - before) * np.hanning(before.shape[1]))[0]
    frequency = np.fft.rfftfreq(before.shape[1], 1 / RATE)
    below, above = (np.abs(change[mask]).max() for mask in (frequency < 4000, frequency > 7000))
    assert above > 1000 * below
    assert report.as_dict()['detected_cutoff']['confidence'] == report.detected_cutoff.confidence


def test_a_full_band_recording_is_written_unchanged_and_says_so(tmp_path):
    report, before, after = restored_file(tmp_path, noise_audio(0.6, channels=2), seed=3)
    np.testing.assert_array_equal(before, after)
    assert report.is_unchanged and report.cutoff_hz is None and report.tiles == 0
    assert any('no bandwidth is added' in note for note in report.notes) and 'generated nothing' in in_words(report)


def test_silence_is_written_unchanged_with_a_warning(tmp_path):
    report, _, after = restored_file(tmp_path, np.zeros((1, RATE), np.float32))
    assert report.is_unchanged and not after.any() and any('uncertain' in text for text in report.warnings)


def test_gaps_alone_leave_the_bandwidth_alone_unless_auto_is_asked(tmp_path):
    gaps = [(0.3, 0.31)]
    alone, *_ = restored_file(tmp_path, low_passed(), gaps=gaps)
    assert alone.cutoff_hz is None and alone.detected_cutoff is None
    (tmp_path / 'out.wav').unlink()
    both, *_ = restored_file(tmp_path, low_passed(), gaps=gaps, cutoff_hz='auto')
    assert both.cutoff_hz == pytest.approx(6000, rel=0.1) and both.gaps == alone.gaps


def test_holes_are_found_beside_those_that_are_given(tmp_path):
    audio = noise_audio(0.8)
    audio[:, 13000:13500] = 0
    audio[:, 22000:22400] = 0
    report, before, after = restored_file(tmp_path, audio, gaps=[(0.498, 0.509)], detect_gaps=True)
    assert [gap.kind for gap in report.detected_gaps] == ['silence'] and len(report.gaps) == 2
    assert report.cutoff_hz is None and level_db(after[:, 13000:13500]) > -60
    np.testing.assert_array_equal(before[:, :12000], after[:, :12000])
    assert any('1 silence' in note for note in report.notes)


def test_a_recording_without_holes_is_written_unchanged(tmp_path):
    report, before, after = restored_file(tmp_path, noise_audio(0.3), detect_gaps=True)
    np.testing.assert_array_equal(before, after)
    assert report.is_unchanged and any('no damage found' in note for note in report.notes)


@pytest.mark.parametrize('others', [{}, {'gaps': [(0.1, 0.11)]}, {'cutoff_hz': 15000}])
def test_a_region_changes_its_box_and_nothing_else(others):
    audio, box = noise_audio(0.6, channels=2), (0.3, 0.33, 4000.0, 9000.0)
    plain = audio
    if others:
        plain = restore_array(FakeRestorer(), audio, RATE, settings=SETTINGS, **others)
    output = restore_array(FakeRestorer(), audio, RATE, settings=SETTINGS, regions=[box], **others)
    start, stop, fade = round(0.3 * RATE), round(0.33 * RATE), round(0.006 * RATE)
    change = output - audio
    assert level_db(change[:, start:stop]) > -40
    if not others:
        outside = np.r_[0 : start - fade, stop + fade : audio.shape[1]]
        np.testing.assert_array_equal(output[:, outside], audio[:, outside])
        part = change[0, start - 2 * fade : stop + 2 * fade]
        power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
        frequency = np.fft.rfftfreq(len(part), 1 / RATE)
        inside = power[(frequency > 4500) & (frequency < 8500)].mean()
        assert power[(frequency < 2500) | (frequency > 11000)].mean() < 1e-4 * inside
    if 'gaps' in others:
        gap = slice(round(0.1 * RATE), round(0.11 * RATE))
        np.testing.assert_allclose(output[:, gap], plain[:, gap], atol=1e-5)


def test_regions_are_reported(tmp_path):
    report, *_ = restored_file(tmp_path, noise_audio(0.6), regions=[(0.3, 0.33, 4000, 9000)])
    (part,) = generated_parts(report)
    assert (part['kind'], part['start_s'], part['low_hz'], part['high_hz']) == ('region', 0.3, 4000, 9000)
    assert '0.3-0.33 s from 4000 to 9000 Hz' in in_words(report) and not report.is_unchanged


def test_what_the_model_cannot_bridge_is_refused_unless_forced(tmp_path):
    audio, too_long = noise_audio(0.6), (0.1, 0.1 + 33 * 64 / RATE)
    for request in ({'gaps': [too_long]}, {'regions': [(*too_long, 1000, 2000)]}):
        with pytest.raises(RestorationError, match=r'0.05 s that the model sees at once.*--force'):
            restore_array(FakeRestorer(), audio, RATE, settings=SETTINGS, **request)
        forced = restore_array(FakeRestorer(), audio, RATE, settings=SETTINGS, force=True, **request)
        assert np.isfinite(forced).all()
    report, *_ = restored_file(tmp_path, audio, gaps=[too_long], force=True)
    assert any('without context' in text for text in report.warnings)
