"""What the model changes, mask * (estimate - input), as a stream of spectrogram frames."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge_samplers import uniform_times
from nemo_audio_restore.restoration.frames import FrameReader
from nemo_audio_restore.restoration.noise import FILL_DRAW, FrameNoise
from nemo_audio_restore.restoration.plan import Plan
from nemo_audio_restore.restoration.protocol import OnProgress, RestorationError, Restorer, SamplerSettings
from nemo_audio_restore.restoration.spectrum_runs import Frames, Generated
from nemo_audio_restore.restoration.wavefront import Chunk, Layout, Wavefront
from nemo_audio_restore.signal.corruption import fill_with_noise

_ZERO_RUN_FRAMES = 128


@dataclass(frozen=True)
class _Input:
    """What is kept of the input until its chunk is done: the first frame and the spectrum (C, F + 1, n)."""

    first: int
    spectrum: Tensor


class Difference:
    """Runs the model over a plan.

    Args:
        restorer: the model.
        plan: what to generate.
        settings: of the sampler.
        seed: of all random numbers.
        gain_db: applied to the input in front of the model and taken back behind it.
        channels: C.
    """

    def __init__(
        self, restorer: Restorer, plan: Plan, *, settings: SamplerSettings, seed: int, gain_db: float, channels: int
    ):
        self._restorer = restorer
        self._plan = plan
        self._settings = settings
        self._gain = 10 ** (gain_db / 20)
        self._channels = channels
        representation = restorer.representation
        self._noise = FrameNoise(seed, channels=representation.channels, bins=representation.num_bins)
        self._chunk_firsts, self._layout = _layout(plan)

    def frames(self, blocks: Iterator[np.ndarray], on_progress: OnProgress | None) -> Iterator[Frames]:
        """The difference spectrum of the whole file, in order and without holes.

        Args:
            blocks: the input at the model's rate.
            on_progress: called with (evaluations done, evaluations in all).

        Yields:
            Runs of frames, N together.
        """
        position = 0
        for chunk in self._wavefront(blocks, on_progress).run() if self._layout.num_chunks else ():
            source: _Input = chunk.payload
            yield from _zeros(min(source.first, self._plan.num_frames) - position)
            count = min(source.spectrum.shape[-1], self._plan.num_frames - source.first)
            position = max(source.first + count, position)
            if count > 0:
                yield self._generated(chunk).split(count)[0]
        yield from _zeros(self._plan.num_frames - position)

    def _wavefront(self, blocks: Iterator[np.ndarray], on_progress: OnProgress | None) -> Wavefront:
        hop, restorer = self._plan.hop_frames, self._restorer
        reader = FrameReader(
            blocks,
            num_samples=self._plan.num_samples,
            channels=self._channels,
            representation=restorer.representation,
            last_frame=self._chunk_firsts[-1] + hop,
        )
        done, total = 0, self._plan.num_tiles * self._channels * self._settings.steps

        def load(number: int) -> Chunk:
            first = self._chunk_firsts[number]
            spectrum = reader.read(first, hop)
            clean = restorer.representation.from_complex(spectrum[:, 1:] * self._gain)
            mask = self._plan.mask(first, hop)
            degraded = fill_with_noise(clean, mask, self._noise.frames(FILL_DRAW, first, hop))
            return Chunk(degraded.to(restorer.device), mask.to(restorer.device), _Input(first, spectrum))

        def noise(number: int, step: int) -> Tensor:
            return self._noise.frames(step, self._chunk_firsts[number], hop).to(restorer.device)

        def on_evaluations(count: int) -> None:
            nonlocal done
            done += count
            if on_progress is not None:
                on_progress(done, total)

        return Wavefront(
            restorer.network,
            restorer.process,
            times=uniform_times(self._settings.steps, t_min=self._settings.t_min).double(),
            eta=self._settings.eta,
            layout=self._layout,
            load=load,
            noise=noise,
            batch_size=self._settings.batch_size,
            on_evaluations=on_evaluations,
        )

    def _generated(self, chunk: Chunk) -> Frames:
        """Masked estimate less input of a finished chunk."""
        source: _Input = chunk.payload
        count = source.spectrum.shape[-1]
        estimate = self._restorer.representation.to_complex(chunk.state).cpu() / self._gain
        if not torch.isfinite(torch.view_as_real(estimate)).all():
            raise RestorationError('the model produced values that are not numbers')
        used = self._plan.used(source.first, count)
        known, mask = source.spectrum[:, 1:], chunk.mask[0, 0].cpu() * used
        # The model has no DC row. In frames with a gap the input's is damage like the rest.
        constant = -source.spectrum[:, :1] * (self._plan.gap_mask(source.first, count) * used)
        difference = torch.cat([constant, (estimate - known) * mask], dim=1)
        return Frames(count, difference, Generated(known, estimate.abs(), mask))


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
