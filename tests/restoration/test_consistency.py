"""Phases of generated bins that agree between frames."""

import pytest
import torch

from nemo_audio_restore.restoration.consistency import consistent
from nemo_audio_restore.restoration.spectrum_runs import Frames, Generated
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

REPRESENTATION = MagnitudePhaseSpectrogram(sample_rate=8000, n_fft=64, hop_length=16)
BINS, FRAMES = REPRESENTATION.num_bins, 40


def random_run(*, frames: int = FRAMES, seed: int = 0) -> Frames:
    """Upper half generated with random phases, lower half known."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.randn(2, BINS, frames, dtype=torch.complex64, generator=generator)
    magnitude = torch.rand(2, BINS, frames, generator=generator) + 0.1
    phase = torch.rand(2, BINS, frames, generator=generator) * 2 * torch.pi
    mask = torch.zeros(BINS, frames)
    mask[BINS // 2 :] = 1
    difference = (torch.polar(magnitude, phase) - known) * mask
    constant = torch.zeros(2, 1, frames, dtype=torch.complex64)
    return Frames(frames, torch.cat([constant, difference], dim=1), Generated(known, magnitude, mask))


def cut(run: Frames, *sizes: int) -> list[Frames]:
    parts = []
    for size in sizes:
        part, run = run.split(size)
        parts.append(part)
    return [*parts, run]


def whole(runs) -> torch.Tensor:
    return torch.cat([run.spectrum for run in runs], dim=-1)


def reanalysed(spectrum: torch.Tensor) -> torch.Tensor:
    """STFT of the inverse STFT, with silence around."""
    padded = torch.nn.functional.pad(spectrum, (4, 4))
    signal = REPRESENTATION.istft(padded, length=16 * (padded.shape[-1] - 1))
    return REPRESENTATION.stft(signal)[..., 4:-4]


def inconsistency(run: Frames, spectrum: torch.Tensor) -> float:
    return (run.generated.mask * (spectrum - reanalysed(spectrum))[:, 1:]).abs().square().sum().item()


def test_no_rounds_change_nothing():
    run = random_run()
    assert torch.equal(whole(consistent([run], REPRESENTATION, rounds=0)), run.spectrum)


def test_one_round_is_the_published_formula():
    run = random_run()
    total = run.generated.known + reanalysed(run.spectrum)[:, 1:]
    expected = (run.generated.magnitude * torch.sgn(total) - run.generated.known) * run.generated.mask
    result = whole(consistent([run], REPRESENTATION, rounds=1))
    assert torch.allclose(result[:, 1:, 4:-4], expected[..., 4:-4], atol=1e-4)


def test_every_round_brings_the_frames_closer_to_a_signal():
    run = random_run()
    errors = [inconsistency(run, whole(consistent([run], REPRESENTATION, rounds=n))) for n in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]


def test_magnitudes_of_generated_bins_and_all_known_bins_stay():
    run = random_run()
    result = whole(consistent([run], REPRESENTATION, rounds=3))[:, 1:]
    estimate = (result + run.generated.known)[:, BINS // 2 :]
    assert torch.allclose(estimate.abs(), run.generated.magnitude[:, BINS // 2 :], atol=1e-4)
    assert result[:, : BINS // 2].abs().max() == 0


@pytest.mark.parametrize('sizes', [(1,), (3, 5), (7, 1, 1, 20), (39,)])
def test_result_does_not_depend_on_how_the_stream_is_cut(sizes: tuple[int, ...]):
    run = random_run()
    together = whole(consistent([run], REPRESENTATION, rounds=4))
    pieces = whole(consistent(cut(run, *sizes), REPRESENTATION, rounds=4))
    assert torch.allclose(together, pieces, atol=1e-4)


def test_run_of_zeros_separates_and_keeps_its_place():
    first, second = random_run(frames=9, seed=1), random_run(frames=5, seed=2)
    runs = list(consistent([first, Frames(100, None), second], REPRESENTATION, rounds=2))
    assert sum(run.count for run in runs) == 114
    zeros = next(i for i, run in enumerate(runs) if run.spectrum is None)
    assert sum(run.count for run in runs[:zeros]) == 9
    alone = whole(consistent([second], REPRESENTATION, rounds=2))
    assert torch.allclose(whole(runs[zeros + 1 :]), alone, atol=1e-5)


def test_run_shorter_than_the_overlap_comes_out_whole():
    run = random_run(frames=2)
    assert sum(part.count for part in consistent([run], REPRESENTATION, rounds=5)) == 2
