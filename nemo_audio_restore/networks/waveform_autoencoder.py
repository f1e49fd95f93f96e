"""A variational autoencoder of waveforms: the latents in which Stable Audio and its successors generate.

Source: Stable Audio (arXiv 2402.04825), section 3.1; Stable Audio Open (arXiv 2407.14358), section 3.1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nemo_audio_restore.networks.latent_autoencoder import LatentAutoencoder
from nemo_audio_restore.networks.waveform_chunks import decoder_context, encoder_context
from nemo_audio_restore.networks.waveform_coder import WaveformDecoder, WaveformEncoder
from nemo_audio_restore.networks.waveform_inference import prepared


class WaveformAutoencoder(LatentAutoencoder):
    """An autoencoder of convolutions over waveforms.

    Without gradients on a CPU it computes the same by :mod:`nemo_audio_restore.networks.waveform_inference`.

    Args:
        encoder: audio to means and spreads.
        decoder: latents to audio, of the encoder's ratio.
        latent_scale: latents are divided by it after encoding and multiplied before decoding, so that a diffusion
            model sees values near 1.
    """

    def __init__(self, *, encoder: WaveformEncoder, decoder: WaveformDecoder, latent_scale: float = 1.0):
        ratios = math.prod(encoder.strides), math.prod(decoder.strides)
        if ratios[0] != ratios[1]:
            raise ValueError(f'encoder and decoder must have one ratio; got {ratios[0]} and {ratios[1]}')
        if encoder.latent_channels != decoder.latent_channels:
            raise ValueError(
                f'encoder and decoder must have the same latents; got {encoder.latent_channels} and '
                f'{decoder.latent_channels} channels'
            )
        super().__init__(
            encoder=encoder,
            decoder=decoder,
            audio_channels=encoder.audio_channels,
            latent_channels=encoder.latent_channels,
            ratio=ratios[0],
            encoder_context=encoder_context(encoder, ratios[0]),
            decoder_context=decoder_context(decoder, ratios[0]),
            latent_scale=latent_scale,
        )

    def _encoder_for(self, audio: Tensor) -> Callable[[Tensor], Tensor]:
        return prepared(self.encoder) if _without_gradients_on_cpu(audio) else self.encoder

    def _decoder_for(self, latents: Tensor) -> Callable[[Tensor], Tensor]:
        return prepared(self.decoder) if _without_gradients_on_cpu(latents) else self.decoder


def _without_gradients_on_cpu(x: Tensor) -> bool:
    return x.device.type == 'cpu' and not torch.is_grad_enabled() and not torch.is_autocast_enabled('cpu')
