import torch

from nemo_audio_restore.signal.corruption import FILL_STD, Corruption
from nemo_audio_restore.signal.file_damage import with_file_damage
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

REPRESENTATION = MagnitudePhaseSpectrogram(sample_rate=16000, n_fft=64, hop_length=32)


def enlarge(cutoff_hz, bandwidth_hz=8000.0, gap=slice(0, 0)):
    generator = torch.Generator().manual_seed(0)
    clean, damaged, noise = (torch.randn(1, 3, 32, 10, generator=generator) for _ in range(3))
    mask = torch.zeros(1, 1, 32, 10)
    mask[..., gap] = 1
    before = Corruption(mask, mask.clone(), torch.zeros_like(clean))
    target, after = with_file_damage(
        REPRESENTATION,
        clean,
        damaged,
        before,
        cutoff_hz=torch.tensor([cutoff_hz]),
        bandwidth_hz=torch.tensor([bandwidth_hz]),
        noise=noise,
    )
    return clean, damaged, noise, target, after


def test_rows_above_the_cutoff_are_generated_from_noise():
    clean, _, noise, target, after = enlarge(4000.0)
    assert after.mask[:, :, 16:].min() == 1 and after.mask[:, :, :16].max() == 0
    torch.testing.assert_close(after.degraded[:, :, 16:], FILL_STD * noise[:, :, 16:])
    torch.testing.assert_close(target[:, :, 16:], clean[:, :, 16:])


def test_known_part_is_the_damaged_one_at_both_ends_of_the_bridge():
    _, damaged, _, target, after = enlarge(4000.0)
    torch.testing.assert_close(target[:, :, :16], damaged[:, :, :16])
    torch.testing.assert_close(after.degraded[:, :, :16], damaged[:, :, :16])


def test_gaps_stay_masked():
    _, _, _, _, after = enlarge(8000.0, gap=slice(2, 4))
    assert after.mask[..., 2:4].min() == 1 and after.mask.sum() == 2 * 32


def test_rows_above_the_true_bandwidth_are_generated_but_not_learned():
    _, _, _, _, after = enlarge(4000.0, bandwidth_hz=6000.0)
    assert after.mask[:, :, 24:].min() == 1
    assert after.loss_mask[:, :, 16:24].min() == 1 and after.loss_mask[:, :, 24:].max() == 0
