"""Claims about importing the package."""

import json
import subprocess
import sys

import pytest

import nemo_audio_restore


def _modules_after(code):
    program = f'import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))'
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


@pytest.mark.parametrize(
    'code',
    [
        'import nemo_audio_restore; dir(nemo_audio_restore); nemo_audio_restore.__version__',
        'import nemo_audio_restore; nemo_audio_restore.list_models()',
    ],
)
def test_importing_the_package_and_listing_models_costs_no_torch_and_no_nemo(code):
    assert not {'torch', 'nemo', 'lightning', 'numpy', 'omegaconf'} & _modules_after(code)


def test_building_the_network_and_process_needs_no_nemo():
    code = 'from nemo_audio_restore import MagnitudePhaseSpectrogram, SchrodingerBridge'
    modules = _modules_after(code)
    assert 'torch' in modules and 'nemo' not in modules and 'lightning' not in modules


def test_every_public_name_is_listed_and_loads():
    for name in nemo_audio_restore.__all__:
        assert name in dir(nemo_audio_restore)
        assert getattr(nemo_audio_restore, name) is not None


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match='no attribute .AudioRestorModel'):
        _ = nemo_audio_restore.AudioRestorModel
