"""Config blocks to objects: a block's keys are the constructor's arguments, and an unknown key is an error."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf

from nemo_audio_restore._nemo import target_class

TARGET = '_target_'


class ConfigError(ValueError):
    """A config names something that does not exist, or lacks something that is needed."""


def check_keys(given: Iterable[str], allowed: Iterable[str], *, where: str) -> None:
    """Refuses keys that nobody reads.

    Args:
        given: keys of a block.
        allowed: keys that mean something there.
        where: name of the block, for the error.

    Raises:
        ConfigError: names the unknown key, the nearest one and all allowed ones.
    """
    allowed = sorted(set(allowed))
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f' Did you mean {near[0]!r}?' if near else ''
            raise ConfigError(f'unknown key {key!r} in {where}.{hint} Allowed: {", ".join(allowed) or "none"}')


def build(block: Mapping[str, Any] | None, *, where: str, default: type | None = None) -> Any:
    """Builds what a config block describes.

    Args:
        block: arguments of the constructor, and in ``_target_`` the dotted path of the class. Blocks may be nested, in
            mappings and lists. None builds ``default`` without arguments.
        where: name of the block, for errors.
        default: the class when the block has no ``_target_``.

    Returns:
        An instance.

    Raises:
        ConfigError: no class, an unknown or a missing key, or arguments that the constructor refuses.
        UnsafeFileError: the class is not one that a config may build.
    """
    arguments = OmegaConf.to_container(block, resolve=True) if OmegaConf.is_config(block) else dict(block or {})
    target = arguments.pop(TARGET, None)
    if target is None and default is None:
        raise ConfigError(f'{where} needs {TARGET}: the dotted path of the class to build')
    built = default if target is None else target_class(target)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {name: p for name, p in inspect.signature(built).parameters.items() if p.kind in named}
    check_keys(arguments, parameters, where=f'{where} ({built.__name__})')
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise ConfigError(f'{where} ({built.__name__}) lacks {", ".join(missing)}')
    values = {name: _build_nested(value, f'{where}.{name}') for name, value in arguments.items()}
    try:
        return built(**values)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f'{where} ({built.__name__}): {error}') from error


def _build_nested(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if TARGET in value:
            return build(value, where=where)
        return {key: _build_nested(item, f'{where}.{key}') for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_build_nested(item, f'{where}[{index}]') for index, item in enumerate(value)]
    return value
