"""Audio Flamingo 2's released files to a model: sizes from the tensors, language from Qwen2.5's configuration."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from omegaconf import OmegaConf

from nemo_audio_restore.checkpoints.audio_flamingo2 import FlamingoSizes, ReleasedTensors, fill_parts
from nemo_audio_restore.checkpoints.audio_flamingo2_names import FlamingoParts
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.data.question_text import QuestionFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nemo_audio_restore.models.audio_language import AudioLanguageModel

Model = TypeVar('Model', bound='AudioLanguageModel')

_CARD = {
    'summary': 'Audio Flamingo 2, converted from the files that NVIDIA released.',
    'license': 'other',
    'license_name': 'NVIDIA OneWay Noncommercial License, and that of the language model',
    'base_model': 'nvidia/audio-flamingo-2',
}


def read_release(
    model_class: type[Model], folder: str | Path, *, language_model: str | Path, dtype: torch.dtype, max_windows: int
) -> Model:
    """Makes a model from a release; see ``AudioLanguageModel.from_audio_flamingo2``.

    Args:
        model_class: of the model.
        folder: of the release.
        language_model: folder or hub name with configuration and tokenizer.
        dtype: of the weights.
        max_windows: windows of 10 s that the model hears.

    Returns:
        The model in evaluation mode.
    """
    with ReleasedTensors(folder) as released:
        sizes = released.sizes()
        language = _language_config(language_model, sizes)
        tokenizer = question_tokenizer(language_model)
        if len(tokenizer) > sizes.vocabulary:
            raise CheckpointError(
                f'{released.folder} has {sizes.vocabulary} tokens, the tokenizer of {language_model} with the special '
                f'tokens {len(tokenizer)}: it belongs to another language model'
            )
        scratch = tempfile.TemporaryDirectory(prefix='audio_flamingo2_')
        file = Path(scratch.name) / 'tokenizer.json'
        tokenizer.backend_tokenizer.save(str(file))
        config = OmegaConf.create(
            {
                'audio_tower': sizes.audio_tower,
                'listening': {'published_numerics': True, 'max_windows': max_windows},
                'audio_transform': sizes.audio_transform,
                'cross_attention': sizes.cross_attention,
                'language_model': {'config': language},
                'tokenizer': {'file': str(file), 'eos_token': tokenizer.eos_token},
                'card': _CARD,
            }
        )
        with torch.device('meta'):
            model = model_class(config)
        # The file of the tokenizer is read again when the model is saved.
        model.__dict__['_scratch'] = scratch
        parts = FlamingoParts(model.audio_tower, model.audio_transform, model.cross_attention, model.language_model)
        fill_parts(released, parts, dtype=dtype)
    # The meta device would stay in Lightning's notes otherwise.
    return model.to('cpu').eval()


def question_tokenizer(source: str | Path, question_format: QuestionFormat | None = None) -> 'PreTrainedTokenizerBase':
    """The tokenizer of a language model with the special tokens of questions, added in the published order.

    Args:
        source: folder or hub name.
        question_format: names the special tokens.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: nothing can be loaded from there.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        # As its tokenizer.json says: the automatic class would rebuild it in the way of the model's family.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f'no tokenizer can be loaded from {source}: {str(error).splitlines()[0]} '
            'Give a folder with tokenizer.json and tokenizer_config.json, or a name on the Hugging Face Hub.'
        ) from error
    known = tokenizer.get_vocab()
    wanted = (question_format or QuestionFormat()).tokens()
    tokenizer.add_tokens([token for token in wanted if token not in known], special_tokens=True)
    return tokenizer


def _language_config(source: str | Path, sizes: FlamingoSizes) -> dict[str, Any]:
    """What is needed of the language model's configuration, as plain data."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f'no language model is described at {source}: {str(error).splitlines()[0]} '
            'Give a folder with config.json of Qwen2.5, or its name on the Hugging Face Hub.'
        ) from error
    given = config.hidden_size, config.num_hidden_layers
    if given != (sizes.width, sizes.layers):
        raise CheckpointError(
            f'{source} has {given[1]} layers of width {given[0]}, the checkpoint {sizes.layers} of width '
            f'{sizes.width}: give the language model of the same size'
        )
    kept = config.to_diff_dict()
    for name in ('architectures', 'transformers_version', 'torch_dtype', 'dtype', '_name_or_path'):
        kept.pop(name, None)
    return {**kept, 'model_type': config.model_type, 'vocab_size': sizes.vocabulary}
