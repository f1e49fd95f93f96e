"""An audio-language model in miniature, for tests: from a release with random tensors."""

import sys
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from nemo_audio_restore.models.audio_language import AudioLanguageModel

sys.path.insert(0, str(Path(__file__).parents[1] / 'checkpoints'))
from flamingo_release import language_config, released, write  # noqa: E402

RATE = 16000
WORDS = ['<unk>', '<|endoftext|>', *'what is it a dog cat or two do you hear describe the (a) (b)'.split()]


def save_language_model(folder, words=WORDS):
    """Configuration and tokenizer, as of a language model without the special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<|endoftext|>', unk_token='<unk>')
    made.save_pretrained(folder)
    config = language_config()
    config.vocab_size = len(words)
    config.save_pretrained(folder)
    return folder


def finite(tensors):
    """A release whose statistics of normalisation are possible, and whose gates are open."""
    for name, tensor in tensors.items():
        if name.endswith('running_var'):
            tensors[name] = tensor.abs() + 0.5
        elif tensor.is_floating_point() and tensor.ndim > 1:
            tensors[name] = tensor * 0.3
    return tensors


def made(folder):
    """The model."""
    language = save_language_model(folder / 'language')
    return AudioLanguageModel.from_audio_flamingo2(
        write(folder / 'release', finite(released())), language_model=language
    )


def config_of(model, **changes):
    """Its config with other blocks."""
    return OmegaConf.create({**OmegaConf.to_container(model.cfg), **changes})


def tone(seconds, hz=440.0):
    """A sine."""
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


CLIPS = [tone(1.0), tone(11.0, 300.0)]
QUESTIONS = ['what is it', 'do you hear a dog or two']
