"""What the model changes, mask * (estimate - input), as a stream of spectrogram frames."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge_samplers import sampling_times
from nemo_audio_restore.restoration.evaluator import Evaluator
from nemo_audio_restore.restoration.frames import FrameReader
from nemo_audio_restore.restoration.journal import Journal
from nemo_audio_restore.restoration.noise import FILL_DRAW, FrameNoise
from nemo_audio_restore.restoration.plan import Plan
from nemo_audio_restore.restoration.protocol import OnProgress, RestorationError, Restorer, SamplerSettings
from nemo_audio_restore.restoration.spectrum_runs import Frames, Generated
from nemo_audio_restore.restoration.stereo import mid_side
from nemo_audio_restore.restoration.wavefront import Chunk, Layout, Wavefront
from nemo_audio_restore.signal.corruption import fill_with_noise

_ZERO_RUN_FRAMES = 128
_SPARE_CHUNKS = 32
"""Held for a network whose experts take turns on the accelerator: 50 s of audio from one exchange to the next."""


@dataclass(frozen=True)
class _Input:
    """What is kept of the input until its chunk is done.

    Attributes:
        first: number of the first frame.
        spectrum: complex (C, F + 1, n).
        generated: (F, n) mask of the bins whose estimate is used.
    """

    first: int
    spectrum: Tensor
    generated: Tensor


class Difference:
    """Runs the model over a plan.

    Args:
        restorer: the model.
        plan: what to generate.
        settings: of the sampler.
        seed: of all random numbers.
        gains_db: for each channel that the model sees, applied in front of it and taken back behind it; None where
            nothing is to be generated because the channel is silent.
        stereo: one of ``STEREO_MODES``.
        on_warning: told what did not go as asked, in a sentence for the user.
    """

    def __init__(
        self,
        restorer: Restorer,
        plan: Plan,
        *,
        settings: SamplerSettings,
        seed: int,
        gains_db: Sequence[float | None],
        stereo: str = 'shared',
        on_warning: Callable[[str], None] | None = None,
    ):
        self._restorer = restorer
        self._on_warning = on_warning
        self._plan = plan
        self._settings = settings
        self._gain = torch.tensor([10 ** ((gain or 0.0) / 20) for gain in gains_db])[:, None, None]
        self._sounding = torch.tensor([gain is not None for gain in gains_db])[:, None, None]
        self._channels = len(gains_db)
        self._mid_side = stereo == 'mid-side' and self._channels == 2
        representation = restorer.representation
        self._noises = [
            FrameNoise(seed, channels=representation.channels, bins=representation.num_bins, stream=stream)
            for stream in range(1 if stereo == 'shared' else self._channels)
        ]
        self._chunk_firsts, self._layout = _layout(plan)

    def frames(
        self, blocks: Iterator[np.ndarray], on_progress: OnProgress | None, journal: Journal | None = None
    ) -> Iterator[Frames]:
        """The difference spectrum of the whole file, in order and without holes.

        Args:
            blocks: the input at the model's rate.
            on_progress: called with (evaluations done, evaluations in all).
            journal: keeps what is finished, and has what an earlier run finished.

        Yields:
            Runs of frames, N together.
        """
        position = 0
        for source, estimate in self._estimates(blocks, on_progress, journal) if self._layout.num_chunks else ():
            yield from _zeros(min(source.first, self._plan.num_frames) - position)
            count = min(source.spectrum.shape[-1], self._plan.num_frames - source.first)
            position = max(source.first + count, position)
            if count > 0:
                yield self._generated(source, estimate).split(count)[0]
        yield from _zeros(self._plan.num_frames - position)

    def _estimates(
        self, blocks: Iterator[np.ndarray], on_progress: OnProgress | None, journal: Journal | None
    ) -> Iterator[tuple[_Input, Tensor]]:
        """Chunk by chunk the input, and what the model makes of the channels it sees: complex (C, F, n)."""
        reader = FrameReader(
            blocks,
            num_samples=self._plan.num_samples,
            channels=self._channels,
            representation=self._restorer.representation,
            last_frame=self._chunk_firsts[-1] + self._plan.hop_frames,
        )
        done, total = 0, self._plan.num_tiles * self._channels * self._settings.steps

        def on_evaluations(count: int) -> None:
            nonlocal done
            done += count
            if journal is not None:
                journal.checkpoint(lambda: {'wavefront': wavefront.state(), 'done': done})
            if on_progress is not None:
                on_progress(done, total)

        wavefront = self._wavefront(reader, on_evaluations)
        if journal is not None and journal.state is not None:
            state, done = journal.state['wavefront'], journal.state['done']
            if on_progress is not None:
                on_progress(done, total)
            for number in range(state['first_chunk']):
                source = self._read(reader, number)
                mask = source.generated.expand(self._channels, -1, -1) > 0
                estimate = torch.zeros(mask.shape, dtype=torch.complex64)
                estimate[mask] = journal.read(int(mask.sum()))
                yield source, estimate
            wavefront.load_state(state)
        for chunk in wavefront.run():
            estimate = self._estimate(chunk)
            if journal is not None:
                mask = chunk.payload.generated.expand(self._channels, -1, -1) > 0
                journal.append(estimate[mask])
            yield chunk.payload, estimate

    def _read(self, reader: FrameReader, number: int) -> _Input:
        first, count = self._chunk_firsts[number], self._plan.hop_frames
        mask = self._plan.mask(first, count)[0, 0] * self._plan.used(first, count)
        return _Input(first, reader.read(first, count), mask)

    def _wavefront(self, reader: FrameReader, on_evaluations: Callable[[int], None]) -> Wavefront:
        hop, restorer = self._plan.hop_frames, self._restorer
        settings = self._settings
        times = sampling_times(settings.steps, t_min=settings.t_min, power=settings.time_power)
        evaluator = Evaluator(
            restorer.network,
            device=restorer.device,
            batch_size=settings.batch_size,
            precision=settings.precision,
            compile=settings.compile,
            on_warning=self._on_warning,
        )
        expert_index = getattr(restorer.network, 'expert_index', None)
        take_turns = getattr(restorer.network, 'one_resident', False)

        def load(number: int) -> Chunk:
            source = self._read(reader, number)
            seen = mid_side(source.spectrum[:, 1:]) if self._mid_side else source.spectrum[:, 1:]
            clean = restorer.representation.from_complex(seen * self._gain)
            mask = self._plan.mask(source.first, hop)
            degraded = fill_with_noise(clean, mask, self._noise(FILL_DRAW, source.first, hop))
            return Chunk(degraded.to(restorer.device), mask.to(restorer.device), source)

        return Wavefront(
            evaluator,
            restorer.process,
            times=times.double(),
            eta=settings.eta,
            layout=self._layout,
            load=load,
            noise=lambda number, step: self._noise(step, self._chunk_firsts[number], hop).to(restorer.device),
            order=settings.order,
            experts=None if expert_index is None else expert_index(times).tolist(),
            spare_chunks=_SPARE_CHUNKS if take_turns else 0,
            on_evaluations=on_evaluations,
        )

    def _noise(self, draw: int, first: int, count: int) -> Tensor:
        """(1, 3, F, n) for all channels, or (C, 3, F, n)."""
        return torch.stack([noise.frames(draw, first, count) for noise in self._noises])

    def _estimate(self, chunk: Chunk) -> Tensor:
        """What the model makes of a finished chunk: complex (C, F, n), zero where it is not used."""
        estimate = self._restorer.representation.to_complex(chunk.state).cpu() / self._gain
        if not torch.isfinite(torch.view_as_real(estimate)).all():
            hint = '; fp16 has little range: take bf16 or fp32' if self._settings.precision == 'fp16' else ''
            raise RestorationError(f'the model produced values that are not numbers{hint}')
        return torch.where((chunk.payload.generated > 0) & self._sounding, estimate, 0)

    def _generated(self, source: _Input, estimate: Tensor) -> Frames:
        """Masked estimate less input."""
        count = source.spectrum.shape[-1]
        band = self._plan.rows * (1 - self._plan.gap_mask(source.first, count))
        if self._mid_side:
            side_gain = 10 ** (self._settings.side_gain_db / 20 * band)
            estimate = mid_side(torch.stack([estimate[0], estimate[1] * side_gain]))
        estimate = estimate * 10 ** (self._settings.band_gain_db / 20 * band)
        known = source.spectrum[:, 1:]
        # The model has no DC row. In frames with a gap the input's is damage like the rest.
        unknown = self._plan.gap_mask(source.first, count) * self._plan.used(source.first, count)
        difference = torch.cat([-source.spectrum[:, :1] * unknown, (estimate - known) * source.generated], dim=1)
        return Frames(count, difference, Generated(known, estimate.abs(), source.generated))


def _layout(plan: Plan) -> tuple[list[int], Layout]:
    """First frame of every chunk, and the tiles over them."""
    per_tile = plan.tile_frames // plan.hop_frames
    firsts: list[int] = []
    tiles: list[int] = []
    for segment in plan.segments:
        tiles += range(len(firsts), len(firsts) + segment.num_tiles)
        chunks = segment.num_tiles + per_tile - 1
        firsts += [segment.first_frame + i * plan.hop_frames for i in range(chunks)]
    return firsts, Layout(len(firsts), tiles, per_tile)


def _zeros(count: int) -> Iterator[Frames]:
    """``count`` frames without a difference, in runs that do not cost much memory."""
    while count > 0:
        yield Frames(min(count, _ZERO_RUN_FRAMES), None)
        count -= _ZERO_RUN_FRAMES
