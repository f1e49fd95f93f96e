"""An effects chain over a fixed recording: equaliser, room, gain."""

from typing import Any

import torch
from torch import Tensor, nn

from nemo_audio_restore.distillation.bounded import LogBounded
from nemo_audio_restore.distillation.renderers import Renderer
from nemo_audio_restore.signal.modal_synthesis import fft_convolve, noise_band_impulse, octave_bands


class EffectsChain(Renderer):
    """Equaliser, then a room beside the dry sound, then gain; starts as (almost) no effect at all.

    Args:
        audio: (C, T), the recording.
        sample_rate: in Hz.
        equaliser_hz: centres of the equaliser's bands; each acts over an octave or so.
        room_hz: centres of the room's bands.
        room_seconds: length of the room's response.
        room_seed: of the room's noise.

    Raises:
        ValueError: the recording has no (channels, samples), or a band lies above half the rate.
    """

    kind = 'effects'
    WIDTH_OCTAVES = 0.5

    def __init__(
        self,
        audio: Tensor,
        *,
        sample_rate: int,
        equaliser_hz: tuple[float, ...] = (63, 125, 250, 500, 1000, 2000, 4000, 8000),
        room_hz: tuple[float, ...] = (125, 500, 2000, 6000),
        room_seconds: float = 0.5,
        room_seed: int = 0,
    ):
        super().__init__()
        if audio.ndim != 2:
            raise ValueError(f'the recording must have the shape (channels, samples); got {tuple(audio.shape)}')
        if max(*equaliser_hz, *room_hz) >= sample_rate / 2:
            raise ValueError(f'bands must lie below {sample_rate / 2:g} Hz; got {equaliser_hz}, {room_hz}')
        self.sample_rate = sample_rate
        generator = torch.Generator().manual_seed(room_seed)
        self.register_buffer('audio', audio.clone())
        self.register_buffer('noise', torch.randn(int(room_seconds * sample_rate), generator=generator))
        self.register_buffer('equaliser_hz', torch.tensor(equaliser_hz, dtype=torch.float32))
        self.register_buffer('room_hz', torch.tensor(room_hz, dtype=torch.float32))
        self.equaliser_db = nn.Parameter(torch.zeros(len(equaliser_hz)))
        self.room_level = nn.Parameter(torch.full((len(room_hz),), 1e-4))
        self.room_decay = LogBounded(
            torch.full((len(room_hz),), room_seconds / 5), low=5e-3, high=5.0, name='room_decay_s'
        )
        self.gain_db = nn.Parameter(torch.zeros(()))

    def forward(self, num_samples: int) -> Tensor:
        """The recording (C, num_samples) through the chain."""
        audio = nn.functional.pad(self.audio, (0, num_samples - self.audio.shape[-1]))
        size = audio.shape[-1] + self.sample_rate // 10  # room for what the equaliser rings
        width = torch.full_like(self.equaliser_hz, self.WIDTH_OCTAVES)
        bands = octave_bands(self.equaliser_hz, width, size, self.sample_rate)
        response = 10 ** ((self.equaliser_db @ bands) / 20)
        equalised = torch.fft.irfft(torch.fft.rfft(audio, n=size) * response, n=size)[..., :num_samples]
        room = noise_band_impulse(
            noise=self.noise,
            centre_hz=self.room_hz,
            width_octaves=torch.full_like(self.room_hz, self.WIDTH_OCTAVES),
            decay_s=self.room_decay(),
            amplitude=self.room_level,
            sample_rate=self.sample_rate,
        )
        return 10 ** (self.gain_db / 20) * (equalised + fft_convolve(equalised, room, num_samples))

    def settings(self) -> dict[str, Any]:
        """The chain's settings in physical units, as plain numbers."""
        return {
            'equaliser_db': dict(zip(self.equaliser_hz.tolist(), self.equaliser_db.tolist(), strict=True)),
            'room_level': dict(zip(self.room_hz.tolist(), self.room_level.tolist(), strict=True)),
            'room_decay_s': self.room_decay().tolist(),
            'gain_db': self.gain_db.item(),
        }
