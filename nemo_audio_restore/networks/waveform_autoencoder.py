"""A variational autoencoder of waveforms: the latents in which Stable Audio and its successors generate.

Source: Stable Audio (arXiv 2402.04825), section 3.1; Stable Audio Open (arXiv 2407.14358), section 3.1.
"""

import math

from nemo_audio_restore.networks.latent_autoencoder import LatentAutoencoder
from nemo_audio_restore.networks.waveform_chunks import decoder_context, encoder_context
from nemo_audio_restore.networks.waveform_coder import WaveformDecoder, WaveformEncoder


class WaveformAutoencoder(LatentAutoencoder):
    """An autoencoder of convolutions over waveforms.

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
