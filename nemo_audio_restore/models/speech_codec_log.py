"""What training of a codec shows in TensorBoard: recordings and what becomes of them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nemo_audio_restore.models.validation import spectrogram_picture
from nemo_audio_restore.signal.spectrogram import MagnitudePhaseSpectrogram


def log_decoded(loggers: Iterable[Any], audio: Tensor, decoded: Tensor, sample_rate: int, *, step: int) -> None:
    """Shows a recording and its decoded version: sound, and spectrograms below each other.

    Args:
        loggers: of the trainer; those without TensorBoard's ``add_audio`` are left out.
        audio: (T,) samples.
        decoded: (T,) samples.
        sample_rate: in Hz.
        step: of training.
    """
    sounds = {'recording': audio.detach().float().cpu(), 'decoded': decoded.detach().float().cpu()}
    representation = MagnitudePhaseSpectrogram(sample_rate=sample_rate, n_fft=1024, hop_length=256)
    for logger in loggers:
        writer = getattr(logger, 'experiment', None)
        if not hasattr(writer, 'add_audio'):
            continue
        for name, sound in sounds.items():
            writer.add_audio(f'codec/{name}', sound[None], step, sample_rate=sample_rate)
        pictures = [spectrogram_picture(sound, representation) for sound in sounds.values()]
        writer.add_image('codec/recording_decoded', torch.cat(pictures, dim=1), step)
