"""Puts the parts of a prompt where the diffusion network reads them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nemo_audio_restore.networks.conditioners import TokenFeatures
from nemo_audio_restore.networks.latent_condition import LatentCondition

ConditionPart = TokenFeatures | tuple[Tensor, Tensor] | Tensor | Sequence[str] | Sequence[float]


class ConditionBuilder(nn.Module):
    """Named conditioners and what each of them is for.

    Args:
        conditioners: by the name of the part of the prompt: ``prompt``, ``seconds_start``, ``seconds_total`` ...
        cross_attention: names of the parts whose tokens are read by cross-attention, in their order.
        summary: names of the parts that are joined to one vector.
        prepended: names of the parts whose tokens go before the latents.
    """

    def __init__(
        self,
        *,
        conditioners: Mapping[str, nn.Module],
        cross_attention: Sequence[str] = (),
        summary: Sequence[str] = (),
        prepended: Sequence[str] = (),
    ):
        super().__init__()
        self.conditioners = nn.ModuleDict(conditioners)
        self.cross_attention, self.summary, self.prepended = tuple(cross_attention), tuple(summary), tuple(prepended)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of everything that a prompt must hold, each once."""
        return tuple(dict.fromkeys((*self.cross_attention, *self.summary, *self.prepended)))

    def forward(self, values: Mapping[str, ConditionPart]) -> LatentCondition:
        """The condition of a batch.

        Args:
            values: for every part its tokens (:class:`TokenFeatures`, or features and mask as a pair), or what its
                conditioner takes: numbers (B,), or B texts.

        Returns:
            Tokens and mask, summary, prepended tokens.

        Raises:
            ValueError: a part is missing, unknown, or has no conditioner and no tokens.
        """
        unknown = [name for name in values if name not in self.parts]
        missing = [name for name in self.parts if name not in values]
        if unknown or missing:
            raise ValueError(
                f'the condition must hold {", ".join(self.parts)}; '
                f'missing: {", ".join(missing) or "none"}, unknown: {", ".join(unknown) or "none"}'
            )
        tokens = {name: self._tokens(name, value) for name, value in values.items()}
        if len({part.features.shape[0] for part in tokens.values()}) > 1:
            sizes = ', '.join(f'{name} {part.features.shape[0]}' for name, part in tokens.items())
            raise ValueError(f'all parts of the condition must be for as many items; got {sizes}')
        crossed = [tokens[name] for name in self.cross_attention]
        before = [tokens[name] for name in self.prepended]
        return LatentCondition(
            tokens=torch.cat([part.features for part in crossed], dim=1) if crossed else None,
            tokens_mask=torch.cat([part.mask.to(part.features.dtype) for part in crossed], dim=1) if crossed else None,
            summary=torch.cat([_single(name, tokens[name]) for name in self.summary], dim=1) if self.summary else None,
            prepended=torch.cat([part.features for part in before], dim=1) if before else None,
        )

    def _tokens(self, name: str, value: ConditionPart) -> TokenFeatures:
        if isinstance(value, TokenFeatures):
            return value
        if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, Tensor) for part in value):
            return TokenFeatures(*value)
        if name not in self.conditioners:
            raise ValueError(f'there is no conditioner for {name}: give its features and mask, or add its encoder')
        conditioner = self.conditioners[name]
        if hasattr(conditioner, 'encode'):  # texts
            return conditioner.encode(value)
        device = next(conditioner.parameters()).device
        return conditioner(torch.as_tensor(value, device=device))


def _single(name: str, tokens: TokenFeatures) -> Tensor:
    if tokens.features.shape[1] != 1:
        raise ValueError(f'{name} is part of the summary and must be one token; got {tokens.features.shape[1]}')
    return tokens.features[:, 0]
