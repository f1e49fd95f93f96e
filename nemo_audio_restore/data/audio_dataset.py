"""Lhotse cuts -> batches of clean mono audio at one sample rate, with the true bandwidth of every item."""

import hashlib

import numpy as np
import soxr
import torch
from lhotse import CutSet, Recording
from lhotse.augmentation import Resample
from lhotse.cut import Cut
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy
from torch import Tensor

# Seconds read on both sides of a cut before resampling, so that the filter's edges fall outside of it.
RESAMPLING_MARGIN_S = 0.04


class AudioDataset(torch.utils.data.Dataset):
    """Maps a Lhotse ``CutSet`` (one mini-batch) to tensors: any rate, any number of channels, any file format.

    Lhotse's resampler rolls off from about 18 kHz at 44.1 kHz, where a restoration model has to be exact; so the audio
    is read at its own rate and resampled with soxr.

    Args:
        sample_rate: of the batch, in Hz.
        level_rms: scale each track to this root mean square (that of the cut's custom field ``rms``, or else of the
            crop); None keeps the level.
        level_jitter_db: then change the level of each crop at random by up to this, up or down.
        random_channel: take one channel or the mix of all, at random, instead of always the mix.
        degradation: damage of the known part, see :class:`nemo_audio_restore.data.degradation.FileDamage`.
        seed: of all random choices; the same crop meets the same ones for the same seed.

    An item is ``audio`` (B, T) float32, zero-padded to the longest; ``audio_lens`` (B,) samples; ``bandwidth_hz``
    (B,), the cut's custom field of that name or else half of its own sample rate, at most half of ``sample_rate``.
    With a degradation also ``damaged`` (B, T) and ``cutoff_hz`` (B,), the frequency above which the damaged audio
    holds nothing of use.

    Raises:
        ValueError: the sample rate or the level is not positive, or the jitter is negative.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        level_rms: float | None = None,
        level_jitter_db: float = 0.0,
        random_channel: bool = False,
        degradation: torch.nn.Module | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if sample_rate <= 0:
            raise ValueError(f'sample_rate must be positive; got {sample_rate}')
        if (level_rms is not None and level_rms <= 0) or level_jitter_db < 0:
            raise ValueError(
                f'level_rms must be positive and level_jitter_db >= 0; got {level_rms}, {level_jitter_db}'
            )
        self.sample_rate = sample_rate
        self.level_rms = level_rms
        self.level_jitter_db = level_jitter_db
        self.random_channel = random_channel
        self.degradation = degradation
        self.seed = seed

    def __getitem__(self, cuts: CutSet) -> dict[str, Tensor]:
        """Loads one mini-batch."""
        cuts = list(cuts)
        generators = [cut_generator(cut, self.seed) for cut in cuts]
        items = [self._load(cut, generator) for cut, generator in zip(cuts, generators, strict=True)]
        batch = {
            'audio': _pad(items),
            'audio_lens': torch.tensor([len(item) for item in items]),
            'bandwidth_hz': torch.tensor([self._bandwidth_hz(cut) for cut in cuts], dtype=torch.float32),
        }
        if self.degradation is not None:
            pairs = [
                self.degradation(torch.from_numpy(item), self.sample_rate, generator)
                for item, generator in zip(items, generators, strict=True)
            ]
            batch['damaged'] = _pad([audio.numpy() for audio, _ in pairs])
            batch['cutoff_hz'] = torch.tensor([cutoff for _, cutoff in pairs], dtype=torch.float32)
        return batch

    def _load(self, cut: Cut, generator: torch.Generator) -> np.ndarray:
        """(T,) mono at the target rate, T = round(duration * rate)."""
        num_samples = round(cut.duration * self.sample_rate)
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
        mono = self._to_mono(np.atleast_2d(audio), generator)
        if rate != self.sample_rate:
            mono = soxr.resample(mono, rate, self.sample_rate, quality='VHQ')
        mono = mono[round(lead * self.sample_rate) :][:num_samples]
        mono = np.pad(mono, (0, num_samples - len(mono)))
        return mono * self._gain(cut, mono, generator)

    def _to_mono(self, audio: np.ndarray, generator: torch.Generator) -> np.ndarray:
        channels = audio.shape[0]
        if self.random_channel and channels > 1:
            chosen = int(torch.randint(channels + 1, (), generator=generator))
            if chosen < channels:
                return audio[chosen].astype(np.float32)
        return audio.mean(axis=0, dtype=np.float32)

    def _gain(self, cut: Cut, audio: np.ndarray, generator: torch.Generator) -> np.float32:
        gain = 1.0
        if self.level_rms is not None:
            rms = _custom(cut, 'rms') or float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
            # Digital silence stays silent.
            gain = self.level_rms / rms if rms > 0 else 1.0
        if self.level_jitter_db:
            decibels = self.level_jitter_db * (2 * float(torch.rand((), generator=generator)) - 1)
            gain *= 10 ** (decibels / 20)
        return np.float32(gain)

    def _bandwidth_hz(self, cut: Cut) -> float:
        recording = unresampled(cut)
        rate = cut.sampling_rate if recording is None else recording.sampling_rate
        return min(_custom(cut, 'bandwidth_hz') or rate / 2, rate / 2, self.sample_rate / 2)


def cut_generator(cut: Cut, seed: int) -> torch.Generator:
    """A generator of its own for each crop of each recording.

    Args:
        cut: the crop.
        seed: another one gives other choices.

    Returns:
        On the CPU.
    """
    key = f'{seed}/{cut.id}/{getattr(cut, "start", 0.0):.5f}'
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], 'big'))


def unresampled(cut: Cut) -> Recording | None:
    """The cut's recording as it is in the file, if resampling is all that the loader did to it; else None."""
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


def _custom(cut: Cut, name: str) -> float | None:
    value = (getattr(cut, 'custom', None) or {}).get(name)
    return None if value is None else float(value)


def _pad(items: list[np.ndarray]) -> Tensor:
    padded = np.zeros((len(items), max(len(item) for item in items)), dtype=np.float32)
    for row, item in zip(padded, items, strict=True):
        row[: len(item)] = item
    return torch.from_numpy(padded)
