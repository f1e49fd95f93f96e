"""A release of Audio Flamingo 2 in miniature, with random tensors."""

import json

import torch
from safetensors.torch import save_file

from nemo_audio_restore.checkpoints.audio_flamingo2 import METADATA
from nemo_audio_restore.checkpoints.audio_flamingo2_names import FlamingoParts
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.window_towers import HtsatTower

TOWER = {'embed_dim': 8, 'depths': [1, 2, 1, 1], 'num_heads': [1, 1, 2, 2], 'fusion': True}
TRANSFORM = {'num_layers': 2, 'num_heads': 1, 'inner_dim': 16}
CROSS = {'layers': [0, 1], 'num_heads': 1, 'head_dim': 64, 'ff_mult': 2}
WIDTH, VOCABULARY = 16, 24
DROPPED = {'head.weight': (3, 3), 'logmel_extractor.melW': (4, 64), 'layers.1.blocks.1.attn_mask': (2, 4, 4)}


def language_config(num_layers=2):
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )


def empty_parts():
    from transformers import Qwen2ForCausalLM

    tower = HtsatTower(**TOWER)
    return FlamingoParts(
        tower,
        AudioTransform(dim=tower.feature_dim, **TRANSFORM),
        CrossAttentionLayers(dim=WIDTH, audio_dim=tower.feature_dim, **CROSS),
        Qwen2ForCausalLM(language_config()),
    )


def released(prefix='clap.nvclap.'):
    """Names and tensors as in the published files."""
    torch.manual_seed(0)
    tensors, thirds = {}, {}
    for network, name, source in empty_parts().sources(prefix):
        tensor = network.state_dict()[name]
        tensor = torch.randn(tensor.shape) if tensor.is_floating_point() else tensor.clone()
        if source.third is not None:
            thirds.setdefault(source.names[0], []).append(tensor)
        else:
            first = tensors.setdefault(source.names[0], tensor)
            tensors.update({copy: first.clone() for copy in source.names[1:]})
    tensors.update({name: torch.cat(rows) for name, rows in thirds.items()})
    tensors.update({prefix + name: torch.zeros(shape) for name, shape in DROPPED.items()})
    return tensors


def write(folder, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    chunks = {'model_chunk_0': names[: len(names) // 2], 'model_chunk_1': names[len(names) // 2 :]}
    for chunk, members in chunks.items():
        save_file({name: tensors[name].contiguous() for name in members}, folder / f'{chunk}.safetensors')
    (folder / METADATA).write_text(json.dumps(chunks))
    return folder
