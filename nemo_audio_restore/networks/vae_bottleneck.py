"""The bottleneck of a variational autoencoder: a Gaussian for each latent value."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

_SMALLEST_STD = 1e-4


@dataclass(frozen=True)
class LatentPosterior:
    """q(z | audio): independent Gaussians."""

    mean: Tensor
    """(B, D, L)."""
    std: Tensor
    """(B, D, L), positive."""

    def sample(self, noise: Tensor) -> Tensor:
        """The point mean + std * noise, (B, D, L)."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """Distance to the standard normal: summed over D, averaged over B and L; **twice** the divergence in nats.

        The published training weights (1e-6 for Stable Audio 1.0, 1e-4 for its successors) are for this form.

        Source: VAE (arXiv 1312.6114), appendix B, without the factor 1/2.
        """
        variance = self.std.square()
        return (self.mean.square() + variance - variance.log() - 1).sum(dim=1).mean()


def latent_posterior(encoded: Tensor) -> LatentPosterior:
    """Splits an encoder's output into mean and spread.

    Args:
        encoded: (B, 2 D, L): means, then spreads before the softplus.

    Returns:
        The Gaussians, in float32: half precision has no room for a spread of 1e-4.
    """
    if encoded.shape[1] % 2:
        raise ValueError(f'an encoder must give mean and spread, an even number of channels; got {encoded.shape[1]}')
    mean, scale = encoded.float().chunk(2, dim=1)
    return LatentPosterior(mean, functional.softplus(scale) + _SMALLEST_STD)
