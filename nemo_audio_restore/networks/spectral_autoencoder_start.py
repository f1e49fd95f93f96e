"""A head start for the spectral autoencoder: its straight paths begin as principal components of real audio.

Encoding starts with the components of levels in bands, decoding with the least-squares way back, and the layers learn
what is missing: phases, harmonics, onsets.
"""

import torch
from torch import Tensor

from nemo_audio_restore.networks.spectral_autoencoder import SpectralAutoencoder

_QUIET_LAYERS = 0.1


@torch.no_grad()
def start_from_components(autoencoder: SpectralAutoencoder, audio: Tensor) -> float:
    """Sets the straight paths of both networks, in place, and turns down what their layers add at first.

    A component of standard deviation s is divided by the root of s, and all by one number that gives latents unit
    deviation on average. Strong components keep a larger deviation than weak ones: noise of one size on all of them,
    as a sampler's posterior has it, then does about the same harm everywhere.

    Args:
        autoencoder: of which at least as many latents as channels are computed.
        audio: (B, 2, L * ratio), minutes in all.

    Returns:
        Mean absolute error of the levels in bands that the straight paths alone reconstruct, in nepers.
    """
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    features = torch.cat([encoder.direct_features(encoder.features(clip[None]))[0] for clip in audio])
    mean = features.mean(dim=0)
    _, deviations, components = torch.linalg.svd(features - mean, full_matrices=False)
    dim = encoder.learned_channels
    analysis = deviations[:dim].rsqrt()[:, None] * components[:dim]
    analysis = analysis / ((features - mean) @ analysis.T).square().mean().sqrt()
    encoder.direct.weight.copy_(analysis)
    encoder.direct.bias.copy_(-analysis @ mean)

    latents = encoder.direct(features)
    design = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
    target = encoder.log_magnitudes(features)
    synthesis = torch.linalg.lstsq(design, target).solution
    decoder.direct.weight.copy_(synthesis[:-1].T)
    decoder.direct.bias.copy_(synthesis[-1])
    for layer, rows in (
        (encoder.output, slice(None)),
        (decoder.output, slice(0, decoder.num_bins)),
        (decoder.stereo_output, slice(None)),
    ):
        layer.weight[rows].mul_(_QUIET_LAYERS)
    encoder.output.bias[:dim].zero_()
    decoder.output.bias[: decoder.num_bins].zero_()
    decoder.stereo_output.bias.zero_()
    return float((design @ synthesis - target).abs().mean())


@torch.no_grad()
def standardize_latents(autoencoder: SpectralAutoencoder, mean: Tensor, deviation: Tensor) -> None:
    """Gives every learned latent channel zero mean and unit deviation, in place; decoded audio stays the same.

    Components of music differ in strength, and silence lies far from all of it, while a diffusion model adds noise of
    one strength to all channels. The spread of the posterior follows as far as its softplus is an exponential, which
    it is for spreads well below 1.

    Args:
        autoencoder: a trained one.
        mean: (D,), of the encoded means of typical audio; those of panning stay as they are.
        deviation: (D,), of the same.
    """
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    dim = encoder.learned_channels
    mean, deviation = mean[:dim], deviation[:dim]
    encoder.output.weight[:dim].div_(deviation[:, None])
    encoder.output.bias[:dim].div_(deviation)
    encoder.output.bias[dim:].sub_(deviation.log())
    encoder.direct.weight.div_(deviation[:, None])
    encoder.direct.bias.sub_(mean).div_(deviation)
    for layer in (decoder.input, decoder.direct):
        layer.bias.add_(layer.weight @ mean)
        layer.weight.mul_(deviation)
