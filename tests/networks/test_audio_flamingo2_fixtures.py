"""Networks and preparation of the audio-language model against published numbers, on arrays that lie in the tree."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from nemo_audio_restore.data.listening import Listening
from nemo_audio_restore.data.question_text import QuestionTokenizer
from nemo_audio_restore.losses.answers import answer_loss
from nemo_audio_restore.networks.af_clap import AudioFlamingoClap
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import GatedCrossAttention
from nemo_audio_restore.networks.window_towers import HtsatTower
from nemo_audio_restore.signal.audio_windows import batch_windows, num_windows

sys.path.insert(0, str(Path(__file__).parent))
import pinned_flamingo  # noqa: E402

BLOCK = 'lang_encoder.gated_cross_attn_layers_sound.0.'
TOWER = {'embed_dim': 16, 'depths': (1, 1, 1, 1), 'num_heads': (1, 2, 4, 8), 'fusion': False}


@pytest.fixture(scope='module')
def folder(repository):
    return repository / 'tests' / 'fixtures' / 'audio_flamingo2'


@pytest.fixture(scope='module')
def arrays(folder):
    with np.load(folder / 'published.npz') as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope='module')
def facts(folder):
    return json.loads((folder / 'published.json').read_text())


def test_log_mel_is_the_published_one(arrays):
    found = HtsatTower(**TOWER).log_mel(arrays['clip_i16'][None].float() / 32767)[0, : len(arrays['mel_db'])]
    # Where the power is near the floor, rounding shows.
    assert (found - arrays['mel_db']).abs().max() < 2e-3


def test_rotary_angles_are_the_published_ones(arrays):
    transform = AudioTransform(dim=128, num_heads=2, num_layers=1, inner_dim=8)
    assert torch.allclose(transform.inverse_frequencies, arrays['audio_transformer_clap.position_enc.inv_freq'])
    angles = torch.outer(torch.arange(24.0), transform.inverse_frequencies).repeat(1, 2)
    assert torch.allclose(angles, arrays['at_rope_freqs'], atol=1e-5)


@torch.no_grad()
def test_gates_and_network_behind_the_attention_are_the_published_ones(arrays, monkeypatch):
    block = GatedCrossAttention(dim=64, audio_dim=128)
    for name, source in (('0.weight', 'ff.0.weight'), ('0.bias', 'ff.0.bias'), ('1.weight', 'ff.1.weight')):
        block.feed_forward.get_parameter(name).copy_(arrays[BLOCK + source])
    block.feed_forward[3].weight.copy_(arrays[BLOCK + 'ff.3.weight'])
    block.attention_gate.copy_(arrays[BLOCK + 'attn_gate'])
    block.feed_forward_gate.copy_(arrays[BLOCK + 'ff_gate'])
    monkeypatch.setattr(block, 'attend', lambda *given: arrays['xb_attn_out'])
    assert torch.allclose(block(arrays['xb_x'], None, None, None), arrays['xb_out'], atol=1e-5)


def test_labels_and_loss_are_the_published_ones(arrays, facts):
    special = facts['special']
    questions = object.__new__(QuestionTokenizer)
    questions.eos_id, questions.audio_id, questions.end_id = special['eos'], special['audio'], special['endofchunk']
    questions.padding_id, questions.separator_id = special['pad'], special['sep']
    for ids, labels in (('fl_ids', 'fl_labels'), ('lab_trunc_ids', 'lab_trunc_labels')):
        assert torch.equal(questions.labels(arrays[ids]), arrays[labels])
    assert torch.allclose(answer_loss(arrays['fl_logits'], arrays['fl_labels']), arrays['fl_loss'], atol=1e-5)
    questions.padding_id = int(arrays['collate_out_input_ids'].flatten()[-1])
    batch = questions.padded([arrays[f'collate_in{index}_ids'][0].tolist() for index in range(3)], left=False)
    assert torch.equal(batch.input_ids, arrays['collate_out_input_ids'])
    assert torch.equal(batch.attention_mask.bool(), arrays['collate_out_attention_mask'].bool())


def test_preparation_of_recordings_is_the_published_one(arrays, facts):
    for name, case in facts['cases'].items():
        config = case['config']
        listening = Listening(
            window_s=config['window_length'],
            overlap_s=config['window_overlap'],
            max_windows=config['max_num_window'],
            published_numerics=True,
        )
        found = listening.windows(arrays[f'{name}__pcm'].T.float() / 32768, case['sr'])
        expected = arrays[f'{name}__window_i16'].int()
        assert found.shape == (1, listening.window_samples)
        assert torch.equal(torch.round(found[0, : len(expected)] * 32767).int(), expected)
        assert not found[0, len(expected) :].any()
    for row in facts['num_windows_table']:
        read = Listening(window_s=row['window_length'], overlap_s=row['window_overlap'])
        count = num_windows(row['T'], window_samples=read.window_samples, hop_samples=read.hop_samples)
        count = min(count, row['max_num_window'])
        assert [count, read.window_samples + (count - 1) * read.hop_samples] == row['out']
    batch = batch_windows([arrays[f'collate_in{index}_clips'] for index in range(3)])
    assert torch.equal(batch.windows, arrays['collate_out_audio_clips'])
    assert torch.equal(batch.mask, arrays['collate_out_audio_embed_mask'] > 0)


@torch.no_grad()
def test_likeness_of_audio_and_text_is_the_published_one(arrays):
    tower = HtsatTower(**TOWER)
    model = AudioFlamingoClap(audio_branch=tower, text_branch=_Texts(), embedding_dim=48)
    prefix = 'module.audio_projection.'
    state = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
    model.audio_projection.load_state_dict(state)
    # The mean over the tokens of a recording is what the reference holds.
    found = model.embed_features(arrays['pooled_audio'][:, None])
    assert torch.allclose(found, arrays['audio_embed'], atol=1e-5)
    assert torch.allclose(
        found @ functional.normalize(arrays['text_embed'], dim=-1).T, arrays['similarity'], atol=1e-5
    )


class _Texts(torch.nn.Module):
    config = type('Config', (), {'d_model': 8})


def test_networks_with_seeded_weights_give_what_they_gave_when_they_matched_the_published_ones():
    found = pinned_flamingo.values()
    with np.load(pinned_flamingo.FILE) as file:
        for name in file.files:
            expected = torch.from_numpy(file[name])
            if name == 'written':
                assert torch.equal(found[name], expected)
            else:
                assert torch.allclose(found[name], expected, atol=1e-3, rtol=1e-3), name
