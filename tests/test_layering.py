"""The house rules that can be read off the source: who may import whom, and what library code never does.

The checker comes first, then the proof that the package keeps the rules and that a planted breach is found.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = 'nemo_audio_restore'
MAX_LINES = 450

# layer -> the layers it may import. `models` wires everything; `apps` may import everything; nobody imports `apps`.
ALLOWED = {
    'signal': set(),
    'files': set(),
    'processes': {'signal'},
    'networks': {'signal'},
    'losses': {'signal'},
    'data': {'signal', 'files'},
    'evaluation': {'signal', 'files'},
    'restoration': {'signal', 'processes', 'files'},
    'checkpoints': {'signal', 'processes', 'networks'},
    'distillation': {'signal'},
    'codec': {'files'},
    'generation': {'signal', 'processes', 'files', 'evaluation'},
    'reporting': {'signal', 'files', 'evaluation', 'restoration', 'generation', 'checkpoints'},
    '_nemo': set(),
}
WIRING = {
    'signal',
    'files',
    'processes',
    'networks',
    'losses',
    'data',
    'evaluation',
    'restoration',
    'distillation',
    'codec',
    'generation',
    'checkpoints',
}
ALLOWED['models'] = WIRING | {'_nemo'}
ALLOWED['__init__'] = ALLOWED['models'] | {'models'}
ALLOWED['apps'] = ALLOWED['models'] | {'models', 'reporting', '__init__'}

NEMO = {'nemo', 'lightning', 'pytorch_lightning', 'hydra'}
NEMO_LAYERS = {'models', '_nemo'}
AUDIO_IO = {'soundfile', 'audioread', 'wave', 'av', 'scipy.io', 'torchcodec'}
FORBIDDEN = {
    'torchaudio': 'it does not install beside a CPU build of torch',
    'pickle': 'unpickling a foreign file runs its code',
}
SIGNAL_LIBRARIES = {'torch', 'numpy'}
GLOBAL_STATE = {
    'torch.manual_seed',
    'torch.set_num_threads',
    'torch.set_default_dtype',
    'torch.use_deterministic_algorithms',
    'np.random.seed',
    'numpy.random.seed',
    'random.seed',
}


@dataclass(frozen=True)
class Module:
    """One file of the package: its layer and its parsed source."""

    path: Path
    layer: str
    tree: ast.Module
    lines: int


def parse(relative: Path, source: str) -> Module:
    """Reads a module of the package, named by its path inside the package."""
    layer = relative.parts[0] if len(relative.parts) > 1 else relative.stem
    return Module(relative, layer, ast.parse(source), source.count('\n') + 1)


def imported_names(module: Module) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that the module imports, at its top or inside a function."""
    package = (PACKAGE, *module.path.parts[:-1])
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                base = '.'.join([*package[: len(package) - node.level + 1], *base.split('.')]).strip('.')
            for alias in node.names:
                yield node.lineno, f'{base}.{alias.name}'


def violations(module: Module) -> list[str]:
    """Every breach of the house rules in one module, as sentences with file and line."""
    return [f'{module.path}:{line}: {text}' for check in CHECKS for line, text in check(module)]


def _layers(module: Module) -> Iterator[tuple[int, str]]:
    if module.layer not in ALLOWED:
        yield 1, f'unknown layer {module.layer!r}; give it its imports in tests/test_layering.py'
        return
    for line, name in imported_names(module):
        parts = name.split('.')
        if parts[0] != PACKAGE or name == f'{PACKAGE}.__version__':
            continue
        other = parts[1] if len(parts) > 1 else '__init__'
        if other not in ALLOWED:  # `from nemo_audio_restore import name`: the lazy front door
            other = '__init__'
        if other != module.layer and other not in ALLOWED[module.layer]:
            yield line, f'{module.layer} must not import {other}'


def _foreign_libraries(module: Module) -> Iterator[tuple[int, str]]:
    for line, name in imported_names(module):
        top = name.split('.')[0]
        if top in NEMO and module.layer not in NEMO_LAYERS:
            yield line, f'{module.layer} must not import {top}: below models everything runs with plain torch'
        if module.layer != 'files' and any(name == io or name.startswith(io + '.') for io in AUDIO_IO):
            yield line, f'{module.layer} must not import {top}: only files opens audio'
        if top in FORBIDDEN:
            yield line, f'{top} is not used here: {FORBIDDEN[top]}'
        if top == 'typer' and module.layer != 'apps':
            yield line, f'{module.layer} must not import typer: the command line is a layer of its own'


def _signal_libraries(module: Module) -> Iterator[tuple[int, str]]:
    if module.layer != 'signal':
        return
    for line, name in imported_names(module):
        top = name.split('.')[0]
        if top not in SIGNAL_LIBRARIES | {PACKAGE} and top not in sys.stdlib_module_names:
            yield line, f'signal must not import {top}: torch and numpy only'


def _calls(module: Module) -> Iterator[tuple[int, str]]:
    if module.layer == 'apps':
        return
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == 'print':
            yield node.lineno, 'print below apps; return the value or log it'
        if name in GLOBAL_STATE:
            yield node.lineno, f'{name} changes global state'
        if name == 'torch.load' and not _keyword_is_true(node, 'weights_only'):
            yield node.lineno, 'torch.load without weights_only=True runs code from the file'


def _keyword_is_true(call: ast.Call, name: str) -> bool:
    return any(
        keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in call.keywords
    )


def _signatures(module: Module) -> Iterator[tuple[int, str]]:
    if module.layer in NEMO_LAYERS:  # NeMo's own signatures pass keywords through
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef) and node.args.kwarg and not node.name.startswith('_'):
            yield node.lineno, f'{node.name} passes **{node.args.kwarg.arg} through; name the parameters'


def _length(module: Module) -> Iterator[tuple[int, str]]:
    if module.lines > MAX_LINES:
        yield module.lines, f'{module.lines} lines; a file is one idea, at most {MAX_LINES} lines'


CHECKS = (_layers, _foreign_libraries, _signal_libraries, _calls, _signatures, _length)


PACKAGE_ROOT = Path(__file__).resolve().parent.parent / PACKAGE
FILES = sorted(path.relative_to(PACKAGE_ROOT) for path in PACKAGE_ROOT.rglob('*.py'))


@pytest.mark.parametrize('relative', FILES, ids=str)
def test_module_keeps_the_house_rules(relative):
    source = (PACKAGE_ROOT / relative).read_text(encoding='utf-8')
    assert violations(parse(relative, source)) == []


@pytest.mark.parametrize('folder', ['examples', 'benchmarks', 'tests'])
def test_scripts_and_tests_stay_short(folder):
    for path in (PACKAGE_ROOT.parent / folder).rglob('*.py'):
        lines = path.read_text(encoding='utf-8').count('\n')
        assert lines <= MAX_LINES, f'{path} has {lines} lines, more than {MAX_LINES}'


@pytest.mark.parametrize(
    ('path', 'source', 'expected'),
    [
        ('signal/a.py', 'from nemo_audio_restore.files import audio', 'signal must not import files'),
        ('signal/a.py', 'import scipy.signal', 'signal must not import scipy'),
        ('processes/a.py', 'from ..networks import unet', 'processes must not import networks'),
        ('networks/a.py', 'import nemo_audio_restore.processes.bridge', 'networks must not import processes'),
        ('networks/a.py', 'from nemo.core import NeuralModule', 'networks must not import nemo'),
        ('restoration/a.py', 'def f():\n    from nemo.utils import logging', 'restoration must not import nemo'),
        ('restoration/a.py', 'from nemo_audio_restore import AudioRestoreModel', 'must not import __init__'),
        ('evaluation/a.py', 'import soundfile', 'only files opens audio'),
        ('data/a.py', 'from scipy.io import wavfile', 'only files opens audio'),
        ('models/a.py', 'from nemo_audio_restore.apps import cli', 'models must not import apps'),
        ('checkpoints/a.py', 'from nemo_audio_restore.models import base', 'checkpoints must not import models'),
        ('files/a.py', 'import torchaudio', 'torchaudio is not used here'),
        ('checkpoints/a.py', 'import pickle', 'pickle is not used here'),
        ('checkpoints/a.py', "import torch\ntorch.load('a.ckpt')", 'weights_only'),
        ('checkpoints/a.py', "import torch\ntorch.load('a.ckpt', weights_only=False)", 'weights_only'),
        ('processes/a.py', "print('step')", 'print below apps'),
        ('processes/a.py', 'import torch\ntorch.manual_seed(0)', 'changes global state'),
        ('restoration/a.py', 'import typer', 'the command line is a layer of its own'),
        ('signal/a.py', 'def f(**options):\n    return g(**options)', 'name the parameters'),
        ('signal/a.py', '\n' * MAX_LINES, 'a file is one idea'),
        ('misc/a.py', '', 'unknown layer'),
    ],
)
def test_checker_finds_planted_breach(path, source, expected):
    found = violations(parse(Path(path), source))
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ('path', 'source'),
    [
        ('processes/a.py', 'import torch\nfrom ..signal import spectrogram\nfrom . import bridge'),
        ('models/a.py', 'from nemo.core import ModelPT\nfrom nemo_audio_restore._nemo import setup'),
        ('files/a.py', 'import soundfile'),
        ('models/a.py', 'from nemo_audio_restore import __version__'),
        ('apps/a.py', "from nemo_audio_restore import AudioRestoreModel\nprint('done')"),
        ('checkpoints/a.py', "import torch\ntorch.load('a.ckpt', map_location='cpu', weights_only=True)"),
    ],
)
def test_checker_lets_allowed_code_pass(path, source):
    assert violations(parse(Path(path), source)) == []
