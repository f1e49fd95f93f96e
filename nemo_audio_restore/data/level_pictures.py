"""Recordings as levels of mel bands: kept as bytes, roughened, and put together to scenes without a sample of audio.

Levels add like powers, so a scene of sounds that were analysed once costs nothing: a trainer makes new ones all the
time. Scenes follow the rules of :mod:`nemo_audio_restore.data.question_scenes`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_audio_restore.data.question_words import TASKS

FLOOR_DB, STEP_DB = -140.0, 0.6
"""Level of a byte that is nothing, and dB from byte to byte."""
_FRAMES_PER_S = 50
_SOUNDING_DB = 34.0
_LONGEST_HIT, _LONGEST_PART = 35, 105  # frames


@dataclass(frozen=True)
class Recording:
    """Levels (W, F, N) of windows in steps of ``STEP_DB`` above ``FLOOR_DB``, and what is true of the recording.

    Attributes:
        levels: of frames of 20 ms, as bytes.
        facts: task to label; ``second`` is the second of two sounds.
        single: one single sound, of which scenes can be made.
        source: package, kit or soundfont it comes from.
    """

    levels: np.ndarray
    facts: Mapping[str, str]
    single: bool = False
    source: str = ''


def as_bytes(decibels: np.ndarray) -> np.ndarray:
    """Levels as bytes.

    Args:
        decibels: of any shape; what bytes cannot hold is clipped.

    Returns:
        Steps of ``STEP_DB`` above ``FLOOR_DB``, of the same shape.
    """
    return np.clip(np.round((decibels - FLOOR_DB) / STEP_DB), 0, 255).astype(np.uint8)


def decibels(levels: Sequence[np.ndarray]) -> Tensor:
    """The inverse of :func:`as_bytes`.

    Args:
        levels: B of (F, N) bytes.

    Returns:
        (B, F, N) float32 in dB.
    """
    return torch.from_numpy(np.stack(levels)).float() * STEP_DB + FLOOR_DB


def roughened(levels: Tensor, rng: np.random.Generator, *, whole: Sequence[bool]) -> Tensor:
    """Decibels (B, F, N) as other microphones, rooms, kits and coders would give.

    Every item is tilted, and some are transposed by a band, stretched by up to 8 %, blurred by a room, cut
    off at the top, or noisy. What happens once must stay whole: other items are also moved and partly masked.

    Args:
        levels: (B, F, N) in dB.
        rng: of the choices.
        whole: (B,) items of which nothing may be lost.

    Returns:
        (B, F, N); the argument is as it was.

    Source: masks of SpecAugment (arXiv 1904.08779), section 2.
    """
    return torch.from_numpy(
        np.stack([_roughened(item, rng, keep) for item, keep in zip(levels.numpy(), whole, strict=True)])
    ).float()


def _roughened(item: np.ndarray, rng: np.random.Generator, whole: bool) -> np.ndarray:
    bands, frames = item.shape
    item = item.astype(np.float32)
    if rng.random() < 0.3:
        # Bands that come in from outside are those of the edge.
        item = item[np.clip(np.arange(bands) + rng.integers(-1, 2), 0, bands - 1)]
    if rng.random() < 0.3:
        # A slower copy would lose its end.
        times = np.arange(frames) * rng.uniform(1.0 if whole else 0.92, 1.08)
        item = item[:, np.minimum(times.round().astype(int), frames - 1)]
    if not whole and rng.random() < 0.3:
        moved = int(rng.integers(0, frames // 4 + 1))
        item = np.concatenate([np.full((bands, moved), FLOOR_DB, np.float32), item[:, : frames - moved]], axis=1)
    if rng.random() < 0.2:
        # A room: levels fall by no more than so many dB from frame to frame, from some dB below the sound.
        fall = np.arange(frames, dtype=np.float32) * rng.uniform(1.0, 4.0)
        tail = np.maximum.accumulate(item + fall, axis=1) - fall - rng.uniform(6, 20)
        item = np.maximum(item, tail)
    curve = np.interp(np.arange(bands), np.linspace(0, bands - 1, 5), rng.normal(0, 4, 5))
    item = item + curve[:, None].astype(np.float32)
    if rng.random() < 0.1:
        item[bands - int(rng.integers(0, bands // 4)) :] = FLOOR_DB
    if rng.random() < 0.4:
        floor = item.max() - rng.uniform(30, 70) + rng.normal(0, 6) * np.linspace(-1, 1, bands)[:, None]
        item = _added(item, floor + rng.normal(0, 3, (bands, frames)))
    if not whole:
        height, width = rng.integers(0, bands // 6 + 1), rng.integers(0, frames // 8 + 1)
        low, first = rng.integers(0, bands - height + 1), rng.integers(0, frames - width + 1)
        item[low : low + height] = FLOOR_DB
        item[:, first : first + width] = FLOOR_DB
    return item


class Scenes:
    """New scenes of single sounds: drums struck one to five times, and two sounds one after the other.

    Args:
        recordings: those that are single sounds, of drums, sounds or instruments, are used.

    Raises:
        ValueError: too few kinds of single sounds.
    """

    def __init__(self, recordings: Sequence[Recording]):
        self._sounds: dict[str, dict[str, list[np.ndarray]]] = {}
        for one in recordings:
            task = next((task for task in ('drum', 'sound', 'instrument') if task in one.facts), None)
            if one.single and task is not None:
                members = self._sounds.setdefault(task, {}).setdefault(one.facts[task], [])
                members.append(one.levels[0])
        struck = [label for label in self._sounds.get('drum', {}) if label != 'cymbal']
        if not struck or sum(map(len, self._sounds.values())) < 2:
            raise ValueError('scenes need single sounds of two kinds at least, one of them a drum that is no cymbal')
        self._struck = struck

    def counted(self, rng: np.random.Generator) -> Recording:
        """A drum struck one to five times.

        Args:
            rng: of the choices.

        Returns:
            A recording of one window with the fact ``count``.
        """
        hits = self._sounds['drum'][self._struck[rng.integers(len(self._struck))]]
        hit, frames = _sounding(hits[rng.integers(len(hits))], _LONGEST_HIT), hits[0].shape[1]
        times = int(rng.integers(1, 6))
        scene = np.full((hit.shape[0], frames), FLOOR_DB)
        place = rng.uniform(0.0, 0.6)
        for _ in range(times):
            start = round(place * _FRAMES_PER_S)
            room = scene[:, start : start + hit.shape[1]]
            room[:] = _added(room, hit[:, : room.shape[1]] + 20 * np.log10(rng.uniform(0.7, 1.0)))
            place += rng.uniform(0.4, 1.0)
        return Recording(as_bytes(scene)[None], {'count': TASKS['count'].labels[times - 1]})

    def ordered(self, rng: np.random.Generator) -> Recording:
        """Two sounds of different names, one after the other.

        Args:
            rng: of the choices.

        Returns:
            A recording of one window with the facts ``order`` and ``second``.
        """
        tasks, pair = list(self._sounds), {}
        while len(pair) < 2:
            labels = self._sounds[tasks[rng.integers(len(tasks))]]
            label = list(labels)[rng.integers(len(labels))]
            pair.setdefault(label, labels[label][rng.integers(len(labels[label]))])
        frames = next(iter(pair.values())).shape[1]
        scene = np.full((next(iter(pair.values())).shape[0], frames), FLOOR_DB)
        start = round(rng.uniform(0.0, 0.3) * _FRAMES_PER_S)
        for sound in pair.values():
            part = _sounding(sound, _LONGEST_PART)
            room = scene[:, start : start + part.shape[1]]
            room[:] = part[:, : room.shape[1]] + 20 * np.log10(rng.uniform(0.6, 1.0))
            start += part.shape[1] + round(rng.uniform(0.15, 0.4) * _FRAMES_PER_S)
        first, second = pair
        return Recording(as_bytes(scene)[None], {'order': first, 'second': second})


def _sounding(levels: np.ndarray, longest: int) -> np.ndarray:
    """Decibels (F, n) from the first to the last loud frame, at most so many, the loudest cell at 0 dB."""
    picture = levels * STEP_DB + FLOOR_DB
    loudest = picture.max(axis=0)
    loud = np.flatnonzero(loudest > loudest.max() - _SOUNDING_DB)
    return picture[:, loud[0] : loud[-1] + 1][:, :longest] - picture.max()


def _added(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The sum of two powers in dB."""
    return 10 * np.log10(10 ** (first / 10) + 10 ** (second / 10))
