"""Claims about LAION's CLAP files."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    ClapTextConfig,
    ClapTextModelWithProjection,
)

from nemo_audio_restore.checkpoints.clap import convert_clap, load_clap
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.networks.clap_audio import ClapAudioTower

AUDIO = {
    'patch_embeds_hidden_size': 8,
    'hidden_size': 64,
    'depths': [1, 1, 2, 1],
    'num_attention_heads': [1, 2, 2, 4],
    'projection_dim': 12,
    'enable_fusion': True,
    'fusion_type': 'aff_2d',
}
TEXT = {
    'vocab_size': 50,
    'hidden_size': 64,
    'num_hidden_layers': 3,
    'num_attention_heads': 1,
    'intermediate_size': 32,
    'max_position_embeddings': 90,
    'projection_dim': 12,
}


def laion_names(state):
    """The audio tensors of transformers under the names that LAION's program gives them."""
    out = {}
    for name, tensor in state.items():
        name = name.replace('audio_model.audio_encoder.', 'module.audio_branch.').replace('batch_norm', 'bn0')
        name = name.replace('audio_projection.linear1', 'module.audio_projection.0')
        name = name.replace('audio_projection.linear2', 'module.audio_projection.2')
        name = name.replace('.attention.output.dense.', '.attn.proj.').replace('.attention.self.', '.attn.')
        name = name.replace('.layernorm_before.', '.norm1.').replace('.layernorm_after.', '.norm2.')
        name = name.replace('.intermediate.dense.', '.mlp.fc1.').replace('.output.dense.', '.mlp.fc2.')
        out[name] = tensor
    for name in [name for name in out if '.attn.query.' in name]:
        parts = [out.pop(name.replace('query', part)) for part in ('query', 'key', 'value')]
        out[name.replace('query', 'qkv')] = torch.cat(parts)
    return out


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """A file as LAION's training writes it, and the models whose weights it holds."""
    torch.manual_seed(0)
    audio = ClapAudioModelWithProjection(ClapAudioConfig(**AUDIO)).eval()
    text = ClapTextModelWithProjection(ClapTextConfig(**TEXT, layer_norm_eps=1e-5)).eval()
    with torch.no_grad():
        for tensor in [*audio.parameters(), *audio.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))  # so that no two tensors are the same
    state = laion_names(audio.state_dict())
    for name, tensor in text.state_dict().items():
        name = name.replace('text_model.', 'module.text_branch.')
        for number, layer in ((0, 'linear1'), (2, 'linear2')):
            name = name.replace(f'text_projection.{layer}', f'module.text_projection.{number}')
        if not name.endswith('token_type_ids'):
            state[name] = tensor
    state |= {
        'module.logit_scale_a': torch.tensor(np.log(50.0)),
        'module.logit_scale_t': torch.tensor(1.0),
        'module.audio_branch.spectrogram_extractor.stft.conv_real.weight': torch.zeros(3),
        'module.audio_branch.tscam_conv.weight': torch.zeros(3),
        'module.audio_branch.head.weight': torch.zeros(3),
    }
    path = tmp_path_factory.mktemp('clap') / 'clap.pt'
    torch.save({'epoch': 3, 'best': np.float64(0.5), 'state_dict': state, 'optimizer': {'lr': np.float64(1.0)}}, path)
    return path, audio, text


def sounds(seconds, seed=0):
    return 0.1 * torch.randn(2, int(48000 * seconds), generator=torch.Generator().manual_seed(seed))


def test_both_sides_answer_as_before(published):
    path, audio, text = published
    found = load_clap(path)
    assert found.scale == pytest.approx(50.0)
    features = ClapAudioTower(config=AUDIO).features(sounds(10)).expand(-1, 4, -1, -1)
    is_longer = torch.tensor([[True], [False]])
    with torch.no_grad():
        wanted = audio(input_features=features, is_longer=is_longer).audio_embeds
        torch.testing.assert_close(found.audio(input_features=features, is_longer=is_longer).audio_embeds, wanted)
        ids = torch.arange(2, 12).reshape(2, 5)
        torch.testing.assert_close(found.text(input_ids=ids).text_embeds, text(input_ids=ids).text_embeds)


def test_sizes_are_read_off_the_file(published):
    found = load_clap(published[0])
    assert {key: found.audio_config[key] for key in AUDIO} == AUDIO
    assert found.audio_config['window_size'] == 8
    assert {key: found.text_config[key] for key in TEXT} == TEXT
    ClapAudioTower(config=found.audio_config).network.load_state_dict(found.audio.state_dict())


def test_converted_file_is_as_good_and_holds_the_model_alone(published, tmp_path):
    path, *_ = published
    count = convert_clap(path, tmp_path / 'clap.safetensors')
    kept = load_file(tmp_path / 'clap.safetensors')
    assert count == len(kept)
    assert not any('spectrogram_extractor' in name or 'tscam' in name for name in kept)
    first, second = load_clap(path), load_clap(tmp_path / 'clap.safetensors')
    for name, tensor in first.audio.state_dict().items():
        assert torch.equal(tensor, second.audio.state_dict()[name]), name


def test_files_that_need_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ('run',))

    torch.save({'state_dict': {'x': torch.zeros(1)}, 'extra': Evil()}, tmp_path / 'clap.pt')
    with pytest.raises(CheckpointError, match='refused'):
        convert_clap(tmp_path / 'clap.pt', tmp_path / 'clap.safetensors')
    assert not (tmp_path / 'clap.safetensors').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda state: state.pop('module.audio_branch.norm.weight'), 'module.audio_branch.norm.weight is missing'),
        (lambda state: state.pop('module.audio_branch.patch_embed.proj.weight'), 'no HTSAT'),
        (lambda state: state.pop('module.logit_scale_a'), 'no temperature'),
        (lambda state: state.update({'module.audio_branch.other': torch.zeros(2)}), 'other .* is not part of it'),
    ],
)
def test_incomplete_files_are_named(published, tmp_path, change, message):
    convert_clap(published[0], tmp_path / 'whole.safetensors')
    state = load_file(tmp_path / 'whole.safetensors')
    change(state)
    torch.save({'state_dict': state}, tmp_path / 'part.pt')
    with pytest.raises(CheckpointError, match=message):
        load_clap(tmp_path / 'part.pt')


@pytest.mark.parametrize('fusion', [True, False])
def test_spectrograms_are_those_of_the_published_extractor(fusion):
    sizes = AUDIO if fusion else {**AUDIO, 'enable_fusion': False, 'fusion_type': None}
    extractor = ClapFeatureExtractor(frequency_min=50, truncation='fusion' if fusion else 'rand_trunc')
    audio = sounds(3)[0]
    wanted = extractor(audio.numpy(), sampling_rate=48000, return_tensors='pt')['input_features'][0, :1]
    found = ClapAudioTower(config=sizes).hear(audio, count=1, generator=torch.Generator())
    # Both repeat three times and fill up with silence; silence is what float32 makes of it.
    torch.testing.assert_close(found[0, :, :890], wanted[:, :890], atol=2e-2, rtol=1e-3)
    torch.testing.assert_close(found[0].clamp_min(-90), wanted.float().clamp_min(-90), atol=2e-2, rtol=1e-3)


def test_long_recordings_are_heard_as_a_whole_with_seeded_pieces():
    tower = ClapAudioTower(config=AUDIO).eval()
    audio = sounds(25)[0]

    def heard(seed):
        return tower.hear(audio, count=1, generator=torch.Generator().manual_seed(seed))

    assert heard(0).shape == (1, 4, 1001, 64)
    assert torch.equal(heard(0), heard(0))
    assert torch.equal(heard(0)[:, 0], heard(1)[:, 0])
    assert not torch.equal(heard(0)[:, 1:], heard(1)[:, 1:])
    whole = tower.features(audio[None])[0, 0]
    for index, piece in enumerate(heard(0)[0, 1:]):
        starts = [start for start in range(len(whole) - 1000) if torch.equal(whole[start], piece[0])]
        assert any(torch.equal(whole[start : start + 1001], piece) for start in starts)
        assert starts[0] // ((len(whole) - 1000) / 3) == index
    with torch.no_grad():
        pieces_matter = tower.embed_features(heard(0)) - tower.embed_features(heard(1))
    assert pieces_matter.abs().max() > 0
