"""Where a low-passed recording ends: the knee of its long-term spectrum, or the finding that it is full-band.

A small network, trained on music behind random low-passes, judges the whole recording, each channel, and up to eight
parts of the time. Times count by the root of their energy; what is 30 dB below the loud parts does not count. The
whole, the jury of the parts and the jury of the channels have equal weight; but where most of the parts agree on
something else, they win: a recording that changes gets the cutoff of most of its time.
"""

from dataclasses import dataclass

import numpy as np

from nemo_audio_restore.signal.cutoff_statistics import (
    CELLS_PER_OCTAVE,
    FIRST_HZ,
    SpectrumStatistics,
    features,
    loud_blocks,
)
from nemo_audio_restore.signal.knee_network import KneeNetwork, Verdict, average, judge

FULL_BAND_HZ = 18000.0
"""A recording that reaches this far is full-band: hardly anyone hears what is above."""

UNSURE = 0.5
"""Confidence below which a user should look for himself."""

_PARTS = 8
_BLOCKS_PER_PART = 2
_AGREEMENT = 0.08
_NYQUIST_SHARE = 0.95  # of half the sample rate survives a resampler


@dataclass(frozen=True)
class CutoffEstimate:
    """Where a recording ends.

    Attributes:
        cutoff_hz: the knee, where the low-pass has taken 3 dB; None for a full-band recording.
        wall_hz: where it has taken less than 1 dB, and what is above should be generated anew; None likewise.
        confidence: 0 to 1; the probability that the cutoff is right within 5 %.
        channels_hz: the knee of each channel by itself, None where it is full-band or silent.
        reason: one sentence for the user.
    """

    cutoff_hz: float | None
    wall_hz: float | None
    confidence: float
    channels_hz: tuple[float | None, ...]
    reason: str

    @property
    def is_sure(self) -> bool:
        """Whether it may be used without a look at the spectrum."""
        return self.confidence >= UNSURE


class CutoffDetector:
    """Reads a stream, then tells where its band ends.

    Args:
        channels: C.
        sample_rate: in Hz.
        network: judges the spectra; None for the one that ships.
    """

    def __init__(self, channels: int, sample_rate: int, *, network: KneeNetwork | None = None):
        self._rate, self._channels, self._network = sample_rate, channels, network
        self._statistics = SpectrumStatistics(channels, sample_rate)

    def add(self, audio: np.ndarray) -> None:
        """Takes the next (C, n) float32 samples; memory stays bounded for a stream of any length."""
        self._statistics.add(audio)

    def estimate(self) -> CutoffEstimate:
        """Judges the stream so far: all channels together, each by itself, and parts of the time."""
        sums, energies = self._statistics.blocks()
        loud = np.flatnonzero(loud_blocks(energies))
        if not len(loud):
            return CutoffEstimate(None, None, 0.0, (None,) * self._channels, 'there is no sound to judge by')
        parts = np.array_split(loud, min(_PARTS, max(len(loud) // _BLOCKS_PER_PART, 1)))
        voices = [voice[loud].sum(axis=0) for voice in sums]
        heard = [index for index, voice in enumerate(voices) if voice[0].any()]
        asked = [voices[index] for index in heard] + [sums[0, part].sum(axis=0) for part in parts]
        rows = np.stack([features(each) for each in asked])
        verdicts = judge(rows, self._network)
        whole, jury = verdicts[0], verdicts[len(heard) :]
        juries = [jury, verdicts[1 : len(heard)]]
        verdict = average([whole, *(average(members) for members in juries if members)])
        cutoff_hz = _cutoff(verdict)
        majority = average(jury)
        if not _agree(cutoff_hz, _cutoff(majority)) and majority.mass(_cutoff(majority)) > UNSURE:
            verdict, cutoff_hz = majority, _cutoff(majority)
        confidence = verdict.mass(cutoff_hz) if cutoff_hz is not None else verdict.none
        found = dict(zip(heard, map(_cutoff, verdicts), strict=False))
        channels = tuple(found.get(index) for index in range(1, len(voices))) or (cutoff_hz,)
        reason = _reason(cutoff_hz, rows[0, 0], [found[i] for i in heard[1:]], [_cutoff(each) for each in jury])
        return self._result(cutoff_hz, verdict, confidence, channels, reason)

    def _result(
        self,
        cutoff_hz: float | None,
        verdict: Verdict,
        confidence: float,
        channels: tuple[float | None, ...],
        reason: str,
    ) -> CutoffEstimate:
        nyquist = self._rate / 2
        if nyquist <= FULL_BAND_HZ and (cutoff_hz is None or cutoff_hz > _NYQUIST_SHARE * nyquist):
            limit = _NYQUIST_SHARE * nyquist
            reason = f'the recording fills the band that its sample rate of {self._rate} Hz allows'
            return CutoffEstimate(limit, limit, max(confidence, UNSURE), channels, reason)
        if cutoff_hz is None:
            return CutoffEstimate(None, None, confidence, channels, reason)
        # One percent for what the estimate may be off.
        wall_hz = 0.99 * cutoff_hz * 2 ** -verdict.width_at(cutoff_hz)
        return CutoffEstimate(cutoff_hz, wall_hz, confidence, channels, reason)


def _cutoff(verdict: Verdict) -> float | None:
    """The knee's frequency, or None if there is none or too high to count."""
    found = verdict.best_hz()
    return None if found is None or found >= FULL_BAND_HZ else found


def _agree(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(np.log(a / b)) <= _AGREEMENT


def _reason(cutoff_hz: float | None, mean: np.ndarray, channels: list[float | None], parts: list[float | None]) -> str:
    """What was found, and what speaks against it; from the mean spectrum in the units of the features."""
    if cutoff_hz is None:
        text = f'the recording reaches {FULL_BAND_HZ / 1000:g} kHz or falls off by itself'
    else:
        at, cells = np.log2(cutoff_hz / FIRST_HZ) * CELLS_PER_OCTAVE - 0.5, np.arange(len(mean))
        quarter = CELLS_PER_OCTAVE / 4
        fall = 20 * (np.interp(at - quarter, cells, mean) - np.interp(at + quarter, cells, mean))
        text = f'at {cutoff_hz:.0f} Hz the spectrum falls by {fall:.0f} dB within half an octave'
    for name, values in (('channels', channels), ('parts of the recording', parts)):
        if not all(_agree(cutoff_hz, value) for value in values):
            ends = ', '.join('full band' if value is None else f'{value:.0f} Hz' for value in values)
            text += f'; the {name} differ: {ends}'
    return text
