"""The language model and the tokenizer that belong to an audio-language model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from typing_extensions import Self

from nemo_audio_restore.checkpoints.packaged_language import (
    PACKAGED,
    load_packaged_language_model,
    load_packaged_tokenizer,
)
from nemo_audio_restore.models.blocks import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LanguageModel(nn.Module):
    """A causal language model of `transformers`.

    Args:
        config: its configuration, with ``model_type``: ``qwen2``, ``llama`` and so on.
        weights: folder or hub name to take the weights from whenever the model is made, or
            ``packaged:smollm2-135m-instruct``; then they are frozen and no part of a saved model. None: the weights
            are part of the saved model.

    Raises:
        ConfigError: the configuration is of no causal language model, or the weights do not fit it.
        LanguageModelNotInstalledError: the packaged model is missing; install the `language` extra.
    """

    def __init__(self, *, config: Mapping[str, Any], weights: str | None = None):
        super().__init__()
        self.stored = weights is None
        model = _untrained(config) if weights is None else _pretrained(config, weights)
        if self.stored:
            self.model = model
        else:
            # Around nn.Module.__setattr__: not a submodule, so neither saved nor trained.
            self.__dict__['model'] = model.eval().requires_grad_(False)

    @property
    def width(self) -> int:
        """D of the hidden states."""
        return self.model.config.hidden_size

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return self.model.config.num_hidden_layers

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .to('cuda') and friends arrive here.
        if not self.stored:
            self.model._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _untrained(config: Mapping[str, Any]) -> 'PreTrainedModel':
    from transformers import AutoConfig, AutoModelForCausalLM

    arguments = dict(config)
    kind = arguments.pop('model_type', None)
    try:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **arguments))
    except Exception as error:  # what checks the sizes raises types of yet another package
        raise ConfigError(f'language_model.config is of no causal language model: {error}') from error


def _pretrained(config: Mapping[str, Any], weights: str) -> 'PreTrainedModel':
    model = load_packaged_language_model() if weights == PACKAGED else _downloaded(weights)
    different = {
        key: (value, getattr(model.config, key, None))
        for key, value in config.items()
        if key in ('model_type', 'hidden_size', 'num_hidden_layers') and getattr(model.config, key, None) != value
    }
    if different:
        raise ConfigError(
            f'{weights} does not fit language_model.config: '
            + ', '.join(f'{key} is {found}, expected {wanted}' for key, (wanted, found) in different.items())
        )
    size = config.get('vocab_size', model.config.vocab_size)
    if size != model.config.vocab_size:
        model.resize_token_embeddings(size, mean_resizing=False)
    return model


def _downloaded(weights: str) -> 'PreTrainedModel':
    from transformers import AutoModelForCausalLM

    try:
        # The library would keep the precision of the files; cross-attention and transform are in single precision.
        return AutoModelForCausalLM.from_pretrained(weights, use_safetensors=True).float()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'no language model can be loaded from {weights}: {str(error).splitlines()[0]} '
            'Give a folder with config.json and safetensors, or a name on the Hugging Face Hub.'
        ) from error


def read_tokenizer(file: str | Path, *, eos_token: str) -> 'PreTrainedTokenizerBase':
    """A tokenizer from its single file.

    Args:
        file: ``tokenizer.json``, or ``packaged:smollm2-135m-instruct``.
        eos_token: the token that ends a text; the file does not say which one it is.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is damaged, or does not know the token.
        LanguageModelNotInstalledError: the packaged one is missing; install the `language` extra.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = load_packaged_tokenizer() if file == PACKAGED else _tokenizer_file(file)
    if tokenizer.token_to_id(eos_token) is None:
        raise ConfigError(f'{file} does not know the token {eos_token!r}, which tokenizer.eos_token names')
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos_token)


def _tokenizer_file(file: str | Path) -> 'Tokenizer':
    from tokenizers import Tokenizer

    if not Path(file).is_file():
        raise FileNotFoundError(f'no tokenizer at {file}')
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more specific
        raise ConfigError(f'{file} is no tokenizer.json: {error}') from error
