"""Restores files and arrays: read blocks, generate what is missing, add it to the input, write blocks.

With X the STFT of the input and G the model's estimate, D = iSTFT(mask * (G - X)). The output is

    (1 - g) input + g (input + D) + H((1 - g) D)

with g the gate of the gaps (1 inside, short slopes outside) and H the crossover's high-pass. Below the cutoff and
outside gaps nothing but the input is left. Time-frequency boxes have a D and a gate of their own, which are added. An
input above the model's rate keeps its rate: what the model adds is resampled, not the input. The model sees zeros in
the gaps, and no frame that overlaps one counts as known.
"""

import contextlib
import itertools
import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.files.audio import BLOCK_SAMPLES, AudioFileError, probe, read_blocks
from nemo_audio_restore.files.resample import resample_blocks, resampled_length
from nemo_audio_restore.files.tags import keep_tags
from nemo_audio_restore.files.writer import AudioWriter, check_overwrite, check_target
from nemo_audio_restore.restoration.analysis import analysed
from nemo_audio_restore.restoration.blend import GapGate, high_pass_taps, overlap_add
from nemo_audio_restore.restoration.boxes import split_boxes
from nemo_audio_restore.restoration.consistency import consistent
from nemo_audio_restore.restoration.difference import Difference
from nemo_audio_restore.restoration.generated import in_words
from nemo_audio_restore.restoration.journal import Journal, job_key
from nemo_audio_restore.restoration.mix import added_band, blanked, gated, mixed, summed
from nemo_audio_restore.restoration.plan import Plan, grid_tiles, make_plan
from nemo_audio_restore.restoration.protocol import (
    OnProgress,
    RestorationError,
    RestorationReport,
    Restorer,
    SamplerSettings,
)
from nemo_audio_restore.restoration.request import NO_LIMIT, Request, check_model, fitted, level_gain_db, transition_hz
from nemo_audio_restore.restoration.scan import Scan, scan
from nemo_audio_restore.restoration.spectrum_runs import Frames
from nemo_audio_restore.restoration.stereo import check_stereo, chosen, mid_side_blocks

CROSSFADE_S = 0.005
"""Length of the slope outside each end of a gap."""


class AudioSource(Protocol):
    """Audio that can be read from the start more than once."""

    sample_rate: int
    channels: int

    def blocks(self) -> Iterator[np.ndarray]:
        """(C, n) float32 blocks."""
        ...


class FileSource:
    """A file as a source; see ``files.audio`` for its errors."""

    def __init__(self, path: Path):
        info = probe(path)
        self.path, self.sample_rate, self.channels = path, info.sample_rate, info.channels

    def blocks(self) -> Iterator[np.ndarray]:
        """(C, n) float32 blocks."""
        return read_blocks(self.path)


class ArraySource:
    """A (C, T) array as a source."""

    def __init__(self, audio: np.ndarray, sample_rate: int):
        self._audio, self.sample_rate, self.channels = audio, sample_rate, audio.shape[0]

    def blocks(self) -> Iterator[np.ndarray]:
        """(C, n) float32 blocks."""
        for start in range(0, self._audio.shape[1], BLOCK_SAMPLES):
            yield self._audio[:, start : start + BLOCK_SAMPLES]


def output_rate(restorer: Restorer, sample_rate: int) -> int:
    """Sample rate of the output: the input's, but never below the model's."""
    return max(sample_rate, restorer.representation.sample_rate)


def restore_file(
    restorer: Restorer,
    source: str | Path,
    target: str | Path,
    *,
    cutoff_hz: float | Literal['auto'] | None = None,
    gaps: Sequence[tuple[float, float]] = (),
    regions: Sequence[tuple[float, float, float, float]] = (),
    detect_gaps: bool = False,
    force: bool = False,
    stereo: str = 'auto',
    settings: SamplerSettings | None = None,
    seed: int = 0,
    bits: str | None = None,
    clip: str = 'none',
    overwrite: bool = False,
    resume: bool = True,
    on_progress: OnProgress | None = None,
) -> RestorationReport:
    """Restores a file of any length in bounded memory; its tags and cover are kept.

    Args:
        restorer: the model.
        source: audio file to read; any sample rate and number of channels.
        target: ``.wav`` or ``.flac`` to write; it appears under this name only when complete.
        cutoff_hz: generate everything above this frequency; 'auto' finds it, and leaves a full-band recording alone;
            None is 'auto' where nothing else is asked, else no bandwidth extension.
        gaps: (start, end) in seconds to generate anew.
        regions: (start, end, low, high) in seconds and Hz to generate anew; what is outside these boxes stays.
        detect_gaps: look for digital silence, drop-outs and stuck samples, and generate those, too.
        force: allow gaps and regions longer than the model sees at once.
        stereo: what channels share while they are generated, see ``stereo.STEREO_MODES``.
        settings: of the sampler; None takes the defaults.
        seed: same seed, same samples.
        bits: '16', '24', 'float', or None for float in WAV and 24 in FLAC.
        clip: 'none', 'clamp' or 'rescale', see ``files.writer.AudioWriter``.
        overwrite: whether an existing target may be replaced.
        resume: keep finished work in a hidden folder beside the target until that is complete, and go on from there
            when the same is asked again after a crash; other inputs, models and requests never share it.
        on_progress: called with (evaluations done, evaluations in all).

    Returns:
        What was done.

    Raises:
        AudioFileError: a file cannot be read or written.
        RestorationError: the request does not fit the audio or the model.
    """
    started = time.monotonic()
    source, target = Path(source), Path(target)
    request = Request.make(
        cutoff_hz=cutoff_hz, gaps=gaps, seed=seed, settings=settings or SamplerSettings(), regions=regions,
        detect_gaps=detect_gaps, force=force, stereo=stereo,
    )  # fmt: skip
    check_model(restorer, request.settings)
    audio = FileSource(source)
    rate = output_rate(restorer, audio.sample_rate)
    check_target(target, bits=bits, clip=clip, channels=audio.channels, sample_rate=rate)
    if target.exists() and os.path.samefile(source, target):
        raise AudioFileError(f'{target} is the input; the output needs another name')
    check_overwrite(target, overwrite=overwrite)
    try:
        job = _Job.prepare(restorer, audio, request)
    except RestorationError as error:
        raise RestorationError(f'{source}: {error}') from error
    key = job_key(restorer, source, job.request, {'level_gain_db': job.report.level_gain_db}) if resume else None
    with contextlib.nullcontext() if key is None else Journal(target, key) as journal:
        try:
            with AudioWriter(
                target, sample_rate=rate, channels=audio.channels, num_samples=job.output_samples, bits=bits,
                clip=clip, overwrite=overwrite, folder=None if journal is None else journal.folder,
            ) as writer:  # fmt: skip
                for block in job.run(on_progress, journal):
                    writer.write(block)
        except AudioFileError as error:
            if journal is None or not journal.keeps_something:
                raise
            raise AudioFileError(f'{error}; what is finished is kept: the same request goes on from there') from error
        if journal is not None:
            journal.discard()
    report = job.report
    report.source, report.target = str(source), str(target)
    report.peak, report.clipped_samples, report.rescale_db = writer.peak, writer.clipped_samples, writer.rescale_db
    report.warnings += _level_warnings(writer)
    report.warnings += keep_tags(source, target, note=in_words(report))
    report.seconds = time.monotonic() - started
    return report


def restore_array(
    restorer: Restorer,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    *,
    cutoff_hz: float | Literal['auto'] | None = None,
    gaps: Sequence[tuple[float, float]] = (),
    regions: Sequence[tuple[float, float, float, float]] = (),
    detect_gaps: bool = False,
    force: bool = False,
    stereo: str = 'auto',
    settings: SamplerSettings | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> np.ndarray | Tensor:
    """Restores audio in memory, exactly as :func:`restore_file` does.

    Args:
        restorer: the model.
        audio: (C, T) or (T,) samples, 1.0 = full scale; not changed.
        sample_rate: in Hz.
        cutoff_hz: as for :func:`restore_file`.
        gaps: as for :func:`restore_file`.
        regions: as for :func:`restore_file`.
        detect_gaps: as for :func:`restore_file`.
        force: as for :func:`restore_file`.
        stereo: as for :func:`restore_file`.
        settings: as for :func:`restore_file`.
        seed: as for :func:`restore_file`.
        on_progress: as for :func:`restore_file`.

    Returns:
        Array or tensor like ``audio`` (float32, same device) at ``output_rate(restorer, sample_rate)``.

    Raises:
        RestorationError: the request does not fit the audio or the model.
    """
    request = Request.make(
        cutoff_hz=cutoff_hz, gaps=gaps, seed=seed, settings=settings or SamplerSettings(), regions=regions,
        detect_gaps=detect_gaps, force=force, stereo=stereo,
    )  # fmt: skip
    check_model(restorer, request.settings)
    array = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
    if array.ndim not in (1, 2) or array.shape[-1] == 0 or not np.issubdtype(array.dtype, np.floating):
        raise RestorationError(f'audio must be (C, T) or (T,) floats; got {array.dtype} of shape {array.shape}')
    if not np.isfinite(array).all():
        raise RestorationError('audio holds samples that are not numbers')
    source = ArraySource(np.atleast_2d(array).astype(np.float32, copy=False), int(sample_rate))
    job = _Job.prepare(restorer, source, request)
    known = len(job.report.warnings)
    restored = np.concatenate(list(job.run(on_progress)), axis=1)
    for message in job.report.warnings[known:]:  # about the machine, not about the audio
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    restored = restored[0] if array.ndim == 1 else restored
    return torch.from_numpy(restored).to(audio.device) if isinstance(audio, Tensor) else restored


@dataclass
class _Job:
    """One piece of audio with everything decided."""

    restorer: Restorer
    source: AudioSource
    request: Request
    scan: Scan
    plan: Plan
    report: RestorationReport

    @classmethod
    def prepare(cls, restorer: Restorer, source: AudioSource, request: Request) -> '_Job':
        """First pass over the audio, then all decisions."""
        check_stereo(request.stereo, channels=source.channels)
        request, findings = analysed(request, source)
        representation, settings = restorer.representation, request.settings
        rate, model_rate = source.sample_rate, representation.sample_rate
        blocks = blanked(source.blocks(), request.spans(rate, NO_LIMIT))
        seen = scan(blocks, cell_samples=max(1, representation.hop_length * rate // model_rate))
        request, concerns = fitted(request, restorer, rate=rate, scan=seen)
        request = replace(request, stereo=chosen(request.stereo, seen.channel_powers))
        num_samples = -(-seen.num_samples * model_rate // rate) if rate > model_rate else (
            resampled_length(seen.num_samples, rate, model_rate)
        )  # fmt: skip
        num_frames = representation.num_frames(num_samples)
        silent = seen.silent_frames(
            rate, num_frames=num_frames, n_fft=representation.n_fft, hop_length=representation.hop_length,
            rate=model_rate,
        )  # fmt: skip
        plan = make_plan(
            representation,
            num_samples=num_samples,
            cutoff_hz=request.cutoff_hz,
            gaps=request.model_spans(rate, model_rate, num_samples),
            regions=[
                (span, (region.low_hz, region.high_hz))
                for span, region in zip(request.region_spans(model_rate, num_samples), request.regions, strict=True)
            ],
            silent=silent,
            tile_frames=settings.tile_frames,
            tile_hop_frames=settings.tile_hop_frames,
        )
        report = RestorationReport(
            source=None,
            target=None,
            channels=source.channels,
            duration_s=seen.num_samples / rate,
            input_rate=rate,
            output_rate=output_rate(restorer, rate),
            cutoff_hz=request.cutoff_hz,
            transition_hz=transition_hz(restorer),
            gaps=request.gaps,
            crossfade_s=CROSSFADE_S,
            seed=request.seed,
            steps=settings.steps,
            tiles=plan.num_tiles * source.channels,
            tiles_total=grid_tiles(num_frames, settings.tile_frames, settings.tile_hop_frames) * source.channels,
            level_gain_db=level_gain_db(seen, request.settings),
            stereo=request.stereo,
            regions=tuple((box.start_s, box.end_s, box.low_hz, box.high_hz) for box in request.regions),
            detected_cutoff=findings.cutoff,
            detected_gaps=findings.gaps,
            notes=list(findings.notes),
            warnings=[*findings.warnings, *concerns],
        )
        return cls(restorer, source, request, seen, plan, report)

    @property
    def output_samples(self) -> int:
        """T of the output."""
        return self.scan.num_samples if self._keeps_rate else self.plan.num_samples

    @property
    def _keeps_rate(self) -> bool:
        return self.source.sample_rate >= self.restorer.representation.sample_rate

    def run(self, on_progress: OnProgress | None, journal: Journal | None = None) -> Iterator[np.ndarray]:
        """The restored audio in (C, n) float32 blocks."""
        representation, channels = self.restorer.representation, self.source.channels
        model_rate = representation.sample_rate
        difference = Difference(
            self.restorer,
            self.plan,
            settings=self.request.settings,
            seed=self.request.seed,
            gains_db=self._gains_db(),
            stereo=self.request.stereo,
            on_warning=self.report.warnings.append,
        )
        frames = difference.frames(self._model_blocks(), on_progress, journal)
        frames = consistent(frames, representation, rounds=self.request.settings.phase_rounds)
        boxes = None
        if self.request.regions:
            frames, box_frames = split_boxes(frames, self.plan)
            boxes = gated(self._samples_of(box_frames), self._box_gate())
        samples = self._samples_of(frames)
        band = None
        # Both readers advance in near lockstep, so tee holds only a few blocks.
        for_band, for_gaps = itertools.tee(samples) if self.request.gaps else (samples, iter(()))
        if self.request.cutoff_hz is not None:
            taps = high_pass_taps(self.request.cutoff_hz, self.report.transition_hz, model_rate)
            band = added_band(for_band, self._gate(model_rate, self.plan.num_samples), taps)
        restored = None
        if self.request.gaps:
            restored = summed(self._model_blocks(), (block.numpy() for block in for_gaps), channels=channels)
        rate = self.report.output_rate
        size = {'channels': channels, 'num_samples': self.output_samples}
        dry, band, restored, boxes = (
            None if stream is None else resample_blocks(stream, stream_rate, rate, **size)
            for stream, stream_rate in (
                (self.source.blocks(), self.source.sample_rate),
                (band, model_rate),
                (restored, model_rate),
                (boxes, model_rate),
            )
        )
        return mixed(dry, band, restored, boxes, self._gate(rate, self.output_samples), **size)

    def _gains_db(self) -> list[float | None]:
        """For each channel that the model sees: the gain in front of it; None for one that is silent throughout."""
        if self.request.stereo != 'mid-side' or self.source.channels != 2:
            return [self.report.level_gain_db] * self.source.channels
        gains: list[float | None] = []
        for index in range(2):
            blocks = mid_side_blocks(
                blanked(self.source.blocks(), self.request.spans(self.source.sample_rate, NO_LIMIT))
            )
            seen = scan((block[index : index + 1] for block in blocks), cell_samples=self.scan.cell_samples)
            gains.append(None if seen.is_silent else level_gain_db(seen, self.request.settings))
        return gains

    def _samples_of(self, frames: Iterable[Frames]) -> Iterator[Tensor]:
        return overlap_add(
            frames,
            self.restorer.representation,
            channels=self.source.channels,
            num_samples=self.plan.num_samples,
        )

    def _gate(self, rate: int, num_samples: int) -> GapGate:
        return GapGate(self.request.spans(rate, num_samples), fade_samples=math.ceil(CROSSFADE_S * rate))

    def _box_gate(self) -> GapGate:
        rate = self.restorer.representation.sample_rate
        spans = self.request.region_spans(rate, self.plan.num_samples)
        return GapGate(spans, fade_samples=math.ceil(CROSSFADE_S * rate))

    def _model_blocks(self) -> Iterator[np.ndarray]:
        """The input without the gaps, at the model's rate."""
        rate = self.source.sample_rate
        return resample_blocks(
            blanked(self.source.blocks(), self.request.spans(rate, self.scan.num_samples)),
            rate,
            self.restorer.representation.sample_rate,
            channels=self.source.channels,
            num_samples=self.plan.num_samples,
        )


def _level_warnings(writer: AudioWriter) -> list[str]:
    """What the user should know about the level of the output."""
    if writer.rescale_db < 0:
        return [f'the whole output was turned down by {-writer.rescale_db:.1f} dB so that nothing clips']
    if not writer.clipped_samples:
        return []
    excess = 20 * math.log10(writer.peak)
    over = f'{writer.clipped_samples} samples of the output exceed full scale by up to {excess:.1f} dB'
    if writer.clip == 'clamp':
        return [f'{over} and were limited']
    if writer.bits == 'float':
        return [f'{over}; the float file keeps them (clip policy "rescale" turns the file down)']
    return [f'{over} and are clipped in the file (write float, or use the clip policy "rescale")']
