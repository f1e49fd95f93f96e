"""Losses of the speech codec and the two passes of its adversarial training: plain functions on modules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from nemo.collections.tts.losses.audio_codec_loss import (
    DiscriminatorSquaredLoss,
    FeatureMatchingLoss,
    GeneratorSquaredLoss,
    MultiResolutionMelLoss,
    MultiResolutionSTFTLoss,
    SISDRLoss,
)
from torch import Tensor, nn

# NeMo's recipe for the low-frame-rate codec: [n_fft, hop_length, win_length] in samples.
_RESOLUTIONS = tuple((2**k, 2 ** (k - 2), 2**k) for k in range(5, 12))
_MEL_DIMS = (5, 10, 20, 40, 80, 160, 320)


@dataclass(frozen=True)
class CodecLossSettings:
    """The ``loss`` block of a codec's config; the defaults are those of NeMo's low-frame-rate recipe.

    Attributes:
        mel_weight: of the L1 distance of log-mel spectrograms.
        stft_weight: of the L1 distance of log-magnitude spectrograms.
        adversarial_weight: of the squared GAN loss; 0 with ``feature_weight: 0`` trains without discriminators.
        feature_weight: of the L1 distance of the discriminators' features.
        resolutions: (n_fft, hop_length, win_length) in samples of each spectrogram.
        mel_dims: mel bands for each of the resolutions.
        mel_log_guard: the mel distance is that of log(mel + guard); smaller values weigh quiet parts more.
        stft_log_guard: the same for the magnitude.

    Source: Low Frame-rate Speech Codec (arXiv 2409.12117), section 2.
    """

    mel_weight: float = 1.0
    stft_weight: float = 20.0
    adversarial_weight: float = 1.0
    feature_weight: float = 1.0
    resolutions: Sequence[Sequence[int]] = _RESOLUTIONS
    mel_dims: Sequence[int] = _MEL_DIMS
    mel_log_guard: float = 1.0
    stft_log_guard: float = 1.0

    def __post_init__(self):
        weights = (self.mel_weight, self.stft_weight, self.adversarial_weight, self.feature_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(f'the weights of the losses must be at least 0, and one above; got {weights}')
        if len(self.mel_dims) != len(self.resolutions):
            raise ValueError(
                f'mel_dims must name as many numbers as there are resolutions ({len(self.resolutions)}); '
                f'got {list(self.mel_dims)}'
            )
        if min(self.mel_log_guard, self.stft_log_guard) <= 0:
            raise ValueError(f'log guards must be positive; got {self.mel_log_guard}, {self.stft_log_guard}')

    @property
    def needs_discriminator(self) -> bool:
        """Whether a discriminator takes part."""
        return self.adversarial_weight > 0 or self.feature_weight > 0


@dataclass(frozen=True)
class CodecTrainingSettings:
    """The ``training`` block of a codec's config.

    Attributes:
        discriminator_start_step: training steps before the discriminators take part.
        discriminator_update_period: the discriminators learn from every so many batches.
        gradient_clip: largest norm of the gradient of the codec, and of that of the discriminators; None for no limit.
    """

    discriminator_start_step: int = 0
    discriminator_update_period: int = 2
    gradient_clip: float | None = None

    def __post_init__(self):
        if self.discriminator_start_step < 0 or self.discriminator_update_period < 1:
            raise ValueError(
                'discriminator_start_step must be at least 0 and discriminator_update_period at least 1; got '
                f'{self.discriminator_start_step}, {self.discriminator_update_period}'
            )
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise ValueError(f'gradient_clip must be positive, or null for no limit; got {self.gradient_clip}')


class CodecLosses(nn.Module):
    """NeMo's losses of an audio codec, weighted; always computed in float32.

    Args:
        settings: weights and resolutions.
        sample_rate: of the audio, in Hz.
    """

    def __init__(self, settings: CodecLossSettings, *, sample_rate: int):
        super().__init__()
        self.settings = settings
        resolutions = [list(resolution) for resolution in settings.resolutions]
        self.mel = MultiResolutionMelLoss(
            sample_rate=sample_rate,
            resolutions=resolutions,
            mel_dims=list(settings.mel_dims),
            log_guard=settings.mel_log_guard,
        )
        self.stft = MultiResolutionSTFTLoss(resolutions=resolutions, log_guard=settings.stft_log_guard)
        self.si_sdr_loss = SISDRLoss()
        self.generator = GeneratorSquaredLoss()
        self.discriminator = DiscriminatorSquaredLoss()
        self.features = FeatureMatchingLoss()

    def distances(
        self, audio: Tensor, decoded: Tensor, audio_len: Tensor, *, names: Sequence[str] = ('mel', 'stft')
    ) -> dict[str, Tensor]:
        """How far decoded audio is from the original.

        Args:
            audio: (B, T) samples.
            decoded: (B, T) samples.
            audio_len: (B,) valid samples.
            names: which distances, of ``mel`` and ``stft``.

        Returns:
            A scalar for each name.
        """
        pair = {'audio_real': audio.float(), 'audio_gen': decoded.float(), 'audio_len': audio_len}
        with torch.autocast(audio.device.type, enabled=False):
            measures = {'mel': lambda: self.mel(**pair)[0], 'stft': lambda: self.stft(**pair)}
            return {name: measures[name]() for name in names}

    def si_sdr(self, audio: Tensor, decoded: Tensor, audio_len: Tensor) -> Tensor:
        """Scale-invariant signal-to-distortion ratio in dB, a scalar; arguments as for :meth:`distances`."""
        pair = {'audio_real': audio.float(), 'audio_gen': decoded.float(), 'audio_len': audio_len}
        with torch.autocast(audio.device.type, enabled=False):
            return -self.si_sdr_loss(**pair)


def discriminator_loss(discriminator: nn.Module, losses: CodecLosses, audio: Tensor, decoded: Tensor) -> Tensor:
    """Squared loss of discriminators that should answer 1 for recordings and 0 for decoded audio.

    Args:
        discriminator: ``discriminator(audio_real (B, T), audio_gen (B, T))`` gives scores and features of both.
        losses: of the codec.
        audio: (B, T) samples.
        decoded: (B, T) samples; no gradient flows through it.

    Returns:
        A scalar.

    Source: Low Frame-rate Speech Codec (arXiv 2409.12117), section 2; LSGAN (arXiv 1611.04076), eq. 9.
    """
    real, generated, _, _ = discriminator(audio_real=audio, audio_gen=decoded.detach())
    with torch.autocast(audio.device.type, enabled=False):
        return losses.discriminator(disc_scores_real=_floats(real), disc_scores_gen=_floats(generated))


def codec_loss(
    discriminator: nn.Module | None, losses: CodecLosses, audio: Tensor, decoded: Tensor, audio_len: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of all losses of the codec.

    Args:
        discriminator: see :func:`discriminator_loss`, its parameters frozen; None while none takes part.
        losses: of the codec.
        audio: (B, T) samples.
        decoded: (B, T) samples.
        audio_len: (B,) valid samples.

    Returns:
        Scalar to minimise, and the unweighted losses without gradient: ``mel``, ``stft`` where they have a weight, and
        with a discriminator ``adversarial`` and ``feature``.
    """
    settings = losses.settings
    weighed = [name for name in ('mel', 'stft') if getattr(settings, f'{name}_weight') > 0]
    parts = losses.distances(audio, decoded, audio_len, names=weighed)
    if discriminator is not None:
        _, generated, real_features, generated_features = discriminator(audio_real=audio, audio_gen=decoded)
        with torch.autocast(audio.device.type, enabled=False):
            parts['adversarial'] = losses.generator(disc_scores_gen=_floats(generated))
            parts['feature'] = losses.features(
                fmaps_real=[_floats(maps) for maps in real_features],
                fmaps_gen=[_floats(maps) for maps in generated_features],
            )
    loss = sum(getattr(settings, f'{name}_weight') * value for name, value in parts.items())
    return loss, {name: value.detach() for name, value in parts.items()}


def _floats(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.float() for tensor in tensors]
