"""The networks without their exact speed-ups: what benchmarks/restore.py and the tests measure the fast forms against.

Each class here does what the paper says in the most direct way. The fast form must agree with it but for rounding.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.networks.folded_unet import FoldedUNet
from nemo_audio_restore.networks.spectrogram_unet import ResBlock, SpectrogramUNet, Upsample


class PlainResBlock(ResBlock):
    """Row and time are embedded at every position, though all frames of a row get the same."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W) and the embedding (B, E, H, 1) to (B, C, H, W)."""
        condition = self.emb_layers(embedding.expand(-1, -1, -1, x.shape[-1]))
        scale, shift = condition.chunk(2, dim=1)
        norm = self.out_norm
        hidden = functional.group_norm(self.in_layers(x), norm.num_groups, norm.weight, norm.bias, norm.eps)
        return x + self.out_rest(hidden * (1 + scale) + shift)


class PlainUpsample(Upsample):
    """Repeats rows and columns, then convolves the large image."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2 H, 2 W)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode='nearest'))


class PlainSpectrogramUNet(SpectrogramUNet):
    """Keeps PyTorch's own memory format."""

    def _arranged(self, x: Tensor) -> Tensor:
        return x.contiguous()


class PlainFoldedUNet(FoldedUNet):
    """Keeps PyTorch's own memory format."""

    def _fold(self, x: Tensor) -> Tensor:
        return super()._fold(x).contiguous()


_PLAIN = {
    ResBlock: PlainResBlock,
    Upsample: PlainUpsample,
    SpectrogramUNet: PlainSpectrogramUNet,
    FoldedUNet: PlainFoldedUNet,
}


def plain(network: nn.Module) -> nn.Module:
    """A network in its plain form.

    Args:
        network: stays as it is.

    Returns:
        The same function, slower, on the same tensors.
    """
    tensors = [*network.parameters(), *network.buffers()]
    twin = copy.deepcopy(network, memo={id(tensor): tensor for tensor in tensors})
    for module in twin.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
    return twin


def svd_unit_circle(x: Tensor) -> Tensor:
    """The rotation nearest to each bin, by an SVD as in the published procedure.

    Args:
        x: (..., 2) cosine and sine, not yet of length 1.

    Returns:
        (..., 2) of length 1.
    """
    cosine, sine = x.unbind(-1)
    matrix = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    left, _, right = torch.linalg.svd(matrix)
    return (left @ right)[..., 0]
