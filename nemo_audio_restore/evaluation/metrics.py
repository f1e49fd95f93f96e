"""Metrics that compare a restored recording with its original.

All of them take two 1-D arrays of equal length. The spectral ones (LSD, SiSpec, log SiSpec, SSIM) use the transform
of the `ssr_eval` package, in which the literature on bandwidth extension reports its numbers: Hann window of 46 ms,
hop of 10 ms, centred frames, zero padding, plain magnitudes.

Pitfalls, all of them measured:

* LSD compares logarithms, so a bin in which the reference is digitally silent costs a constant 12 whatever the
  estimate does with it: half the level on a clip with 6 % silence scores 1.09, not 0.60. Leave silent clips out.
* A bin in which only the *estimate* is silent can cost up to 24. 'Doing nothing' therefore scores 8 to 12 above a
  cutoff, and what it scores depends on the stop-band of the low-pass filter and on dither more than on the music.
* LSD rewards the conditional mean of the logarithm. Noise with exactly the right envelope scores about 1.1, a smooth
  estimate less; read it beside a perceptual metric.
* SiSpec and SSIM work on linear magnitudes, so the loudest bins decide; above 8 kHz there is little to see for them.
* SI-SDR compares waveforms. A generated band never matches in phase, so it is a test of the known part.
"""

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.evaluation.optional import require

_EPS = 1e-12
_PERCEPTUAL_RATE_HZ = 48000
_VISQOL_MIN_S = 1.0


def lsd(
    reference: np.ndarray | Tensor,
    estimate: np.ndarray | Tensor,
    sample_rate: int,
    *,
    low_hz: float | None = None,
    high_hz: float | None = None,
) -> float:
    """Log-spectral distance, averaged over frames; 0 is perfect, lower is better.

    Args:
        reference: original samples (T,), in [-1, 1].
        estimate: restored samples (T,).
        sample_rate: of both, in Hz.
        low_hz: only bins at or above this frequency; all from 0 Hz by default.
        high_hz: only bins below this frequency; all up to half the sample rate by default.

    Returns:
        Mean over frames of the root mean square over bins of log10 of the power ratio (1.0 = 10 dB).

    Raises:
        ValueError: lengths differ, an array is empty, not 1-D or not finite, or the band holds no bin.

    Source: `ssr_eval` 0.0.7, AudioMetrics.lsd.
    """
    return float(frame_lsd(reference, estimate, sample_rate, low_hz=low_hz, high_hz=high_hz).mean())


def frame_lsd(
    reference: np.ndarray | Tensor,
    estimate: np.ndarray | Tensor,
    sample_rate: int,
    *,
    low_hz: float | None = None,
    high_hz: float | None = None,
) -> np.ndarray:
    """Log-spectral distance of every frame; frame i is centred at ``i * hop`` samples (:func:`frame_geometry`).

    Args:
        reference: original samples (T,).
        estimate: restored samples (T,).
        sample_rate: of both, in Hz.
        low_hz: only bins at or above this frequency.
        high_hz: only bins below this frequency.

    Returns:
        (N,) distances.

    Raises:
        ValueError: as for :func:`lsd`.
    """
    band = _band(sample_rate, low_hz, high_hz)
    target, candidate = (magnitude[band] for magnitude in _magnitudes(reference, estimate, sample_rate))
    ratio = torch.log10(target.square() / (candidate + _EPS).square() + _EPS)
    return ratio.square().mean(dim=0).sqrt().numpy()


def gap_lsd(
    reference: np.ndarray | Tensor,
    estimate: np.ndarray | Tensor,
    sample_rate: int,
    *,
    start_s: float,
    end_s: float,
) -> float:
    """Log-spectral distance over the frames whose window overlaps a gap.

    Args:
        reference: original samples (T,).
        estimate: samples with the gap filled (T,).
        sample_rate: of both, in Hz.
        start_s: start of the gap in seconds.
        end_s: end of the gap in seconds, after the start.

    Returns:
        Mean distance of those frames.

    Raises:
        ValueError: the gap is empty or lies outside the recording, or as for :func:`lsd`.
    """
    duration_s = len(reference) / sample_rate
    if not 0 <= start_s < end_s <= duration_s + 1e-9:
        raise ValueError(f'a gap must lie inside the recording of {duration_s:.3f} s; got {start_s} to {end_s} s')
    window, hop = frame_geometry(sample_rate)
    frames = frame_lsd(reference, estimate, sample_rate)
    centres = np.arange(len(frames)) * hop
    overlaps = (centres + window / 2 > start_s * sample_rate) & (centres - window / 2 < end_s * sample_rate)
    return float(frames[overlaps].mean())


def sispec(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """Scale-invariant ratio of magnitude spectrograms in dB, blind to phase; higher is better.

    Args:
        reference: original samples (T,).
        estimate: restored samples (T,).
        sample_rate: of both, in Hz.

    Returns:
        The ratio in dB.

    Raises:
        ValueError: lengths differ, or an array is empty, not 1-D or not finite.

    Source: `ssr_eval` 0.0.7, AudioMetrics.sispec.
    """
    return _scale_invariant_ratio_db(*_magnitudes(reference, estimate, sample_rate))


def log_sispec(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """SiSpec of the logarithm of the magnitudes in dB; higher is better.

    Args:
        reference: original samples (T,).
        estimate: restored samples (T,).
        sample_rate: of both, in Hz.

    Returns:
        The ratio in dB.

    Raises:
        ValueError: lengths differ, or an array is empty, not 1-D or not finite.

    Source: `ssr_eval` 0.0.7, AudioMetrics.sispec on logarithms.
    """
    target, candidate = _magnitudes(reference, estimate, sample_rate)
    return _scale_invariant_ratio_db(torch.log10(target + _EPS), torch.log10(candidate + _EPS))


def ssim(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """Structural similarity of magnitude spectrograms as if they were images; 1 is perfect.

    Uniform 7 x 7 windows, unbiased covariances, constants 0.01 and 0.03 of the range that both images span together.

    Args:
        reference: original samples (T,), at least 7 frames long.
        estimate: restored samples (T,).
        sample_rate: of both, in Hz.

    Returns:
        The mean similarity, at most 1.

    Raises:
        ValueError: fewer than 7 frames, lengths differ, or an array is empty, not 1-D or not finite.

    Source: Wang et al. 2004, equation 13.
    """
    side = 7
    target, candidate = _magnitudes(reference, estimate, sample_rate)
    if target.shape[1] < side:
        raise ValueError(f'SSIM needs at least {side} frames of {1000 / 100:.0f} ms; got {target.shape[1]}')
    both = torch.stack([target, candidate])
    data_range = both.max() - both.min()
    products = torch.cat([both, both.square(), (target * candidate)[None]])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = torch.nn.functional.avg_pool2d(products[:, None], side, stride=1)
    unbiased = side**2 / (side**2 - 1)
    variance_x = unbiased * (mean_xx - mean_x.square())
    variance_y = unbiased * (mean_yy - mean_y.square())
    covariance = unbiased * (mean_xy - mean_x * mean_y)
    c1 = (0.01 * data_range) ** 2
    c2 = (0.03 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))
    return float(similarity.mean())


def si_sdr(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio of two waveforms in dB; higher is better.

    Args:
        reference: original samples (T,).
        estimate: restored samples (T,).

    Returns:
        The ratio in dB; inf for a perfect estimate.

    Raises:
        ValueError: lengths differ, an array is empty, not 1-D or not finite, or the reference is silent.

    Source: Le Roux et al. 2018, equation 2 (without removal of the mean).
    """
    target, candidate = checked_pair(reference, estimate)
    energy = target.square().sum()
    if energy == 0:
        raise ValueError('SI-SDR is undefined for a silent reference')
    scaled = (candidate @ target) / energy * target
    distortion = (candidate - scaled).square().sum()
    return float(10 * torch.log10(scaled.square().sum() / distortion))


def zimtohrli_mos(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """Perceptual similarity by Zimtohrli on the scale of opinion scores, 1 (bad) to 5 (identical).

    Args:
        reference: original samples (T,) in [-1, 1]; the absolute level matters.
        estimate: restored samples (T,).
        sample_rate: of both, in Hz; resampled to 48 kHz here.

    Returns:
        The estimated mean opinion score.

    Raises:
        ImportError: the package is missing; install the `metrics` extra.
        ValueError: lengths differ, or an array is empty, not 1-D or not finite.

    Source: https://github.com/google/zimtohrli
    """
    zimtohrli = require('zimtohrli', package='zimtohrli', extra='metrics')
    target, candidate = _at_perceptual_rate(reference, estimate, sample_rate)
    return float(zimtohrli.mos_from_signals(target.astype(np.float32), candidate.astype(np.float32)))


def visqol_mos(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """Perceptual quality by ViSQOL in audio mode, 1 (bad) to about 4.73 (identical); seconds of CPU for a clip.

    Args:
        reference: original samples (T,), at least one second, better 5 to 10 seconds.
        estimate: restored samples (T,).
        sample_rate: of both, in Hz; resampled to 48 kHz here.

    Returns:
        The estimated mean opinion score.

    Raises:
        ImportError: the package is missing; install the `visqol` extra, which needs a C++ compiler.
        ValueError: shorter than a second, lengths differ, or an array is empty, not 1-D or not finite.

    Source: Chinen et al. 2020, "ViSQOL v3".
    """
    visqol = require('visqol', package='visqol-python', extra='visqol')
    target, candidate = _at_perceptual_rate(reference, estimate, sample_rate)
    if len(target) < _VISQOL_MIN_S * _PERCEPTUAL_RATE_HZ:
        raise ValueError(f'ViSQOL needs at least {_VISQOL_MIN_S} s; got {len(target) / _PERCEPTUAL_RATE_HZ:.2f} s')
    api = visqol.VisqolApi()
    api.create(mode='audio')
    return float(api.measure_from_arrays(target, candidate, _PERCEPTUAL_RATE_HZ).moslqo)


def frame_geometry(sample_rate: int) -> tuple[int, int]:
    """Window and hop of the spectral metrics in samples: 2048 and 441 at 44.1 kHz.

    Args:
        sample_rate: in Hz, at least 100.

    Returns:
        Window length and hop length.
    """
    return int(2048 / (44100 / sample_rate)), int(sample_rate / 100)


def magnitude_spectrogram(audio: np.ndarray | Tensor, sample_rate: int) -> Tensor:
    """Magnitudes on which the spectral metrics work.

    Args:
        audio: samples (T,).
        sample_rate: in Hz.

    Returns:
        (F, N) float64.
    """
    window_length, hop = frame_geometry(sample_rate)
    # float64: in float32 the rounding noise of the transform itself decides the distance below -140 dB.
    samples = torch.as_tensor(audio).detach().cpu().double()
    window = torch.hann_window(window_length, dtype=torch.float64)
    spectrum = torch.stft(
        samples, window_length, hop, window=window, center=True, pad_mode='constant', return_complex=True
    )
    return spectrum.abs()


def checked_pair(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """What every metric asks of its two recordings.

    Args:
        reference: samples (T,).
        estimate: samples (T,).

    Returns:
        Both as float64 tensors on the CPU.

    Raises:
        ValueError: lengths differ, or an array is empty, not 1-D or not finite.
    """
    target = torch.as_tensor(reference).detach().cpu().double()
    candidate = torch.as_tensor(estimate).detach().cpu().double()
    if target.ndim != 1 or candidate.ndim != 1:
        raise ValueError(
            f'metrics compare two 1-D arrays; got shapes {tuple(target.shape)} and {tuple(candidate.shape)}: '
            'average the channels or compare one at a time'
        )
    if len(target) != len(candidate) or len(target) == 0:
        raise ValueError(
            f'metrics need two arrays of the same length, not empty; got {len(target)} and {len(candidate)} samples'
        )
    if not (torch.isfinite(target).all() and torch.isfinite(candidate).all()):
        raise ValueError('metrics need finite samples; an array holds NaN or infinity')
    return target, candidate


def _magnitudes(
    reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int
) -> tuple[Tensor, Tensor]:
    target, candidate = checked_pair(reference, estimate)
    return magnitude_spectrogram(target, sample_rate), magnitude_spectrogram(candidate, sample_rate)


def _band(sample_rate: int, low_hz: float | None, high_hz: float | None) -> slice:
    window_length, _ = frame_geometry(sample_rate)
    num_bins = window_length // 2 + 1
    bin_hz = sample_rate / window_length
    first = 0 if low_hz is None else int(np.ceil(low_hz / bin_hz))
    end = num_bins if high_hz is None else min(num_bins, int(np.ceil(high_hz / bin_hz)))
    if not 0 <= first < end:
        raise ValueError(
            f'no bin lies between {low_hz} and {high_hz} Hz at a sample rate of {sample_rate} Hz: '
            f'choose 0 <= low_hz < high_hz <= {sample_rate / 2:.0f}'
        )
    return slice(first, end)


def _scale_invariant_ratio_db(target: Tensor, candidate: Tensor) -> float:
    scale = (candidate * target).sum() / (target.square().sum() + _EPS)
    scaled = scale * target
    noise = (candidate - scaled).square().sum()
    return float(10 * torch.log10(scaled.square().sum() / (noise + _EPS) + _EPS))


def _at_perceptual_rate(
    reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    import soxr

    target, candidate = (samples.numpy() for samples in checked_pair(reference, estimate))
    if sample_rate == _PERCEPTUAL_RATE_HZ:
        return target, candidate
    return (
        soxr.resample(target, sample_rate, _PERCEPTUAL_RATE_HZ),
        soxr.resample(candidate, sample_rate, _PERCEPTUAL_RATE_HZ),
    )
