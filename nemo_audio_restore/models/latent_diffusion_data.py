"""Data loaders of captioned audio, or of latents encoded before, for a latent diffusion model."""

from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from nemo_audio_restore.data.captions import CaptionDataset
from nemo_audio_restore.data.latents import LatentDataset
from nemo_audio_restore.models.blocks import ConfigError, build
from nemo_audio_restore.models.data_loading import derived_seed, lhotse_loader
from nemo_audio_restore.models.with_audio_data import AudioDataMixin

LATENTS_KEY = 'latents'


class CaptionDataMixin(AudioDataMixin):
    """``train_ds`` and ``validation_ds`` blocks of a ModelPT with ``sample_rate`` and ``window_latents``.

    The block ``dataset`` holds arguments of :class:`CaptionDataset`, or with ``latents: true`` of
    :class:`LatentDataset`, whose recordings got their ``level_db`` when they were encoded; rate, window and channels
    are the model's.
    """

    window_latents: int
    latents_ratio: int
    audio_channels: int

    def _loader(self, config: DictConfig, *, where: str, step: int) -> DataLoader:
        place = {'where': where, 'sample_rate': self.sample_rate, 'global_rank': self.global_rank, 'step': step}
        given = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else dict(config)
        block = dict(given.get('dataset') or {})
        encoded = block.pop(LATENTS_KEY, False)
        if not isinstance(encoded, bool):
            raise ConfigError(f'{where}.dataset.latents must be true or false; got {encoded!r}')
        block = {
            'sample_rate': self.sample_rate,
            'seed': derived_seed(given.get('seed', 0), step, self.global_rank),
            **block,
        }
        if encoded:
            block.pop('level_db', None)
            block = {'ratio': self.latents_ratio, 'window_latents': self.window_latents, **block}
        else:
            window = self.window_latents * self.latents_ratio
            block = {'window_samples': window, 'channels': self.audio_channels, **block}
        dataset = build(block, where=f'{where}.dataset', default=LatentDataset if encoded else CaptionDataset)
        return lhotse_loader(config, dataset, world_size=self.world_size or 1, **place)
