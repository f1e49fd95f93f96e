"""What a language model could read from a recording: heads that see keys and values of its cross-attention alone.

Trained with them, every block of cross-attention offers the facts in a form that a query finds and a linear map reads,
before there is any text. They are no part of the model that answers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers


class FactHeads(nn.Module):
    """One query for each fact and block, and a linear map from what it finds to labels.

    Args:
        layers: blocks of cross-attention, for their sizes; their weights are no part of this module.
        counts: of labels, for each fact.
    """

    def __init__(self, layers: CrossAttentionLayers, counts: Mapping[str, int]):
        super().__init__()
        block = next(iter(layers.blocks.values()))
        inner = block.query.out_features
        shape = (len(layers.blocks), block.num_heads, 1, inner // block.num_heads)
        self.queries = nn.ParameterDict({fact: nn.Parameter(torch.zeros(shape)) for fact in counts})
        self.maps = nn.ModuleDict(
            {fact: nn.ModuleList(nn.Linear(inner, count) for _ in layers.blocks) for fact, count in counts.items()}
        )

    def forward(self, layers: CrossAttentionLayers, audio: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What the blocks say of recordings.

        Args:
            layers: blocks of cross-attention.
            audio: (B, M, audio_dim) tokens.
            mask: (B, M) bool, False for tokens that are not there.

        Returns:
            Fact to logits (blocks, B, labels).
        """
        pairs = [block.keys_and_values(audio) for block in layers.blocks.values()]
        told = {}
        for fact, queries in self.queries.items():
            told[fact] = torch.stack(
                [
                    to_labels(self._found(query, key, value, mask))
                    for query, to_labels, (key, value) in zip(queries, self.maps[fact], pairs, strict=True)
                ]
            )
        return told

    @staticmethod
    def _found(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        query = query.expand(len(key), -1, -1, -1)
        # arXiv 1706.03762, equation 1
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        return found.flatten(1)
