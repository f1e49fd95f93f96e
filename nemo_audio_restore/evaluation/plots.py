"""Before-and-after pictures of a restoration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.evaluation.levels import FLOOR, MOST_COLUMNS, Levels, window_samples
from nemo_audio_restore.evaluation.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RANGE_DB = 100.0


def spectrogram_sheet(
    recordings: Mapping[str, np.ndarray | Tensor | Levels],
    sample_rate: int,
    *,
    cutoff_hz: float | None = None,
    gaps: Sequence[tuple[float, float]] = (),
    regions: Sequence[tuple[float, float, float, float]] = (),
) -> Figure:
    """Draws the spectrograms of several versions of one recording, one below the other, on one scale.

    Args:
        recordings: title to samples (T,) or (C, T) (mixed to mono), such as before, after and original; or to levels
            measured before, which may have rates of their own.
        sample_rate: of the samples, in Hz.
        cutoff_hz: where a dashed line marks the end of the known band.
        gaps: (start, end) in seconds, marked by dashed lines.
        regions: (start, end, low, high) in seconds and Hz, marked by dashed boxes.

    Returns:
        A figure that belongs to no window and to no global state; ``figure.savefig(path)`` writes it.

    Raises:
        ImportError: matplotlib is missing; install the `metrics` extra.
        ValueError: there is no recording, or one is empty or not (T,) or (C, T).

    """
    if not recordings:
        raise ValueError('a spectrogram sheet needs at least one recording')
    figure_module = require('matplotlib.figure', package='matplotlib', extra='metrics')
    backend = require('matplotlib.backends.backend_agg', package='matplotlib', extra='metrics')
    levels = {title: _levels(audio, sample_rate) for title, audio in recordings.items()}
    top_db = max(float(level.level_db.max()) for level in levels.values())
    top_khz = max(level.sample_rate for level in levels.values()) / 2000
    figure = figure_module.Figure(figsize=(9, 0.6 + 2.2 * len(levels)), layout='constrained')
    # Naming the canvas keeps pyplot, and with it the process-wide choice of a backend, out of this.
    backend.FigureCanvasAgg(figure)
    panels = figure.subplots(len(levels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (title, level) in zip(panels, levels.items(), strict=True):
        image = panel.imshow(
            level.level_db,
            origin='lower',
            aspect='auto',
            extent=(0, level.duration_s, 0, level.sample_rate / 2000),
            vmin=top_db - _RANGE_DB,
            vmax=top_db,
            cmap='magma',
            interpolation='nearest',
        )
        panel.set_title(title, loc='left')
        panel.set_ylabel('kHz')
        if cutoff_hz is not None:
            panel.axhline(cutoff_hz / 1000, color='white', linestyle='--', linewidth=0.8)
        for edge_s in (edge for gap in gaps for edge in gap):
            panel.axvline(edge_s, color='white', linestyle='--', linewidth=0.8)
        for start_s, end_s, low_hz, high_hz in regions:
            corners = [(start_s, low_hz), (end_s, low_hz), (end_s, high_hz), (start_s, high_hz), (start_s, low_hz)]
            times, frequencies = zip(*corners, strict=True)
            panel.plot(times, np.divide(frequencies, 1000), color='white', linestyle='--', linewidth=0.8)
        panel.set_xlim(0, level.duration_s)
        panel.set_ylim(0, top_khz)
    panels[-1].set_xlabel('seconds')
    figure.colorbar(image, ax=list(panels), label='dB', shrink=0.9)
    return figure


def save_spectrogram_sheet(
    path: str | Path,
    recordings: Mapping[str, np.ndarray | Tensor | Levels],
    sample_rate: int,
    *,
    cutoff_hz: float | None = None,
    gaps: Sequence[tuple[float, float]] = (),
    regions: Sequence[tuple[float, float, float, float]] = (),
) -> None:
    """Writes :func:`spectrogram_sheet` as a picture; the suffix chooses the format (.png, .svg, .pdf).

    Args:
        path: file to write.
        recordings: title to samples (T,) or (C, T), or to levels.
        sample_rate: of the samples, in Hz.
        cutoff_hz: end of the known band, marked.
        gaps: (start, end) in seconds, marked.
        regions: (start, end, low, high) in seconds and Hz, marked.

    Raises:
        ImportError: matplotlib is missing; install the `metrics` extra.
        ValueError: as for :func:`spectrogram_sheet`, or an unknown suffix.
    """
    figure = spectrogram_sheet(recordings, sample_rate, cutoff_hz=cutoff_hz, gaps=gaps, regions=regions)
    figure.savefig(str(path), dpi=110)


def level_db(audio: np.ndarray | Tensor, sample_rate: int) -> np.ndarray:
    """Level of a recording over time and frequency, with no more columns than a picture can show.

    Args:
        audio: samples (T,) or (C, T), mixed to mono.
        sample_rate: in Hz; the window lasts about 46 ms.

    Returns:
        (F, N) in dB, N <= 1200; each column is the loudest of the frames that it stands for, so that short gaps in
        time stay visible only where they are longer than a column.

    Raises:
        ValueError: the audio is empty or not (T,) or (C, T).
    """
    samples = torch.as_tensor(audio).detach().cpu().float()
    if samples.ndim == 2:
        samples = samples.mean(dim=0)
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(
            f'audio must be (T,) or (C, T) and not empty; got shape {tuple(torch.as_tensor(audio).shape)}'
        )
    window_length = window_samples(sample_rate)
    spectrum = torch.stft(
        samples,
        window_length,
        window_length // 4,
        window=torch.hann_window(window_length),
        pad_mode='constant',
        return_complex=True,
    )
    power = spectrum.abs().square()
    if power.shape[1] > MOST_COLUMNS:
        power = torch.nn.functional.adaptive_max_pool1d(power, MOST_COLUMNS)
    return (10 * torch.log10(power.clamp_min(FLOOR))).numpy()


def _levels(recording: np.ndarray | Tensor | Levels, sample_rate: int) -> Levels:
    if isinstance(recording, Levels):
        return recording
    level = level_db(recording, sample_rate)
    return Levels(level, sample_rate, torch.as_tensor(recording).shape[-1] / sample_rate)
