"""NeMo's Lhotse data loader, made strict, safe, reproducible and resumable."""

import dataclasses
import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset

from nemo_audio_restore.data.audio_dataset import AudioDataset
from nemo_audio_restore.data.crops import Crop
from nemo_audio_restore.data.manifest_safety import check_data_config
from nemo_audio_restore.models.blocks import ConfigError, build, check_keys

# Keys of a data block beside Lhotse's: what the dataset does with the audio, and consent to commands in manifests.
OWN_KEYS = ('dataset', 'allow_commands')

_SOURCE_KEYS = ('cuts_path', 'shar_path', 'manifest_filepath', 'input_cfg')


def lhotse_loader(
    config: DictConfig | Mapping[str, Any],
    dataset: Dataset,
    *,
    where: str,
    sample_rate: int,
    global_rank: int = 0,
    world_size: int = 1,
    step: int = 0,
) -> DataLoader:
    """Builds the data loader of a ``train_ds`` or ``validation_ds`` block.

    Beyond NeMo's ``get_lhotse_dataloader_from_config``: an unknown key is an error; manifests that would run commands
    are refused unless ``allow_commands: true``; ranks and workers never share data; random crops come from their own
    generator; the global random state is left as it was; and ``step`` selects other data, so that a resumed run does
    not replay what it has seen.

    Args:
        config: the block: NeMo's Lhotse keys. ``truncate_offset_type`` may also be ``middle``.
        dataset: maps a ``CutSet`` to a batch.
        where: name of the block, for errors.
        sample_rate: of the model, in Hz.
        global_rank: of this process.
        world_size: number of processes.
        step: optimizer steps done before this loader starts.

    Returns:
        The loader; it has no length.

    Raises:
        ConfigError: a key is unknown or two contradict each other, or there is no data source.
        UnsafeManifestError: a manifest would run a command.
    """
    # Imported here: restoring a file needs no data loader, and this import takes seconds.
    from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config
    from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig

    given = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else dict(config)
    known = [field.name for field in dataclasses.fields(LhotseDataLoadingConfig)]
    check_keys(given, (*known, *OWN_KEYS), where=where)
    if not any(given.get(key) for key in _SOURCE_KEYS):
        raise ConfigError(f'{where} names no data; set one of {", ".join(_SOURCE_KEYS)}')
    if given.get('sample_rate', sample_rate) != sample_rate:
        raise ConfigError(
            f'{where}.sample_rate is {given["sample_rate"]} but the model works at {sample_rate} Hz; '
            'leave the key out, any file is resampled'
        )
    if not given.get('allow_commands'):
        check_data_config(given, source=where)
    settings = {key: value for key, value in given.items() if key not in OWN_KEYS}
    settings['sample_rate'] = sample_rate
    crop = _take_crop(settings, where)
    seed = int(settings.get('seed', 0))
    settings['seed'] = derived_seed(seed, step) if step else seed
    settings['shard_seed'] = derived_seed(settings.get('shard_seed', seed), step)
    with global_random_state_kept():
        loader = get_lhotse_dataloader_from_config(
            config=OmegaConf.create(settings), global_rank=global_rank, world_size=world_size, dataset=dataset
        )
        if _is_iterable(loader):
            # Every worker of every rank reads all of the data: what keeps them apart is a different order.
            workers = settings.get('num_workers', 0)
            settings['shard_seed'] = 'randomized' if workers else derived_seed(seed, step, global_rank)
            loader = get_lhotse_dataloader_from_config(
                config=OmegaConf.create(settings), global_rank=global_rank, world_size=world_size, dataset=dataset
            )
    if crop is not None:
        sampler = loader.dataset.sampler if _is_iterable(loader) else loader.sampler
        duration, position = crop
        sampler.map(Crop(duration, position=position, seed=derived_seed(seed, step, global_rank)))
    return loader


def audio_dataset(
    config: DictConfig | Mapping[str, Any], *, where: str, sample_rate: int, global_rank: int = 0, step: int = 0
) -> AudioDataset:
    """Builds the dataset of a data block from the block's ``dataset`` key (arguments of :class:`AudioDataset`).

    Args:
        config: the data block.
        where: its name, for errors.
        sample_rate: of the model, in Hz.
        global_rank: of this process; other ranks make other random choices.
        step: optimizer steps done before; other steps make other random choices.

    Returns:
        The dataset.

    Raises:
        ConfigError: an unknown key, or arguments that the dataset refuses.
    """
    return built_dataset(
        config, AudioDataset, where=where, sample_rate=sample_rate, global_rank=global_rank, step=step
    )


def built_dataset(
    config: DictConfig | Mapping[str, Any],
    default: type[Dataset],
    *,
    where: str,
    sample_rate: int,
    global_rank: int = 0,
    step: int = 0,
) -> Dataset:
    """Builds the dataset of a data block from the block's ``dataset`` key.

    Args:
        config: the data block.
        default: class of the dataset; takes ``sample_rate`` and ``seed`` beside what the block says.
        where: name of the block, for errors.
        sample_rate: of the model, in Hz.
        global_rank: of this process; other ranks make other random choices.
        step: optimizer steps done before; other steps make other random choices.

    Returns:
        The dataset.

    Raises:
        ConfigError: an unknown key, or arguments that the dataset refuses.
    """
    given = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else dict(config)
    seed = derived_seed(given.get('seed', 0), step, global_rank)
    block = {'sample_rate': sample_rate, 'seed': seed, **(given.get('dataset') or {})}
    return build(block, where=f'{where}.dataset', default=default)


def derived_seed(*parts: Any) -> int:
    """A seed in [0, 2**31) that differs for different parts."""
    digest = hashlib.sha256('/'.join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], 'big') >> 1


@contextmanager
def global_random_state_kept() -> Iterator[None]:
    """Puts the states of Python's, numpy's and torch's global generators back; NeMo's loader reseeds all of them."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global generator is what has to be kept
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _take_crop(settings: dict[str, Any], where: str) -> tuple[float, str] | None:
    """Removes a random or middle truncation from NeMo's settings; fixed ones stay with NeMo."""
    position = settings.get('truncate_offset_type', 'random')
    if settings.get('truncate_duration') is None or position not in ('random', 'middle'):
        return None
    if settings.get('batch_size') is None or settings.get('use_bucketing'):
        raise ConfigError(f'{where}: crops all have one length; set batch_size and neither batch_duration nor buckets')
    settings.pop('truncate_offset_type', None)
    return float(settings.pop('truncate_duration')), position


def _is_iterable(loader: DataLoader) -> bool:
    return isinstance(loader.dataset, torch.utils.data.IterableDataset)
