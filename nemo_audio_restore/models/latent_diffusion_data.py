"""Data loaders of captioned audio, or of latents encoded before, for a latent diffusion model."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset

from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.data_loading import derived_seed, lhotse_loader
from nemo_audio_restore.models.with_audio_data import AudioDataMixin

LATENTS_KEY = 'latents'


class CaptionDataMixin(AudioDataMixin):
    """``train_ds`` and ``validation_ds`` blocks of a latent diffusion model.

    The block ``dataset`` holds arguments of :class:`CaptionDataset`, or with ``latents: true`` of
    :class:`LatentDataset`.
    """

    def _loader(self, config: DictConfig, *, where: str, step: int) -> DataLoader:
        place = {'where': where, 'sample_rate': self.sample_rate, 'global_rank': self.global_rank, 'step': step}
        dataset = caption_dataset(config, **place)
        return lhotse_loader(config, dataset, world_size=self.world_size or 1, **place)


def caption_dataset(
    config: DictConfig | Mapping[str, Any], *, where: str, sample_rate: int, global_rank: int = 0, step: int = 0
) -> Dataset:
    """Builds the dataset of a data block.

    Args:
        config: the data block.
        where: its name, for errors.
        sample_rate: of the model, in Hz.
        global_rank: of this process; other ranks make other random choices.
        step: optimizer steps done before; other steps make other random choices.

    Returns:
        A :class:`CaptionDataset` or :class:`LatentDataset`.

    Raises:
        ConfigError: an unknown key, or arguments that the dataset refuses.
    """
    from nemo_audio_restore.data.captions import CaptionDataset
    from nemo_audio_restore.data.latents import LatentDataset

    given = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else dict(config)
    block = dict(given.get('dataset') or {})
    encoded = block.pop(LATENTS_KEY, False)
    if not isinstance(encoded, bool):
        raise ConfigError(f'{where}.dataset.latents must be true or false; got {encoded!r}')
    block = {'seed': derived_seed(given.get('seed', 0), step, global_rank), **block}
    if encoded:
        return build(block, where=f'{where}.dataset', default=LatentDataset)
    return build({'sample_rate': sample_rate, **block}, where=f'{where}.dataset', default=CaptionDataset)
