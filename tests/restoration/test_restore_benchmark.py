"""benchmarks/restore.py on a network that is made up here."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from nemo_audio_restore.networks.folded_unet import FoldedUNet

FOLDER = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def benchmark():
    pytest.importorskip('zimtohrli')
    sys.path.insert(0, str(FOLDER))
    try:
        specification = importlib.util.spec_from_file_location('restore_benchmark', FOLDER / 'restore.py')
        module = importlib.util.module_from_spec(specification)
        # Dataclasses look their module up while it is being executed.
        sys.modules['restore_benchmark'] = module
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def tiny() -> FoldedUNet:
    torch.manual_seed(0)
    network = FoldedUNet(channels=(16, 16), num_blocks=(1, 1), attention_levels=(), embedding_channels=16)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return network.eval()


def test_forms_are_compared_round_by_round_with_the_plain_one(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, 'build', lambda arguments: tiny())
    cpu = torch.device('cpu')
    arguments = argparse.Namespace(device=cpu, forms=['fp32', 'bf16'], real=False, rounds=2, batch_size=1, frames=16)
    rows = benchmark.compare_networks(arguments)
    assert list(rows) == ['plain', 'fp32', 'bf16'] and all(len(row.times) == 2 for row in rows.values())
    assert all(seconds > 0 for row in rows.values() for seconds in row.times)
    assert rows['plain'].error == 0 and rows['fp32'].error < 1e-5 < rows['bf16'].error < 0.1
