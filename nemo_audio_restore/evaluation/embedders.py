"""Networks that turn audio into numbers for the metrics of generation: any of them, cut into windows in one way."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from torch import Tensor

_PEAK_DB = -1.0
_BATCH = 16


@dataclass(frozen=True)
class WindowNetwork:
    """A network that answers for windows of one length.

    Attributes:
        name: as reports show it, with the weights where they matter.
        sample_rate: of the audio, in Hz.
        window_samples: length of a window.
        hop_samples: from window to window.
        answer: (W, ``window_samples``) float32 to (W, D): embeddings, or logits of tags.
    """

    name: str
    sample_rate: int
    window_samples: int
    hop_samples: int
    answer: Callable[[Tensor], Tensor]

    def __call__(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Answers for a channel.

        Args:
            audio: (T,) samples.
            sample_rate: of them, in Hz.

        Returns:
            (W, D) float64: one row for each whole window; a shorter recording is filled up with silence.
        """
        samples = np.asarray(audio, dtype=np.float32)
        if sample_rate != self.sample_rate:
            samples = soxr.resample(samples, sample_rate, self.sample_rate, quality='HQ')
        samples = np.pad(samples, (0, max(0, self.window_samples - len(samples))))
        windows = torch.from_numpy(samples).unfold(0, self.window_samples, self.hop_samples)
        with torch.inference_mode():
            return torch.cat([self.answer(part) for part in windows.split(_BATCH)]).double().cpu().numpy()


def peak_normalised(audio: np.ndarray) -> np.ndarray:
    """Audio (C, T) with its highest peak at -1 dB, as all metrics of generation hear it; silence stays silent.

    Source: https://github.com/Stability-AI/stable-audio-metrics
    """
    peak = np.abs(audio).max(initial=0.0)
    return audio if peak == 0 else audio * (10 ** (_PEAK_DB / 20) / peak)


def embed_stereo(network: WindowNetwork, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Embeddings of both channels side by side, so that a distance also sees the width of the stereo image.

    Args:
        network: an embedder.
        audio: (1, T) or (2, T) samples; mono counts as two equal channels.
        sample_rate: in Hz.

    Returns:
        (W, 2 D).

    Raises:
        ValueError: more than two channels.

    Source: Stable Audio (arXiv 2402.04825), section 4.2 (FD openl3, stereo).
    """
    if audio.ndim != 2 or audio.shape[0] not in (1, 2):
        raise ValueError(f'audio must be (1, T) or (2, T) samples; got the shape {audio.shape}')
    sides = [network(channel, sample_rate) for channel in audio]
    return np.concatenate([sides[0], sides[-1]], axis=1)
