"""What a caller of an audio-language model may give: conversations, or prompts and recordings side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nemo_audio_restore.data.listening import Listening, NothingToHearError
from nemo_audio_restore.data.question_text import QuestionError


@dataclass(frozen=True)
class HeardRecording:
    """A recording that is prepared, to be asked about once or often."""

    windows: Tensor
    """(W, T), as :class:`Listening` prepares them."""


Recording = str | Path | np.ndarray | Tensor | HeardRecording
"""A file, (T,) or (C, T) samples, or what was prepared before."""
Conversation = Sequence[Mapping[str, Any]]
"""Turns ``{'role': 'user', 'content': [{'type': 'text', 'text': ...}, {'type': 'audio', 'path': ...}]}``."""


def read_conversation(conversation: Conversation) -> tuple[str, Recording]:
    """Question and recording of a conversation of one turn.

    Args:
        conversation: in the form of `transformers`; audio is a ``path`` or an array under ``audio``.

    Returns:
        The question, and what is asked about.

    Raises:
        QuestionError: several turns, a turn of somebody else, or parts that are neither text nor audio.
        NothingToHearError: no recording, or more than one.
    """
    turns = list(conversation)
    if len(turns) != 1 or turns[0].get('role') != 'user':
        raise QuestionError(
            f'a conversation must be one turn of the role user; got {[turn.get("role") for turn in turns]}'
        )
    content = turns[0].get('content')
    texts: list[str] = []
    recordings: list[Recording] = []
    for part in [{'type': 'text', 'text': content}] if isinstance(content, str) else content or ():
        if part.get('type') == 'text':
            texts.append(part['text'])
        elif part.get('type') == 'audio':
            recordings.append(part['path'] if part.get('path') is not None else part.get('audio'))
        else:
            raise QuestionError(f'a part of a conversation must be of type text or audio; got {part.get("type")!r}')
    # The form of NeMo's speech models: the recording beside the text.
    recordings += list(turns[0].get('audio') or ())
    if len(recordings) != 1 or recordings[0] is None:
        raise NothingToHearError(f'a question needs one recording; this conversation has {len(recordings)}')
    return ' '.join(text.strip() for text in texts), recordings[0]


def pair_up(
    prompts: Sequence[str], audios: Tensor | Sequence[Recording] | None, audio_lens: Tensor | None
) -> list[tuple[str, Recording]]:
    """Prompts with their recordings.

    Args:
        prompts: B questions.
        audios: B files or arrays, or a tensor (B, T).
        audio_lens: (B,) valid samples of a tensor.

    Returns:
        B pairs.

    Raises:
        NothingToHearError: no recordings, another number than of prompts, or lengths that do not fit.
    """
    if isinstance(prompts, str):
        raise QuestionError('prompts must be a list of questions; got a single text')
    if audios is None:
        raise NothingToHearError(f'{len(prompts)} question(s) but no recording: give audios')
    if isinstance(audios, str | Path | HeardRecording):
        raise NothingToHearError('audios must be a list of recordings, one for each question; got a single one')
    if isinstance(audios, Tensor):
        longest = audios.shape[-1]
        lens = [longest] * len(audios) if audio_lens is None else [int(length) for length in audio_lens]
        if len(lens) != len(audios) or not all(0 < length <= longest for length in lens):
            raise NothingToHearError(
                f'audio_lens must be {len(audios)} numbers of samples from 1 to {longest}; got {lens}'
            )
        audios = [audio[..., :length] for audio, length in zip(audios, lens, strict=True)]
    elif audio_lens is not None:
        raise NothingToHearError('audio_lens belongs to audios in one tensor; a list needs none')
    if len(audios) != len(prompts):
        raise NothingToHearError(f'{len(prompts)} question(s) but {len(audios)} recording(s): one for each is needed')
    return list(zip(prompts, audios, strict=True))


def hear(listening: Listening, recording: Recording, sample_rate: int | None) -> Tensor:
    """Windows of a file or an array.

    Args:
        listening: how recordings are prepared.
        recording: what to hear.
        sample_rate: of an array, in Hz; that of the model unless given.

    Returns:
        (W, T).
    """
    if isinstance(recording, HeardRecording):
        return recording.windows
    if isinstance(recording, str | Path):
        return listening.read(recording)
    return listening.windows(recording, listening.sample_rate if sample_rate is None else sample_rate)
