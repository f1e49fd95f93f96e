"""Transcripts and character error rates."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from nemo_audio_restore.evaluation.transcription import (
    WhisperTranscriber,
    character_error_rate,
    character_errors,
    normalise_text,
)

START, END, ENGLISH, TRANSCRIBE, NO_TIMES = 50258, 50257, 50259, 50359, 50363


class Numbers:
    """Stands for a tokenizer: writes the numbers of the tokens."""

    def decode_batch(self, tokens, skip_special_tokens):
        return [' '.join(str(t) for t in row if t < END or not skip_special_tokens) for row in tokens]


@pytest.fixture(scope='module')
def model():
    sizes = dict(d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1)
    config = WhisperConfig(vocab_size=51865, encoder_ffn_dim=64, decoder_ffn_dim=64, **sizes)
    model = WhisperForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
        # With these, transformers writes no timestamps either; ours never does.
        suppress_tokens=[1, 2, 3, *range(NO_TIMES, 51865)],
        begin_suppress_tokens=[220, END],
    )
    model.generation_config.lang_to_id = {'<|en|>': ENGLISH}
    model.generation_config.task_to_id = {'transcribe': TRANSCRIBE}
    model.generation_config.no_timestamps_token_id = NO_TIMES
    model.generation_config.is_multilingual = True
    return model


@pytest.fixture(scope='module')
def recordings():
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1 + 0.2 * index, 4000 * (index + 1)) for index in range(3)]


def test_greedy_transcripts_are_those_of_transformers(model, recordings):
    features = WhisperFeatureExtractor()(recordings[:1], sampling_rate=16000, return_tensors='pt').input_features
    wanted = model.generate(
        features, language='en', task='transcribe', num_beams=1, do_sample=False, max_new_tokens=19
    )[0].tolist()
    (text,) = WhisperTranscriber(model, Numbers(), language='en')(recordings[:1])
    found = [int(token) for token in text.split()]
    assert len(set(found)) > 1
    # A quarter of a second is allowed 12 / 4 + 16 tokens.
    assert found == [token for token in wanted if token < END] and len(found) == 19


def test_the_batch_size_changes_nothing(model, recordings):
    texts = [WhisperTranscriber(model, Numbers(), language='en', batch_size=size)(recordings) for size in (1, 3)]
    # The longest recording of a batch allows the others as many tokens.
    for alone, together in zip(*texts, strict=True):
        assert together.startswith(alone) and alone


def test_what_whisper_cannot_hear_is_refused(model):
    with pytest.raises(ValueError, match="no language 'xx'; it knows en"):
        WhisperTranscriber(model, Numbers(), language='xx')
    with pytest.raises(ValueError, match='30 s at once; got 31.0 s'):
        WhisperTranscriber(model, Numbers(), language='en')([np.zeros(31 * 16000)])


def test_case_punctuation_and_spelled_numbers_are_no_errors():
    assert normalise_text("It's TWENTY-one, please!", 'en') == normalise_text('it is 21 please', 'en')
    assert normalise_text('Всё, з+амок…', 'ru') == 'все замок'
    assert normalise_text('— …', 'ru') == ''


def test_errors_are_edits_of_characters():
    assert character_errors('abcd', 'ABXD!', 'cs') == (1, 4)
    assert character_errors('one word', '', 'cs') == (8, 8)
    assert character_error_rate(['abcd', 'efghijkl'], ['abc', 'efghijkl'], 'cs') == pytest.approx(1 / 12)
    assert character_error_rate(['ab'], ['ababab'], 'cs') == 2
    with pytest.raises(ValueError, match='no words'):
        character_errors('...', 'a', 'cs')
    with pytest.raises(ValueError, match='got 1, 2'):
        character_error_rate(['a', 'b'], ['a'], 'cs')
