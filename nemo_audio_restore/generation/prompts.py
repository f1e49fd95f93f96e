"""What a prompt may be."""

from collections.abc import Sequence

from nemo_audio_restore.generation.settings import GenerationError

MAX_PROMPT_CHARACTERS = 2000


def check_prompts(prompts: str | Sequence[str]) -> list[str]:
    """The prompts as a list.

    Args:
        prompts: one text or several.

    Returns:
        At least one text.

    Raises:
        GenerationError: one is empty or too long, or there is none.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise GenerationError('at least one prompt is needed; got none')
    for text in texts:
        _check_text(text, 'the prompt')
    return texts


def check_negatives(negative: str | Sequence[str] | None, count: int) -> list[str] | None:
    """The negative prompts as a list.

    Args:
        negative: one text for all prompts, one for each, or None.
        count: number of prompts.

    Returns:
        ``count`` texts, or None.

    Raises:
        GenerationError: there is another number of them, or one is empty or too long.
    """
    if negative is None:
        return None
    texts = [negative] * count if isinstance(negative, str) else list(negative)
    if len(texts) != count:
        raise GenerationError(f'there must be one negative prompt, or one for each of the {count}; got {len(texts)}')
    for text in texts:
        _check_text(text, 'the negative prompt')
    return texts


def _check_text(text: str, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise GenerationError(f'{what} is empty; describe what is to be heard, like "dog barking" or "rock drums"')
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise GenerationError(
            f'{what} has {len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are allowed, and text encoders read '
            'fewer: describe it in a sentence or two'
        )
