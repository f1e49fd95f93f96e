"""Writing text with a causal language model: batches of prompts, a cache, and random numbers of one's own.

The library's own ``generate`` draws from the global random state, so that a text would depend on its neighbours in the
batch; here every item has its generator, and a batch writes what single runs would.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Cache, LogitsProcessorList, PreTrainedModel

OnToken = Callable[[int, int], None]
"""Called with the number of the item and the token that was written."""
OnDrop = Callable[[Tensor], None]
"""Called with the places, in the batch as it stands, of the items that are not complete."""


@dataclass(frozen=True)
class TextSettings:
    """How text is written.

    Attributes:
        max_new_tokens: at most so many tokens, the end included.
        temperature: 0 takes the likeliest token; 1 draws from the model's distribution, less makes it sharper.
        top_k: draw among so many of the likeliest tokens; None for all.
        top_p: draw among the likeliest tokens that hold this much probability together.
        no_repeat_ngram: groups of so many tokens may not occur twice, in prompt and answer; 0 for no such rule.
        seed: of the draws; an item's text does not depend on the others of its batch.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    no_repeat_ngram: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1 or self.temperature < 0 or self.no_repeat_ngram < 0:
            raise ValueError(
                'max_new_tokens must be at least 1, temperature and no_repeat_ngram at least 0; got '
                f'{self.max_new_tokens}, {self.temperature}, {self.no_repeat_ngram}'
            )
        if not 0 < self.top_p <= 1 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(f'top_p must be in (0, 1] and top_k at least 1; got {self.top_p}, {self.top_k}')


@torch.no_grad()
def write_text(
    language_model: 'PreTrainedModel',
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    stop_id: int,
    padding_id: int,
    settings: TextSettings,
    copies: int = 1,
    on_token: OnToken | None = None,
    on_drop: OnDrop | None = None,
) -> list[list[int]]:
    """Continues prompts.

    Args:
        language_model: of `transformers`, in evaluation mode.
        input_ids: (B, S) prompts, padded on the left.
        attention_mask: (B, S), 0 for padding.
        stop_id: the token that ends a text.
        padding_id: what ended items go on with where they are not dropped.
        settings: how text is written.
        copies: the language model makes so many texts of a single prompt, B = 1, as one that hears several
            recordings does; these are the B items.
        on_token: called for every token as soon as it is known, also for the one that ends a text.
        on_drop: items that have ended leave the batch, and this drops what the model holds of them outside of its
            cache, such as the recordings that it hears. Without it, or with a cache that holds more than keys and
            values, they go on with padding; the texts are the same.

    Returns:
        The new tokens of each item, with the one that ends it unless the text was cut.
    """
    written: list[list[int]] = [[] for _ in range(len(input_ids) * copies)]
    rules, draws = _rules(settings), _draws(settings, len(written))
    logits, cache, mask, positions = _read(language_model, input_ids, attention_mask)
    if copies > 1:
        _repeat_where_single(cache, copies)
        input_ids, mask, positions = (x.expand(copies, -1) for x in (input_ids, mask, positions))
    ids, items = input_ids, torch.arange(len(written), device=input_ids.device)
    running = torch.ones_like(items, dtype=torch.bool)
    drop = on_drop if _holds_keys_and_values_alone(cache) else None
    for count in range(1, settings.max_new_tokens + 1):
        scores = rules(ids, logits.float())
        token = torch.where(running, _choose(scores, draws), padding_id)
        for place in running.nonzero().flatten().tolist():
            item = int(items[place])
            written[item].append(int(token[place]))
            if on_token is not None:
                on_token(item, written[item][-1])
        running = running & (token != stop_id)
        if not running.any() or count == settings.max_new_tokens:
            break
        if drop is not None and not running.all():
            rest = running.nonzero().flatten()
            drop(rest)
            cache.batch_select_indices(rest)
            token, ids, mask, positions, items, running = (
                x[rest] for x in (token, ids, mask, positions, items, running)
            )
            draws = [draws[place] for place in rest.tolist()] if draws else draws
        step = token[:, None]
        ids = torch.cat([ids, step], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions + 1
        logits = _went_on(language_model, step, mask, positions, cache)[:, -1]
    return written


@torch.no_grad()
def answer_log_likelihoods(
    language_model: 'PreTrainedModel',
    question_ids: Tensor,
    question_mask: Tensor,
    answer_ids: Tensor,
    answer_mask: Tensor,
) -> Tensor:
    """How likely a model finds answers; what they have in common, their question, is read once.

    Args:
        language_model: of `transformers`, in evaluation mode.
        question_ids: (Q, S) questions, padded on the left.
        question_mask: (Q, S), 0 for padding.
        answer_ids: (Q A, T) answers, those of one question in a row, padded on the right.
        answer_mask: (Q A, T), 0 for padding.

    Returns:
        (Q A,) natural logarithms of the likelihoods of whole answers.
    """
    logits, cache, mask, positions = _read(language_model, question_ids, question_mask)
    answers = len(answer_ids) // len(question_ids)
    for layer in cache.layers:
        layer.batch_repeat_interleave(answers)
    logits, mask, positions = (x.repeat_interleave(answers, dim=0) for x in (logits[:, None], mask, positions))
    steps = torch.arange(1, answer_ids.shape[1], device=answer_ids.device)
    if len(steps):
        mask = torch.cat([mask, answer_mask[:, :-1].to(mask.dtype)], dim=1)
        rest = _went_on(language_model, answer_ids[:, :-1], mask, positions + steps, cache)
        logits = torch.cat([logits, rest], dim=1)
    likelihoods = logits.float().log_softmax(dim=-1).gather(2, answer_ids[..., None])[..., 0]
    return likelihoods.masked_fill(~answer_mask.bool(), 0.0).sum(dim=1)


def reads_one_for_many(language_model: 'PreTrainedModel') -> bool:
    """Whether a single prompt may become several texts inside a model, as ``copies`` of :func:`write_text` asks.

    Args:
        language_model: of `transformers`.

    Returns:
        True where every layer keeps keys and values, and nothing else that would have to be repeated.
    """
    from transformers.cache_utils import DynamicCache

    return _holds_keys_and_values_alone(DynamicCache(config=language_model.config))


def _holds_keys_and_values_alone(cache: 'Cache') -> bool:
    """Whether rows of a cache can be repeated and dropped; layers derived from these may hold other states beside."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _read(
    language_model: 'PreTrainedModel', input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, 'Cache', Tensor, Tensor]:
    """Reads prompts that are padded on the left: logits (B, V) of what follows, cache, mask, last positions (B, 1)."""
    positions = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
    output = language_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1], output.past_key_values, attention_mask, positions[:, -1:]


def _went_on(
    language_model: 'PreTrainedModel', ids: Tensor, mask: Tensor, positions: Tensor, cache: 'Cache'
) -> Tensor:
    """Logits (B, S, V) behind each of the tokens that follow what is in the cache, which grows."""
    return language_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).logits


def _repeat_where_single(cache: 'Cache', copies: int) -> None:
    """Layers below the one where a text became several hold it once."""
    for layer in cache.layers:
        if len(layer.keys) == 1:
            layer.batch_repeat_interleave(copies)


def _rules(settings: TextSettings) -> 'LogitsProcessorList':
    from transformers import (
        LogitsProcessorList,
        NoRepeatNGramLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    rules = LogitsProcessorList()
    if settings.no_repeat_ngram:
        rules.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram))
    if settings.temperature:
        rules.append(TemperatureLogitsWarper(float(settings.temperature)))
        if settings.top_k is not None:
            rules.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            rules.append(TopPLogitsWarper(settings.top_p))
    return rules


def _draws(settings: TextSettings, items: int) -> list[torch.Generator]:
    """A generator for each item, all with the same seed; none where nothing is drawn."""
    return [torch.Generator().manual_seed(settings.seed) for _ in range(items if settings.temperature else 0)]


def _choose(scores: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """(B,) tokens: the likeliest, or drawn by inversion of the distribution."""
    if not draws:
        return scores.argmax(dim=-1)
    level = torch.stack([torch.rand((), generator=draw, dtype=torch.float64) for draw in draws])
    probabilities, tokens = scores.double().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    # The first token at which the sum of probabilities exceeds the draw; rounding must not lead beyond the last.
    index = (probabilities.cumsum(dim=-1) <= level.to(scores.device)[:, None]).sum(dim=-1)
    possible = (probabilities > 0).sum(dim=-1) - 1
    return tokens.gather(1, torch.minimum(index, possible)[:, None])[:, 0]
