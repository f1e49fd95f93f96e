"""Losses of a stereo autoencoder and of its discriminators: plain functions on modules."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nemo_audio_restore.losses.adversarial import discriminator_hinge, feature_matching, generator_hinge
from nemo_audio_restore.losses.stereo_spectral import StereoSpectralLoss
from nemo_audio_restore.networks.latent_autoencoder import Reconstruction
from nemo_audio_restore.networks.stft_discriminators import Judgement

_WINDOWS = (2048, 1024, 512, 256, 128, 64, 32)


@dataclass(frozen=True)
class AutoencoderLossSettings:
    """The ``loss`` block of an autoencoder's config; the defaults are those of Stable Audio Open.

    Attributes:
        spectral_weight: of the distance of spectrograms of sum, difference, left and right.
        adversarial_weight: of the hinge loss; 0 with ``feature_weight: 0`` trains without discriminators.
        feature_weight: of the L1 distance of the discriminators' features.
        kl_weight: of the divergence of the latents from the standard normal.
        window_lengths: of the spectrograms, in samples.
        a_weighted: weigh frequencies as the ear does.

    Source: Stable Audio (arXiv 2402.04825), section 3.1; Stable Audio Open (arXiv 2407.14358), section 3.1.
    """

    spectral_weight: float = 1.0
    adversarial_weight: float = 0.1
    feature_weight: float = 5.0
    kl_weight: float = 1e-4
    window_lengths: Sequence[int] = _WINDOWS
    a_weighted: bool = True

    def __post_init__(self):
        weights = (self.spectral_weight, self.adversarial_weight, self.feature_weight, self.kl_weight)
        if min(weights) < 0 or max(weights[:3]) == 0:
            raise ValueError(f'the weights of the losses must be at least 0, and one above; got {weights}')

    @property
    def needs_discriminator(self) -> bool:
        """Whether a discriminator takes part."""
        return self.adversarial_weight > 0 or self.feature_weight > 0


@dataclass(frozen=True)
class AutoencoderTrainingSettings:
    """The ``training`` block of an autoencoder's config.

    Attributes:
        discriminator_start_step: training steps before the discriminators take part.
        discriminator_update_period: the discriminators learn from every so many batches.
        gradient_clip: largest norm of the gradient of the autoencoder, and of that of the discriminators; None for no
            limit.
        decoder_only_from_step: from this step on the encoder is frozen and the decoder alone goes on, as in the last
            40 % of the published runs; None for never.
        seed: of the noise in the bottleneck.
    """

    discriminator_start_step: int = 0
    discriminator_update_period: int = 2
    gradient_clip: float | None = None
    decoder_only_from_step: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.discriminator_start_step < 0 or self.discriminator_update_period < 1:
            raise ValueError(
                'discriminator_start_step must be at least 0 and discriminator_update_period at least 1; got '
                f'{self.discriminator_start_step}, {self.discriminator_update_period}'
            )
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise ValueError(f'gradient_clip must be positive, or null for no limit; got {self.gradient_clip}')
        if self.decoder_only_from_step is not None and self.decoder_only_from_step < 0:
            raise ValueError(f'decoder_only_from_step must be at least 0, or null; got {self.decoder_only_from_step}')


def autoencoder_loss(
    discriminator: nn.Module | None,
    spectral: StereoSpectralLoss,
    settings: AutoencoderLossSettings,
    audio: Tensor,
    reconstruction: Reconstruction,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of all losses of the autoencoder.

    Args:
        discriminator: audio (B, 2, T) to a :class:`Judgement`, its parameters frozen; None while none takes part.
        spectral: distance of stereo signals.
        settings: the weights.
        audio: (B, 2, T) samples.
        reconstruction: of it.

    Returns:
        Scalar to minimise, and the unweighted losses without gradient: ``spectral``, ``kl``, and with a discriminator
        ``adversarial`` and ``feature``.
    """
    # In this order: see StereoSpectralLoss.forward.
    parts = {'spectral': spectral(audio, reconstruction.audio), 'kl': reconstruction.posterior.kl()}
    if discriminator is not None:
        with torch.no_grad():
            of_real = discriminator(audio)
        of_decoded = discriminator(reconstruction.audio)
        parts['adversarial'] = generator_hinge(_floats(of_decoded).scores)
        parts['feature'] = feature_matching(_floats(of_real).features, _floats(of_decoded).features)
    loss = sum(getattr(settings, f'{name}_weight') * value for name, value in parts.items())
    return loss, {name: value.detach() for name, value in parts.items()}


def discriminator_loss(discriminator: nn.Module, audio: Tensor, decoded: Tensor) -> Tensor:
    """Hinge loss of discriminators that tell recordings from decoded audio.

    Args:
        discriminator: audio (B, 2, T) to a :class:`Judgement`.
        audio: (B, 2, T) samples.
        decoded: (B, 2, T) samples; no gradient flows through it.

    Returns:
        A scalar.
    """
    of_real, of_decoded = discriminator(audio), discriminator(decoded.detach())
    return discriminator_hinge(_floats(of_real).scores, _floats(of_decoded).scores)


def _floats(judgement: Judgement) -> Judgement:
    features = [[layer.float() for layer in layers] for layers in judgement.features]
    return Judgement([scores.float() for scores in judgement.scores], features)
