"""Snake activations: a wave on top of the identity, for networks whose output is a waveform."""

import torch
from torch import Tensor, nn

_EPSILON = 1e-9


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha with one frequency for each channel, as the ``dac`` autoencoder uses it.

    Args:
        channels: C.

    Source: Snake (arXiv 2006.08195), equation 3.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to the same shape."""
        return snake(x, *self.frequency_and_height())

    def frequency_and_height(self) -> tuple[Tensor, Tensor]:
        """What :func:`snake` takes, (1, C, 1) each."""
        return self.alpha, 1 / (self.alpha + _EPSILON)


class SnakeBeta(nn.Module):
    """x + sin(x e^alpha)^2 / e^beta: frequency and height are learned apart, as logarithms; Oobleck's activation.

    Args:
        channels: C.

    Source: BigVGAN (arXiv 2206.04658), section 3.2, with a height of its own.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to the same shape."""
        return snake(x, *self.frequency_and_height())

    def frequency_and_height(self) -> tuple[Tensor, Tensor]:
        """What :func:`snake` takes, (C, 1) each."""
        return self.alpha[:, None].exp(), 1 / (self.beta[:, None].exp() + _EPSILON)


def snake(x: Tensor, frequency: Tensor, height: Tensor) -> Tensor:
    """The input plus height * sin(frequency * input)^2; without gradients in one buffer.

    Args:
        x: (B, C, T).
        frequency: broadcasts against x.
        height: broadcasts against x.

    Returns:
        The shape of x.
    """
    if torch.is_grad_enabled():
        return x + height * torch.sin(x * frequency).square()
    # Activations are the largest tensors of a decoder: three temporaries less halve its peak memory.
    wave = (x * frequency).sin_().square_()
    return wave.mul_(height).add_(x)
