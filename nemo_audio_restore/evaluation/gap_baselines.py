"""Classical ways to fill gaps, to compare a model with: autoregressive interpolation and copying what fits best.

Gaps are pairs (start, end) in seconds. Everything outside them is returned as it came, sample by sample. Filling with
silence is :func:`nemo_audio_restore.evaluation.baselines.nothing` on audio whose gaps are zero.
"""

from collections.abc import Callable, Sequence

import numpy as np

Gaps = Sequence[tuple[float, float]]


def lpc_interpolation(
    audio: np.ndarray, sample_rate: int, gaps: Gaps, *, order: int = 1000, context_s: float = 0.5
) -> np.ndarray:
    """Extrapolates into each gap from both sides with autoregressive models and crossfades the two.

    Args:
        audio: samples (T,) or (C, T); what the gaps hold is ignored.
        sample_rate: in Hz.
        gaps: (start, end) in seconds.
        order: of the models; less where the context is short.
        context_s: seconds on each side from which a model is estimated.

    Returns:
        The audio with its gaps filled, same shape, float64.

    Raises:
        ValueError: a gap is empty, lies outside the audio, overlaps another, or nothing is known beside it.

    Source: Kauppinen and Roth 2002, "Audio signal extrapolation"; Burg 1975 for the estimate.
    """
    context = int(context_s * sample_rate)

    def fill(channel: np.ndarray, known: np.ndarray, start: int, end: int) -> np.ndarray:
        length = end - start
        left = channel[_known_run_start(known, start, context) : start]
        right = channel[end : _known_run_end(known, end, context)][::-1]
        forward = _extrapolate(left, length, order)
        backward = _extrapolate(right, length, order)
        if forward is None and backward is None:
            raise ValueError(f'nothing is known on either side of the gap at sample {start}')
        if forward is None or backward is None:
            return forward if backward is None else backward[::-1]
        backward = backward[::-1]
        fade_in = np.sin(0.5 * np.pi * (np.arange(length) + 0.5) / length) ** 2
        fade_out = 1 - fade_in
        # Keeps the power of the sum: a plain crossfade of two uncorrelated continuations loses 3 dB in the middle.
        similarity = forward @ backward / (np.linalg.norm(forward) * np.linalg.norm(backward) + 1e-12)
        power = fade_in**2 + fade_out**2 + 2 * max(similarity, 0.0) * fade_in * fade_out
        return (fade_out * forward + fade_in * backward) / np.sqrt(power)

    return _fill_gaps(audio, sample_rate, gaps, fill)


def pattern_copy(
    audio: np.ndarray, sample_rate: int, gaps: Gaps, *, template_s: float = 0.1, crossfade_s: float = 0.01
) -> np.ndarray:
    """Fills each gap with the passage of the recording whose surroundings resemble those of the gap most.

    Args:
        audio: samples (T,) or (C, T); what the gaps hold is ignored.
        sample_rate: in Hz.
        gaps: (start, end) in seconds.
        template_s: seconds on each side that have to match (normalised cross-correlation).
        crossfade_s: seconds over which the copy is blended with the autoregressive continuation of each side.

    Returns:
        The audio with its gaps filled, same shape, float64; a gap for which no passage is long enough stays silent.

    Raises:
        ValueError: a gap is empty, lies outside the audio or overlaps another.

    Source: Goodman et al. 1986, "Waveform substitution techniques".
    """
    template, crossfade = int(template_s * sample_rate), int(crossfade_s * sample_rate)

    def fill(channel: np.ndarray, known: np.ndarray, start: int, end: int) -> np.ndarray:
        length = end - start
        before = _known_run_start(known, start, template)
        after = _known_run_end(known, end, template)
        offset, gain = _best_match(channel, known, before, start, end, after)
        if offset is None:
            return np.zeros(length)
        patch = gain * channel[start + offset : end + offset]
        fade = min(crossfade, length // 2)
        ramp = np.sin(0.5 * np.pi * (np.arange(fade) + 0.5) / fade) ** 2 if fade else np.zeros(0)
        patch[:fade] *= ramp
        patch[length - fade :] *= ramp[::-1]
        left = _extrapolate(channel[before:start], fade, 64)
        right = _extrapolate(channel[end:after][::-1], fade, 64)
        if left is not None:
            patch[:fade] += (1 - ramp) * left
        if right is not None:
            patch[length - fade :] += (1 - ramp[::-1]) * right[::-1]
        return patch

    return _fill_gaps(audio, sample_rate, gaps, fill)


def burg(samples: np.ndarray, order: int) -> np.ndarray:
    """Estimates an autoregressive model; its poles lie inside the unit circle.

    Args:
        samples: (T,) with T > order.
        order: number of coefficients.

    Returns:
        (order + 1,) coefficients of the prediction error filter; the first is 1.

    Raises:
        ValueError: the order is not below the number of samples.

    Source: Burg 1975, "Maximum entropy spectral analysis".
    """
    if not 0 < order < len(samples):
        raise ValueError(f'order must lie between 1 and the number of samples, {len(samples)}; got {order}')
    forward, backward = samples[1:].astype(np.float64), samples[:-1].astype(np.float64)
    coefficients = np.ones(1)
    for _ in range(order):
        energy = forward @ forward + backward @ backward
        reflection = -2 * (forward @ backward) / energy if energy > 0 else 0.0
        extended = np.append(coefficients, 0.0)
        coefficients = extended + reflection * extended[::-1]
        forward, backward = (forward + reflection * backward)[1:], (backward + reflection * forward)[:-1]
    return coefficients


def _extrapolate(samples: np.ndarray, length: int, order: int) -> np.ndarray | None:
    """Continues ``samples`` by ``length`` samples; None where there is too little to continue."""
    from scipy.signal import lfilter, lfiltic

    order = min(order, len(samples) // 3)
    if order < 1:
        return None
    coefficients = burg(samples, order)
    state = lfiltic([1.0], coefficients, samples[::-1][:order])
    return lfilter([1.0], coefficients, np.zeros(length), zi=state)[0]


def _best_match(
    channel: np.ndarray, known: np.ndarray, before: int, start: int, end: int, after: int
) -> tuple[int | None, float]:
    """Offset of the passage that matches the surroundings [before, start) and [end, after), and its gain."""
    from scipy.signal import correlate

    masked = np.where(known, channel, 0.0)
    template = masked[before:after].copy()
    weight = np.ones(after - before)
    template[start - before : end - before] = 0
    weight[start - before : end - before] = 0
    if len(masked) < len(template) or not template.any():
        return None, 0.0
    product = correlate(masked, template, mode='valid', method='fft')
    energy = correlate(masked**2, weight, mode='valid', method='fft')
    whole = np.concatenate([[0], np.cumsum(known)])
    complete = whole[len(template) :] - whole[: -len(template)] == len(template)
    # The guard keeps near-silent passages, where rounding decides, from winning.
    guard = 1e-4 * np.square(template).sum() + 1e-12
    score = np.where(complete, product / np.sqrt(energy.clip(0) + guard), -np.inf)
    best = int(score.argmax())
    if not np.isfinite(score[best]):
        return None, 0.0
    gain = float(np.clip(np.sqrt(np.square(template).sum() / (energy[best].clip(0) + guard)), 0.5, 2.0))
    return best - before, gain


def _fill_gaps(
    audio: np.ndarray,
    sample_rate: int,
    gaps: Gaps,
    fill: Callable[[np.ndarray, np.ndarray, int, int], np.ndarray],
) -> np.ndarray:
    filled = np.array(audio, dtype=np.float64)
    channels = filled[None] if filled.ndim == 1 else filled
    known = np.ones(channels.shape[-1], dtype=bool)
    edges = []
    for start_s, end_s in gaps:
        start, end = round(start_s * sample_rate), round(end_s * sample_rate)
        if not 0 <= start < end <= len(known):
            duration_s = len(known) / sample_rate
            raise ValueError(f'a gap must lie inside the audio of {duration_s:.3f} s; got {start_s} to {end_s} s')
        if not known[start:end].all():
            raise ValueError(f'gaps must not overlap; the one from {start_s} to {end_s} s does')
        known[start:end] = False
        edges.append((start, end))
    for channel in channels:
        source = channel.copy()
        for start, end in edges:
            channel[start:end] = fill(source, known, start, end)
    return filled


def _known_run_start(known: np.ndarray, end: int, longest: int) -> int:
    """First sample of the known run that ends before ``end``, at most ``longest`` samples before it."""
    gap = np.flatnonzero(~known[max(0, end - longest) : end])
    return max(0, end - longest) + (int(gap[-1]) + 1 if len(gap) else 0)


def _known_run_end(known: np.ndarray, start: int, longest: int) -> int:
    """One past the last sample of the known run that starts at ``start``, at most ``longest`` samples after it."""
    gap = np.flatnonzero(~known[start : start + longest])
    return start + int(gap[0]) if len(gap) else min(len(known), start + longest)
