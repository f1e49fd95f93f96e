"""What every test may rely on: one thread, no display, no network, markers that skip with a reason."""

import ipaddress
import os
import socket
from pathlib import Path

# Before torch, matplotlib or the hub client is imported, and inherited by the processes that tests start.
for _name, _value in {
    'OMP_NUM_THREADS': '1',
    'MPLBACKEND': 'Agg',
    'HF_HUB_OFFLINE': '1',
    'WANDB_MODE': 'disabled',
}.items():
    os.environ.setdefault(_name, _value)

import pytest  # noqa: E402

FIXTURES_VARIABLE = 'NAR_FIXTURES'


def pytest_collection_modifyitems(items):
    """Skips, with the reason, what this machine cannot run."""
    for item in items:
        if 'gpu' in item.keywords and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))
        if 'needs_fixtures' in item.keywords and FIXTURES_VARIABLE not in os.environ:
            item.add_marker(pytest.mark.skip(reason=f'needs {FIXTURES_VARIABLE}, the folder of reference arrays'))


def _has_gpu():
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope='session')
def reference_arrays():
    """The folder of reference arrays of the published checkpoints (marker ``needs_fixtures``)."""
    if FIXTURES_VARIABLE not in os.environ:
        pytest.skip(f'needs {FIXTURES_VARIABLE}, the folder of reference arrays')
    return Path(os.environ[FIXTURES_VARIABLE])


@pytest.fixture(scope='session')
def repository():
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuses every connection that leaves this machine: a test that needs one would fail elsewhere."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise OSError(f'a test tried to reach {address[0]}; tests run without a network')
        return connect(self, address)

    monkeypatch.setattr(socket.socket, 'connect', guarded)


def _is_local(host):
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
