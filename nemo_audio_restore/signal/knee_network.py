"""A small convolutional network over octaves: where in a spectrum a low-pass begins, if there is one."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from nemo_audio_restore.signal.cutoff_statistics import CELLS_PER_OCTAVE, FEATURES, FIRST_HZ, cell_centres_hz

FIRST_CANDIDATE = 38
"""Cell of the lowest knee that is looked for, 1.5 kHz: below, many instruments end by themselves."""

WEIGHTS = Path(__file__).with_name('knee_network.npz')
_DILATIONS = (1, 2, 4, 8, 16)
_KERNEL = 5


class KneeNetwork(nn.Module):
    """Judges every cell by five octaves around it.

    Args:
        channels: width.
        dropout: in training.
    """

    def __init__(self, channels: int = 32, *, dropout: float = 0.1):
        super().__init__()
        self.into = nn.Conv2d(len(FEATURES) + 1, channels, (1, _KERNEL), padding=(0, _KERNEL // 2))
        self.wide = nn.ModuleList(
            nn.Conv2d(channels, channels, (1, _KERNEL), padding=(0, d * (_KERNEL // 2)), dilation=(1, d))
            for d in _DILATIONS
        )
        self.mix = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in _DILATIONS)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Conv2d(channels, 2, 1)
        self.none = nn.Linear(2 * channels, 1)
        position = np.log2(cell_centres_hz() / 4000).astype(np.float32)
        self.register_buffer('position', torch.from_numpy(position), persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Judges spectra.

        Args:
            features: (B, 6, n), as of :func:`~nemo_audio_restore.signal.cutoff_statistics.features`.

        Returns:
            Log-probabilities (B, M + 1) of a knee in each of the M upper cells and, last, of none; and how many
            octaves below its -3 dB point a knee in each cell would have taken 1 dB (B, M).
        """
        x = torch.cat([features, self.position.expand(len(features), 1, -1)], dim=1)[:, :, None]
        x = self.into(x)
        for wide, mix in zip(self.wide, self.mix, strict=True):
            x = x + mix(self.dropout(gelu(wide(gelu(x)))))
        x = gelu(x)[:, :, 0]
        none = self.none(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1))
        knee, width = self.out(x[:, :, None])[:, :, 0, FIRST_CANDIDATE:].unbind(dim=1)
        return torch.log_softmax(torch.cat([knee, none], dim=1), dim=1), nn.functional.softplus(width) * 0.1


@dataclass(frozen=True)
class Verdict:
    """What the network makes of one spectrum.

    Attributes:
        probability: (M,) of a knee in each cell.
        none: probability that there is no knee.
        width: (M,) octaves from the -1 dB point of a knee in each cell to its -3 dB point.
    """

    probability: np.ndarray
    none: float
    width: np.ndarray

    def mass(self, frequency_hz: float | None, tolerance: float = 0.05) -> float:
        """Probability that the knee lies within a relative tolerance of a frequency; None: that there is none."""
        if frequency_hz is None:
            return self.none
        return float(self._masses(np.array([_cell(frequency_hz)]), tolerance)[0])

    def best_hz(self, tolerance: float = 0.05) -> float | None:
        """The frequency around which most probability lies; None where no knee is more likely than one."""
        if self.none > 0.5:
            return None
        fine = np.arange(0, len(self.probability) - 1, 0.1)
        middle = fine[np.argmax(self._masses(fine, tolerance))]
        inside = self._overlap(middle, tolerance) * self.probability
        cell = (inside * np.arange(len(inside))).sum() / inside.sum()
        return float(FIRST_HZ * 2 ** ((cell + FIRST_CANDIDATE + 0.5) / CELLS_PER_OCTAVE))

    def width_at(self, frequency_hz: float) -> float:
        """Octaves from the -1 dB point to the -3 dB point of the knee at a frequency."""
        return float(np.interp(_cell(frequency_hz), np.arange(len(self.width)), self.width))

    def _masses(self, cells: np.ndarray, tolerance: float) -> np.ndarray:
        half = np.log2(1 + tolerance) * CELLS_PER_OCTAVE
        cumulated = np.concatenate([[0.0], np.cumsum(self.probability)])
        edges = np.arange(len(cumulated)) - 0.5
        return np.interp(cells + half, edges, cumulated) - np.interp(cells - half, edges, cumulated)

    def _overlap(self, middle: float, tolerance: float) -> np.ndarray:
        half = np.log2(1 + tolerance) * CELLS_PER_OCTAVE
        cells = np.arange(len(self.probability))
        return np.clip(np.minimum(cells + 0.5, middle + half) - np.maximum(cells - 0.5, middle - half), 0, None)


def _cell(frequency_hz: float) -> float:
    return float(np.log2(frequency_hz / FIRST_HZ)) * CELLS_PER_OCTAVE - 0.5 - FIRST_CANDIDATE


def average(verdicts: list[Verdict]) -> Verdict:
    """The verdict of a jury: the mean of all."""
    return Verdict(
        np.mean([verdict.probability for verdict in verdicts], axis=0),
        float(np.mean([verdict.none for verdict in verdicts])),
        np.mean([verdict.width for verdict in verdicts], axis=0),
    )


def judge(features: np.ndarray, network: KneeNetwork | None = None) -> list[Verdict]:
    """Runs a network, by default the one that ships, on (B, 6, n) features."""
    network = _shipped() if network is None else network
    with torch.no_grad():
        log_probability, width = network(torch.from_numpy(features))
    probability = log_probability.double().exp().numpy()
    return [Verdict(row[:-1], float(row[-1]), w) for row, w in zip(probability, width.numpy(), strict=True)]


def save_weights(network: KneeNetwork, path: Path) -> None:
    """Writes the weights in half precision as a plain .npz."""
    np.savez(path, **{name: value.detach().half().numpy() for name, value in network.state_dict().items()})


def load_weights(path: Path) -> KneeNetwork:
    """Reads what :func:`save_weights` wrote, ready for use."""
    with np.load(path, allow_pickle=False) as arrays:
        state = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
    network = KneeNetwork(len(state['out.weight'][0]))
    network.load_state_dict(state)
    return network.eval()


@lru_cache(maxsize=1)
def _shipped() -> KneeNetwork:
    return load_weights(WEIGHTS)
