"""Claims about the released layout of Audio Flamingo 2, on a release made of random tensors."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
import torch

from nemo_audio_restore.checkpoints.audio_flamingo2 import METADATA, ReleasedTensors, fill_parts, unplaced
from nemo_audio_restore.checkpoints.audio_flamingo2_names import FlamingoParts
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers
from nemo_audio_restore.networks.window_towers import HtsatTower

sys.path.insert(0, str(Path(__file__).parent))
from flamingo_release import CROSS, TOWER, TRANSFORM, VOCABULARY, WIDTH, empty_parts, released, write  # noqa: E402

QUERY = 'layers.0.blocks.0.attn.qkv.weight'
LAYER = 'lang_encoder.{}.1.mlp.up_proj.weight'


def load(folder, dtype=torch.float32):
    with ReleasedTensors(folder) as files:
        with torch.device('meta'):
            parts = empty_parts()
        fill_parts(files, parts, dtype=dtype)
    return parts


@pytest.mark.parametrize('prefix', ['clap.nvclap.', 'clap.afclap.'])
def test_release_gives_its_sizes_and_every_tensor(tmp_path, prefix):
    tensors = released(prefix)
    write(tmp_path / 'model' / 'safe_ckpt', tensors)
    with ReleasedTensors(tmp_path / 'model') as files:
        sizes = files.sizes()
    assert (sizes.audio_tower, sizes.audio_transform, sizes.cross_attention) == (TOWER, TRANSFORM, CROSS)
    assert (sizes.vocabulary, sizes.width, sizes.layers) == (VOCABULARY, WIDTH, 2)
    parts = load(tmp_path / 'model')
    for network, name, source in parts.sources(prefix):
        expected = tensors[source.names[0]]
        expected = expected if source.third is None else expected.chunk(3)[source.third]
        assert torch.equal(network.state_dict()[name], expected), name


@torch.no_grad()
def test_networks_filled_from_the_meta_device_work(tmp_path):
    parts = load(write(tmp_path, released()))
    language = parts.language_model.eval()
    assert language.lm_head.weight is language.model.embed_tokens.weight
    ids = torch.arange(6)[None]
    # Positions count: the constants that no file holds are there.
    assert not torch.allclose(language(ids).logits[0, -1], language(ids.flip(1)).logits[0, 0], atol=1e-4)
    assert torch.isfinite(language(ids).logits).all()
    assert parts.audio_tower.eval().encode_mel(torch.zeros(1, 1, 100, 64)).shape == (1, 64, 64)


def test_half_precision_spares_what_does_not_survive_it(tmp_path):
    parts = load(write(tmp_path, released()), torch.bfloat16)
    kept = {
        name
        for part in (parts.audio_tower, parts.audio_transform, parts.cross_attention, parts.language_model)
        for name, tensor in part.state_dict().items()
        if tensor.dtype != torch.bfloat16
    }
    assert 'inverse_frequencies' in kept
    assert all(name.endswith(('inverse_frequencies', 'index', 'num_batches_tracked')) for name in kept)


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda t: t.pop('audio_transformer_clap.layer_stack.1.pos_ffn.w_1.bias'), r'w_1\.bias is missing'),
        (lambda t: t.pop(f'clap.nvclap.{QUERY}'), r'qkv\.weight is missing, expected shape \(24, 8\)'),
        (
            lambda t: t.update({'lang_encoder.model.norm.weight': torch.zeros(3)}),
            r'lang_encoder\.model\.norm\.weight has shape \(3,\), expected \(16,\)',
        ),
        (lambda t: t.update({'lang_encoder.extra': torch.zeros(2)}), r'extra of shape \(2,\) belongs to no network'),
        (
            lambda t: t.update({LAYER.format('old_decoder_blocks'): torch.zeros(24, 16)}),
            r'layers\.1\.decoder_layer\.mlp\.up_proj\.weight and its copy .* hold different values',
        ),
        (lambda t: t.pop('clap.nvclap.norm.weight'), 'holds no audio tower'),
        (lambda t: t.pop('lang_encoder.model.embed_tokens.weight'), r'embed_tokens\.weight is missing'),
        (
            lambda t: [t.pop(name) for name in list(t) if 'cross_attn_layer_sound' in name],
            'holds no cross-attention',
        ),
    ],
)
def test_tensors_that_are_wrong_are_named(tmp_path, edit, message):
    tensors = released()
    edit(tensors)
    write(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=message):
        with ReleasedTensors(tmp_path) as files:
            files.sizes()
            fill_parts(files, empty_parts())


@pytest.mark.parametrize('kept', [torch.float16, torch.bfloat16])
def test_files_in_half_precision_are_read(tmp_path, kept):
    tensors = {name: x.to(kept) if x.is_floating_point() else x for name, x in released().items()}
    parts = load(write(tmp_path, tensors))
    for network, name, source in parts.sources('clap.nvclap.'):
        if source.third is None:
            found = network.state_dict()[name]
            assert torch.equal(found, tensors[source.names[0]].to(found.dtype)), name


def test_files_larger_than_the_memory_are_opened(tmp_path):
    """The largest release is one of 37 GB, as far as is known."""
    size = 4 * (os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 4 + 2**28)
    header = {
        'small': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]},
        'large': {'dtype': 'F32', 'shape': [size // 4], 'data_offsets': [8, 8 + size]},
    }
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with (tmp_path / 'model_chunk_0.safetensors').open('wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + struct.pack('<2f', 1.5, -2.0))
        file.truncate(8 + len(text) + 8 + size)  # a hole: it takes no place
    (tmp_path / METADATA).write_text(json.dumps({'model_chunk_0': ['small', 'large']}))
    with ReleasedTensors(tmp_path) as files:
        assert files.shapes['large'] == (size // 4,)
        assert files.read('small').tolist() == [1.5, -2.0]


def test_copies_may_be_left_out(tmp_path):
    tensors = released()
    for name in list(tensors):
        if 'old_decoder_blocks' in name or 'gated_cross_attn_layers_sound' in name or 'lm_head' in name:
            del tensors[name]
    load(write(tmp_path, tensors))


def test_folders_that_are_no_release_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'holds no metadata\.json'):
        ReleasedTensors(tmp_path)
    for content, message in (
        ('{', 'is no JSON file'),
        ('[1]', 'must hold lists of names'),
        ('{"a": 1}', 'must hold lists of names'),
        ('{"../a": []}', 'names files outside its folder'),
    ):
        (tmp_path / METADATA).write_text(content)
        with pytest.raises(CheckpointError, match=message):
            ReleasedTensors(tmp_path)
    write(tmp_path, released())
    names = json.loads((tmp_path / METADATA).read_text())
    (tmp_path / METADATA).write_text(json.dumps({'model_chunk_0': ['none']}))
    with pytest.raises(CheckpointError, match='lacks none, which'):
        ReleasedTensors(tmp_path)
    (tmp_path / METADATA).write_text(json.dumps(names))
    (tmp_path / 'model_chunk_1.safetensors').write_bytes(b'0123456789')
    with pytest.raises(CheckpointError, match='not a safetensors file'):
        ReleasedTensors(tmp_path)
    (tmp_path / 'model_chunk_1.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks model_chunk_1\.safetensors'):
        ReleasedTensors(tmp_path)


@pytest.mark.needs_fixtures
@pytest.mark.parametrize(('size', 'width', 'layers'), [('0.5B', 896, 24), ('1.5B', 1536, 28), ('3B', 2048, 36)])
def test_every_tensor_of_a_released_size_has_its_place(reference_arrays, repository, size, width, layers):
    """On names and shapes alone; nothing has memory."""
    from omegaconf import OmegaConf
    from transformers import AutoConfig, AutoModelForCausalLM

    layout = json.loads((reference_arrays / f'audio_flamingo2/release_layout/af2_{size}.json').read_text())
    files = object.__new__(ReleasedTensors)
    files.folder, files.shapes = Path(size), {name: tuple(shape) for name, (shape, _) in layout.items()}
    sizes = files.sizes()
    assert (sizes.width, sizes.layers, sizes.vocabulary) == (width, layers, 151669)
    config = OmegaConf.load(repository / 'conf' / f'audio_flamingo2_{size.lower()}.yaml').model
    language = OmegaConf.to_container(config.language_model.config)
    with torch.device('meta'):
        tower = HtsatTower(**sizes.audio_tower)
        parts = FlamingoParts(
            tower,
            AudioTransform(dim=tower.feature_dim, **sizes.audio_transform),
            CrossAttentionLayers(dim=width, audio_dim=tower.feature_dim, **sizes.cross_attention),
            AutoModelForCausalLM.from_config(AutoConfig.for_model(language.pop('model_type'), **language)),
        )
    assert list(unplaced(files, list(parts.sources(files.tower_prefix)))) == []
