"""Trains or fine-tunes a model with NeMo: the class that model.target names, or else a restoration model.

    python examples/train.py --config-name a2sb_44k_small \
        model.train_ds.cuts_path=corpus/train.jsonl.gz model.validation_ds.cuts_path=corpus/validation.jsonl.gz

Every key of the YAML files in conf/ can be overridden like this; a key that does not exist is an error (++key=value
adds one that NeMo or Lightning knows). The same command again resumes the run. Several GPUs: trainer.devices=8, and
trainer.num_nodes=4 under SLURM or torchrun. Start from weights: init_from_nemo_model, init_from_pretrained_model or
init_from_ptl_ckpt.
"""

from nemo_audio_restore._nemo import SafeCheckpointIO  # isort: skip - first: it keeps NeMo's import quiet

from lightning.pytorch import Trainer, seed_everything
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig, OmegaConf

from nemo_audio_restore.models.audio_restore import AudioRestoreModel
from nemo_audio_restore.models.blocks import ConfigError, check_keys

KEYS = ('name', 'seed', 'model', 'trainer', 'exp_manager')
START_KEYS = ('init_from_nemo_model', 'init_from_pretrained_model', 'init_from_ptl_ckpt')


@hydra_runner(config_path='../conf', config_name='a2sb_44k')
def main(cfg: DictConfig) -> None:
    """Builds trainer and model from the config, and trains."""
    check_keys(cfg, (*KEYS, *START_KEYS), where='the config')
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f'{", ".join(missing)} must be set for {cfg.name}: add KEY=VALUE to the command')
    seed_everything(cfg.seed, workers=True, verbose=False)
    trainer = Trainer(plugins=[SafeCheckpointIO()], **resolve_trainer_cfg(cfg.trainer))
    exp_manager(trainer, cfg.exp_manager)
    model = AudioRestoreModel.from_config_dict(cfg.model, trainer)
    model.maybe_init_from_pretrained_checkpoint(cfg)
    trainer.fit(model)


if __name__ == '__main__':
    main()
