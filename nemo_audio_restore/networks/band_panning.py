"""On which side a sound is, as a few numbers a latent: the level difference of two channels in wide bands.

Nothing here is learned. A network that codes levels well still loses their small and rare differences between the
channels; coded apart, they come back exactly.

Source: inter-channel intensity differences of parametric stereo (Breebaart et al. 2005, "Parametric coding of stereo
audio", section 2.1).
"""

import torch
from torch import Tensor, nn

from nemo_audio_restore.networks.frequency_bands import band_averages
from nemo_audio_restore.networks.overlapping_windows import at_least_single

# Of a bin, squared: below it differences fade to none. 20 dB above what counts as silence.
_QUIET_ENERGY = 0.04**2
_MAX_LOG_MAGNITUDE = 8.0
# Half a difference of 52 dB.
_MAX_CORRECTION = 3.0


class BandPanning(nn.Module):
    """Half the level difference of left and right, in nepers, in bands about equally wide to the ear.

    Args:
        num_bins: F, from zero to half the sample rate.
        num_bands: K.
        hops: windows of one latent.
        scale: nepers that become a latent value of one.
    """

    def __init__(self, *, num_bins: int, num_bands: int, hops: int, scale: float = 0.25):
        super().__init__()
        self.hops, self.scale = hops, scale
        members = (band_averages(num_bins, num_bands) > 0).float()
        self.register_buffer('members', members, persistent=False)
        self.register_buffer('floor', members.sum(dim=0) * hops * _QUIET_ENERGY, persistent=False)

    def measure(self, magnitude: Tensor) -> Tensor:
        """Panning of windows.

        Args:
            magnitude: (B, 2, L * hops, F).

        Returns:
            (B, L, K); positive where the left channel is louder.
        """
        bands = at_least_single(magnitude).square() @ self.members
        energy = bands.unflatten(2, (-1, self.hops)).sum(dim=3) + self.floor
        return (energy[:, 0].log() - energy[:, 1].log()) / (4 * self.scale)

    def apply(self, log_magnitude: Tensor, panning: Tensor) -> Tensor:
        """Turns one channel up and the other down until windows have a given panning; their product stays.

        Args:
            log_magnitude: (B, 2, L * hops, F) in nepers.
            panning: (B, L, K), as :meth:`measure` gives it.

        Returns:
            Like ``log_magnitude``.
        """
        present = self.measure(at_least_single(log_magnitude).clamp(max=_MAX_LOG_MAGNITUDE).exp())
        change = ((panning - present) * self.scale).clamp(-_MAX_CORRECTION, _MAX_CORRECTION) @ self.members.T
        change = change.repeat_interleave(self.hops, dim=1).to(log_magnitude.dtype)
        return log_magnitude + torch.stack([change, -change], dim=1)
