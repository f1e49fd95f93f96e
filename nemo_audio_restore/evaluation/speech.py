"""Metrics of coded speech: spectral distances, intelligibility, perceived quality.

All take 1-D arrays; :func:`nemo_audio_restore.evaluation.metrics.si_sdr` and character error rates
(:mod:`nemo_audio_restore.evaluation.transcription`) belong to the same table. What to know before comparing codecs:

* None of them removes a delay or a gain (PESQ aligns level and time itself, ESTOI and SI-SDR ignore a gain). Classical
  codecs add both: measure and remove them first (:mod:`nemo_audio_restore.evaluation.alignment`).
* The spectral distances are those that NeMo's codecs are trained with. Their logarithm is that of 1 + magnitude, so
  what is more than about 50 dB below full scale hardly counts, and a recording of half the level scores lower: compare
  codecs on the same clips only. They see the whole band up to 11 kHz; pass ``high_hz=4000`` to leave out what a
  narrow-band codec never transmits.
* ESTOI looks at 150 Hz to 4.3 kHz, PESQ-WB and DNSMOS at 0 to 8 kHz: the top of a 22.05 kHz codec is theirs to miss.
* SI-SDR is far below 0 dB for parametric and generative codecs: they do not keep phase. It ranks waveform coders.
* DNSMOS needs no reference. It was trained on noisy calls, so read it beside the original's score.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.evaluation.metrics import checked_pair
from nemo_audio_restore.evaluation.optional import require

DISTANCE_RATE_HZ = 22050
_WIDEBAND_RATE_HZ = 16000
# Window lengths in samples at 22.05 kHz, and mel channels of each; hop = window / 4.
_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
_MEL_CHANNELS = (5, 10, 20, 40, 80, 160, 320)
_LOG_GUARD = 1.0
_SQRT_GUARD = 1e-5
_MIN_ESTOI_S = 0.4
_MIN_PESQ_S = 0.25


@dataclass(frozen=True)
class DnsMos:
    """Predicted opinion scores of one recording, 1 (bad) to 5.

    Attributes:
        overall: ITU-T P.835 overall quality.
        signal: quality of the speech itself.
        background: absence of intrusive background.
    """

    overall: float
    signal: float
    background: float


def mel_distance(
    reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int, *, high_hz: float | None = None
) -> float:
    """Mean absolute difference of log-mel spectrograms over seven resolutions; 0 is perfect, lower is better.

    Hann windows of 32 to 2048 samples at 22.05 kHz with 5 to 320 channels on Slaney's mel scale (triangles of height
    one, 0 to 11.025 kHz), hop of a quarter window, natural logarithm of 1 + magnitude, mean over channels and frames,
    then over resolutions.

    Args:
        reference: original samples (T,), in [-1, 1].
        estimate: decoded samples (T,), aligned.
        sample_rate: of both, in Hz; resampled to 22.05 kHz here.
        high_hz: only mel channels that end at or below this frequency; all by default.

    Returns:
        The distance in nepers.

    Raises:
        ValueError: lengths differ, an array is empty, not 1-D or not finite, or no channel ends below ``high_hz``.

    Source: Langman et al. 2024, "Spectral Codecs" (arXiv 2406.05298), section 2.3, with the resolutions of NeMo's
        low frame-rate codec.
    """
    target, candidate = _at_distance_rate(reference, estimate, sample_rate)
    distances = []
    for window_length, channels in zip(_WINDOWS, _MEL_CHANNELS, strict=True):
        bank = _mel_bank(window_length, channels, high_hz)
        if not len(bank):
            continue  # the coarsest resolutions have no channel that ends below a few hundred hertz
        # NeMo leaves the last frame, centred on the end, out of its mel loss but not out of its STFT loss.
        log_mels = [
            torch.log(bank @ _magnitudes(samples, window_length, pad_mode='constant')[:, :-1] + _LOG_GUARD)
            for samples in (target, candidate)
        ]
        distances.append((log_mels[0] - log_mels[1]).abs().mean())
    if not distances:
        raise ValueError(f'no mel channel ends below {high_hz} Hz; give high_hz of at least 200 Hz, or leave it out')
    return float(torch.stack(distances).mean())


def stft_distance(
    reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int, *, high_hz: float | None = None
) -> float:
    """Mean absolute difference of log-magnitude spectrograms over seven resolutions; 0 is perfect, lower is better.

    The transforms of :func:`mel_distance` without the mel filters.

    Args:
        reference: original samples (T,), in [-1, 1].
        estimate: decoded samples (T,), aligned.
        sample_rate: of both, in Hz; resampled to 22.05 kHz here.
        high_hz: only bins at or below this frequency; all by default.

    Returns:
        The distance in nepers.

    Raises:
        ValueError: lengths differ, an array is empty, not 1-D, not finite or shorter than 47 ms, or ``high_hz`` is
            negative.

    Source: as for :func:`mel_distance`.
    """
    if high_hz is not None and high_hz < 0:
        raise ValueError(f'high_hz must not be negative; got {high_hz}')
    target, candidate = _at_distance_rate(reference, estimate, sample_rate)
    distances = []
    for window_length in _WINDOWS:
        num_bins = window_length // 2 + 1
        if high_hz is not None:
            num_bins = min(num_bins, int(high_hz * window_length / DISTANCE_RATE_HZ) + 1)
        logs = [
            torch.log(_magnitudes(samples, window_length, pad_mode='reflect')[:num_bins] + _LOG_GUARD)
            for samples in (target, candidate)
        ]
        distances.append((logs[0] - logs[1]).abs().mean())
    return float(torch.stack(distances).mean())


def estoi(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """Extended short-time objective intelligibility, about 0 (none) to 1.

    Args:
        reference: original samples (T,), speech of at least 0.4 s after silence is taken out.
        estimate: decoded samples (T,), aligned.
        sample_rate: of both, in Hz; `pystoi` resamples to 10 kHz.

    Returns:
        The score.

    Raises:
        ImportError: the package is missing; install the `speech` extra.
        ValueError: too little speech, lengths differ, or an array is empty, not 1-D or not finite.

    Source: Jensen and Taal 2016, "An Algorithm for Predicting the Intelligibility of Speech Masked by Modulated
        Noise Maskers".
    """
    import warnings

    pystoi = require('pystoi', package='pystoi', extra='speech')
    target, candidate = (samples.numpy() for samples in checked_pair(reference, estimate))
    too_short = f'ESTOI needs {_MIN_ESTOI_S} s of speech; these {len(target) / sample_rate:.2f} s hold less'
    if len(target) < _MIN_ESTOI_S * sample_rate:
        raise ValueError(too_short)
    with warnings.catch_warnings():
        # pystoi says so in a warning and returns 1e-5, which would enter a mean unnoticed.
        warnings.simplefilter('error', RuntimeWarning)
        try:
            return float(pystoi.stoi(target, candidate, sample_rate, extended=True))
        except RuntimeWarning as error:
            raise ValueError(too_short) from error


def pesq_wb(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> float:
    """Wide-band PESQ, 1.04 (bad) to 4.64 (identical).

    Args:
        reference: original samples (T,), at least 0.25 s with speech in it.
        estimate: decoded samples (T,).
        sample_rate: of both, in Hz; resampled to 16 kHz here.

    Returns:
        The predicted opinion score (MOS-LQO).

    Raises:
        ImportError: the package is missing; install the `speech` extra.
        ValueError: no speech was found, lengths differ, or an array is empty, not 1-D or not finite.

    Source: ITU-T P.862.2.
    """
    pesq = require('pesq', package='pesq', extra='speech')
    pair = checked_pair(reference, estimate)
    target, candidate = (resampled(samples.numpy(), sample_rate, _WIDEBAND_RATE_HZ) for samples in pair)
    if len(target) < _MIN_PESQ_S * _WIDEBAND_RATE_HZ:
        raise ValueError(f'PESQ needs at least {_MIN_PESQ_S} s; got {len(target) / _WIDEBAND_RATE_HZ:.2f} s')
    # A silent estimate makes the reference implementation divide by zero and crash the process.
    if not candidate.any() or not target.any():
        raise ValueError('PESQ needs sound in both recordings; one of them is silent')
    try:
        return float(pesq.pesq(_WIDEBAND_RATE_HZ, target, candidate, 'wb'))
    except pesq.PesqError as error:
        raise ValueError(f'PESQ found no speech to compare: {error}') from error


def dnsmos(audio: np.ndarray | Tensor, sample_rate: int) -> DnsMos:
    """Quality of speech predicted without a reference; clips under 9 s are repeated, as the model's authors do.

    Args:
        audio: samples (T,); scaled down to a peak of 1 if beyond.
        sample_rate: in Hz; resampled to 16 kHz here.

    Returns:
        Three predicted opinion scores.

    Raises:
        ImportError: a package is missing; install the `speech` extra.
        ValueError: empty, not 1-D or not finite.

    Source: Reddy et al. 2022, "DNSMOS P.835".
    """
    samples, _ = checked_pair(audio, audio)
    samples = resampled(samples.numpy(), sample_rate, _WIDEBAND_RATE_HZ)
    samples = samples / max(1.0, float(np.abs(samples).max()))
    scores = _dnsmos_predictor()(samples, _WIDEBAND_RATE_HZ, False)
    return DnsMos(*(float(scores[name]) for name in ('ovrl_mos', 'sig_mos', 'bak_mos')))


def resampled(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Converts the rate with a linear-phase filter; sample 0 stays at time 0.

    Args:
        samples: (T,).
        from_hz: sample rate of the samples.
        to_hz: sample rate to produce.

    Returns:
        The samples as given when the rates agree, new ones otherwise.
    """
    import soxr

    return samples if from_hz == to_hz else soxr.resample(samples, from_hz, to_hz, quality='VHQ')


def _at_distance_rate(
    reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int
) -> tuple[Tensor, Tensor]:
    target, candidate = (
        torch.from_numpy(resampled(samples.numpy(), sample_rate, DISTANCE_RATE_HZ))
        for samples in checked_pair(reference, estimate)
    )
    if len(target) <= _WINDOWS[-1] // 2:
        raise ValueError(
            f'spectral distances need more than {_WINDOWS[-1] // 2} samples at {DISTANCE_RATE_HZ} Hz (47 ms); '
            f'got {len(target)}'
        )
    return target, candidate


def _magnitudes(samples: Tensor, window_length: int, *, pad_mode: str) -> Tensor:
    """Magnitudes (F, N) with the guard of NeMo's losses under the root."""
    window = torch.hann_window(window_length, periodic=False, dtype=samples.dtype)
    hop = window_length // 4
    spectrum = torch.stft(samples, window_length, hop, window=window, pad_mode=pad_mode, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + _SQRT_GUARD).sqrt()


@lru_cache(maxsize=1)
def _dnsmos_predictor() -> Callable[[np.ndarray, int, bool], dict[str, float]]:
    runtime = require('onnxruntime', package='onnxruntime', extra='speech')
    package = require('speechmos.dnsmos', package='speechmos', extra='speech')
    models = Path(package.__file__).parent / 'dnsmos_models'
    paths = str(models / 'sig_bak_ovr.onnx'), str(models / 'model_v8.onnx')
    predictor = package.DNSMOS(*paths)
    # Its own sessions take every core and wait in a loop: on a busy machine that is ten times the work.
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    predictor.onnx_sess, predictor.p808_onnx_sess = (runtime.InferenceSession(path, options) for path in paths)
    return predictor


@lru_cache(maxsize=32)
def _mel_bank(window_length: int, channels: int, high_hz: float | None) -> Tensor:
    """Triangles (channels, F) on Slaney's scale; those that reach beyond ``high_hz`` are left out."""
    # transformers takes a second to import: only where it is used.
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        window_length // 2 + 1, channels, 0.0, DISTANCE_RATE_HZ / 2, DISTANCE_RATE_HZ, norm=None, mel_scale='slaney'
    )
    bank = torch.from_numpy(np.asarray(bank, dtype=np.float64)).T
    if high_hz is None:
        return bank
    beyond = torch.arange(bank.shape[1]) * DISTANCE_RATE_HZ / window_length > high_hz
    return bank[(bank[:, ~beyond].sum(dim=1) > 0) & (bank[:, beyond].sum(dim=1) == 0)]
