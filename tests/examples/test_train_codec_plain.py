"""The codec's trainer without NeMo, and the way from its checkpoint to a .nemo file."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

SMALL = {'samples_per_frame': 1024, 'encoded_dim': 8, 'channels': 16, 'num_blocks': 1}
SMALL |= {'frame_channels': 16, 'num_frame_blocks': 1}
NETWORKS = 'nemo_audio_restore.networks.spectral_codec'
CONFIG = {
    'model': {
        'target': 'nemo_audio_restore.models.speech_codec.SpeechCodecModel',
        'sample_rate': 22050,
        'samples_per_frame': 1024,
        'audio_encoder': {'_target_': f'{NETWORKS}.SpectralEncoder', **SMALL},
        'vector_quantizer': {'num_groups': 2, 'num_levels_per_group': [8, 7, 6, 6]},
        'audio_decoder': {'_target_': f'{NETWORKS}.SpectralDecoder', **SMALL},
    }
}


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config, and manifests of bursts of noise."""
    folder = tmp_path_factory.mktemp('codec')
    (folder / 'config.yaml').write_text(yaml.safe_dump(CONFIG))
    rng = np.random.default_rng(0)
    for split, count in (('train', 3), ('validation', 1)):
        with gzip.open(folder / f'{split}.jsonl.gz', 'wt') as lines:
            for index in range(count):
                bursts = 0.05 + 0.3 * (np.sin(np.arange(44100) / 900) > 0)
                noise = bursts * np.convolve(rng.normal(size=44100), [0.2, 0.3, 0.2], 'same')
                soundfile.write(folder / f'{split}{index}.wav', noise, 22050, subtype='FLOAT')
                recording = {'sampling_rate': 22050, 'sources': [{'source': f'{split}{index}.wav'}]}
                lines.write(json.dumps({'id': f'{split}{index}', 'recording': recording}) + '\n')
    return folder


def train(repository: Path, folder: Path, *, steps: int) -> list[dict]:
    """Runs the script up to a number of steps; returns its log."""
    command = [sys.executable, repository / 'examples/train_codec_plain.py', '--config', folder / 'config.yaml']
    command += ['--data', folder, '--out', folder / 'run', '--max-steps', str(steps), '--minutes', '30']
    command += ['--batch-size', '2', '--crop-frames', '8', '--resolutions', '1']
    subprocess.run(command, check=True, cwd=repository)
    return [json.loads(line) for line in (folder / 'run/log.jsonl').read_text().splitlines()]


def test_training_resumes_and_its_average_becomes_a_nemo_file(repository: Path, run_folder: Path):
    train(repository, run_folder, steps=2)
    log = train(repository, run_folder, steps=25)
    assert [row['step'] for row in log] == [2, 25]
    assert log[1]['mel'] < log[0]['mel'] + 0.01
    state = torch.load(run_folder / 'run/last.pt', weights_only=True)
    assert state['step'] == 25

    script, out = repository / 'examples/export_plain.py', run_folder / 'small.nemo'
    options = ['--config', run_folder / 'config.yaml', '--checkpoint', run_folder / 'run/last.pt', '--out', out]
    subprocess.run([sys.executable, script, *options], check=True, cwd=repository)

    from nemo_audio_restore.models.speech_codec import SpeechCodecModel

    model = SpeechCodecModel.restore_from(out)
    for name, value in model.audio_decoder.state_dict().items():
        expected = state['averaged'][f'audio_decoder.{name}']
        assert torch.equal(value, expected.half().float() if expected.ndim > 1 else expected), name


def test_rounding_of_the_trainer_is_that_of_nemo(repository: Path, monkeypatch: pytest.MonkeyPatch):
    from nemo.collections.tts.modules.audio_codec_modules import GroupFiniteScalarQuantizer

    monkeypatch.syspath_prepend(str(repository / 'examples'))
    from train_codec_plain import Rounding

    settings = {'num_groups': 8, 'num_levels_per_group': [8, 7, 6, 6]}
    encoded = 2 * torch.randn(2, 32, 50, generator=torch.Generator().manual_seed(0))
    expected, _ = GroupFiniteScalarQuantizer(**settings)(inputs=encoded, input_len=torch.tensor([50, 50]))
    torch.testing.assert_close(Rounding(**settings)(encoded), expected, rtol=0, atol=1e-6)
