"""Claims about batches of recordings with questions and answers."""

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from tokenizers import Tokenizer, models, pre_tokenizers

from nemo_audio_restore.data.listening import Listening
from nemo_audio_restore.data.question_dataset import QuestionDataset
from nemo_audio_restore.data.question_text import IGNORED, QuestionError, QuestionFormat, QuestionTokenizer

WORDS = ['<unk>', '<|endoftext|>', 'what', 'a', 'dog', 'cat']


@pytest.fixture(scope='module')
def dataset():
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token='<unk>'))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token='<|endoftext|>', unk_token='<unk>')
    tokenizer.add_tokens(list(QuestionFormat().tokens()), special_tokens=True)
    return QuestionDataset(Listening(window_s=0.5, max_windows=3), QuestionTokenizer(tokenizer))


def cut(folder, name, seconds, *, question='what', answer='a dog', supervisions=1):
    path = folder / f'{name}.wav'
    soundfile.write(path, 0.1 * np.ones(round(seconds * 16000), np.float32), 16000)
    recording = Recording.from_file(path)
    segments = [
        SupervisionSegment(f'{name}-{index}', name, 0.0, seconds, text=answer, custom={'question': question})
        for index in range(supervisions)
    ]
    return MonoCut(name, 0.0, seconds, 0, supervisions=segments, recording=recording)


def test_recordings_and_texts_of_a_batch_belong_together(dataset, tmp_path):
    cuts = CutSet.from_cuts([cut(tmp_path, 'x', 0.3), cut(tmp_path, 'y', 1.2, answer='a cat a dog')])
    batch = dataset[cuts]
    assert batch['windows'].shape == (2, 3, 8000)
    assert batch['window_mask'].tolist() == [[True, False, False], [True, True, True]]
    assert not batch['windows'][0, 1:].any()
    learned = [row[row != IGNORED].tolist() for row in batch['labels']]
    assert learned == [dataset.questions.answer('a dog'), dataset.questions.answer('a cat a dog')]
    assert torch.equal(batch['attention_mask'].sum(dim=1), torch.tensor([7, 9]))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'supervisions': 2}, 'cut z must have one supervision with question and answer; got 2'),
        ({'question': None}, "needs an answer .* and a question .*; got 'a dog' and None"),
        ({'answer': ''}, "got '' and 'what'"),
    ],
)
def test_cuts_without_question_or_answer_are_refused(dataset, tmp_path, changes, message):
    with pytest.raises(QuestionError, match=message):
        dataset[CutSet.from_cuts([cut(tmp_path, 'z', 0.3, **changes)])]


def spoken(folder, *turns):
    made = cut(folder, 'c', 0.3, supervisions=0)
    made.custom = {'conversation': [{'role': role, 'content': content} for role, content in turns]}
    return CutSet.from_cuts([made])


def test_a_conversation_is_a_question_and_an_answer(dataset, tmp_path):
    expected = dataset[CutSet.from_cuts([cut(tmp_path, 'x', 0.3)])]
    parts = [{'type': 'audio'}, {'type': 'text', 'text': 'what'}]
    for content in ('what', parts):
        cuts = spoken(tmp_path, ('user', content), ('assistant', 'a dog'))
        cuts.to_file(tmp_path / 'cuts.jsonl')
        batch = dataset[CutSet.from_file(tmp_path / 'cuts.jsonl')]
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ('turns', 'message'),
    [
        ([('user', 'what')], r"cut c: a conversation must be one turn .*; got \['user'\]"),
        ([('user', [{'type': 'audio'}]), ('assistant', 'a dog')], r"need words; got \['', 'a dog'\]"),
        ([('user', 'what'), ('assistant', None)], r"need words; got \['what', ''\]"),
    ],
)
def test_conversations_that_say_too_little_are_refused(dataset, tmp_path, turns, message):
    with pytest.raises(QuestionError, match=message):
        dataset[spoken(tmp_path, *turns)]
