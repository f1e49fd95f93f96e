"""Optional packages of the evaluation, imported at the moment they are needed."""

import importlib
from types import ModuleType


def require(module: str, *, package: str, extra: str) -> ModuleType:
    """Imports an optional package or says how to install it.

    Args:
        module: name to import.
        package: its name on PyPI.
        extra: extra of this project that brings it in.

    Returns:
        The imported module.

    Raises:
        ImportError: the package is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs the optional package '{package}', which is not installed: "
            f"pip install 'nemo-audio-restore[{extra}]'"
        ) from error
