"""Reads sections of a Stable Audio ``model_config.json``; an option that nobody here understands is an error."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_audio_restore.checkpoints.errors import CheckpointError


def expect(part: Mapping[str, Any], name: str, kinds: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """Kind and options of a part of the configuration.

    Args:
        part: a section with ``type`` and ``config``.
        name: of the part, for errors.
        kinds: that are supported.

    Returns:
        The type and the options.

    Raises:
        CheckpointError: another type.
    """
    kind = part.get('type')
    if kind not in kinds:
        raise CheckpointError(f'{name}: type must be one of {", ".join(kinds)}; the configuration says {kind!r}')
    return kind, part.get('config', {})


def options(config: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Options of a part with the published program's defaults for those that are not given.

    Args:
        config: options of the configuration.
        defaults: every option that is supported.
        name: of the part, for errors.

    Returns:
        All options.

    Raises:
        CheckpointError: an option that is not supported.
    """
    unknown = sorted(set(config) - set(defaults))
    if unknown:
        raise CheckpointError(
            f'{name}: not supported: {", ".join(f"{key}={config[key]!r}" for key in unknown)}; '
            f'supported are {", ".join(defaults)}'
        )
    return {**defaults, **config}


def expect_value(found: object, wanted: object, what: str) -> None:
    """Refuses a value other than the only one that is supported.

    Args:
        found: in the configuration.
        wanted: the supported value.
        what: names it, for the error.

    Raises:
        CheckpointError: they differ.
    """
    if found != wanted:
        raise CheckpointError(f'{what} must be {wanted}; the configuration says {found}')


def read_config(model_config: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a configuration.

    Args:
        model_config: path of a JSON file, or the content itself.

    Returns:
        The content.

    Raises:
        CheckpointError: the file is no JSON object.
        FileNotFoundError: there is no such file.
    """
    if isinstance(model_config, Mapping):
        return model_config
    path = Path(model_config)
    if not path.is_file():
        raise FileNotFoundError(f'no configuration at {path}')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise CheckpointError(f'{path} is no JSON file: {error}') from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f'{path} is no configuration: it holds a {type(content).__name__}')
    return content
