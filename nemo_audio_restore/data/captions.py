"""Captioned audio for text-to-audio training: crops with their timing, and prompts from captions or metadata."""

import math
from collections.abc import Mapping

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from nemo_audio_restore.data.stereo_dataset import stereo_audio
from nemo_audio_restore.signal.level import at_level

_SILENT_PEAK = 1e-3
_REDRAWS = 5


class CaptionDataset(torch.utils.data.Dataset):
    """Maps a Lhotse ``CutSet`` with captions (one mini-batch) to audio, prompts and timing.

    Crops are drawn inside each cut; one that is silent is drawn again, up to five times.

    Args:
        sample_rate: of the batch, in Hz.
        window_samples: length of the crops; shorter recordings are padded with zeros to it. None keeps each cut whole
            and pads to the longest.
        channels: 2, or 1 for the mix of both.
        metadata_share: share of prompts made from the metadata (custom field ``tags``) instead of the caption.
        whole_seconds: round the timing as the published training does, the start down and the total up.
        flips: turn the phase of every second crop by half a wave.
        level_db: bring every crop to this level, see :func:`at_level`; None leaves it as it is.
        seed: of all random choices.

    An item is ``audio`` (B, C, T) float32 in [-1, 1]; ``audio_lens`` (B,) samples before the padding; ``captions``,
    B prompts; ``seconds_start`` (B,), where the crop begins in its recording, and ``seconds_total`` (B,), how long
    that is; ``classes`` and ``tasks``, B texts from the custom fields, empty where there are none; ``paraphrases`` and
    ``altered``, B lists of texts from the custom fields of these names: captions that say the same, and captions in
    which the order or the properties of what is heard were changed, see :func:`contrasts_of`.

    Raises:
        ValueError: a number outside its range.

    Source: stable-audio-tools' data set (random crop, phase flip, clamp, silent files drawn again) and Stable Audio
    (arXiv 2402.04825), section 3.2 (timing).
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        window_samples: int | None = None,
        channels: int = 2,
        metadata_share: float = 0.0,
        whole_seconds: bool = True,
        flips: bool = False,
        level_db: float | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if sample_rate <= 0 or (window_samples is not None and window_samples <= 0):
            raise ValueError(f'sample_rate and window_samples must be positive; got {sample_rate}, {window_samples}')
        if channels not in (1, 2):
            raise ValueError(f'channels must be 1 or 2; got {channels}')
        if not 0 <= metadata_share <= 1:
            raise ValueError(f'metadata_share must be 0 to 1; got {metadata_share}')
        self.sample_rate = sample_rate
        self.window_samples = window_samples
        self.channels = channels
        self.metadata_share = metadata_share
        self.whole_seconds = whole_seconds
        self.flips = flips
        self.level_db = level_db
        self.seed = seed
        self._generators: dict[int, torch.Generator] = {}

    def __getitem__(self, cuts: CutSet) -> dict[str, Tensor | list[str]]:
        """Loads one mini-batch."""
        generator = self._generator()
        cuts = list(cuts)
        drawn = [self._draw(cut, generator) for cut in cuts]
        lengths = [audio.shape[1] for _, audio in drawn]
        batch = torch.zeros(len(drawn), self.channels, self.window_samples or max(lengths))
        for row, (_, audio) in zip(batch, drawn, strict=True):
            row[:, : audio.shape[1]] = audio
        times = [crop_seconds(crop, whole=self.whole_seconds) for crop, _ in drawn]
        return {
            'audio': batch,
            'audio_lens': torch.tensor(lengths),
            'captions': [caption_of(cut, generator, metadata_share=self.metadata_share) for cut in cuts],
            'seconds_start': torch.tensor([start for start, _ in times], dtype=torch.float32),
            'seconds_total': torch.tensor([total for _, total in times], dtype=torch.float32),
            'classes': [str((cut.custom or {}).get('class', '')) for cut in cuts],
            'tasks': [str((cut.custom or {}).get('task', '')) for cut in cuts],
            'paraphrases': [list((cut.custom or {}).get('paraphrases') or []) for cut in cuts],
            'altered': [list((cut.custom or {}).get('altered') or []) for cut in cuts],
        }

    def _draw(self, cut: Cut, generator: torch.Generator) -> tuple[Cut, Tensor]:
        """A crop and its (C, T) audio: the first that is not silent, or else the last tried."""
        for _ in range(1 + _REDRAWS):
            crop = self._crop(cut, generator)
            audio = torch.from_numpy(stereo_audio(crop, self.sample_rate))[:, : self.window_samples]
            if crop is cut or float(audio.abs().max()) >= _SILENT_PEAK:
                break
        if self.channels == 1:
            audio = audio.mean(dim=0, keepdim=True)
        if self.flips and float(torch.rand((), generator=generator)) < 0.5:
            audio = -audio
        if self.level_db is not None:
            audio = at_level(audio, self.sample_rate, self.level_db)
        return crop, audio

    def _crop(self, cut: Cut, generator: torch.Generator) -> Cut:
        if self.window_samples is None:
            return cut
        duration = self.window_samples / self.sample_rate
        spare = cut.duration - duration
        if spare <= 0:
            return cut
        share = float(torch.rand((), generator=generator))
        offset = int(share * spare * cut.sampling_rate) / cut.sampling_rate
        return cut.truncate(offset=offset, duration=duration, preserve_id=True)

    def _generator(self) -> torch.Generator:
        """One for each worker, which otherwise would all draw the same."""
        info = torch.utils.data.get_worker_info()
        worker = 0 if info is None else info.id + 1
        if worker not in self._generators:
            self._generators[worker] = torch.Generator().manual_seed((self.seed * 1009 + worker) % 2**63)
        return self._generators[worker]


def crop_seconds(cut: Cut, *, whole: bool = True) -> tuple[float, float]:
    """Where a cut begins in its recording, and how long the recording is.

    Args:
        cut: a crop of a recording.
        whole: round the start down and the total up to whole seconds.

    Returns:
        Start and total in seconds.
    """
    start, total = cut.start, cut.recording.duration
    # Less than a sample is rounding, not another second.
    return (float(math.floor(start + 1e-5)), float(math.ceil(total - 1e-5))) if whole else (start, total)


def caption_of(cut: Cut, generator: torch.Generator | None = None, *, metadata_share: float = 0.0) -> str:
    """The prompt of a cut.

    Args:
        cut: its supervisions hold the caption, its custom field ``tags`` the metadata.
        generator: draws between caption and metadata, and the variant; needed for a share above 0.
        metadata_share: probability of a prompt from metadata, where there is some.

    Returns:
        The caption or a variant of the metadata.

    Raises:
        ValueError: the cut has no caption, or no generator was given for the metadata.
    """
    caption = next((item.text for item in cut.supervisions if item.text), None)
    tags = (cut.custom or {}).get('tags')
    if metadata_share > 0 and generator is None:
        raise ValueError('prompts from metadata need a generator')
    if tags and metadata_share > 0:
        if caption is None or float(torch.rand((), generator=generator)) < metadata_share:
            return metadata_prompt(tags, generator)
    if caption is None:
        raise ValueError(f'the cut {cut.id} has no caption: its supervision needs a text')
    return caption


def metadata_prompt(tags: Mapping[str, str], generator: torch.Generator) -> str:
    """Makes a prompt of a random part of the metadata.

    Half of the prompts keep the types and join them with ``|`` (``Instruments: guitar, drums|Genre: rock``), half drop
    the types and join with commas; types and the values of each are shuffled; upper and lower case vary.

    Args:
        tags: values by type; several values of a type are separated by commas.
        generator: of the choices.

    Returns:
        The prompt.

    Raises:
        ValueError: there are no tags.

    Source: Stable Audio (arXiv 2402.04825), section 4.1; random case as Stable Audio Open (arXiv 2407.14358).
    """
    if not tags:
        raise ValueError('a prompt from metadata needs at least one tag')

    def shuffled(items: list[str]) -> list[str]:
        return [items[index] for index in torch.randperm(len(items), generator=generator)]

    count = 1 + int(torch.randint(len(tags), (), generator=generator))
    chosen = shuffled(sorted(tags))[:count]
    values = {name: ', '.join(shuffled([value.strip() for value in tags[name].split(',')])) for name in chosen}
    if float(torch.rand((), generator=generator)) < 0.5:
        prompt = '|'.join(f'{name}: {value}' for name, value in values.items())
    else:
        prompt = ', '.join(values.values())
    case = int(torch.randint(4, (), generator=generator))
    return (prompt, prompt.lower(), prompt.title(), prompt.upper())[case]
