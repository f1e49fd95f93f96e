"""Differentiable renderers: modules that turn their own parameters into sound.

Any module with this interface can be distilled into; a patch holds the parameters in physical units.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nemo_audio_restore.distillation.bounded import LogBounded
from nemo_audio_restore.signal.fm_synthesis import fm_synthesis
from nemo_audio_restore.signal.modal_synthesis import fft_convolve, modal_impulse, noise_band_impulse

LOWEST_HZ = 20.0
HIGHEST_SHARE = 0.45  # of the sample rate


class Renderer(nn.Module, ABC):
    """Something that renders sound from its parameters.

    Attributes:
        kind: name of the renderer in a patch.
        sample_rate: in Hz.
    """

    kind: ClassVar[str]
    sample_rate: int

    @abstractmethod
    def forward(self, num_samples: int) -> Tensor:
        """Sound of (C, num_samples), differentiable in the parameters."""


class PatchRenderer(Renderer):
    """A renderer whose parameters are a few physical numbers, which can be written as JSON and read back."""

    @abstractmethod
    def patch_values(self) -> dict[str, Any]:
        """The constructor's arguments that make this renderer again, as plain numbers and lists."""

    def to_patch(self) -> dict[str, Any]:
        """The patch: kind, version and :meth:`patch_values`."""
        return {'renderer': self.kind, 'version': 1, **self.patch_values()}

    @classmethod
    def from_patch(cls, patch: Mapping[str, Any]) -> 'PatchRenderer':
        """Makes the renderer of a patch.

        Args:
            patch: as :meth:`to_patch` makes it.

        Returns:
            The renderer.

        Raises:
            ValueError: the patch is of another renderer or version, or a value is missing or unknown.
        """
        values = dict(patch)
        kind, version = values.pop('renderer', None), values.pop('version', None)
        if kind != cls.kind or version != 1:
            raise ValueError(f'this is no patch of {cls.kind!r}, version 1; it says {kind!r}, version {version!r}')
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f'the patch does not hold the values of {cls.kind!r}: {error}') from error

    def save_patch(self, path: str | Path) -> None:
        """Writes the patch as JSON."""
        Path(path).write_text(json.dumps(self.to_patch(), indent=2) + '\n', encoding='utf-8')


def _plain(values: Tensor) -> list:
    return values.detach().cpu().tolist()


def _log_uniform(count: int, low: float, high: float, generator: torch.Generator) -> list[float]:
    share = torch.rand(count, generator=generator)
    return (low * (high / low) ** share).tolist()


class FMSynthesizer(PatchRenderer):
    """Sine oscillators that modulate each other's phase (see :func:`fm_synthesis`).

    Args:
        frequency_hz: (O,), 20 Hz .. 0.45 of the sample rate.
        modulation: (O, O), in radians; only what is below the diagonal counts.
        level: (O,).
        attack_s: (O,), 0.5 ms .. 2 s.
        decay_s: (O,), 5 ms .. 20 s.
        sample_rate: in Hz.

    Source: Audio-SDS (arXiv 2505.04621), section 4: four oscillators.
    """

    kind = 'fm'

    def __init__(
        self,
        *,
        frequency_hz: list[float],
        modulation: list[list[float]],
        level: list[float],
        attack_s: list[float],
        decay_s: list[float],
        sample_rate: int,
    ):
        super().__init__()
        operators = len(frequency_hz)
        sizes = [len(level), len(attack_s), len(decay_s), len(modulation), *map(len, modulation)]
        if operators == 0 or set(sizes) != {operators}:
            raise ValueError(f'every list must have one entry an oscillator ({operators}); got sizes {sizes}')
        self.sample_rate = sample_rate
        self.frequency = LogBounded(
            torch.tensor(frequency_hz), low=LOWEST_HZ, high=HIGHEST_SHARE * sample_rate, name='frequency_hz'
        )
        self.attack = LogBounded(torch.tensor(attack_s), low=5e-4, high=2.0, name='attack_s')
        self.decay = LogBounded(torch.tensor(decay_s), low=5e-3, high=20.0, name='decay_s')
        self.modulation = nn.Parameter(torch.tensor(modulation, dtype=torch.float32))
        self.level = nn.Parameter(torch.tensor(level, dtype=torch.float32))

    @classmethod
    def random(cls, *, sample_rate: int, generator: torch.Generator, operators: int = 4) -> 'FMSynthesizer':
        """A synthesizer with random settings in the range of musical sounds."""
        triangle = torch.tril(torch.rand(operators, operators, generator=generator), -1)
        return cls(
            frequency_hz=_log_uniform(operators, 50.0, min(4000.0, 0.4 * sample_rate), generator),
            modulation=triangle.tolist(),
            level=(0.5 * torch.rand(operators, generator=generator) / operators).tolist(),
            attack_s=_log_uniform(operators, 1e-3, 0.1, generator),
            decay_s=_log_uniform(operators, 0.05, 1.0, generator),
            sample_rate=sample_rate,
        )

    def forward(self, num_samples: int) -> Tensor:
        """Sound of (1, num_samples)."""
        return fm_synthesis(
            frequency_hz=self.frequency(),
            modulation=self.modulation,
            level=self.level,
            attack_s=self.attack(),
            decay_s=self.decay(),
            num_samples=num_samples,
            sample_rate=self.sample_rate,
        )[None]

    def patch_values(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            'frequency_hz': _plain(self.frequency()),
            'modulation': _plain(torch.tril(self.modulation, -1)),
            'level': _plain(self.level),
            'attack_s': _plain(self.attack()),
            'decay_s': _plain(self.decay()),
            'sample_rate': self.sample_rate,
        }


class ImpactSynthesizer(PatchRenderer):
    """A struck object in a room: decaying modes, convolved with decaying bands of noise, beside the dry sound.

    Args:
        frequency_hz: (M,), modes, 20 Hz .. 0.45 of the sample rate.
        decay_s: (M,), 1 ms .. 10 s.
        amplitude: (M,).
        band_hz: (N,), centres of the room's bands, in the same range.
        band_decay_s: (N,), 1 ms .. 10 s.
        band_amplitude: (N,), level of the bands beside a dry level of 1.
        room_seed: of the room's noise.
        sample_rate: in Hz.

    Source: Audio-SDS (arXiv 2505.04621), section 4.
    """

    kind = 'impact'
    WIDTH_OCTAVES = 0.25

    def __init__(
        self,
        *,
        frequency_hz: list[float],
        decay_s: list[float],
        amplitude: list[float],
        band_hz: list[float],
        band_decay_s: list[float],
        band_amplitude: list[float],
        room_seed: int,
        sample_rate: int,
    ):
        super().__init__()
        if not len(frequency_hz) == len(decay_s) == len(amplitude) > 0:
            raise ValueError(
                'frequency_hz, decay_s and amplitude need one entry a mode; '
                f'got {len(frequency_hz)}, {len(decay_s)}, {len(amplitude)}'
            )
        if not len(band_hz) == len(band_decay_s) == len(band_amplitude) > 0:
            raise ValueError(
                'band_hz, band_decay_s and band_amplitude need one entry a band; '
                f'got {len(band_hz)}, {len(band_decay_s)}, {len(band_amplitude)}'
            )
        self.sample_rate = sample_rate
        self.room_seed = room_seed
        limits = {'low': LOWEST_HZ, 'high': HIGHEST_SHARE * sample_rate}
        self.frequency = LogBounded(torch.tensor(frequency_hz), name='frequency_hz', **limits)
        self.decay = LogBounded(torch.tensor(decay_s), low=1e-3, high=10.0, name='decay_s')
        self.amplitude = nn.Parameter(torch.tensor(amplitude, dtype=torch.float32))
        self.band = LogBounded(torch.tensor(band_hz), name='band_hz', **limits)
        self.band_decay = LogBounded(torch.tensor(band_decay_s), low=1e-3, high=10.0, name='band_decay_s')
        self.band_amplitude = nn.Parameter(torch.tensor(band_amplitude, dtype=torch.float32))

    @classmethod
    def random(
        cls, *, sample_rate: int, generator: torch.Generator, modes: int = 64, bands: int = 16
    ) -> 'ImpactSynthesizer':
        """A synthesizer with random modes and a faint random room."""
        top = 0.4 * sample_rate
        return cls(
            frequency_hz=_log_uniform(modes, 60.0, top, generator),
            decay_s=_log_uniform(modes, 0.02, 0.5, generator),
            amplitude=(torch.randn(modes, generator=generator) * 0.5 / modes**0.5).tolist(),
            band_hz=torch.logspace(torch.tensor(60.0).log10(), torch.tensor(top).log10(), bands).tolist(),
            band_decay_s=_log_uniform(bands, 0.05, 0.5, generator),
            band_amplitude=(torch.rand(bands, generator=generator) * 0.01).tolist(),
            room_seed=int(torch.randint(2**31, (1,), generator=generator)),
            sample_rate=sample_rate,
        )

    def forward(self, num_samples: int) -> Tensor:
        """Sound of (1, num_samples)."""
        strike = modal_impulse(
            frequency_hz=self.frequency(),
            decay_s=self.decay(),
            amplitude=self.amplitude,
            num_samples=num_samples,
            sample_rate=self.sample_rate,
        )
        room = noise_band_impulse(
            noise=self._noise(num_samples),
            centre_hz=self.band(),
            width_octaves=torch.full_like(self.band.raw, self.WIDTH_OCTAVES),
            decay_s=self.band_decay(),
            amplitude=self.band_amplitude,
            sample_rate=self.sample_rate,
        )
        return (strike + fft_convolve(strike, room, num_samples))[None]

    def _noise(self, num_samples: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.room_seed)
        return torch.randn(num_samples, generator=generator).to(self.amplitude)

    def patch_values(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            'frequency_hz': _plain(self.frequency()),
            'decay_s': _plain(self.decay()),
            'amplitude': _plain(self.amplitude),
            'band_hz': _plain(self.band()),
            'band_decay_s': _plain(self.band_decay()),
            'band_amplitude': _plain(self.band_amplitude),
            'room_seed': self.room_seed,
            'sample_rate': self.sample_rate,
        }


def load_patch(path: str | Path) -> PatchRenderer:
    """Makes the renderer of a patch file.

    Args:
        path: of a JSON file, as :meth:`PatchRenderer.save_patch` writes it.

    Returns:
        The renderer.

    Raises:
        ValueError: the file is no JSON object, or names a renderer that is not known.
    """
    try:
        patch = json.loads(Path(path).read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no JSON file: {error}') from error
    kinds = {kind.kind: kind for kind in (FMSynthesizer, ImpactSynthesizer)}
    kind = patch.get('renderer') if isinstance(patch, dict) else None
    if kind not in kinds:
        raise ValueError(f'{path} names the renderer {kind!r}; known are {sorted(kinds)}')
    return kinds[kind].from_patch(patch)
