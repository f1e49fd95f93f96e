"""What the engine needs from a model, what it can be told, and what it reports."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from nemo_audio_restore.processes.bridge import SchrodingerBridge
from nemo_audio_restore.signal.cutoff import CutoffEstimate
from nemo_audio_restore.signal.gap_detection import Gap
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""What ``SamplerSettings.precision`` may be."""

OnProgress = Callable[[int, int], None]
"""Called with (network evaluations done, evaluations in all); a tile of one channel is one evaluation."""


class RestorationError(ValueError):
    """The request does not fit the audio or the model; the message is one sentence for the user."""


class Network(Protocol):
    """Predicts ``SchrodingerBridge.target`` of (B, 3, F, N) states."""

    frames_multiple: int

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Prediction (B, 3, F, N) for states (B, 3, F, N), times (B,) and the mask (B, 1, F, N)."""
        ...


class Restorer(Protocol):
    """A model as the engine sees it."""

    @property
    def representation(self) -> MagnitudePhaseSpectrogram:
        """Spectrogram that the network works on."""
        ...

    @property
    def process(self) -> SchrodingerBridge:
        """Bridge that the network was trained on."""
        ...

    @property
    def network(self) -> Network:
        """The network, in evaluation mode."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        ...


@dataclass(frozen=True)
class SamplerSettings:
    """How the bridge is sampled.

    Attributes:
        steps: network evaluations for each tile, at times from 1 to ``t_min``.
        t_min: time of the last evaluation, in (0, 1).
        time_power: spacing of the times: 1 even, above 1 the late steps are shorter, below 1 the early ones.
        eta: share of the Markov step's fresh noise, 0 to 1.
        order: 1, or 2 to continue the change between the last two estimates in every step.
        tile_frames: frames that the network sees at once; a multiple of its ``frames_multiple``.
        tile_hop_frames: frames between tiles; divides ``tile_frames``.
        batch_size: most tiles in one call of the network, or 'auto' for as many as fit the memory and bring speed; it
            is halved when memory runs out. Changes memory and speed, not the result.
        precision: 'fp32', or 'bf16' or 'fp16' for autocast inside the network; everything else stays in float32.
        compile: run the network through ``torch.compile``: minutes at the start, faster afterwards.
        phase_rounds: Griffin-Lim rounds that make the phases of generated bins agree between frames; 0 for none.
        band_gain_db: gain on what is generated above the cutoff. An estimate of the average logarithm of noise-like
            bins lies 2.5 dB (Euler's constant) below their power.
        side_gain_db: gain on what is generated above the cutoff for the difference of two channels, in mid-side mode:
            a model that saw no differences in its training makes them too loud, and the recording too wide.
        level_range_db: levels (RMS of the loud part, dB re full scale) that the model was trained on; a file outside
            is scaled to the nearer end in front of the model, and back behind it.
    """

    steps: int = 10
    t_min: float = 0.05
    time_power: float = 1.0
    eta: float = 0.0
    order: int = 1
    tile_frames: int = 256
    tile_hop_frames: int = 128
    batch_size: int | Literal['auto'] = 4
    precision: str = 'fp32'
    compile: bool = False
    phase_rounds: int = 0
    band_gain_db: float = 0.0
    side_gain_db: float = 0.0
    level_range_db: tuple[float, float] = (-26.0, -14.0)

    def __post_init__(self):
        if self.steps < 1:
            raise RestorationError(f'steps must be at least 1; got {self.steps}')
        if not 0.0 < self.t_min < 1.0:
            raise RestorationError(f't_min must lie between 0 and 1; got {self.t_min}')
        if not 0.0 <= self.eta <= 1.0:
            raise RestorationError(f'eta must lie in [0, 1]; got {self.eta}')
        if self.time_power <= 0:
            raise RestorationError(f'time_power must be above 0; got {self.time_power}')
        if self.order not in (1, 2):
            raise RestorationError(f'order must be 1 or 2; got {self.order}')
        if self.batch_size != 'auto' and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise RestorationError(f"batch_size must be 'auto' or at least 1; got {self.batch_size!r}")
        if self.precision not in PRECISIONS:
            raise RestorationError(f'precision must be {", ".join(PRECISIONS)}; got {self.precision}')
        if self.phase_rounds < 0:
            raise RestorationError(f'phase_rounds must be 0 or more; got {self.phase_rounds}')
        if not self.level_range_db[0] <= self.level_range_db[1]:
            raise RestorationError(f'level_range_db must be (low, high); got {self.level_range_db}')
        if self.tile_frames < 1 or not 1 <= self.tile_hop_frames <= self.tile_frames:
            raise RestorationError(
                f'tile_hop_frames must lie in 1..tile_frames; got {self.tile_hop_frames} and {self.tile_frames}'
            )
        if self.tile_frames % self.tile_hop_frames:
            raise RestorationError(
                f'tile_hop_frames must divide tile_frames; got {self.tile_hop_frames} and {self.tile_frames}'
            )


@dataclass
class RestorationReport:
    """What was done to one file.

    Attributes:
        source: path that was read, or None for an array.
        target: path that was written, or None for an array.
        channels: C.
        duration_s: length in seconds, of input and output alike.
        input_rate: sample rate in Hz.
        output_rate: sample rate in Hz; never below the model's.
        cutoff_hz: frequency above which everything was generated, or None.
        transition_hz: width of the band below the cutoff in which the generated part fades in.
        gaps: (start, end) in seconds of the stretches that were generated.
        crossfade_s: length of the crossfade outside each end of a gap.
        seed: of all random numbers.
        steps: network evaluations for each tile.
        tiles: tiles that were computed, over all channels.
        tiles_total: tiles that the whole file would take.
        level_gain_db: gain in front of the model, undone behind it; 0 for files of ordinary level.
        stereo: what channels shared while they were generated.
        peak: largest magnitude of the output, 1.0 = full scale.
        clipped_samples: samples of the output above full scale, before the clip policy.
        rescale_db: gain that the clip policy 'rescale' applied to the whole output.
        seconds: wall time.
        regions: (start, end, low, high) in seconds and Hz of the boxes that were generated.
        detected_cutoff: what the detector of cutoffs found, or None where nobody asked.
        detected_gaps: what the detector of gaps found.
        notes: sentences for the user about what was detected.
        warnings: sentences for the user.
    """

    source: str | None
    target: str | None
    channels: int
    duration_s: float
    input_rate: int
    output_rate: int
    cutoff_hz: float | None
    transition_hz: float
    gaps: tuple[tuple[float, float], ...]
    crossfade_s: float
    seed: int
    steps: int
    tiles: int = 0
    tiles_total: int = 0
    level_gain_db: float = 0.0
    stereo: str = 'shared'
    peak: float = 0.0
    clipped_samples: int = 0
    rescale_db: float = 0.0
    seconds: float = 0.0
    regions: tuple[tuple[float, float, float, float], ...] = ()
    detected_cutoff: CutoffEstimate | None = None
    detected_gaps: tuple[Gap, ...] = ()
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing was generated: the output holds the input's samples."""
        return self.cutoff_hz is None and not self.gaps and not self.regions

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)
