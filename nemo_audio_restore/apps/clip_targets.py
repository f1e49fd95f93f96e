"""Which clips a command line asks for, and where each goes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_audio_restore.apps.inputs import FORMATS, UsageError

NAME_FIELDS = ('slug', 'index', 'seed', 'ext')
DEFAULT_NAME = '{slug}-{seed}.{ext}'
_LONGEST_SLUG = 40


@dataclass(frozen=True)
class ClipJob:
    """One clip to make: its prompt, its seed, and the file to write."""

    prompt: str
    seed: int
    target: Path


def read_prompts(arguments: Sequence[str], file: Path | None) -> list[str]:
    """The prompts of the command line and of a file, in this order.

    Args:
        arguments: as typed.
        file: one prompt a line; empty lines and those that begin with # are left out.

    Returns:
        At least one prompt.

    Raises:
        UsageError: there is none, or the file cannot be read.
    """
    prompts = list(arguments)
    if file is not None:
        try:
            lines = file.read_text(encoding='utf-8-sig').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, 'strerror', None) or 'it is not text in UTF-8'
            raise UsageError(f'{file} cannot be read: {reason}') from error
        prompts += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith('#')]
        if not prompts:
            raise UsageError(f'{file} holds no prompts; write one a line')
    if not prompts:
        raise UsageError('say what is to be heard, like "dog barking", or give --prompts-file')
    return prompts


def plan_clips(
    prompts: Sequence[str], seeds: Sequence[int], output: Path, *, file_format: str | None, name: str | None
) -> list[ClipJob]:
    """Where each clip goes.

    Args:
        prompts: at least one.
        seeds: every prompt is made with each of them.
        output: a file for a single prompt, which gets the seed in its name where there are several; else a folder.
        file_format: member of ``FORMATS``; None takes the output's ending, or wav.
        name: template of ``NAME_FIELDS``, used inside folders; None takes ``DEFAULT_NAME``.

    Returns:
        All seeds of the first prompt, then of the next.

    Raises:
        UsageError: the output does not fit, or two clips would go to one file.
    """
    ending = output.suffix.lower().lstrip('.')
    if ending in FORMATS and not output.is_dir():
        if file_format is not None and ending != file_format:
            raise UsageError(f'--format {file_format} contradicts the output {output}')
        if name is not None:
            raise UsageError(f'--name is for folders, but the output {output} is a file: leave one of them out')
        if len(prompts) > 1:
            raise UsageError(f'{output} is a file, but there are {len(prompts)} prompts: give a folder')
        if len(seeds) == 1:
            return [ClipJob(prompts[0], seeds[0], output)]
        return [
            ClipJob(prompts[0], seed, output.with_name(f'{output.stem}.seed{seed}{output.suffix}')) for seed in seeds
        ]
    if output.is_file() or (ending and not output.is_dir() and re.fullmatch(r'[a-z0-9]{2,4}', ending)):
        raise UsageError(
            f'the output must end in {" or ".join("." + kind for kind in FORMATS)}, or be a folder; got {output}'
        )
    jobs: dict[Path, ClipJob] = {}
    for index, prompt in enumerate(prompts, start=1):
        for seed in seeds:
            target = output / _file_name(name or DEFAULT_NAME, prompt, index, seed, file_format or 'wav')
            if target in jobs:
                field = 'seed' if jobs[target].prompt == prompt and len(seeds) > 1 else 'index'
                raise UsageError(f'several clips would be written to {target}; use {{{field}}} in --name')
            jobs[target] = ClipJob(prompt, seed, target)
    return list(jobs.values())


def slug(prompt: str) -> str:
    """The prompt as part of a file name: lower-case letters and digits joined by hyphens, at most 40."""
    words = re.findall(r'[^\W_]+', prompt.lower())
    text = ''
    for word in words:
        if len(text) + len(word) + 1 > _LONGEST_SLUG:
            break
        text = f'{text}-{word}' if text else word
    return text or (words[0][:_LONGEST_SLUG] if words else 'clip')


def _file_name(template: str, prompt: str, index: int, seed: int, extension: str) -> str:
    try:
        name = template.format(slug=slug(prompt), index=index, seed=seed, ext=extension)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        fields = ', '.join('{' + field + '}' for field in NAME_FIELDS)
        raise UsageError(f'--name {template} is not usable: the fields are {fields}') from error
    if Path(name).suffix.lower() != f'.{extension}':
        raise UsageError(f'--name {template} must end in .{{ext}}, or in .{extension}')
    if Path(name).name != name:
        raise UsageError(f'--name {template} must give the name of a file, without folders')
    return name
