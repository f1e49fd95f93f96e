"""Latents that were encoded before training: an autoencoder's work is done once for each recording."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, NumpyFilesWriter
from lhotse.cut import Cut
from torch import Tensor

from nemo_audio_restore.data.captions import caption_of, crop_seconds
from nemo_audio_restore.data.stereo_dataset import stereo_audio
from nemo_audio_restore.signal.level import at_level

FIELD = 'latents'
START_FIELD = 'latents_start_s'
# Latents of silence behind the end of a recording: so far the encoder hears its end.
_MARGIN_LATENTS = 16


def encode_cuts(
    cuts: Iterable[Cut],
    encode: Callable[[Tensor], Tensor],
    folder: str | Path,
    *,
    sample_rate: int,
    ratio: int,
    level_db: float | None = None,
) -> Iterator[Cut]:
    """Encodes recordings and names their latents in the cuts' custom field ``latents``: (D, L), with a margin.

    Args:
        cuts: of audio.
        encode: of an autoencoder: (1, 2, T) samples to (1, D, L) latents.
        folder: for the latents, one file of float16 for each cut.
        sample_rate: of the autoencoder, in Hz.
        ratio: samples of a latent.
        level_db: bring every recording to this level first, see :func:`at_level`; None leaves it as it is.

    Yields:
        The cuts; cropping one crops its latents.

    Raises:
        ValueError: two cuts have one name.
    """
    seen = set()
    with NumpyFilesWriter(str(Path(folder).resolve())) as writer:
        for cut in cuts:
            if cut.id in seen:
                raise ValueError(f'two cuts are called {cut.id}')
            seen.add(cut.id)
            audio = stereo_audio(cut, sample_rate)
            if level_db is not None:
                audio = at_level(torch.from_numpy(audio), sample_rate, level_db).numpy()
            latents = -(-audio.shape[1] // ratio)
            # Twice the margin: the last latents of all hear where the input stops.
            padded = np.pad(audio, ((0, 0), (0, (latents + 2 * _MARGIN_LATENTS) * ratio - audio.shape[1])))
            encoded = encode(torch.from_numpy(padded)[None])[0, :, : latents + _MARGIN_LATENTS]
            # Not one of Lhotse's temporal arrays: NeMo 3.0 loses those when it completes relative paths.
            array = writer.store_array(cut.id, encoded.cpu().numpy().astype(np.float16))
            yield cut.with_custom(FIELD, array).with_custom(START_FIELD, cut.start)


class LatentDataset(torch.utils.data.Dataset):
    """Maps a Lhotse ``CutSet`` with encoded latents (one mini-batch) to latents, prompts and timing.

    Args:
        sample_rate: of the autoencoder, in Hz.
        ratio: samples of a latent.
        window_latents: longest crop; longer recordings are cropped at random, to whole latents.
        metadata_share: share of prompts made from the metadata (custom field ``tags``) instead of the caption.
        whole_seconds: round the timing as the published training does, the start down and the total up.
        seed: of all random choices.

    An item is ``latents`` (B, D, L) float32, padded with zeros to the longest; ``latents_lens`` (B,), how many hold
    the recording, and ``latents_stored`` (B,), how many there are, with those of the silence behind its end;
    ``captions``, B prompts; ``seconds_start`` (B,), where the crop begins in its recording, and ``seconds_total``
    (B,), how long that is.

    Raises:
        ValueError: a number outside its range.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        ratio: int,
        window_latents: int,
        metadata_share: float = 0.0,
        whole_seconds: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        if min(sample_rate, ratio, window_latents) < 1:
            raise ValueError(
                f'sample_rate, ratio and window_latents must be positive; got {sample_rate}, {ratio}, {window_latents}'
            )
        if not 0 <= metadata_share <= 1:
            raise ValueError(f'metadata_share must be 0 to 1; got {metadata_share}')
        self.latent_s = ratio / sample_rate
        self.window_latents = window_latents
        self.metadata_share = metadata_share
        self.whole_seconds = whole_seconds
        self.seed = seed
        self._draws = 0

    def __getitem__(self, cuts: CutSet) -> dict[str, Tensor | list[str]]:
        """Loads one mini-batch."""
        cuts = list(cuts)
        generator = self._generator(cuts[0])
        items = [self._crop(cut, generator) for cut in cuts]
        stored = [latents.shape[1] for _, latents, _ in items]
        batch = torch.zeros(len(items), items[0][1].shape[0], max(stored))
        for row, (_, latents, _) in zip(batch, items, strict=True):
            row[:, : latents.shape[1]] = latents
        times = [crop_seconds(crop, whole=self.whole_seconds) for crop, _, _ in items]
        return {
            'latents': batch,
            'latents_lens': torch.tensor([length for _, _, length in items]),
            'latents_stored': torch.tensor(stored),
            'captions': [caption_of(cut, generator, metadata_share=self.metadata_share) for cut in cuts],
            'seconds_start': torch.tensor([start for start, _ in times], dtype=torch.float32),
            'seconds_total': torch.tensor([total for _, total in times], dtype=torch.float32),
        }

    def _crop(self, cut: Cut, generator: torch.Generator) -> tuple[Cut, Tensor, int]:
        """The part of the cut that is taken, for its timing, its latents (D, L), and how many hold the recording."""
        if not cut.has_custom(FIELD):
            raise ValueError(
                f'the cut {cut.id} has no latents: encode the recordings with examples/encode_latents.py first'
            )
        latents = torch.from_numpy(cut.load_custom(FIELD).astype(np.float32))
        latents = latents[:, round((cut.start - cut.custom.get(START_FIELD, 0.0)) / self.latent_s) :]
        own = math.ceil(cut.duration / self.latent_s - 1e-3)
        if cut.end < cut.recording.duration - self.latent_s:  # what follows is no silence
            latents = latents[:, :own]
        spare = own - self.window_latents
        first = int(torch.randint(spare + 1, (), generator=generator)) if spare > 0 else 0
        crop = cut.truncate(offset=first * self.latent_s, preserve_id=True) if first else cut
        return crop, latents[:, first : first + self.window_latents], min(own, self.window_latents)

    def _generator(self, cut: Cut) -> torch.Generator:
        """Other choices for every batch, in every worker."""
        info = torch.utils.data.get_worker_info()
        self._draws += 1
        key = f'{self.seed}/{0 if info is None else info.id}/{self._draws}/{cut.id}'
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], 'big'))
