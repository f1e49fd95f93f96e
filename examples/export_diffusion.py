r"""Packs the averaged weights of a train_diffusion_plain.py run into a .nemo file for inference, in half precision.

    python examples/export_diffusion.py --config conf/stable_audio_44k_small.yaml \
        --autoencoder audio_autoencoder_44k_small.nemo --checkpoint runs/stable_audio_44k_small/last.pt \
        --out stable_audio_44k_small.nemo

The autoencoder that encoded the clips goes into the file, too; the text encoder and everything of training does not.
"""

import argparse
from pathlib import Path

import torch
from omegaconf import OmegaConf

from nemo_audio_restore.models.latent_diffusion import LatentDiffusionModel

INFERENCE_BLOCKS = ('target', 'conditions', 'network', 'objective', 'window_latents', 'sampler', 'card')


def export(config: Path, autoencoder: Path, checkpoint: Path, out: Path) -> LatentDiffusionModel:
    """Writes the .nemo file.

    Args:
        config: YAML that the run was trained with.
        autoencoder: .nemo file of the autoencoder that encoded its clips.
        checkpoint: ``last.pt`` of the run.
        out: file to write.

    Returns:
        The model as it was restored from the file.
    """
    trained = OmegaConf.load(config).model
    model_config = OmegaConf.masked_copy(trained, [name for name in INFERENCE_BLOCKS if name in trained])
    model_config.autoencoder = {'model': str(autoencoder)}
    model = LatentDiffusionModel(model_config)
    averaged = torch.load(checkpoint, weights_only=True, map_location='cpu')['averaged']
    for name in ('network', 'conditions'):
        own = {key: value for key, value in averaged.items() if key.startswith(f'{name}.')}
        getattr(model, name).load_state_dict({key.removeprefix(f'{name}.'): value for key, value in own.items()})
    model.save_to(str(out), half_precision=True)
    return LatentDiffusionModel.restore_from(out)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML of the run')
    parser.add_argument('--autoencoder', type=Path, required=True, help='.nemo file that encoded the clips')
    parser.add_argument('--checkpoint', type=Path, required=True, help='last.pt of the run')
    parser.add_argument('--out', type=Path, required=True, help='.nemo file to write')
    arguments = parser.parse_args()
    model = export(arguments.config, arguments.autoencoder, arguments.checkpoint, arguments.out)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f'{arguments.out}: {arguments.out.stat().st_size:,} bytes, {count:,} parameters')


if __name__ == '__main__':
    main()
