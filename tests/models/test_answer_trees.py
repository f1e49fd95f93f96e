"""Claims about a question with several answers behind it."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from nemo_audio_restore.data.question_text import QuestionFormat, QuestionTokenizer
from nemo_audio_restore.models.answer_trees import answer_tree
from nemo_audio_restore.networks.split_decoder import split_decoder

WORDS = ('<unk>', '<|endoftext|>', 'which', 'drum', 'snare', 'kick', 'cowbell')


@pytest.fixture(scope='module')
def parts():
    tokens = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token='<unk>'))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.add_special_tokens(list(QuestionFormat().tokens()))
    questions = QuestionTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token='<|endoftext|>'))
    torch.manual_seed(0)
    sizes = {'vocab_size': 16, 'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 2}
    config = AutoConfig.for_model('llama', **sizes, num_attention_heads=2, num_key_value_heads=1)
    return questions, split_decoder(AutoModelForCausalLM.from_config(config).eval(), 1)


def test_every_branch_is_what_question_and_answer_are_alone(parts):
    questions, decoder = parts
    answers = ['snare drum', 'kick', 'cowbell']
    tree = answer_tree(questions, decoder, 'which drum', answers)
    for index, answer in enumerate(answers):
        text, labels = questions.pairs(['which drum'], [answer])
        alone = decoder.texts(text.input_ids, text.attention_mask)[0]
        hidden, successors = tree.text(index)
        torch.testing.assert_close(hidden.float(), alone[:-1], atol=2e-3, rtol=0)
        assert successors.tolist() == labels[0, 1:].tolist()


def test_the_tree_as_a_whole_says_what_each_text_says(parts):
    questions, decoder = parts
    tree = answer_tree(questions, decoder, 'which drum', ['snare drum', 'cowbell'])
    everywhere = torch.ones(1, len(tree.places), dtype=torch.bool)
    whole = decoder.logits(tree.hidden.float()[None], tree.allowed[None, None], everywhere, tree.places[None])
    for index in range(2):
        hidden, _ = tree.text(index)
        mask = torch.ones(1, len(hidden), dtype=torch.long)
        alone = decoder.logits(hidden.float()[None], mask, mask.bool())
        torch.testing.assert_close(whole[tree.before(index)], alone[tree.asked - 1 :])


def test_a_tree_without_answers_is_refused(parts):
    with pytest.raises(ValueError, match='one answer at least'):
        answer_tree(*parts, 'which drum', [])
