"""Spectral distance at many resolutions for the price of a few: each call draws which windows it looks at.

Comparing seven resolutions costs more on a CPU than a small codec's forward and backward pass. Drawing two of them for
each step gives the same gradient on average at a fraction of the price, and one transform serves the linear and the
mel spectrogram.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ROOT_GUARD = 1e-8
_MAX_LOG_MAGNITUDE = 8.0


class SampledSpectralLoss(nn.Module):
    """L1 distance of log-mel and log-magnitude spectrograms, and relative L2 distance of magnitudes.

    Hann windows, hop of a quarter window, no padding, triangular mel filters on Slaney's scale that average the
    magnitudes of a band. Guards are those of a window of 1024 samples; others scale with the root of the length, as
    the magnitude of noise does.

    Args:
        sample_rate: in Hz.
        window_lengths: of all resolutions, in samples, multiples of 4.
        mel_channels: mel filters of each.
        num_drawn: resolutions of one call; all in turn when it is their number.
        mel_guard: added to a mel channel before the logarithm; smaller values weigh quiet parts more.
        magnitude_guard: the same for the magnitude of a bin.
        magnitude_weight: of the log-magnitude distance; that of the mel distance is 1.
        convergence_weight: of the relative L2 distance.

    Raises:
        ValueError: the lists differ in length, ``num_drawn`` is impossible, or a guard is not positive.

    Source: Parallel WaveGAN (arXiv 1910.11480), equations 4 to 6, for several resolutions; the mel distance is that of
        Spectral Codecs (arXiv 2406.05298), section 2.3.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        window_lengths: Sequence[int] = (128, 256, 384, 512, 768, 1024, 2048),
        mel_channels: Sequence[int] = (20, 30, 40, 60, 80, 80, 160),
        num_drawn: int = 2,
        mel_guard: float = 0.05,
        magnitude_guard: float = 0.05,
        magnitude_weight: float = 0.5,
        convergence_weight: float = 0.3,
    ):
        super().__init__()
        if len(window_lengths) != len(mel_channels):
            raise ValueError(
                f'{len(window_lengths)} window_lengths need as many mel_channels; got {len(mel_channels)}'
            )
        if not 1 <= num_drawn <= len(window_lengths):
            raise ValueError(f'num_drawn must be 1 to {len(window_lengths)}; got {num_drawn}')
        if min(mel_guard, magnitude_guard) <= 0:
            raise ValueError(f'guards must be positive; got {mel_guard} and {magnitude_guard}')
        self.window_lengths = tuple(window_lengths)
        self.num_drawn = num_drawn
        self.mel_guard = mel_guard
        self.magnitude_guard = magnitude_guard
        self.magnitude_weight = magnitude_weight
        self.convergence_weight = convergence_weight
        for length, channels in zip(window_lengths, mel_channels, strict=True):
            self.register_buffer(f'window_{length}', torch.hann_window(length), persistent=False)
            self.register_buffer(f'bank_{length}', _mel_bank(sample_rate, length, channels), persistent=False)

    def forward(self, audio: Tensor, estimate: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Compares audio at drawn resolutions.

        Args:
            audio: (B, T) samples, the target; no gradient flows into it.
            estimate: (B, T) samples; T at least the longest window.
            generator: on the CPU; draws the resolutions.

        Returns:
            A scalar.
        """
        order = torch.randperm(len(self.window_lengths), generator=generator)[: self.num_drawn]
        return sum(self._distance(audio, estimate, self.window_lengths[index]) for index in order) / self.num_drawn

    def of_windows(self, audio: Tensor, log_magnitude: Tensor) -> Tensor:
        """Distance of the magnitudes that a decoder predicts for windows, before it turns them into audio.

        The path from audio back to a magnitude leads through all phases; while those are wrong it teaches little.

        Args:
            audio: (B, T) samples, T a multiple of the hop.
            log_magnitude: (B, T / hop, F) of windows of 2 (F - 1) samples, one of ``window_lengths``, each centred on
                its hop of a quarter window.

        Returns:
            A scalar, without the relative L2 distance.
        """
        length = 2 * (log_magnitude.shape[2] - 1)
        margin = (length - length // 4) // 2
        with torch.no_grad():
            target = self._magnitudes(nn.functional.pad(audio, (margin, margin)), length)
        magnitude = log_magnitude.float().clamp(max=_MAX_LOG_MAGNITUDE).exp()
        return self._log_distances(target, magnitude, length)

    def of_phases(self, audio: Tensor, phase: Tensor) -> Tensor:
        """How far predicted phases turn differently, from window to window and from bin to bin.

        The phase itself hangs on when the recording began; its steps are what sounds: from window to window the
        frequency within a bin, from bin to bin the time within a window.

        Args:
            audio: (B, T) samples, T a multiple of the hop.
            phase: (B, T / hop, F) in radians, counted from the start of each window, for windows as in
                :meth:`of_windows`.

        Returns:
            A scalar, 0 to 4: sum over both directions of the mean of 1 - cos(difference), weighed by the root of the
            magnitudes; about 2 for phases at random.

        Source: APNet (arXiv 2305.07952), section II-C, with a cosine in place of the wrapped absolute value.
        """
        length = 2 * (phase.shape[2] - 1)
        margin = (length - length // 4) // 2
        with torch.no_grad():
            target = self._spectrum(nn.functional.pad(audio, (margin, margin)), length)
            target = target / (target.abs().sqrt() + _ROOT_GUARD)
        turned = torch.polar(torch.ones_like(phase), phase.float())
        total = 0.0
        for dim in (1, 2):
            size = phase.shape[dim] - 1
            steps = target.narrow(dim, 1, size) * target.narrow(dim, 0, size).conj()
            predicted = turned.narrow(dim, 1, size) * turned.narrow(dim, 0, size).conj()
            agreement = steps.real * predicted.real + steps.imag * predicted.imag
            total = total + 1 - agreement.sum() / (steps.abs().sum() + _ROOT_GUARD)
        return total

    def _distance(self, audio: Tensor, estimate: Tensor, length: int) -> Tensor:
        with torch.no_grad():
            target = self._magnitudes(audio, length)
        magnitude = self._magnitudes(estimate, length)
        convergence = (target - magnitude).norm() / (target.norm() + 1e-3)
        return self._log_distances(target, magnitude, length) + self.convergence_weight * convergence

    def _log_distances(self, target: Tensor, magnitude: Tensor, length: int) -> Tensor:
        bank, scale = getattr(self, f'bank_{length}'), (length / 1024) ** 0.5
        mel = _log_distance(target @ bank, magnitude @ bank, self.mel_guard * scale)
        return mel + self.magnitude_weight * _log_distance(target, magnitude, self.magnitude_guard * scale)

    def _magnitudes(self, audio: Tensor, length: int) -> Tensor:
        """(B, T) to (B, N, F)."""
        spectrum = self._spectrum(audio, length)
        return (spectrum.real.square() + spectrum.imag.square() + _ROOT_GUARD).sqrt()

    def _spectrum(self, audio: Tensor, length: int) -> Tensor:
        frames = audio.float().unfold(1, length, length // 4) * getattr(self, f'window_{length}')
        return torch.fft.rfft(frames)


def _log_distance(target: Tensor, estimate: Tensor, guard: float) -> Tensor:
    return ((target + guard).log() - (estimate + guard).log()).abs().mean()


def _mel_bank(sample_rate: int, length: int, channels: int) -> Tensor:
    """(F, channels)."""
    # librosa takes a second to import: only where a loss is made.
    from librosa.filters import mel

    bank = torch.from_numpy(mel(sr=sample_rate, n_fft=length, n_mels=channels, norm=None)).T
    return (bank / bank.sum(dim=0).clamp(min=1)).contiguous()
