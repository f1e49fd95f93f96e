"""Sets up a virtual environment beside this file and does one thing in it. Needs nothing but Python 3.10-3.13.

python3 run.py demo     restore the clip that ships, print numbers, write a before/after picture
python3 run.py test     run the tests; arguments for pytest may follow
python3 run.py lint     check style and docstrings
python3 run.py setup    only set up
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 10), (3, 13)
TORCH = 'torch>=2.6.0'
CPU_WHEELS = 'https://download.pytorch.org/whl/cpu'
LINTERS = (
    ['ruff', 'check'],
    ['ruff', 'format', '--check'],
    ['pydoclint', '--quiet', 'nemo_audio_restore', 'examples', 'benchmarks', 'run.py'],
)


def main() -> int:
    """Parses the command line; returns the exit code of what was run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('task', choices=['demo', 'test', 'lint', 'setup'])
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='where the environment is (default: .venv)')
    arguments, rest = parser.parse_known_args()

    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        running = '.'.join(map(str, sys.version_info[:2]))
        print(f'Python 3.10, 3.11, 3.12 or 3.13 is needed; this is {running}. Try: python3.12 run.py', file=sys.stderr)
        return 2
    try:
        programs = set_up(arguments.venv.resolve(), extra='dev' if arguments.task in ('test', 'lint') else 'metrics')
    except subprocess.CalledProcessError as error:
        print(f'Setting up failed at: {" ".join(map(str, error.cmd))}', file=sys.stderr)
        if 'ensurepip' in error.cmd:
            print('On Debian and Ubuntu, first: sudo apt install python3-venv', file=sys.stderr)
        return 1
    if arguments.task == 'demo':
        return subprocess.call([programs / 'audio-restore', 'demo', *rest])
    if arguments.task == 'test':
        return subprocess.call([programs / 'python', '-m', 'pytest', *rest], cwd=ROOT)
    if arguments.task == 'lint':
        return max(subprocess.call([programs / name, *options], cwd=ROOT) for name, *options in LINTERS)
    return 0


def set_up(folder: Path, *, extra: str) -> Path:
    """Makes the environment, or completes one; does nothing when it is already as setup.py asks.

    Args:
        folder: of the environment.
        extra: of the package, to be installed with it.

    Returns:
        The folder that holds the environment's programs.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    programs = folder / ('Scripts' if os.name == 'nt' else 'bin')
    stamp = folder / f'.ready-{extra}'
    wanted = hashlib.sha256((ROOT / 'setup.py').read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return programs
    if not stamp.parent.exists():
        print(f'Making an environment in {folder}: a few minutes and about 2.5 GB, once.', flush=True)
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder)  # without pip it is of no use
            raise
    pip = [programs / 'python', '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    install_torch(programs / 'python', pip)
    subprocess.check_call([*pip, '--editable', f'{ROOT}[{extra}]'])
    stamp.write_text(wanted)
    return programs


def install_torch(python: Path, pip: list[str | Path]) -> None:
    """Installs torch unless it is there; without an NVIDIA GPU, the build that does not bring gigabytes of CUDA.

    Args:
        python: of the environment.
        pip: command that installs.

    Raises:
        subprocess.CalledProcessError: no torch could be installed.
    """
    present = [python, '-c', 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)']
    if subprocess.call(present) == 0:
        return
    # On macOS and Windows the default build is the small one.
    if sys.platform == 'linux' and shutil.which('nvidia-smi') is None:
        # First a wheel that pip is set up to find on this machine (PIP_FIND_LINKS), then PyTorch's own index.
        for source in (['--no-index'], ['--retries', '1', '--index-url', CPU_WHEELS]):
            # What torch itself needs comes from the default index, together with everything else.
            if subprocess.call([*pip, '--no-deps', *source, TORCH], stderr=subprocess.DEVNULL) == 0:
                return
        print('No CPU build of torch was found; taking the default build, which is large.', flush=True)
    subprocess.check_call([*pip, TORCH])


if __name__ == '__main__':
    sys.exit(main())
