"""What a recogniser understands of coded speech: transcripts by Whisper and character error rates.

The rate says how much harder the codec made it, so report it beside the rate of the original recordings: the
recogniser's own errors, its spelling of names and the choice of clips are in both.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import WhisperForConditionalGeneration

SAMPLE_RATE = 16000
LONGEST_S = 30.0
_TOKENS_PER_S = 12  # the fastest speech needs half of it; what exceeds it is the loop of a model that lost the thread
_EXTRA_TOKENS = 16

Transcribe = Callable[[Sequence[np.ndarray]], list[str]]


class WhisperTranscriber:
    """Greedy transcription without timestamps in a language that is known beforehand.

    Args:
        model: in eval mode, with the generation settings of a Whisper.
        tokenizer: of its text.
        language: as Whisper abbreviates it, for example ``en``.
        batch_size: recordings at once; changes memory and speed only.

    Raises:
        ValueError: the model does not know the language.
    """

    def __init__(
        self,
        model: 'WhisperForConditionalGeneration',
        tokenizer: 'Tokenizer',
        *,
        language: str,
        batch_size: int = 4,
    ):
        settings = model.generation_config
        if f'<|{language}|>' not in settings.lang_to_id:
            known = ' '.join(sorted(name.strip('<|>') for name in settings.lang_to_id))
            raise ValueError(f'Whisper knows no language {language!r}; it knows {known}')
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._prompt = [
            settings.decoder_start_token_id,
            settings.lang_to_id[f'<|{language}|>'],
            settings.task_to_id['transcribe'],
            settings.no_timestamps_token_id,
        ]
        self._end = settings.eos_token_id
        # Timestamps come after the marker that turns them off.
        self._never = [*settings.suppress_tokens, *range(settings.no_timestamps_token_id, model.config.vocab_size)]
        self._never_first = list(settings.begin_suppress_tokens)

    def __call__(self, recordings: Sequence[np.ndarray]) -> list[str]:
        """Transcribes recordings.

        Args:
            recordings: samples (T,) at 16 kHz, each up to 30 s.

        Returns:
            One text for each.

        Raises:
            ValueError: a recording is longer than 30 s.
        """
        for recording in recordings:
            if len(recording) > LONGEST_S * SAMPLE_RATE:
                raise ValueError(
                    f'Whisper hears {LONGEST_S:g} s at once; got {len(recording) / SAMPLE_RATE:.1f} s: cut it'
                )
        texts = []
        for first in range(0, len(recordings), self._batch_size):
            texts += self._transcribe(recordings[first : first + self._batch_size])
        return texts

    @torch.inference_mode()
    def _transcribe(self, recordings: Sequence[np.ndarray]) -> list[str]:
        from transformers import WhisperFeatureExtractor

        model = self._model
        extract = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
        features = extract(list(recordings), sampling_rate=SAMPLE_RATE, return_tensors='pt').input_features
        encoded = model.model.encoder(features.to(model.device)).last_hidden_state
        tokens = torch.tensor([self._prompt] * len(recordings), device=model.device)
        longest_s = max(len(recording) for recording in recordings) / SAMPLE_RATE
        budget = min(int(_TOKENS_PER_S * longest_s) + _EXTRA_TOKENS, model.config.max_target_positions - 8)
        written: list[torch.Tensor] = []
        ended = torch.zeros(len(recordings), dtype=torch.bool, device=model.device)
        past = None
        while len(written) < budget and not ended.all():
            out = model.model.decoder(
                input_ids=tokens, encoder_hidden_states=encoded, past_key_values=past, use_cache=True
            )
            logits = model.proj_out(out.last_hidden_state[:, -1])
            logits[:, self._never] = -torch.inf
            if not written:
                logits[:, self._never_first] = -torch.inf
            best = torch.where(ended, self._end, logits.argmax(dim=-1))
            ended |= best == self._end
            written.append(best)
            tokens, past = best[:, None], out.past_key_values
        texts = self._tokenizer.decode_batch(torch.stack(written, dim=1).tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]


def normalise_text(text: str, language: str) -> str:
    """Removes what cannot be heard: case, punctuation, and for English spelling variants of numbers and contractions.

    Whisper's own normalisers of `transformers` (Radford et al. 2022, appendix C) without the table of British
    spellings. Russian "yo" counts as "ye", as most print does, and stress marks ("+") inside words are dropped.

    Args:
        text: a transcript.
        language: ``en`` gets the English rules, all others the basic ones.

    Returns:
        Words in lower case with single spaces; empty when nothing is left.
    """
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    if language == 'en':
        return EnglishTextNormalizer({})(text).strip()
    plain = BasicTextNormalizer()(text.replace('+', ''))
    return ' '.join(plain.replace('ё', 'е').split())


def character_errors(reference: str, hypothesis: str, language: str) -> tuple[int, int]:
    """Edits that turn one transcript into the other, after :func:`normalise_text`.

    Args:
        reference: what was said.
        hypothesis: what was understood.
        language: of both.

    Returns:
        Characters inserted, deleted or replaced, and characters of the reference, spaces included.

    Raises:
        ValueError: nothing is left of the reference.
    """
    import kaldialign

    target, candidate = normalise_text(reference, language), normalise_text(hypothesis, language)
    if not target:
        raise ValueError(f'the transcript {reference!r} holds no words')
    return int(kaldialign.edit_distance(list(target), list(candidate))['total']), len(target)


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str], language: str) -> float:
    """Edits over characters, of all transcripts together; 0 is perfect, more than 1 is possible.

    Args:
        references: what was said.
        hypotheses: what was understood, in the same order.
        language: of all.

    Returns:
        The rate.

    Raises:
        ValueError: no transcripts, different numbers of them, or one without words.
    """
    if not references or len(references) != len(hypotheses):
        raise ValueError(
            f'error rates need as many transcripts as references; got {len(hypotheses)}, {len(references)}'
        )
    pairs = [character_errors(a, b, language) for a, b in zip(references, hypotheses, strict=True)]
    return sum(errors for errors, _ in pairs) / sum(characters for _, characters in pairs)
