"""Lets the tests of this folder import their stand-in for a model."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope='session')
def codec():
    from stand_in_codec import StandInCodec

    return StandInCodec()
