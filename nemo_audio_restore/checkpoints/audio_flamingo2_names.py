"""Names of Audio Flamingo 2's tensors in its released files, for every tensor of our networks."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

TOWERS = ('clap.nvclap.', 'clap.afclap.')
TRANSFORM, LANGUAGE = 'audio_transformer_clap.', 'lang_encoder.'
# Constants and the head for sound classes, which a language model does not use.
_DROPPED = re.compile(r'(spectrogram_extractor|logmel_extractor|tscam_conv|head)\..*|.*\.attn_mask')
_QKV = re.compile(r'\.attention\.self\.(query|key|value)\.')

_TOWER_NAMES = (
    (r'^clap\.audio_encoder\.', ''),
    (r'^batch_norm\.', 'bn0.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.self\.(?:query|key|value)\.', '.attn.qkv.'),
    (r'\.attention\.self\.', '.attn.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'\.output\.dense\.', '.mlp.fc2.'),
)
_TRANSFORM_NAMES = (
    (r'^norm\.', 'layer_norm.'),
    (r'^inverse_frequencies$', 'position_enc.inv_freq'),
    (r'^layers\.(\d+)\.query\.', r'layer_stack.\1.slf_attn.w_qs.'),
    (r'^layers\.(\d+)\.key\.', r'layer_stack.\1.slf_attn.w_ks.'),
    (r'^layers\.(\d+)\.value\.', r'layer_stack.\1.slf_attn.w_vs.'),
    (r'^layers\.(\d+)\.out\.', r'layer_stack.\1.slf_attn.fc.'),
    (r'^layers\.(\d+)\.attention_norm\.', r'layer_stack.\1.slf_attn.layer_norm.'),
    (r'^layers\.(\d+)\.wide\.', r'layer_stack.\1.pos_ffn.w_1.'),
    (r'^layers\.(\d+)\.narrow\.', r'layer_stack.\1.pos_ffn.w_2.'),
    (r'^layers\.(\d+)\.norm\.', r'layer_stack.\1.pos_ffn.layer_norm.'),
)
_CROSS_NAMES = (
    (r'^norm\.', 'attn.norm.'),
    (r'^query\.', 'attn.to_q.'),
    (r'^key_value\.', 'attn.to_kv.'),
    (r'^out\.', 'attn.to_out.'),
    (r'^feed_forward\.', 'ff.'),
    (r'^attention_gate$', 'attn_gate'),
    (r'^feed_forward_gate$', 'ff_gate'),
)


@dataclass(frozen=True)
class Source:
    """Where a tensor of a network is in the files."""

    names: tuple[str, ...]
    """Name of the tensor, then those of its copies."""
    third: int | None = None
    """Which third of its rows is meant: query, key and value lie in one tensor."""


@dataclass(frozen=True)
class FlamingoParts:
    """The networks that the files hold."""

    audio_tower: nn.Module
    audio_transform: nn.Module
    cross_attention: nn.Module
    language_model: nn.Module

    def sources(self, tower_prefix: str) -> Iterator[tuple[nn.Module, str, Source]]:
        """Where the tensors of the networks are found.

        Args:
            tower_prefix: what is in front of the names of the audio tower.

        Yields:
            Network, name of a tensor in its state, and where that is.
        """
        for name in self.audio_tower.state_dict():
            yield self.audio_tower, name, tower_source(name, tower_prefix)
        for name in self.audio_transform.state_dict():
            yield self.audio_transform, name, Source((TRANSFORM + _renamed(name, _TRANSFORM_NAMES),))
        for name in self.cross_attention.state_dict():
            _, index, rest = name.split('.', 2)
            yield self.cross_attention, name, _cross_source(index, _renamed(rest, _CROSS_NAMES))
        for name in self.language_model.state_dict():
            yield self.language_model, name, _language_source(name)


def tower_source(name: str, prefix: str) -> Source:
    """Where a tensor of the audio tower is found.

    Args:
        name: in the state of :class:`HtsatTower`.
        prefix: what is in front of the names of the tower.

    Returns:
        Its place.
    """
    part = _QKV.search(name)
    third = ('query', 'key', 'value').index(part[1]) if part else None
    return Source((prefix + _renamed(name, _TOWER_NAMES),), third)


def is_dropped(name: str, tower_prefix: str) -> bool:
    """Whether a tensor of the files is none that a language model uses.

    Args:
        name: in the files.
        tower_prefix: what is in front of the names of the audio tower.

    Returns:
        True for constants of the tower and its head for sound classes.
    """
    return name.startswith(tower_prefix) and _DROPPED.fullmatch(name.removeprefix(tower_prefix)) is not None


def _cross_source(index: str, name: str) -> Source:
    return Source(
        (
            f'{LANGUAGE}model.layers.{index}.gated_cross_attn_layer_sound.{name}',
            f'{LANGUAGE}gated_cross_attn_layers_sound.{index}.{name}',
        )
    )


def _language_source(name: str) -> Source:
    layer = re.match(r'model\.layers\.(\d+)\.(.*)', name)
    if layer:
        index, rest = layer.groups()
        return Source(
            (
                f'{LANGUAGE}model.layers.{index}.decoder_layer.{rest}',
                f'{LANGUAGE}old_decoder_blocks.{index}.{rest}',
            )
        )
    # Input and output embeddings are one tensor, which the files hold twice.
    embeddings = ('model.embed_tokens.weight', 'lm_head.weight')
    return Source(tuple(LANGUAGE + other for other in embeddings if name in embeddings) or (LANGUAGE + name,))


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
