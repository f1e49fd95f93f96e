"""A request for restoration, checked against the audio and turned from seconds into samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nemo_audio_restore.restoration.blend import TRANSITION_BINS
from nemo_audio_restore.restoration.boxes import Region
from nemo_audio_restore.restoration.protocol import RestorationError, Restorer, SamplerSettings
from nemo_audio_restore.restoration.scan import Scan
from nemo_audio_restore.restoration.stereo import check_stereo

TRAINED_CUTOFFS_HZ = (2000.0, 16000.0)
NO_LIMIT = 1 << 62
_END_TOLERANCE_S = 1e-3
_RESAMPLER_RINGING = 32  # samples at the model's rate that the edge of a gap smears over
_USABLE_BAND = 0.95  # of the file's Nyquist frequency survives a resampler


@dataclass(frozen=True)
class Request:
    """What to restore in one file.

    Attributes:
        cutoff_hz: frequency above which everything is generated; None for no bandwidth extension.
        gaps: sorted (start, end) in seconds.
        seed: of all random numbers.
        settings: of the sampler.
        regions: time-frequency boxes.
        auto_cutoff: whether the cutoff is still to be detected.
        detect_gaps: whether gaps are still to be detected, besides those given.
        force: whether gaps and regions longer than a tile are allowed.
        stereo: what channels share, one of ``STEREO_MODES``.
    """

    cutoff_hz: float | None
    gaps: tuple[tuple[float, float], ...]
    seed: int
    settings: SamplerSettings
    regions: tuple[Region, ...] = ()
    auto_cutoff: bool = False
    detect_gaps: bool = False
    force: bool = False
    stereo: str = 'auto'

    @classmethod
    def make(
        cls,
        *,
        cutoff_hz: float | Literal['auto'] | None,
        gaps: Sequence[tuple[float, float]],
        seed: int,
        settings: SamplerSettings,
        regions: Sequence[tuple[float, float, float, float]] = (),
        detect_gaps: bool = False,
        force: bool = False,
        stereo: str = 'auto',
    ) -> 'Request':
        """Checks what can be checked without the audio.

        Args:
            cutoff_hz: in Hz; 'auto'; or None, which is 'auto' where nothing else is asked.
            gaps: (start, end) in seconds.
            seed: any integer.
            settings: of the sampler.
            regions: (start, end, low, high) in seconds and Hz.
            detect_gaps: whether to look for gaps, too.
            force: whether gaps and regions longer than a tile are allowed.
            stereo: one of ``STEREO_MODES``.

        Returns:
            The request with sorted gaps.

        Raises:
            RestorationError: a number is not usable.
        """
        check_stereo(stereo)
        asked = bool(gaps) or bool(regions) or detect_gaps
        auto = cutoff_hz == 'auto' or (cutoff_hz is None and not asked)
        if auto:
            cutoff_hz = None
        if isinstance(cutoff_hz, str):
            raise RestorationError(f"the cutoff must be a frequency in Hz or 'auto'; got {cutoff_hz!r}")
        if cutoff_hz is not None and not (math.isfinite(cutoff_hz) and cutoff_hz > 0):
            raise RestorationError(f'the cutoff must be a positive frequency in Hz; got {cutoff_hz}')
        for start, end in gaps:
            if not (math.isfinite(start) and math.isfinite(end)):
                raise RestorationError(f'a gap must be START:END in seconds; got {start}:{end}')
            if not 0 <= start < end:
                raise RestorationError(
                    f'a gap must start at 0 s or later and end after its start; got {start:g}:{end:g}'
                )
        ordered = tuple(sorted((float(start), float(end)) for start, end in gaps))
        return cls(
            None if cutoff_hz is None else float(cutoff_hz),
            ordered,
            int(seed),
            settings,
            regions=tuple(sorted((Region(*map(float, region)) for region in regions), key=lambda r: r.start_s)),
            auto_cutoff=auto,
            detect_gaps=detect_gaps,
            force=force,
            stereo=stereo,
        )

    def spans(self, rate: int, num_samples: int) -> list[tuple[int, int]]:
        """The gaps as sample ranges [start, stop) at ``rate``, inside 0 .. ``num_samples``."""
        return _spans(self.gaps, rate, num_samples)

    def region_spans(self, rate: int, num_samples: int) -> list[tuple[int, int]]:
        """The times of the regions as sample ranges [start, stop) at ``rate``."""
        return _spans([(region.start_s, region.end_s) for region in self.regions], rate, num_samples)

    def model_spans(self, rate: int, model_rate: int, num_samples: int) -> list[tuple[int, int]]:
        """The damaged samples at the model's rate, with what the resampler spreads."""
        spread = 0 if rate == model_rate else math.ceil(_RESAMPLER_RINGING * max(1.0, model_rate / rate))
        return [
            (max(start - spread, 0), min(stop + spread, num_samples))
            for start, stop in self.spans(model_rate, num_samples)
        ]


def _spans(times: Sequence[tuple[float, float]], rate: int, num_samples: int) -> list[tuple[int, int]]:
    spans = [(math.floor(start * rate), min(math.ceil(end * rate), num_samples)) for start, end in times]
    return [(start, stop) for start, stop in spans if stop > start]


def transition_hz(restorer: Restorer) -> float:
    """Width of the band below the cutoff in which the generated part fades in."""
    return TRANSITION_BINS * restorer.representation.bin_width_hz


def check_model(restorer: Restorer, settings: SamplerSettings) -> None:
    """Raises RestorationError if the network cannot run with these settings."""
    multiple = restorer.network.frames_multiple
    if settings.tile_frames % multiple:
        raise RestorationError(
            f'tile_frames must be a multiple of {multiple} for this network; got {settings.tile_frames}'
        )
    if getattr(restorer.network, 'training', False):
        raise RestorationError('the network is in training mode; call eval() on the model first')


def fitted(request: Request, restorer: Restorer, *, rate: int, scan: Scan) -> tuple[Request, list[str]]:
    """Checks a request against a file.

    Args:
        request: what was asked.
        restorer: the model.
        rate: the file's sample rate in Hz.
        scan: what the first pass has seen.

    Returns:
        The request as it will be carried out, and sentences for the user about what is unusual.

    Raises:
        RestorationError: it asks for something outside the file, or the file has nothing to work from.
    """
    representation = restorer.representation
    duration, nyquist = scan.num_samples / rate, rate / 2
    shortest = representation.n_fft / representation.sample_rate
    if duration < shortest:
        raise RestorationError(
            f'the audio is too short: {scan.num_samples} samples ({1000 * duration:.1f} ms); '
            f'at least {1000 * shortest:.0f} ms are needed'
        )
    warnings: list[str] = []
    for kind, start, end in _stretches(request):
        if end > duration + _END_TOLERANCE_S:
            raise RestorationError(
                f'the {kind} {start:g}:{end:g} s lies outside the audio, which ends at {duration:.3f} s'
            )
    for region in request.regions:
        if region.low_hz >= min(nyquist, representation.sample_rate / 2):
            raise RestorationError(
                f'the region at {region.start_s:g} s lies above the audio: it begins at {region.low_hz:g} Hz, '
                f'the audio ends at {min(nyquist, representation.sample_rate / 2):g} Hz'
            )
    _check_known_left(request, restorer, duration, warnings)
    if scan.is_silent and (request.cutoff_hz is not None or request.gaps or request.regions):
        raise RestorationError('the audio is digital silence: there is nothing to restore it from')
    cutoff = request.cutoff_hz
    if cutoff is not None:
        cutoff = _fitted_cutoff(cutoff, restorer, nyquist, warnings)
    return replace(request, cutoff_hz=cutoff), warnings


def level_gain_db(scan: Scan, settings: SamplerSettings) -> float:
    """Gain that brings a very quiet or loud file to levels that the model has seen in training."""
    level = scan.level_db
    if not math.isfinite(level):
        return 0.0
    low, high = settings.level_range_db
    return min(max(level, low), high) - level


def _fitted_cutoff(cutoff: float, restorer: Restorer, nyquist: float, warnings: list[str]) -> float:
    representation = restorer.representation
    model_nyquist = representation.sample_rate / 2
    lowest = 2 * transition_hz(restorer)
    if cutoff > nyquist or cutoff < lowest:
        raise RestorationError(
            f'the cutoff {cutoff:g} Hz lies outside the audio: it must lie between {lowest:.0f} and {nyquist:g} Hz, '
            'half the sample rate'
        )
    if nyquist < model_nyquist and cutoff > _USABLE_BAND * nyquist:
        # At its foot the resampler's slope would look like a dull recording.
        warnings.append(
            f'the cutoff was lowered from {cutoff:g} to {_USABLE_BAND * nyquist:.0f} Hz: '
            f'a file of {2 * nyquist:g} Hz holds nothing reliable above'
        )
        cutoff = _USABLE_BAND * nyquist
    if cutoff >= model_nyquist - representation.bin_width_hz:
        raise RestorationError(
            f'the cutoff {cutoff:g} Hz leaves nothing to generate: the model works up to {model_nyquist:g} Hz'
        )
    low, high = TRAINED_CUTOFFS_HZ
    if not low <= cutoff <= high:
        warnings.append(f'the cutoff {cutoff:g} Hz lies outside {low:g} to {high:g} Hz, where models are trained')
    return cutoff


def _check_known_left(request: Request, restorer: Restorer, duration: float, warnings: list[str]) -> None:
    representation = restorer.representation
    tile_s = request.settings.tile_frames / representation.frame_rate
    window_s = representation.n_fft / representation.sample_rate
    covered = 0.0
    for start, end in request.gaps:
        covered = end if start <= covered + window_s else covered
    if request.gaps and request.gaps[0][0] <= window_s and covered >= duration - window_s:
        raise RestorationError('the gaps cover the whole audio: there is nothing to restore it from')
    for kind, start, end in _stretches(request):
        if end - start > tile_s:
            text = (
                f'the {kind} {start:g}:{end:g} s is longer than the {tile_s:.2f} s that the model sees at once: '
                'its middle would be invented without context'
            )
            if not request.force:
                raise RestorationError(f'{text}; allow that with force (--force), or mark less')
            warnings.append(text)


def _stretches(request: Request) -> list[tuple[str, float, float]]:
    """All gaps and regions as (name, start, end) in seconds."""
    regions = [('region', region.start_s, region.end_s) for region in request.regions]
    return [*(('gap', start, end) for start, end in request.gaps), *regions]
