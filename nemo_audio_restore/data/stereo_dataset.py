"""Lhotse cuts -> batches of clean stereo audio at one sample rate."""

import numpy as np
import soxr
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from nemo_audio_restore.data.audio_dataset import RESAMPLING_MARGIN_S, cut_generator, unresampled


class StereoDataset(torch.utils.data.Dataset):
    """Maps a Lhotse ``CutSet`` (one mini-batch) to stereo tensors: any rate, any number of channels, any file format.

    One channel is copied to both sides, more than two are mixed and copied.

    Args:
        sample_rate: of the batch, in Hz.
        flips: turn the phase of every second crop by half a wave, as the published training does.
        seed: of the flips; the same crop meets the same one for the same seed.

    An item is ``audio`` (B, 2, T) float32 in [-1, 1], zero-padded to the longest, and ``audio_lens`` (B,) samples.

    Raises:
        ValueError: the sample rate is not positive.
    """

    def __init__(self, *, sample_rate: int, flips: bool = False, seed: int = 0):
        super().__init__()
        if sample_rate <= 0:
            raise ValueError(f'sample_rate must be positive; got {sample_rate}')
        self.sample_rate = sample_rate
        self.flips = flips
        self.seed = seed

    def __getitem__(self, cuts: CutSet) -> dict[str, Tensor]:
        """Loads one mini-batch."""
        items = [self._load(cut) for cut in cuts]
        audio = torch.zeros(len(items), 2, max(item.shape[1] for item in items))
        for row, item in zip(audio, items, strict=True):
            row[:, : item.shape[1]] = torch.from_numpy(item)
        return {'audio': audio, 'audio_lens': torch.tensor([item.shape[1] for item in items])}

    def _load(self, cut: Cut) -> np.ndarray:
        """(2, T) at the target rate, T = round(duration * rate)."""
        audio = stereo_audio(cut, self.sample_rate)
        if self.flips and float(torch.rand((), generator=cut_generator(cut, self.seed))) < 0.5:
            return -audio
        return audio


def stereo_audio(cut: Cut, sample_rate: int) -> np.ndarray:
    """Both channels of a cut.

    Args:
        cut: of any rate and number of channels.
        sample_rate: wanted, in Hz.

    Returns:
        (2, T) float32 in [-1, 1], T = round(duration * rate).
    """
    num_samples = round(cut.duration * sample_rate)
    recording = unresampled(cut)
    if recording is None:
        audio, rate, lead = cut.load_audio(), cut.sampling_rate, 0.0
    else:
        rate = recording.sampling_rate
        start = max(0.0, cut.start - RESAMPLING_MARGIN_S)
        stop = min(recording.duration, cut.end + RESAMPLING_MARGIN_S)
        channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
        audio = recording.load_audio(channels=channels, offset=start, duration=stop - start)
        lead = cut.start - start
    audio = np.atleast_2d(audio).astype(np.float32)
    audio = audio if len(audio) == 2 else audio.mean(axis=0, keepdims=True).repeat(2, axis=0)
    if rate != sample_rate:
        audio = soxr.resample(audio.T, rate, sample_rate, quality='VHQ').T
    audio = audio[:, round(lead * sample_rate) :][:, :num_samples]
    return np.pad(audio, ((0, 0), (0, num_samples - audio.shape[1]))).clip(-1, 1)
