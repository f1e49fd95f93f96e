"""Low-rank adapters: a few trained numbers beside frozen layers, whose strength can be chosen afterwards (peft).

Source: LoRA (arXiv 2106.09685), equation 3.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

_ADAPTER = 'default'
_MARK = '.lora_'
_BASE = '.base_layer'


@dataclass(frozen=True)
class LowRankSettings:
    """Size of the adapters.

    Attributes:
        rank: of each adapter; more of it can learn more.
        alpha: the adapters' output is scaled by alpha / rank; None for the rank, which is no scaling.
        dropout: of their input, in training.
        feed_forward: adapt the feed-forward layers too, not the attention alone.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    feed_forward: bool = False

    def __post_init__(self):
        if self.rank < 1 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f'rank must be at least 1 and dropout in [0, 1); got {self.rank}, {self.dropout}')


def adapted_layers(network: nn.Module, *, feed_forward: bool) -> list[str]:
    """Names of the linear layers of attention, and perhaps of feed-forwards.

    Args:
        network: :class:`LatentUNet`, :class:`LatentTransformer` or a language model of `transformers`, without
            adapters.
        feed_forward: whether those layers count.

    Returns:
        Dotted names.
    """
    names = []
    for name, module in network.named_modules():
        path = name.split('.')
        attends = any('attn' in part or 'attention' in part for part in path)
        if isinstance(module, nn.Linear) and (attends or feed_forward and {'ff', 'feed_forward', 'mlp'} & set(path)):
            names.append(name)
    return names


def add_adapters(network: nn.Module, settings: LowRankSettings) -> None:
    """Freezes a network and puts adapters beside its layers; until they are trained they change nothing.

    Args:
        network: changed in place.
        settings: size of the adapters.

    Raises:
        ImportError: peft is missing; says how to install it.
        ValueError: the network has no attention.
    """
    layers = adapted_layers(network, feed_forward=settings.feed_forward)
    if not layers:
        raise ValueError(f'{type(network).__name__} has no attention layers to adapt')
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install 'nemo-audio-restore[generate]'") from error
    network.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank if settings.alpha is None else settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=layers,
    )
    inject_adapter_in_model(config, network, adapter_name=_ADAPTER)
    network.train(network.training)  # new modules begin in training mode, with dropout


def set_adapter_strength(network: nn.Module, strength: float) -> None:
    """Scales what the adapters add.

    Args:
        network: with adapters.
        strength: 0 is the network without them, 1 as they were trained; more exaggerates, less than 0 avoids.
    """
    for _, layer in adapter_layers(network):
        layer.set_scale(_ADAPTER, strength)


def merge_adapters(network: nn.Module) -> None:
    """Adds the adapters, at their present strength, to the weights beside them, and removes them.

    Args:
        network: changed in place; afterwards all of it can be trained again.
    """
    for name, layer in adapter_layers(network):
        layer.merge()
        parent, _, last = name.rpartition('.')
        setattr(network.get_submodule(parent), last, layer.get_base_layer())
    network.requires_grad_(True)


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors alone, by name.

    Args:
        network: with adapters.

    Returns:
        Part of its state.
    """
    return {name: tensor for name, tensor in network.state_dict().items() if _MARK in name}


def with_adapter_names(network: nn.Module, state: dict[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
    """A state that was saved without adapters, for a network with them; its adapters stay as they are.

    Args:
        network: with or without adapters.
        state: of a whole model.
        prefix: of the network's names in it, with the dot.

    Returns:
        The state under the names of this network; the same if neither or both have adapters.

    Raises:
        ValueError: the state has adapters and the network none, so that no name would fit.
    """
    own = network.state_dict()
    adapters = {prefix + name: tensor for name, tensor in own.items() if _MARK in name}
    has_adapters = any(name.startswith(prefix) and _MARK in name for name in state)
    if has_adapters and not adapters:
        raise ValueError(
            'these weights hold LoRA adapters and the model has none: give it the same lora block, or merge them first'
        )
    if has_adapters or not adapters:
        return state
    plain = {prefix + name.replace(_BASE, ''): prefix + name for name in own if _BASE in name}
    return {**{plain.get(name, name): tensor for name, tensor in state.items()}, **adapters}


def adapter_layers(network: nn.Module) -> list[tuple[str, 'LoraLayer']]:
    """The layers that have adapters.

    Args:
        network: with adapters.

    Returns:
        Dotted name and layer of each.

    Raises:
        ValueError: there are none.
    """
    from peft.tuners.lora import LoraLayer

    found = [(name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer)]
    if not found:
        raise ValueError('there are no adapters: add them with add_lora first')
    return found
