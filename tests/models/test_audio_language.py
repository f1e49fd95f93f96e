"""Claims about AudioLanguageModel, on a release in miniature."""

import sys
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from typer.testing import CliRunner

from nemo_audio_restore._nemo import load_safely
from nemo_audio_restore.apps.cli import app
from nemo_audio_restore.checkpoints.errors import CheckpointError
from nemo_audio_restore.data.listening import InputWarning, NothingToHearError
from nemo_audio_restore.data.question_text import QuestionError
from nemo_audio_restore.models import connector
from nemo_audio_restore.models.audio_language import AudioLanguageModel
from nemo_audio_restore.models.audio_language_answers import CutAnswerWarning
from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.text_decoding import TextSettings

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / 'checkpoints'))
from audio_language_stand_in import (  # noqa: E402
    CLIPS,
    QUESTIONS,
    RATE,
    WORDS,
    config_of,
    finite,
    save_language_model,
    tone,
)
from flamingo_release import language_config, released, write  # noqa: E402

CONF = Path(__file__).parents[2] / 'conf'
SHORT = TextSettings(max_new_tokens=5)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('flamingo')
    return write(root / 'release', finite(released())), save_language_model(root / 'language')


@pytest.fixture(scope='module')
def model(folders):
    release, language = folders
    return AudioLanguageModel.from_audio_flamingo2(release, language_model=language)


@pytest.mark.parametrize('questions', [QUESTIONS, QUESTIONS[1:] * 2])
def test_batch_of_mixed_lengths_answers_like_single_runs(model, questions):
    together = model.generate(prompts=questions, audios=CLIPS, settings=SHORT)
    single = [
        model.generate(prompts=[question], audios=[clip], settings=SHORT)[0]
        for question, clip in zip(questions, CLIPS, strict=True)
    ]
    assert together == single
    assert all(isinstance(text, str) for text in together)


@pytest.mark.parametrize('same', [True, False])
def test_answers_of_a_batch_that_end_at_different_times_are_those_of_single_runs(model, same):
    noise = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    clips = [tone(1.0, 200.0), tone(11.0), noise, tone(3.0, 2500.0)]
    questions = QUESTIONS[:1] * 4 if same else [*QUESTIONS, *QUESTIONS[::-1]]
    settings = TextSettings(max_new_tokens=17, temperature=1.0, seed=0 if same else 2)
    said = [''] * 4

    def hear(item, piece):
        said[item] += piece

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        together = model.generate(prompts=questions, audios=clips, settings=settings, on_text=hear)
    assert said == together and len({len(text.split()) for text in together}) > 1
    cut = {item for warning in caught for item in warning.message.items}
    for item, (question, clip) in enumerate(zip(questions, clips, strict=True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            assert model.generate(prompts=[question], audios=[clip], settings=settings) == [together[item]]
        assert bool(caught) == (item in cut)


@torch.no_grad()
def test_windows_that_fill_up_a_batch_change_nothing(model):
    ids = torch.tensor([model.questions.question('what is it')])
    windows = model.listening.windows(CLIPS[0], RATE)[None]
    features = model.encode_audio(windows, torch.ones(1, 1))
    expected = model(features, torch.ones(1, 1), ids, torch.ones_like(ids))
    more = torch.cat([features, torch.full_like(features, float('nan'))], dim=1)
    found = model(more, torch.tensor([[1, 0]]), ids, torch.ones_like(ids))
    assert torch.allclose(found, expected, atol=1e-5)
    padded = torch.cat([windows, torch.zeros_like(windows)], dim=1)
    assert torch.equal(model.encode_audio(padded, torch.tensor([[1, 0]]))[:, :1], features)


@torch.no_grad()
def test_other_audio_gives_other_logits(model):
    ids = torch.tensor([model.questions.question('what is it')])
    found = []
    for clip in (tone(1.0), tone(1.0, 3000.0)):
        features = model.encode_audio(model.listening.windows(clip, RATE)[None], torch.ones(1, 1))
        found.append(model(features, torch.ones(1, 1), ids, torch.ones_like(ids)))
    assert not torch.allclose(*found, atol=1e-4)


def test_conversations_prompts_tensors_and_files_are_the_same(model, tmp_path):
    soundfile.write(tmp_path / 'clip.wav', CLIPS[0], RATE, subtype='FLOAT')
    expected = model.generate(prompts=QUESTIONS[:1], audios=CLIPS[:1], settings=SHORT)
    part = {'type': 'text', 'text': QUESTIONS[0]}
    for audio in ({'type': 'audio', 'path': tmp_path / 'clip.wav'}, {'type': 'audio', 'audio': CLIPS[0]}):
        turn = {'role': 'user', 'content': [part, audio]}
        assert model.generate([[turn]], settings=SHORT) == expected
    beside = {'role': 'user', 'content': '<audio> ' + QUESTIONS[0], 'audio': [tmp_path / 'clip.wav']}
    assert model.generate([[beside]], settings=SHORT) == expected
    batch = torch.zeros(1, 20000)
    batch[0, :RATE] = torch.from_numpy(CLIPS[0])
    lens = torch.tensor([RATE])
    assert model.generate(prompts=QUESTIONS[:1], audios=batch, audio_lens=lens, settings=SHORT) == expected
    assert model.ask(tmp_path / 'clip.wav', QUESTIONS[0], settings=SHORT).text == expected[0]


def test_answers_that_are_cut_are_told(model):
    with pytest.warns(CutAnswerWarning, match='the answer is cut at 1 tokens; max_new_tokens of TextSettings allows'):
        model.ask(CLIPS[0], QUESTIONS[0], settings=TextSettings(max_new_tokens=1))
    with pytest.warns(CutAnswerWarning, match=r'2 of 2 answers \(items \[0, 1\]\) are cut') as caught:
        model.generate(prompts=QUESTIONS, audios=CLIPS, settings=TextSettings(max_new_tokens=1))
    assert caught[0].message.items == (0, 1) and caught[0].filename == __file__


def test_pieces_of_text_add_up_to_the_answers(model):
    said = ['', '']

    def hear(item, piece):
        said[item] += piece

    assert model.generate(prompts=QUESTIONS, audios=CLIPS, settings=SHORT, on_text=hear) == said


def test_probabilities_of_options_do_not_depend_on_their_order(model):
    first = model.ask(CLIPS[0], 'what is it', ['a dog', 'cat', 'two dog'])
    other = model.ask(CLIPS[0], 'what is it', ['cat', 'a dog', 'two dog'])  # no rotation of the first
    assert sum(first.probabilities.values()) == pytest.approx(1)
    assert first.text == max(first.probabilities, key=first.probabilities.get) == other.text
    for option, probability in first.probabilities.items():
        assert other.probabilities[option] == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize(
    ('given', 'error', 'message'),
    [
        ({'prompts': ['what'], 'audios': None}, NothingToHearError, 'give audios'),
        ({'prompts': ['what'], 'audios': []}, NothingToHearError, r'1 question\(s\) but 0 recording\(s\)'),
        ({'prompts': ['what'], 'audios': [np.zeros(0)]}, NothingToHearError, 'got the shape'),
        ({'prompts': [' '], 'audios': CLIPS[:1]}, QuestionError, 'the question is empty'),
        ({'prompts': ['<audio> <audio> what'], 'audios': CLIPS[:1]}, QuestionError, '2 <audio> tags'),
        ({'prompts': 'what', 'audios': CLIPS[:1]}, QuestionError, 'must be a list'),
        ({'prompts': ['what'], 'audios': CLIPS[:1], 'audio_lens': torch.ones(1)}, NothingToHearError, 'one tensor'),
        (
            {'prompts': ['what'], 'audios': torch.ones(1, 9), 'audio_lens': torch.tensor([10])},
            NothingToHearError,
            r'must be 1 numbers of samples from 1 to 9; got \[10\]',
        ),
        (
            {'prompts': ['what'], 'audios': torch.ones(1, 9), 'audio_lens': torch.tensor([3, 3])},
            NothingToHearError,
            r'must be 1 numbers of samples',
        ),
        ({'prompts': ['what'], 'audios': 'song.wav'}, NothingToHearError, 'audios must be a list of recordings'),
        ({'conversations': [], 'audios': CLIPS[:1]}, ValueError, 'hold their recordings themselves'),
        ({}, ValueError, 'either conversations, or prompts'),
        ({'conversations': [[{'role': 'user', 'content': 'what'}]]}, NothingToHearError, 'this conversation has 0'),
        ({'conversations': [[]]}, QuestionError, 'one turn of the role user'),
        (
            {'conversations': [[{'role': 'user', 'content': [{'type': 'image'}]}]]},
            QuestionError,
            "must be of type text or audio; got 'image'",
        ),
    ],
)
def test_bad_input_is_refused_in_words(model, given, error, message):
    with pytest.raises(error, match=message):
        model.generate(**given)


def test_silence_and_six_minutes_are_answered_with_a_warning(model):
    with pytest.warns(InputWarning, match='is silent'):
        assert isinstance(model.caption(np.zeros(3), prompt='describe it', settings=SHORT), str)
    few = model.listening.max_windows
    assert few == 12
    with pytest.warns(InputWarning, match=r'lasts 360\.0 s; the model hears the first 120 s'):
        assert model.listening.windows(np.zeros(360 * RATE) + 0.1, RATE).shape[0] == few


def test_options_are_scored_without_their_list_as_far_as_the_format_says(model, monkeypatch):
    scores = {}
    for weight in (0.0, 0.25, 1.0):
        monkeypatch.setattr(model, 'question_format', replace(model.question_format, unlisted_weight=weight))
        found = model.ask(CLIPS[0], 'what is it', ['two dog', 'cat', 'a dog']).probabilities
        scores[weight] = torch.tensor([found[option] for option in sorted(found)], dtype=torch.float64)
    assert scores[1.0].sum() == pytest.approx(1) and not torch.allclose(scores[0.0], scores[1.0])
    torch.testing.assert_close(scores[0.25], 0.75 * scores[0.0] + 0.25 * scores[1.0])


def test_options_that_do_not_fit_are_refused(model):
    many = [' '.join(['dog'] * length) for length in range(2, 40, 2)]
    with pytest.warns(InputWarning), pytest.raises(QuestionError, match='more than the 512 that the model reads'):
        model.ask(CLIPS[0], 'what is it', many + [' '.join(['cat'] * 500)])
    with pytest.raises(QuestionError, match='the question is empty'):
        model.ask(CLIPS[0], ' ', ['a', 'cat'])


def test_saved_model_answers_the_same(model, tmp_path):
    expected = model.generate(prompts=QUESTIONS, audios=CLIPS, settings=SHORT)
    model.save_to(tmp_path / 'model.nemo')
    with tarfile.open(tmp_path / 'model.nemo') as archive:
        assert any(name.endswith('tokenizer.json') for name in archive.getnames())
    restored = AudioLanguageModel.restore_from(tmp_path / 'model.nemo')
    assert restored.listening.published_numerics and not restored.training
    assert restored.generate(prompts=QUESTIONS, audios=CLIPS, settings=SHORT) == expected


def test_restored_weights_are_pages_of_the_file_and_no_copies(model, tmp_path, monkeypatch):
    model.save_to(tmp_path / 'model.nemo')
    loaded = []

    def watched(*args, **options):
        loaded.append((options['mapped'], load_safely(*args, **options)))
        return loaded[-1][1]

    monkeypatch.setattr(connector, 'load_safely', watched)
    restored = AudioLanguageModel.restore_from(tmp_path / 'model.nemo')
    ((mapped, state),) = loaded
    assert mapped
    assert all(tensor.data_ptr() == state[name].data_ptr() for name, tensor in restored.state_dict().items())
    language = restored.language_model
    assert language.lm_head.weight is language.model.embed_tokens.weight
    with torch.no_grad():  # a file that is read only must not show through
        restored.audio_transform.norm.weight.add_(1.0)
    again = AudioLanguageModel.restore_from(tmp_path / 'model.nemo', strict=False)
    assert not loaded[-1][0]
    assert torch.equal(again.audio_transform.norm.weight, model.audio_transform.norm.weight)


@pytest.mark.parametrize(('half', 'expected'), [(False, torch.bfloat16), (True, torch.float32)])
def test_model_in_bfloat16_is_restored_so_and_a_file_of_halves_in_single_precision(folders, tmp_path, half, expected):
    release, language = folders
    dtype = torch.float32 if half else torch.bfloat16
    small = AudioLanguageModel.from_audio_flamingo2(release, language_model=language, dtype=dtype)
    said = small.generate(prompts=QUESTIONS, audios=CLIPS, settings=SHORT)
    small.save_to(tmp_path / 'model.nemo', half_precision=half)
    restored = AudioLanguageModel.restore_from(tmp_path / 'model.nemo')
    assert restored.audio_transform.norm.weight.dtype == restored.language_model.dtype == expected
    if not half:
        assert restored.generate(prompts=QUESTIONS, audios=CLIPS, settings=SHORT) == said


def test_the_command_converts_a_release_to_the_precision_and_length_that_are_asked_for(folders, tmp_path):
    release, language = folders
    for options, dtype, windows in (([], torch.float32, 12), (['--precision', 'bf16'], torch.bfloat16, 30)):
        out = tmp_path / f'{windows}.nemo'
        given = ['convert', 'audio-flamingo2', release, '--language-model', language, '-o', out, *options]
        given += ['--max-windows', windows] if options else []
        assert CliRunner().invoke(app, list(map(str, given))).exit_code == 0
        restored = AudioLanguageModel.restore_from(str(out))
        assert restored.audio_transform.norm.weight.dtype == dtype
        with pytest.warns(InputWarning, match=f'hears the first {windows * 10} s'):
            restored.listening.windows(np.zeros(301 * RATE) + 0.1, RATE)


def test_language_model_of_another_size_is_refused(folders, tmp_path):
    save_language_model(tmp_path / 'three')
    language_config(num_layers=3).save_pretrained(tmp_path / 'three')
    with pytest.raises(CheckpointError, match='has 3 layers of width 16, the checkpoint 2 of width 16'):
        AudioLanguageModel.from_audio_flamingo2(folders[0], language_model=tmp_path / 'three')
    save_language_model(tmp_path / 'words', [*WORDS, 'one', 'more', 'and', 'more2', 'than', 'fit'])
    with pytest.raises(CheckpointError, match='belongs to another language model'):
        AudioLanguageModel.from_audio_flamingo2(folders[0], language_model=tmp_path / 'words')
    with pytest.raises(FileNotFoundError, match='no language model is described at'):
        AudioLanguageModel.from_audio_flamingo2(folders[0], language_model=tmp_path / 'nothing')


def test_encoder_of_whisper_hears_as_well(model):
    tower = {
        '_target_': 'nemo_audio_restore.networks.window_towers.WhisperTower',
        'window_s': 1.0,
        'dim': 64,
        'num_layers': 1,
        'num_heads': 1,
        'frames_per_token': 5,
    }
    whisper = AudioLanguageModel(config_of(model, audio_tower=tower, listening={'window_s': 1.0})).eval()
    windows = whisper.listening.windows(tone(2.5), RATE)[None]
    assert whisper.encode_audio(windows, torch.ones(1, 3)).shape == (1, 3, 10, 64)
    assert len(whisper.generate(prompts=QUESTIONS, audios=CLIPS, settings=SHORT)) == 2
    with pytest.raises(ConfigError, match='listening.sample_rate is 8000, but the audio tower works at 16000 Hz'):
        AudioLanguageModel(config_of(model, listening={'sample_rate': 8000}))


def test_model_without_tokenizer_takes_numbers_alone(model):
    bare = AudioLanguageModel(config_of(model, tokenizer=None))
    with pytest.raises(ConfigError, match='no tokenizer'):
        bare.generate(prompts=['what'], audios=CLIPS[:1])


@pytest.mark.parametrize('prepared', [lambda model: model, lambda model: model.train()])
def test_frozen_parts_stay_in_evaluation_mode_and_without_gradient(model, prepared):
    trained = prepared(AudioLanguageModel(config_of(model, training={'trained': ['cross_attention']})))
    assert trained.cross_attention.training
    assert not any(module.training for module in trained.audio_tower.modules())
    assert not any(module.training for module in trained.language_model.modules())
    learning = {name.split('.')[0] for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert learning == {'cross_attention'}
    with pytest.raises(ConfigError, match="must name parts among .*; got \\['lungs'\\]"):
        AudioLanguageModel(config_of(model, training={'trained': ['lungs']}))


def test_a_step_of_training_changes_what_is_trained_alone(model):
    calm = {**OmegaConf.to_container(model.cfg.audio_transform), 'attention_dropout': 0.0}
    parts = ['audio_transform', 'cross_attention']
    trained = AudioLanguageModel(config_of(model, training={'trained': parts}, audio_transform=calm)).train()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    text, labels = trained.questions.pairs(QUESTIONS, ['a dog', 'a cat'])
    windows = torch.stack([trained.listening.windows(tone(1.0, hz), RATE) for hz in (300.0, 900.0)])
    batch = {
        'windows': windows,
        'window_mask': torch.ones(2, 1, dtype=torch.bool),
        'input_ids': text.input_ids,
        'attention_mask': text.attention_mask,
        'labels': labels,
    }
    trained.log = lambda *args, **options: None
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        loss = trained.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    after = trained.state_dict()
    changed = {name.split('.')[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(parts)


def test_language_model_from_elsewhere_is_not_saved(model, tmp_path):
    save_language_model(tmp_path / 'whole')
    model.language_model.save_pretrained(tmp_path / 'whole')
    block = {**OmegaConf.to_container(model.cfg.language_model), 'weights': str(tmp_path / 'whole')}
    foreign = AudioLanguageModel(config_of(model, language_model=block))
    foreign.audio_tower.load_state_dict(model.audio_tower.state_dict())
    foreign.audio_transform.load_state_dict(model.audio_transform.state_dict())
    foreign.cross_attention.load_state_dict(model.cross_attention.state_dict())
    assert not any(name.startswith('language') for name in foreign.state_dict())
    asked = {'prompts': QUESTIONS[:1], 'audios': CLIPS[:1], 'settings': SHORT}
    assert foreign.eval().generate(**asked) == model.generate(**asked)
    with pytest.raises(ConfigError, match='what it learns would be lost'):
        AudioLanguageModel(config_of(model, language_model=block, training={'trained': ['language_model']}))
    with pytest.raises(ConfigError, match='of no causal language model'):
        AudioLanguageModel(config_of(model, language_model={'config': {'model_type': 'abacus'}}))
    with pytest.raises(ConfigError, match='hidden_size is 16, expected 24'):
        wrong = {**block, 'config': {**block['config'], 'hidden_size': 24}}
        AudioLanguageModel(config_of(model, language_model=wrong))


# Parts of the published checkpoints: transform, cross-attention, language model. The audio tower has 270,931,992.
SIZES = {
    '0.5b': (75_538_432, 226_578_480, 493_793_536),
    '1.5b': (75_538_432, 631_414_840, 1_543_304_192),
    '3b': (75_538_432, 1_359_249_480, 3_085_391_872),
}


@pytest.mark.parametrize('size', SIZES)
def test_config_has_the_published_size(size):
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(f'audio_flamingo2_{size}').model
    with torch.device('meta'):
        made = AudioLanguageModel(OmegaConf.merge(config, {'train_ds': None, 'validation_ds': None}))
    parts = (made.audio_transform, made.cross_attention, made.language_model, made.audio_tower)
    counts = tuple(sum(parameter.numel() for parameter in part.parameters()) for part in parts)
    assert counts == (*SIZES[size], 270_931_992)
