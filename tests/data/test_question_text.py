"""Claims about questions and answers as tokens."""

import json

import numpy as np
import pytest
import torch

from nemo_audio_restore.data.listening import InputWarning
from nemo_audio_restore.data.question_text import (
    IGNORED,
    QuestionError,
    QuestionFormat,
    QuestionTokenizer,
    with_options,
)

WORDS = 'what do you hear a dog cat barks two dogs the end'.split()
SPECIAL = QuestionFormat().tokens()


def tokenizer(special=SPECIAL):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(['<unk>', '<|endoftext|>', *WORDS]))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token='<unk>'))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, eos_token='<|endoftext|>', unk_token='<unk>')
    made.add_tokens(list(special), special_tokens=True)
    return made


@pytest.fixture(scope='module')
def questions():
    return QuestionTokenizer(tokenizer())


def words_of(questions, ids):
    return questions.tokenizer.convert_ids_to_tokens(ids)


def test_question_and_answer_are_written_as_published(questions):
    assert words_of(questions, questions.question(' What do you HEAR ')) == (
        ['<audio>', 'what', 'do', 'you', 'hear', '<SEP>']
    )
    assert words_of(questions, questions.answer('A dog')) == ['a', 'dog', '<|endofchunk|>', '<|endoftext|>']


def test_audio_tag_of_the_caller_is_not_doubled(questions):
    assert questions.question('<audio> what') == questions.question('what')
    with pytest.raises(QuestionError, match='2 <audio> tags, but one recording'):
        questions.question('<audio> what <audio>')


def test_case_is_kept_on_request():
    kept = QuestionTokenizer(tokenizer(), QuestionFormat(lower_case=False))
    assert words_of(kept, kept.question('What')) == ['<audio>', '<unk>', '<SEP>']


def test_special_tokens_in_a_question_are_mere_words(questions):
    ids = questions.question('what <SEP> a dog <|endofchunk|>')
    assert ids.count(questions.separator_id) == 1 and ids[-1] == questions.separator_id
    assert questions.end_id not in ids


@pytest.mark.parametrize('text', ['', '  ', '<audio>'])
def test_empty_question_is_refused(questions, text):
    with pytest.raises(QuestionError, match='empty'):
        questions.question(text)


def test_tokenizer_without_special_tokens_is_refused():
    with pytest.raises(QuestionError, match=r'lacks the special tokens <\|PAD_TOKEN\|>, <SEP>'):
        QuestionTokenizer(tokenizer(SPECIAL[:2]))


def test_only_the_answer_and_its_end_are_learned(questions):
    batch, labels = questions.pairs(['what', 'what do you hear'], ['two dogs', 'a'])
    for ids, mask, row in zip(batch.input_ids, batch.attention_mask, labels, strict=True):
        learned = words_of(questions, row[row != IGNORED].tolist())
        assert learned[-2:] == ['<|endofchunk|>', '<|endoftext|>']
        assert learned[:-2] in (['two', 'dogs'], ['a'])
        assert torch.equal(ids[row != IGNORED], row[row != IGNORED])
        assert (row[mask == 0] == IGNORED).all()


def test_answer_that_is_cut_is_told_and_not_learned():
    short = QuestionTokenizer(tokenizer(), QuestionFormat(max_tokens=6))
    with pytest.warns(InputWarning, match="have 8 tokens, more than 6: nothing is learned from 'two dogs'"):
        batch, labels = short.pairs(['what do'], ['two dogs'])
    assert batch.input_ids.shape == (1, 6)
    assert (labels == IGNORED).all()


def test_question_that_is_too_long_is_cut_with_a_warning():
    short = QuestionTokenizer(tokenizer(), QuestionFormat(max_tokens=5))
    with pytest.warns(InputWarning, match='has 4 tokens; the model reads the first 3'):
        ids = short.question('what do you hear')
    assert words_of(short, ids) == ['<audio>', 'what', 'do', 'you', '<SEP>']


def test_questions_of_a_batch_end_together(questions):
    batch = questions.questions(['what', 'what do you hear'])
    assert (batch.input_ids[:, -1] == questions.separator_id).all()
    assert batch.attention_mask.tolist() == [[0, 0, 0, 1, 1, 1], [1] * 6]


def test_text_of_an_answer_has_no_special_tokens(questions):
    ids = [*questions.question('what'), *questions.answer('two dogs'), questions.padding_id]
    assert questions.text(ids) == 'two dogs'
    assert questions.text(questions.answer('two dogs')) == 'two dogs'


def test_options_get_letters():
    assert with_options('what ', ['dog', ' cat']) == 'what (A) dog. (B) cat.'


@pytest.mark.parametrize('options', [['dog'], ['dog', ''], ['dog', 'Dog'], [str(i) for i in range(27)]])
def test_unusable_options_are_refused(options):
    with pytest.raises(QuestionError, match='2 to 26 different options'):
        with_options('what', options)


@pytest.mark.needs_fixtures
def test_labels_and_padding_are_the_published_ones(reference_arrays):
    folder = reference_arrays / 'audio_flamingo2'
    special = json.loads((folder / 'config.json').read_text())['special']
    published = object.__new__(QuestionTokenizer)
    published.eos_id, published.audio_id, published.end_id = special['eos'], special['audio'], special['endofchunk']
    published.padding_id, published.separator_id = special['pad'], special['sep']
    arrays = np.load(folder / 'arrays.npz')
    for ids, labels in (('fl_ids', 'fl_labels'), ('lab_trunc_ids', 'lab_trunc_labels')):
        found = published.labels(torch.from_numpy(arrays[ids]))
        assert np.array_equal(found.numpy(), arrays[labels])
    batches = np.load(folder / 'preprocess.npz')
    rows = [batches[f'collate_in{index}_ids'][0].tolist() for index in range(3)]
    published.padding_id = int(batches['collate_out_input_ids'].flat[-1])
    batch = published.padded(rows, left=False)
    assert np.array_equal(batch.input_ids.numpy(), batches['collate_out_input_ids'])
    assert np.array_equal(batch.attention_mask.numpy() > 0, batches['collate_out_attention_mask'])


def test_an_answer_among_options_goes_without_its_letter_on_demand():
    answers = [QuestionFormat(lettered_answers=lettered).option_answer('a dog', 1) for lettered in (True, False)]
    assert answers == ['(B) a dog', 'a dog']
