"""Weights of a codec: their hash, and normalised kernels that are computed once instead of in every call."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from nemo_audio_restore.codec.protocol import Codec

HASH_BYTES = 16


def weights_hash(codec: Codec) -> str:
    """A hash of everything that tokens mean: the tensors of encoder, quantiser and decoder, by name.

    Args:
        codec: its device does not matter, discriminators and optimisers do not count.

    Returns:
        32 hexadecimal digits: the first half of a SHA-256.
    """
    digest = hashlib.sha256()
    for part in ('audio_encoder', 'vector_quantizer', 'audio_decoder'):
        for name, tensor in sorted(getattr(codec, part).state_dict().items()):
            content = tensor.detach().cpu().contiguous()
            digest.update(f'{part}.{name} {tuple(content.shape)} {content.dtype}\n'.encode())
            digest.update(content.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[: 2 * HASH_BYTES]


@contextlib.contextmanager
def folded_weights(codec: Codec) -> Iterator[None]:
    """For the time of a block, kernels under weight normalisation are not computed again and again; same bits.

    ``torch.nn.utils.parametrize.cached`` would do that to all models of the process, also to one that another thread
    is training; removing the normalisation would change the names of the weights. So each parametrisation remembers
    its result here, for this codec alone, from its second use to the end of the block. What is used only once, as by
    audio of one chunk, is not kept: holding all kernels twice costs memory and time. No gradients inside.

    Args:
        codec: its weights must not change inside the block.

    Yields:
        Nothing.
    """
    folded = []
    for network in (codec.audio_encoder, codec.vector_quantizer, codec.audio_decoder):
        for module in network.modules():
            if isinstance(module, ParametrizationList) and 'forward' not in vars(module):
                module.forward = _remembered(module)
                folded.append(module)
    try:
        yield
    finally:
        for module in folded:
            vars(module).pop('forward', None)


def _remembered(parametrization: ParametrizationList) -> Callable[[], Tensor]:
    result: list[Tensor | None] = []

    def forward() -> Tensor:
        if result and result[0] is not None:
            return result[0]
        with torch.no_grad():
            kernel = type(parametrization).forward(parametrization)
        result[:] = [kernel if result else None]
        return kernel

    return forward


def is_folded(network: nn.Module) -> bool:
    """Whether a network is inside :func:`folded_weights`."""
    return any('forward' in vars(module) for module in network.modules() if isinstance(module, ParametrizationList))
