"""Reads the ``.nemo`` files of NeMo's own ``AudioCodecModel``: networks and their weights, nothing else."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from nemo_audio_restore._nemo import UnsafeFileError, load_safely
from nemo_audio_restore.models.archive import check_config, open_archive, read_archive_config, read_config
from nemo_audio_restore.models.blocks import ConfigError

WEIGHTS_NAME = 'model_weights.ckpt'
NEMO_CODEC = 'nemo.collections.tts.models.audio_codec.AudioCodecModel'

_KEPT_BLOCKS = ('sample_rate', 'samples_per_frame', 'audio_encoder', 'vector_quantizer', 'audio_decoder')
# What NeMo's class holds for training alone.
_TRAINING_MODULES = (
    'discriminator',
    'mel_loss_fn',
    'stft_loss_fn',
    'time_domain_loss_fn',
    'si_sdr_loss_fn',
    'gen_loss_fn',
    'disc_loss_fn',
    'feature_loss_fn',
    'mmd_loss_fn',
    'mmd_time_loss_fn',
    'slm_encoder',
    'slm_predictor',
    'slm_loss_fn',
    'speaker_encoder',
    'speaker_encoder_resampler',
)
# Licences of the codecs that NVIDIA published on the Hugging Face Hub, by the names of their files.
_PUBLISHED = ('low-frame-rate-speech-codec-22khz', 'audio-codec-22khz', 'audio-codec-44khz')
_NVIDIA_LICENCE = {
    'license': 'other',
    'license_name': 'nsclv1',
    'license_link': 'https://developer.nvidia.com/downloads/license/nsclv1',
}


@dataclass(frozen=True)
class NemoCodec:
    """What an inference model takes from a file of NeMo's codec.

    Attributes:
        config: the blocks of networks and rates.
        state_dict: weights of the three networks, under NeMo's names.
        dropped: modules of the file that were left out.
    """

    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    dropped: tuple[str, ...]


def is_nemo_codec(path: Path) -> bool:
    """Whether a ``.nemo`` file or an unpacked folder holds NeMo's own codec class.

    Args:
        path: of the file or folder.

    Returns:
        True for ``AudioCodecModel``; False for any other class, and for what is no model at all.

    Raises:
        UnsafeFileError: the archive has members that it must not have, or no config.
    """
    config = read_config(path) if path.is_dir() else read_archive_config(path)
    return config.get('target') == NEMO_CODEC


def nemo_codec_config(path: Path) -> dict[str, Any]:
    """The blocks of NeMo's config that make the networks.

    NeMo's files hold paths of their makers' data sets and log folders; only the blocks that are kept are checked.

    Args:
        path: of the ``.nemo`` file or unpacked folder.

    Returns:
        Plain data.

    Raises:
        ConfigError: the codec is of a kind that this package does not have.
        UnsafeFileError: the kept blocks hold interpolations or paths.
    """
    config = read_config(path) if path.is_dir() else read_archive_config(path)
    for key in ('semantic_codec', 'semantic_codec_path'):
        if config.get(key):
            raise ConfigError(f'{path} is a codec with a second codec inside ({key}), which is not supported')
    rate, output_rate = config.get('sample_rate'), config.get('output_sample_rate')
    if output_rate not in (None, rate):
        raise ConfigError(f'{path} decodes to {output_rate} Hz what it encodes at {rate} Hz, which is not supported')
    missing = [key for key in _KEPT_BLOCKS if not config.get(key)]
    if missing:
        raise ConfigError(f'{path}: its config lacks {", ".join(missing)}')
    kept = {key: config[key] for key in _KEPT_BLOCKS}
    check_config(kept, source=str(path))
    return kept


def read_nemo_codec(path: Path) -> NemoCodec:
    """Reads config and weights; discriminators, losses and frozen speech models stay behind.

    Args:
        path: of the ``.nemo`` file or unpacked folder.

    Returns:
        What is needed to encode and decode.

    Raises:
        ConfigError: see :func:`nemo_codec_config`.
        UnsafeFileError: the archive or the weights hold more than data.
    """
    config = nemo_codec_config(path)
    if path.is_dir():
        state = load_safely(path / WEIGHTS_NAME)
    else:
        with tempfile.TemporaryDirectory() as folder:
            state = load_safely(_unpacked_weights(path, Path(folder)))
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UnsafeFileError(f'{path}: {WEIGHTS_NAME} holds something else than named tensors')
    kept = {name: tensor for name, tensor in state.items() if name.split('.')[0] not in _TRAINING_MODULES}
    dropped = sorted({name.split('.')[0] for name in state} - {name.split('.')[0] for name in kept})
    return NemoCodec(config, kept, tuple(dropped))


def nemo_codec_card(path: Path) -> dict[str, Any]:
    """The ``card`` block of a model made from NeMo's file; the licence is that of the weights' owner.

    Args:
        path: of the file; the name of one that NVIDIA published tells its licence.

    Returns:
        Arguments of ``ModelCard``.
    """
    card = {'summary': f"Networks of NeMo's AudioCodecModel, taken from {path.name} for inference."}
    if path.stem in _PUBLISHED:
        return {**card, **_NVIDIA_LICENCE, 'base_model': f'nvidia/{path.stem}'}
    return {**card, 'license': 'other', 'license_name': f'that of {path.name}, see its owner'}


def _unpacked_weights(path: Path, folder: Path) -> Path:
    with open_archive(path) as archive:
        member = next((m for m in archive if PurePosixPath(m.name).name == WEIGHTS_NAME), None)
        if member is None:
            raise UnsafeFileError(f'{path} is no model: it holds no {WEIGHTS_NAME}')
        member.name = WEIGHTS_NAME
        archive.extract(member, folder, filter='data')
    return folder / WEIGHTS_NAME
