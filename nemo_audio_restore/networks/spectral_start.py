"""A head start for the spectral codec: its direct paths begin as principal components of real speech.

Found by gradient descent alone, the few values of a frame describe its spectrum worse after an hour on a CPU than
principal components do at once. So encoding starts with the components of log spectra, decoding with the least-squares
way back from the quantised values, and the layers learn what is missing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nemo_audio_restore.networks.spectral_codec import SpectralDecoder, SpectralEncoder

_NUM_BANDS = 96
_QUIET_LAYERS = 0.1


@torch.no_grad()
def start_from_components(
    encoder: SpectralEncoder, decoder: SpectralDecoder, quantize: Callable[[Tensor], Tensor], audio: Tensor
) -> float:
    """Sets the direct paths of both networks, in place, and turns down what their layers add at first.

    A component of standard deviation s is divided by the root of s, and all are mixed by an orthogonal matrix into
    values of the same deviation: with the same number of levels for each value, this shares the rounding noise best
    between strong and weak components.

    Args:
        encoder: of the codec; D must be a power of two.
        decoder: of the codec.
        quantize: (1, D, M) to the dequantised values, same shape.
        audio: (B, T) speech, minutes in all.

    Returns:
        Mean absolute error of the log magnitudes that the direct paths alone reconstruct, in nepers.

    Raises:
        ValueError: D is not a power of two.
    """
    dim = encoder.direct.out_features
    if dim & (dim - 1):
        raise ValueError(f'encoded_dim must be a power of two to start from components; got {dim}')
    features = encoder.frame_features(encoder.features(audio)).flatten(0, 1)
    bands = torch.block_diag(*[_band_averages(encoder.num_bins, _NUM_BANDS).to(features)] * 4)
    spectra = features @ bands.T
    mean = spectra.mean(dim=0)
    _, deviations, components = torch.linalg.svd(spectra - mean, full_matrices=False)
    analysis = _hadamard(dim).to(features) @ (deviations[:dim].rsqrt()[:, None] * components[:dim])
    analysis = analysis / ((spectra - mean) @ analysis.T).std(dim=0).mean()
    encoder.direct.weight.copy_(analysis @ bands)
    encoder.direct.bias.copy_(-analysis @ mean)

    values = quantize(encoder.direct(features).T[None])[0].T
    design = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    target = encoder.log_magnitudes(features)
    synthesis = torch.linalg.lstsq(design, target).solution
    decoder.direct.weight.copy_(synthesis[:-1].T)
    decoder.direct.bias.copy_(synthesis[-1])
    for weight, bias in (
        (encoder.output.weight, encoder.output.bias),
        (decoder.output.weight[: decoder.num_bins], decoder.output.bias[: decoder.num_bins]),
    ):
        weight.mul_(_QUIET_LAYERS)
        bias.zero_()
    return float((design @ synthesis - target).abs().mean())


def _band_averages(num_bins: int, num_bands: int) -> Tensor:
    """(bands, F): averages over bands of about equal width in mel; bands without a bin of their own are left out."""
    hertz = torch.linspace(0, 1, num_bins) * 11025.0
    mel = torch.log1p(hertz / 700.0)
    index = (mel / mel[-1] * num_bands).long().clamp(max=num_bands - 1)
    averages = torch.zeros(num_bands, num_bins)
    averages[index, torch.arange(num_bins)] = 1.0
    averages = averages[averages.sum(dim=1) > 0]
    return averages / averages.sum(dim=1, keepdim=True)


def _hadamard(size: int) -> Tensor:
    """Orthogonal matrix of equal magnitudes (Sylvester's construction)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5
