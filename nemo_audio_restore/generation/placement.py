"""Where in a recording is generated, what the model is shown of the rest, and how both are joined."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.generation.given import Span
from nemo_audio_restore.generation.settings import GenerationError

CROSSFADE_S = 0.03
_LEAST_CONTEXT_S = 1.0


@dataclass(frozen=True)
class Placement:
    """An excerpt of a recording in which spans are generated.

    Attributes:
        recording: (C, T) the whole recording; what lies in spans is not used.
        spans: (start, end) in samples of the recording, sorted and apart from each other.
        first: sample of the recording at which the excerpt begins.
        length: samples of the excerpt, at most the model's window.
        sample_rate: in Hz.
    """

    recording: np.ndarray
    spans: tuple[tuple[int, int], ...]
    first: int
    length: int
    sample_rate: int

    def shown(self, num_samples: int) -> Tensor:
        """The excerpt as the autoencoder sees it: spans hold their surroundings, mirrored, so that no edge shows.

        Args:
            num_samples: to fill up to, with silence.

        Returns:
            (1, C, num_samples).
        """
        filled = self.recording.copy()
        stop = 0
        for index, (start, end) in enumerate(self.spans):
            after_next = self.spans[index + 1][0] if index + 1 < len(self.spans) else filled.shape[1]
            filled[:, start:end] = _mirrored(filled[:, stop:start], filled[:, end:after_next], end - start)
            stop = end
        excerpt = torch.from_numpy(filled[:, self.first : self.first + self.length])
        return torch.nn.functional.pad(excerpt, (0, num_samples - self.length))[None]

    def known_latents(self, num_latents: int, ratio: int) -> Tensor:
        """Which latents of the excerpt hold nothing of a span.

        Args:
            num_latents: L, of the whole window.
            ratio: samples that a latent stands for.

        Returns:
            (L,) bool.
        """
        known = torch.arange(num_latents) * ratio < self.length
        for start, end in self.spans:
            known[max(0, (start - self.first) // ratio) : -(-(end - self.first) // ratio)] = False
        return known

    @property
    def needed_samples(self) -> int:
        """Samples of the excerpt up to the end of what is used of it."""
        return min(self.length, self.spans[-1][1] + self._fade - self.first)

    def joined(self, generated: np.ndarray) -> np.ndarray:
        """The recording with its spans generated.

        Args:
            generated: (C, n) the excerpt, at least ``needed_samples`` of it.

        Returns:
            (C, T): the recording's own samples everywhere but in the spans and ``CROSSFADE_S`` around them.
        """
        weight = np.zeros(self.recording.shape[1], np.float32)
        ramp = np.sin(0.5 * np.pi * (np.arange(self._fade) + 0.5) / self._fade).astype(np.float32) ** 2
        for start, end in self.spans:
            weight[start:end] = 1
            rise, fall = weight[max(0, start - self._fade) : start], weight[end : end + self._fade]
            np.maximum(rise, ramp[len(ramp) - len(rise) :], out=rise)
            np.maximum(fall, ramp[::-1][: len(fall)], out=fall)
        joined = self.recording.copy()
        part = slice(self.first, self.first + self.needed_samples)
        where = weight[part] > 0
        new, old, share = generated[:, : self.needed_samples], joined[:, part], weight[part]
        joined[:, part] = np.where(where, (1 - share) * old + share * new, old)
        return joined

    @property
    def _fade(self) -> int:
        return max(1, round(CROSSFADE_S * self.sample_rate))


def place_spans(recording: np.ndarray, spans: Sequence[Span], *, sample_rate: int, window_samples: int) -> Placement:
    """Chooses what the model is shown of a recording.

    Args:
        recording: (C, T), of any length.
        spans: (start, end) in seconds; an end up to 10 ms beyond the recording counts as its end.
        sample_rate: in Hz.
        window_samples: what the model sees at most.

    Returns:
        The placement.

    Raises:
        GenerationError: a span lies outside the recording, nothing would be left of it, or the spans do not fit into
            one window with some of their surroundings.
    """
    total = recording.shape[1]
    merged: list[tuple[int, int]] = []
    for start_s, end_s in sorted(spans):
        start, end = round(start_s * sample_rate), round(end_s * sample_rate)
        if end > total + 0.01 * sample_rate or start >= total:
            raise GenerationError(
                f'the span {start_s:g} to {end_s:g} s lies outside the audio of {total / sample_rate:.2f} s'
            )
        end = min(end, total)
        if end == start:
            raise GenerationError(f'the span {start_s:g} to {end_s:g} s is shorter than one sample')
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    first, last = merged[0][0], merged[-1][1]
    if last - first == total and len(merged) == 1:
        raise GenerationError('the spans hold the whole audio, so that nothing is known: generate without it instead')
    context = min(round(_LEAST_CONTEXT_S * sample_rate), window_samples // 4, total - (last - first))
    if last - first + context > window_samples:
        raise GenerationError(
            f'from {first / sample_rate:.2f} to {last / sample_rate:.2f} s is too much at once: the model sees '
            f'{window_samples / sample_rate:.2f} s, and at least {context / sample_rate:.2f} s of that must be known; '
            'shorten the spans, or generate them one after the other'
        )
    length = min(total, window_samples)
    begin = first - (length - (last - first)) // 2
    return Placement(recording, tuple(merged), min(max(begin, 0), total - length), length, sample_rate)


def _mirrored(before: np.ndarray, after: np.ndarray, num_samples: int) -> np.ndarray:
    """What surrounds a span (C, n), going on into it mirrored, one fading into the other."""
    from_left = np.zeros((before.shape[0], num_samples), np.float32)
    from_right = np.zeros_like(from_left)
    left, right = before[:, ::-1][:, :num_samples], after[:, :num_samples][:, ::-1]
    from_left[:, : left.shape[1]] = left
    if right.shape[1]:
        from_right[:, -right.shape[1] :] = right
    fade = np.linspace(1, 0, num_samples, dtype=np.float32)
    return fade * from_left + (1 - fade) * from_right
