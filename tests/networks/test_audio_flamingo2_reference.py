"""Networks of the audio-language model against the published ones, on reference arrays."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nemo_audio_restore.checkpoints.af_clap import af_clap_of
from nemo_audio_restore.checkpoints.audio_flamingo2 import ReleasedTensors, fill_parts
from nemo_audio_restore.checkpoints.audio_flamingo2_names import TRANSFORM, FlamingoParts
from nemo_audio_restore.losses.answers import answer_loss
from nemo_audio_restore.networks.audio_transform import AudioTransform
from nemo_audio_restore.networks.gated_cross_attention import CrossAttentionLayers, decoder_layers
from nemo_audio_restore.networks.window_towers import HtsatTower

T5_SIZES = (
    'vocab_size',
    'd_model',
    'd_kv',
    'd_ff',
    'num_layers',
    'num_heads',
    'feed_forward_proj',
    'dropout_rate',
    'layer_norm_epsilon',
)

pytestmark = pytest.mark.needs_fixtures


def language_model(config):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    kept = ('hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'num_key_value_heads')
    return Qwen2ForCausalLM(
        Qwen2Config(
            **{name: config[name] for name in kept},
            vocab_size=config['vocab_size'],
            rope_theta=config['rope_theta'],
            tie_word_embeddings=True,
            eos_token_id=config['eos_token_id'],
        )
    ).eval()


@pytest.fixture(scope='module')
def folder(reference_arrays):
    return reference_arrays / 'audio_flamingo2'


@pytest.fixture(scope='module')
def arrays(folder):
    with np.load(folder / 'arrays.npz') as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name != 'mel_copies_equal'}


@pytest.fixture(scope='module')
def parts(folder):
    config = json.loads((folder / 'config.json').read_text())
    with ReleasedTensors(folder) as released:
        sizes = released.sizes()
        tower = HtsatTower(**sizes.audio_tower)
        made = FlamingoParts(
            tower,
            AudioTransform(dim=tower.feature_dim, **sizes.audio_transform),
            CrossAttentionLayers(dim=sizes.width, audio_dim=tower.feature_dim, **sizes.cross_attention),
            language_model(config['lm_config']),
        )
        fill_parts(released, made)
    made.cross_attention.attach(made.language_model)
    for part in (made.audio_tower, made.audio_transform, made.cross_attention):
        part.eval()
    return made


def close(found, expected, tolerance):
    return float((found - expected).abs().max()) < tolerance


@torch.no_grad()
def test_log_mel_and_features_of_windows(parts, arrays):
    windows = arrays['clips_i16'].float() / 32767
    mel = parts.audio_tower.log_mel(windows)
    # Where the power is near the floor, rounding shows.
    assert close(mel, arrays['mel_db'], 2e-3)
    assert close(parts.audio_tower.encode_mel(arrays['mel_db'][:, None]), arrays['htsat_encodings'], 1e-5)
    assert close(parts.audio_tower(windows[:1]), arrays['htsat_encodings'][:1], 1e-4)


@torch.no_grad()
def test_pictures_patches_and_stages_inside_the_tower(parts, arrays):
    encoder = parts.audio_tower.clap.audio_encoder
    seen = {}

    def keep(name, value):
        seen[name] = value[0] if isinstance(value, tuple) else value

    hooks = [
        encoder.patch_embed.register_forward_pre_hook(lambda layer, given: keep('picture', given[0])),
        encoder.patch_embed.register_forward_hook(lambda layer, given, out: keep('patches', out)),
    ]
    for index, stage in enumerate(encoder.layers):
        hooks.append(stage.register_forward_hook(lambda layer, given, out, index=index: keep(index, out)))
    parts.audio_tower.encode_mel(arrays['mel_db'][:, None])
    for hook in hooks:
        hook.remove()
    assert close(seen['picture'][0, 0], arrays['htsat_img_clip0'], 1e-5)
    assert close(seen['patches'][0], arrays['htsat_patch_embed_clip0'], 1e-5)
    assert close(seen[1][0], arrays['htsat_stage1_out_clip0'], 1e-5)
    for index in range(4):
        assert close(seen[index].mean(dim=1), arrays[f'htsat_stage{index}_out_mean'], 1e-5)


@torch.no_grad()
def test_features_of_fused_pictures(parts, arrays):
    single = arrays['mel_db'][:1].expand(4, -1, -1)
    mel = torch.stack([arrays['fusion_mel'], single])
    found = parts.audio_tower.encode_mel(mel, arrays['fusion_longer'][:, 0])
    assert close(found, arrays['fusion_encodings'], 1e-5)


@torch.no_grad()
def test_transform_with_and_without_mask(parts, arrays):
    transform, tokens = parts.audio_transform, arrays['at_in']
    mask = arrays['at_mask'].bool()
    assert close(transform(tokens, mask)[mask], arrays['at_out'][mask], 1e-5)
    assert close(transform(tokens, torch.ones_like(mask)), arrays['at_out_nomask'], 1e-5)
    seen = [tokens]
    hooks = [
        layer.register_forward_hook(lambda layer, given, out: seen.append(out))
        for layer in (transform.norm, transform.layers[0])
    ]
    transform(tokens, mask)
    for hook in hooks:
        hook.remove()
    assert close(seen[1], arrays['at_after_first_norm'], 1e-5)
    assert close(seen[2][mask], arrays['at_layer0_out'][mask], 1e-5)
    angles = torch.outer(torch.arange(24.0), transform.inverse_frequencies).repeat(1, 2)
    assert close(angles, arrays['at_rope_freqs'], 1e-5)


@torch.no_grad()
def test_gated_block(parts, arrays):
    block = parts.cross_attention.blocks['0']
    heard = (*block.keys_and_values(arrays['xb_media'][:, :, 0]), arrays['xb_media_mask'][:, :, 0].bool())
    assert close(block.attend(arrays['xb_x'], *heard), arrays['xb_attn_out'], 1e-5)
    assert close(block(arrays['xb_x'], *heard), arrays['xb_out'], 1e-5)
    # Training let a text hear the first audio tokens alone; answering does not, and so neither do we.
    for count in (1, 4, 24):
        mask = heard[2] & (torch.arange(24) < count)
        found = block(arrays['xb_x'], *heard[:2], mask)
        assert close(found, arrays[f'xb_out_trainrepo_w{count}'], 1e-5), count


@torch.no_grad()
def test_what_the_blocks_hear(parts, arrays):
    mask = arrays['fl_audio_mask_out'][..., 0].bool()
    assert torch.equal(mask, arrays['fl_window_mask'].bool().repeat_interleave(4, dim=1))
    heard = parts.audio_transform(arrays['fl_clap_embeds'].flatten(1, 2), mask)
    assert close(heard[mask], arrays['fl_audio_out'][:, :, 0][mask], 1e-5)


def hearing(parts, features, window_mask):
    mask = window_mask.bool().repeat_interleave(features.shape[2], dim=1)
    tokens = parts.audio_transform(features.flatten(1, 2), mask)
    return parts.cross_attention.hearing(tokens, mask)


@torch.no_grad()
def test_logits_of_the_whole_model(parts, arrays):
    there = arrays['fl_attention_mask'].bool()
    inputs = {'input_ids': arrays['fl_ids'], 'attention_mask': arrays['fl_attention_mask']}
    states = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, state: states.append(state))
        for layer in decoder_layers(parts.language_model)
    ]
    with hearing(parts, arrays['fl_clap_embeds'], arrays['fl_window_mask']):
        logits = parts.language_model(**inputs).logits
    for hook in hooks:
        hook.remove()
    # The published states are those between layers; the last one is behind the final norm.
    for state, expected in zip(states[:-1], arrays['fl_hidden_states'][1:-1], strict=True):
        assert close(state[there], expected[there], 1e-5)
    assert close(logits[there], arrays['fl_logits'][there], 1e-5)
    assert close(answer_loss(logits, arrays['fl_labels']), arrays['fl_loss'], 1e-5)
    # Outside of `hearing` it is the language model alone.
    logits = parts.language_model(**inputs).logits
    assert close(logits[there], arrays['fl_logits_gates_zero'][there], 1e-5)


@torch.no_grad()
def test_logits_from_recordings(parts, arrays):
    features = parts.audio_tower(arrays['clips_i16'][1:].float() / 32767)[None]
    assert close(features, arrays['e2e_clap'], 1e-4)
    ids = arrays['e2e_ids']
    with hearing(parts, features, torch.ones(1, 2)):
        logits = parts.language_model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert close(logits, arrays['e2e_logits'], 1e-4)


def test_greedy_texts(parts, arrays):
    from nemo_audio_restore.models.text_decoding import TextSettings, write_text

    for name, row, settings in (
        ('gen', 0, TextSettings(max_new_tokens=16)),
        ('gen2', 1, TextSettings(max_new_tokens=16)),
        ('gen_norepeat', 0, TextSettings(max_new_tokens=24, no_repeat_ngram=1)),
    ):
        prompt = arrays['gen2_prompt_ids' if row else 'gen_prompt_ids']
        choice = slice(row, row + 1)
        with torch.no_grad(), hearing(parts, arrays['fl_clap_embeds'][choice], arrays['fl_window_mask'][choice]):
            written = write_text(
                parts.language_model, prompt, torch.ones_like(prompt), stop_id=91, padding_id=94, settings=settings
            )
        assert prompt[0].tolist() + written[0] == arrays[f'{name}_out_ids'][0].tolist(), name


def test_gradients_of_what_is_trained(parts, arrays, folder):
    expected = json.loads((folder / 'config.json').read_text())['grad_norms']
    with hearing(parts, arrays['fl_clap_embeds'], arrays['fl_window_mask']):
        logits = parts.language_model(input_ids=arrays['fl_ids'], attention_mask=arrays['fl_attention_mask']).logits
    sources = list(parts.sources('clap.nvclap.'))
    answer_loss(logits, arrays['fl_labels']).backward()
    compared = 0
    for network, name, source in sources:
        if network not in (parts.audio_transform, parts.cross_attention):
            continue
        norms = [expected[key] for key in source.names if key in expected]
        if norms:
            gradient = network.get_parameter(name).grad
            assert abs(float(gradient.norm()) - norms[0]) < 1e-3 * norms[0] + 1e-7, name
            compared += 1
    assert compared == len(expected)
    assert any(name.startswith(TRANSFORM) for name in expected)


@torch.no_grad()
def test_likeness_of_audio_and_text(parts, arrays, folder):
    from transformers import T5Config, T5EncoderModel

    facts = json.loads((folder / 'afclap.json').read_text())
    with np.load(folder / 'afclap.npz') as file:
        expected = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    tensors = load_file(folder / 'afclap_text_and_heads.safetensors')
    with ReleasedTensors(folder) as released:
        prefix = released.tower_prefix
        for name in released.shapes:
            if name.startswith(prefix):
                tensors['module.audio_branch.' + name.removeprefix(prefix)] = released.read(name)
    config = {name: value for name, value in facts['t5_config'].items() if name in T5_SIZES}
    model = af_clap_of(tensors, T5EncoderModel(T5Config(**config)), source='the reference')
    assert close(arrays['htsat_encodings'].mean(dim=1), expected['pooled_audio'], 1e-5)
    assert close(model.embed_features(arrays['htsat_encodings']), expected['audio_embed'], 1e-5)
    assert close(model.embed_text(expected['text_ids'], expected['text_mask']), expected['text_embed'], 1e-5)
    windows = arrays['clips_i16'][:1].float() / 32767
    found = model.similarity(windows, expected['text_ids'], expected['text_mask'])
    assert close(found, expected['similarity'][:1], 1e-4)
