"""Lhotse cuts -> batches of clean mono audio at one sample rate, with the true bandwidth of every item."""

import hashlib

import numpy as np
import soxr
import torch
from lhotse import CutSet, Recording
from lhotse.augmentation import Resample
from lhotse.cut import Cut, DataCut
from lhotse.utils import fastcopy
from torch import Tensor

# Seconds read on both sides of a cut before resampling, so that the filter's edges fall outside of it.
_MARGIN_S = 0.04


class AudioDataset(torch.utils.data.Dataset):
    """Maps a Lhotse ``CutSet`` (one mini-batch) to tensors: any rate, any number of channels, any file format.

    Lhotse's resampler rolls off from about 18 kHz at 44.1 kHz, where a restoration model has to be exact; so the audio
    is read at its own rate and resampled with soxr.

    Args:
        sample_rate: of the batch, in Hz.
        degradation: optional damage of the known part, see :mod:`nemo_audio_restore.data.degradation`.
        seed: of the damage; the same cut (file and position) receives the same damage for the same seed.

    Returns:
        Of an item access: ``audio`` (B, T) float32, zero-padded to the longest; ``audio_lens`` (B,) samples;
        ``bandwidth_hz`` (B,), the cut's custom field of that name or else half of its own sample rate, at most half of
        ``sample_rate``. With a degradation also ``damaged`` (B, T) and ``cutoff_hz`` (B,), the frequency above which
        the damaged audio holds nothing of use.
    """

    def __init__(self, *, sample_rate: int, degradation: torch.nn.Module | None = None, seed: int = 0):
        super().__init__()
        if sample_rate <= 0:
            raise ValueError(f'sample_rate must be positive; got {sample_rate}')
        self.sample_rate = sample_rate
        self.degradation = degradation
        self.seed = seed

    def __getitem__(self, cuts: CutSet) -> dict[str, Tensor]:
        """Loads one mini-batch."""
        cuts = list(cuts)
        items = [self._load(cut) for cut in cuts]
        batch = {
            'audio': _pad(items),
            'audio_lens': torch.tensor([len(item) for item in items]),
            'bandwidth_hz': torch.tensor([self._bandwidth_hz(cut) for cut in cuts], dtype=torch.float32),
        }
        if self.degradation is not None:
            pairs = [
                self.degradation(torch.from_numpy(item), self.sample_rate, self._generator(cut))
                for item, cut in zip(items, cuts, strict=True)
            ]
            batch['damaged'] = _pad([audio.numpy() for audio, _ in pairs])
            batch['cutoff_hz'] = torch.tensor([cutoff for _, cutoff in pairs], dtype=torch.float32)
        return batch

    def _load(self, cut: Cut) -> np.ndarray:
        """(T,) mono at the target rate, T = round(duration * rate)."""
        num_samples = round(cut.duration * self.sample_rate)
        recording = _unresampled(cut)
        if recording is None:
            audio, rate, lead = cut.load_audio(), cut.sampling_rate, 0.0
        else:
            rate = recording.sampling_rate
            start = max(0.0, cut.start - _MARGIN_S)
            stop = min(recording.duration, cut.end + _MARGIN_S)
            channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
            audio = recording.load_audio(channels=channels, offset=start, duration=stop - start)
            lead = cut.start - start
        mono = np.atleast_2d(audio).mean(axis=0, dtype=np.float32)
        if rate != self.sample_rate:
            mono = soxr.resample(mono, rate, self.sample_rate)
        mono = mono[round(lead * self.sample_rate) :][:num_samples]
        return np.pad(mono, (0, num_samples - len(mono)))

    def _bandwidth_hz(self, cut: Cut) -> float:
        recording = _unresampled(cut)
        rate = cut.sampling_rate if recording is None else recording.sampling_rate
        known = (getattr(cut, 'custom', None) or {}).get('bandwidth_hz', rate / 2)
        return min(float(known), self.sample_rate / 2)

    def _generator(self, cut: Cut) -> torch.Generator:
        key = f'{self.seed}/{cut.id}/{getattr(cut, "start", 0.0):.5f}'
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], 'big'))


def _unresampled(cut: Cut) -> Recording | None:
    """The cut's recording as it is in the file, if resampling is all that the loader did to it."""
    if not isinstance(cut, DataCut) or not cut.has_recording:
        return None
    transforms = cut.recording.transforms or []
    if not all(isinstance(transform, Resample) for transform in transforms):
        return None
    if not transforms:
        return cut.recording
    rate = transforms[0].source_sampling_rate
    # The duration survived resampling, the number of samples did not.
    num_samples = round(cut.recording.duration * rate)
    return fastcopy(cut.recording, transforms=None, sampling_rate=rate, num_samples=num_samples)


def _pad(items: list[np.ndarray]) -> Tensor:
    padded = np.zeros((len(items), max(len(item) for item in items)), dtype=np.float32)
    for row, item in zip(padded, items, strict=True):
        row[: len(item)] = item
    return torch.from_numpy(padded)
