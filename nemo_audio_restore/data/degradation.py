"""Damage that real files have below their cutoff: filters that roll off softly, and lossy codecs.

A model that only ever saw brick-wall masks over pristine spectra meets something else in practice: the last kilohertz
before the cutoff is attenuated, and what is kept was coded. This damage is drawn in addition to the masks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nemo_audio_restore.files.lossy import CODECS, MP3_SAMPLE_RATES, lossy_round_trip
from nemo_audio_restore.signal.bandwidth import long_term_spectrum

_N_FFT = 4096
# A band counts as lost when this much quieter than the clean one; half as quiet would call a codec's ripple a loss.
_LOST_DB = 6.0


class FileDamage(nn.Module):
    """Damages a crop the way files are damaged, and says up to which frequency it is still of use.

    Args:
        filter_probability: share of crops that pass a soft low-pass (Butterworth magnitude, no phase shift).
        codec_probability: share of crops that are encoded and decoded.
        cutoff_range_hz: the filter's -3 dB point is drawn uniformly between these.
        order_range: of the filter, drawn uniformly; 6 dB per octave for each order.
        codecs: drawn with equal chance; ``mp3`` and ``vorbis``.
        compression_range: drawn uniformly; 0 is the codec's highest rate, 0.99 its lowest.

    Raises:
        ValueError: a share outside [0, 1], a range that is empty, or an unknown codec.
    """

    def __init__(
        self,
        *,
        filter_probability: float = 0.5,
        codec_probability: float = 0.5,
        cutoff_range_hz: Sequence[float] = (2000.0, 16000.0),
        order_range: Sequence[int] = (4, 24),
        codecs: Sequence[str] = ('mp3', 'vorbis'),
        compression_range: Sequence[float] = (0.5, 0.95),
    ):
        super().__init__()
        for name, share in {'filter_probability': filter_probability, 'codec_probability': codec_probability}.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f'{name} must lie in [0, 1]; got {share}')
        ranges = {
            'cutoff_range_hz': cutoff_range_hz,
            'order_range': order_range,
            'compression_range': compression_range,
        }
        for name, values in ranges.items():
            if len(values) != 2 or not 0 <= values[0] <= values[1]:
                raise ValueError(f'{name} must be (low, high) with 0 <= low <= high; got {tuple(values)}')
        unknown = sorted(set(codecs) - set(CODECS))
        if unknown or not codecs:
            raise ValueError(f'codecs must name some of {", ".join(CODECS)}; got {", ".join(codecs) or "none"}')
        self.filter_probability = filter_probability
        self.codec_probability = codec_probability
        self.cutoff_range_hz = tuple(cutoff_range_hz)
        self.order_range = tuple(order_range)
        self.codecs = tuple(codecs)
        self.compression_range = tuple(compression_range)

    def forward(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> tuple[Tensor, float]:
        """Damages one crop.

        Args:
            audio: (T,) clean samples.
            sample_rate: in Hz.
            generator: source of all random numbers, on the CPU.

        Returns:
            (T,) damaged samples, aligned with the clean ones, and the frequency in Hz above which they are lost; half
            of the sample rate when nothing is.
        """
        damaged = audio
        if torch.rand((), generator=generator) < self.filter_probability:
            cutoff_hz = _uniform(self.cutoff_range_hz, generator)
            damaged = soft_low_pass(damaged, sample_rate, cutoff_hz, order=_uniform(self.order_range, generator))
        if torch.rand((), generator=generator) < self.codec_probability:
            # MP3 knows a few rates only; Vorbis stands in for it at all others.
            codecs = [name for name in self.codecs if name != 'mp3' or sample_rate in MP3_SAMPLE_RATES] or ['vorbis']
            codec = codecs[int(torch.randint(len(codecs), (), generator=generator))]
            compression = _uniform(self.compression_range, generator)
            decoded = lossy_round_trip(damaged.numpy()[None], sample_rate, codec=codec, compression=compression)
            damaged = torch.from_numpy(decoded[0])
        return damaged, lost_above_hz(audio, damaged, sample_rate)


def soft_low_pass(audio: Tensor, sample_rate: int, cutoff_hz: float, *, order: float) -> Tensor:
    """Attenuates by a Butterworth magnitude without shifting the phase.

    Args:
        audio: (T,) samples.
        sample_rate: in Hz.
        cutoff_hz: the -3 dB point.
        order: 6 dB per octave for each; need not be whole.

    Returns:
        (T,) filtered samples; the ends are padded by reflection first, so that they do not leak into each other.
    """
    margin = min(audio.shape[0] - 1, _N_FFT)
    padded = nn.functional.pad(audio[None, None], (margin, margin), mode='reflect')[0, 0]
    frequency = torch.fft.rfftfreq(padded.shape[0], 1 / sample_rate)
    gain = (1 + (frequency / cutoff_hz).pow(2 * order)).rsqrt()
    filtered = torch.fft.irfft(torch.fft.rfft(padded) * gain, padded.shape[0])
    return filtered[margin : margin + audio.shape[0]]


def lost_above_hz(clean: Tensor, damaged: Tensor, sample_rate: int) -> float:
    """Finds the frequency above which the damaged audio is at least 6 dB below the clean one everywhere.

    Args:
        clean: (T,) samples.
        damaged: (T,) samples of the same moment.
        sample_rate: in Hz.

    Returns:
        Hz; half of the sample rate when nothing is lost or the audio is silent.
    """
    before, after = (_smooth(long_term_spectrum(x[None], n_fft=_N_FFT)) for x in (clean, damaged))
    # What is 100 dB below the peak of the clean spectrum cannot be heard: neither kept nor lost.
    audible = before > before.max() * 1e-10
    kept = audible & (after > before * 10 ** (-_LOST_DB / 10))
    if not kept.any():
        return sample_rate / 2
    last_kept, last_audible = int(kept.nonzero()[-1]), int(audible.nonzero()[-1])
    if last_kept == last_audible:
        return sample_rate / 2
    return (last_kept + 1) * sample_rate / _N_FFT


def _smooth(power: Tensor) -> Tensor:
    padded = nn.functional.pad(power[None, None], (4, 4), mode='replicate')
    return nn.functional.avg_pool1d(padded, 9, stride=1)[0, 0]


def _uniform(limits: Sequence[float], generator: torch.Generator) -> float:
    low, high = limits
    return low + (high - low) * float(torch.rand((), generator=generator))
