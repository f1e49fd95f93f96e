"""The diffusion trainer without NeMo: latents of clips, resuming, and the way to a .nemo file."""

import gzip
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
import yaml

from nemo_audio_restore.signal.level import at_level

NETWORKS = 'nemo_audio_restore.networks.'
LATENTS_PER_S = 1000.0  # of the autoencoder below
AUTOENCODER = {
    'sample_rate': 8000,
    'network': {
        '_target_': f'{NETWORKS}waveform_autoencoder.WaveformAutoencoder',
        'encoder': {
            '_target_': f'{NETWORKS}waveform_coder.WaveformEncoder',
            'latent_channels': 3,
            'widths': [4, 6, 8],
            'strides': [2, 4],
        },
        'decoder': {
            '_target_': f'{NETWORKS}waveform_coder.WaveformDecoder',
            'latent_channels': 3,
            'widths': [8, 6, 4],
            'strides': [4, 2],
        },
        'latent_scale': 2.0,
    },
}
CONFIG = {
    'model': {
        'target': 'nemo_audio_restore.models.latent_diffusion.LatentDiffusionModel',
        'conditions': {
            'conditioners': {
                'prompt': {
                    '_target_': 'nemo_audio_restore.models.latent_diffusion_text.SentenceText',
                    'max_length': 6,
                },
                'seconds_total': {
                    '_target_': f'{NETWORKS}conditioners.NumberConditioner',
                    'dim': 384,
                    'maximum': 1.0,
                },
            },
            'cross_attention': ['prompt', 'seconds_total'],
            'summary': ['seconds_total'],
        },
        'network': {
            '_target_': f'{NETWORKS}latent_transformer.LatentTransformer',
            'latent_channels': 3,
            'dim': 32,
            'depth': 1,
            'num_heads': 1,
            'token_dim': 384,
            'project_tokens': True,
            'summary_dim': 384,
            'summary_use': 'modulate',
            'patch_size': 2,
        },
        'objective': 'v',
        'window_latents': 40,
        'sampler': {'steps': 2},
    }
}


@pytest.fixture
def trainer(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """examples/train_diffusion_plain.py."""
    monkeypatch.syspath_prepend(str(repository / 'examples'))
    import train_diffusion_plain

    return train_diffusion_plain


@pytest.fixture
def encoder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """examples/encode_latents_plain.py, with random features in place of the sentence encoder's."""
    monkeypatch.syspath_prepend(str(repository / 'examples'))
    import encode_latents_plain

    def features(texts: list[str]) -> list[torch.Tensor]:
        return [torch.full((1 + index % 3, 384), float(index)) for index in range(len(texts))]

    monkeypatch.setattr(encode_latents_plain, 'features_of', features)
    return encode_latents_plain


def write_latents(folder: Path, lengths: tuple[int, ...] = (61, 25, 41)) -> Path:
    """Files as the encoder writes them: every clip has a value of its own, silence is 9."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    data = {
        'mean': torch.cat([torch.full((length, 3), float(n)) for n, length in enumerate(lengths)]).half(),
        'deviation': torch.zeros(sum(lengths), 3).half(),
        'latents': list(lengths),
        'seconds': [(length - 1.5) / LATENTS_PER_S for length in lengths],
        'silence': torch.full((3,), 9.0),
        'latents_per_s': LATENTS_PER_S,
        'features': torch.randn(2 * len(lengths) + 2, 384, generator=generator).half(),
        'tokens': [2] * (len(lengths) + 1),
        'prompts': [[n, len(lengths)] for n in range(len(lengths))],
        'texts': [f'text {n}' for n in range(len(lengths) + 1)],
        'ids': [f'clip {n}' for n in range(len(lengths))],
        'tasks': ['effect', 'effect', 'groove'][: len(lengths)],
        'classes': ['rain', 'gong', 'waltz'][: len(lengths)],
    }
    for split in ('train', 'validation'):
        torch.save(data, folder / f'{split}.pt')
    return folder


def run(trainer: ModuleType, folder: Path, out: str, *more: str) -> dict:
    """Trains; returns the checkpoint."""
    (folder / 'config.yaml').write_text(yaml.safe_dump(CONFIG))
    command = ['--config', folder / 'config.yaml', '--latents', folder / 'latents', '--out', folder / out]
    command += ['--minutes', 'inf', '--windows-s', '0.02', '0.04', '--latents-per-batch', '80', '--max-steps', '4']
    trainer.train(trainer.options_of([str(part) for part in (*command, '--validation-size', '2', *more)]))
    return torch.load(folder / out / 'last.pt', weights_only=True)


def assert_equal_states(first: dict, second: dict) -> None:
    """Weights, averages and optimizers."""
    for name in ('model', 'averaged'):
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), (name, key)
    averages = [
        torch.stack([s['average'].norm() for s in o['optimizers'][0]['state'].values()]) for o in (first, second)
    ]
    assert torch.equal(*averages)


def test_resumed_run_equals_an_uninterrupted_one(trainer: ModuleType, tmp_path: Path):
    write_latents(tmp_path / 'latents')
    whole = run(trainer, tmp_path, 'whole')
    paused = run(trainer, tmp_path, 'parts', '--steps-now', '2')
    assert (paused['step'], whole['step']) == (2, 4)
    assert_equal_states(whole, run(trainer, tmp_path, 'parts'))
    rows = [json.loads(line) for line in (tmp_path / 'parts/log.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows] == [2, 4]
    assert {'noise_0', 'noise_3', 'effect', 'groove', 'validation', 'unconditional'} < set(rows[0])


def test_recipe_options_change_the_run(trainer: ModuleType, tmp_path: Path):
    write_latents(tmp_path / 'latents')
    plain = run(trainer, tmp_path, 'plain')['model']['network.transformer.project_in.weight']
    for number, option in enumerate(
        (
            ('--caption-share', '0'),
            ('--dropout', '1'),
            ('--short-share', '1'),
            ('--repeat-share', '0'),
            ('--cut-share', '1'),
            ('--log-ratio-mean', '2'),
            ('--log-ratio-std', '0.1'),
            ('--ending-log-ratio', '0'),
            ('--lr', '0.1'),
            ('--lr-others', '0.1'),
            ('--gradient-clip', '1e-9'),
        )
    ):
        changed = run(trainer, tmp_path, f'changed{number}', *option)
        assert not torch.equal(plain, changed['model']['network.transformer.project_in.weight']), option


def test_a_run_may_start_from_another_one_that_had_fewer_latent_channels(trainer: ModuleType, tmp_path: Path):
    write_latents(tmp_path / 'latents')
    before = run(trainer, tmp_path, 'before')['averaged']
    config = yaml.safe_load(yaml.safe_dump(CONFIG))['model']
    config['network']['latent_channels'] = 4
    model = trainer.Trained(config)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.start_from(model, tmp_path / 'before/last.pt', ['conditions.', 'network.to_global_embed'])
    for name, value in model.state_dict().items():
        taken = value[tuple(slice(0, size) for size in before[name].shape)]
        is_fresh = name.startswith(('conditions.', 'network.to_global_embed'))
        assert torch.equal(taken, own[name] if is_fresh else before[name]), name
    first = 'network.transformer.project_in.weight'
    assert torch.equal(model.state_dict()[first][:, 6:], own[first][:, 6:])
    started = run(trainer, tmp_path, 'after', '--start-from', str(tmp_path / 'before/last.pt'), '--steps-now', '0')
    torch.testing.assert_close(started['averaged'][first], before[first])


def test_clips_that_end_in_the_window_go_on_in_silence_and_say_when(trainer: ModuleType, tmp_path: Path):
    path = write_latents(tmp_path / 'latents') / 'train.pt'
    store = trainer.LatentStore(path, max_tokens=6, caption_share=1.0)
    batch = store.batch(64, 40, np.random.default_rng(0), short_share=1.0, repeat_share=0.0, cut_share=0.0)
    assert batch.clean.shape == (64, 3, 40)
    for clean, seconds, features, mask in zip(batch.clean, batch.seconds, batch.features, batch.mask, strict=True):
        clip = int(clean[0, 0])
        sounding = int((clean[0] != 9).sum())
        assert sounding == {0: 40, 1: 25, 2: 40}[clip]
        if clip == 1:
            assert float(seconds) == pytest.approx(0.0235)
        else:
            assert 0.039 < float(seconds) <= 0.0401
        assert torch.equal(features[:2].half(), store.features[2 * clip : 2 * clip + 2])
        assert mask.tolist() == [1, 1, 0, 0, 0, 0]
        assert not features[2:].any()
    full = store.batch(64, 40, np.random.default_rng(0), short_share=0.0, repeat_share=0.0, cut_share=0.0)
    assert not (full.clean == 9).any()


def test_repeated_clips_sound_until_the_end_of_the_window(trainer: ModuleType, tmp_path: Path):
    store = trainer.LatentStore(write_latents(tmp_path / 'latents') / 'train.pt', max_tokens=6)
    store.latents_per_s = 10.0  # pauses of 3 latents
    store.seconds = np.array([6.0, 2.4, 4.0])
    latents, seconds = store.row(1, 70, np.random.default_rng(3), repeated=True, end=70)
    sound = (latents[:, 0] == 1).tolist()
    assert sound[:25] == [True] * 25
    assert sum(sound) > 50
    assert seconds > 5.0
    assert not all(sound)
    once, ended = store.row(1, 70, np.random.default_rng(3), repeated=False, end=70)
    assert (int((once[:, 0] == 1).sum()), ended) == (25, 2.4)


def test_clips_that_are_cut_off_go_on_in_silence_and_say_when(trainer: ModuleType, tmp_path: Path):
    store = trainer.LatentStore(write_latents(tmp_path / 'latents') / 'train.pt', max_tokens=6)
    batch = store.batch(32, 24, np.random.default_rng(0), short_share=0.0, repeat_share=0.0, cut_share=1.0)
    sounding = (batch.clean[:, 0] != 9).sum(dim=1)
    assert len(set(sounding.tolist())) > 5
    assert 4 <= sounding.min() and sounding.max() < 24
    assert not (batch.clean.diff(dim=2).ne(0).any(dim=1).sum(dim=1) > 1).any()
    torch.testing.assert_close(batch.seconds, sounding / LATENTS_PER_S, atol=0.51 / LATENTS_PER_S, rtol=0)


def test_evenness_draws_rare_classes_more_often(trainer: ModuleType, tmp_path: Path):
    path = write_latents(tmp_path / 'latents') / 'train.pt'
    data = torch.load(path, weights_only=True)
    torch.save(data | {'tasks': ['effect'] * 3, 'classes': ['rain', 'rain', 'gong']}, path)
    shares = [
        trainer.LatentStore(path, max_tokens=6, evenness=evenness).weights.round(3).tolist() for evenness in (0, 1)
    ]
    assert shares == [[0.333, 0.333, 0.333], [0.25, 0.25, 0.5]]


@pytest.mark.parametrize('shape', [(24, 8), (8, 24), (16, 16)])
def test_orthogonal_keeps_singular_vectors_and_evens_singular_values(trainer: ModuleType, shape: tuple[int, int]):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    for iterations, threshold in ((3, 0.15), (5, 0.02)):
        made = left.T @ trainer.orthogonal(matrix, iterations) @ right.T
        diagonal = made.diagonal()[values > threshold * values.norm()]
        assert 0.6 < diagonal.min() and diagonal.max() < 1.3
        assert (made - torch.diag(made.diagonal())).abs().max() < 1e-3


def write_cuts(folder: Path) -> Path:
    """A manifest of two clips, one without metadata."""
    rng = np.random.default_rng(0)
    with gzip.open(folder / 'train.jsonl.gz', 'wt') as lines:
        for name, tags in (('rain', {'Type': 'rain', 'Place': 'roof'}), ('gong', {})):
            soundfile.write(folder / f'{name}.wav', 0.1 * rng.normal(size=1003), 8000, subtype='FLOAT')
            cut = {'id': name, 'start': 0.0, 'duration': 1003 / 8000, 'supervisions': [{'text': f'a {name}'}]}
            cut['recording'] = {'sampling_rate': 8000, 'sources': [{'source': f'{name}.wav'}]}
            cut['custom'] = {'task': 'effect', 'class': name, 'tags': tags}
            lines.write(json.dumps(cut) + '\n')
    return folder / 'train.jsonl.gz'


def test_clips_become_latents_and_a_run_becomes_a_nemo_file(encoder: ModuleType, trainer: ModuleType, tmp_path: Path):
    from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel

    torch.manual_seed(0)
    autoencoder = AudioAutoencoderModel(_as_config(AUTOENCODER)).eval()
    autoencoder.save_to(str(tmp_path / 'autoencoder.nemo'))
    command = ['--cuts', write_cuts(tmp_path), '--autoencoder', tmp_path / 'autoencoder.nemo', '--variants', '3']
    command += ['--level-db', '-12']
    for split in ('train', 'validation'):
        options = encoder.options_of([*map(str, command), '--out', str(tmp_path / f'latents/{split}.pt')])
        encoder.main(options)
    data = torch.load(tmp_path / 'latents/train.pt', weights_only=True)
    assert data['latents'] == [127, 127]
    assert data['latents_per_s'] == LATENTS_PER_S
    assert data['seconds'] == pytest.approx([0.125375] * 2)
    assert data['texts'][data['prompts'][0][0]] == 'a rain'
    assert len(data['prompts'][0]) > 1
    assert [data['texts'][text] for text in data['prompts'][1]] == ['a gong']
    audio = torch.from_numpy(soundfile.read(tmp_path / 'rain.wav', dtype='float32')[0]).expand(1, 2, -1)
    padded = torch.nn.functional.pad(at_level(audio[0], 8000, -12.0)[None], (0, 1016 - 1003))
    torch.testing.assert_close(
        data['mean'][:126].float().T[None], autoencoder.encode(padded)[..., :126], atol=2e-3, rtol=1e-2
    )

    state = run(trainer, tmp_path, 'run', '--max-steps', '1')
    from export_plain import export

    paths = tmp_path / 'config.yaml', tmp_path / 'run/last.pt', tmp_path / 'o.nemo'
    with pytest.raises(ValueError, match='--autoencoder belongs to a LatentDiffusionModel'):
        export(*paths)
    model = export(*paths, autoencoder=tmp_path / 'autoencoder.nemo')
    for name, value in model.network.state_dict().items():
        expected = state['averaged'][f'network.{name}']
        assert torch.equal(value, expected.half().float() if expected.ndim > 1 else expected), name
    assert model.autoencoder.is_trained
    assert model.window_samples == 320


def _as_config(content: dict):
    from omegaconf import OmegaConf

    return OmegaConf.create(content)
