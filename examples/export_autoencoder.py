r"""Packs the averaged weights of a train_autoencoder_plain.py run into a .nemo file for inference, in half precision.

    python examples/export_autoencoder.py --config conf/audio_autoencoder_44k_small.yaml \
        --checkpoint runs/audio_autoencoder_44k_small/last.pt --out audio_autoencoder_44k_small.nemo

Only the blocks that inference needs go into the file; no data set and no optimizer. Every channel of its latents has
zero mean and unit deviation on the training data: the run measured both.
"""

import argparse
from pathlib import Path

import torch
from omegaconf import OmegaConf

from nemo_audio_restore.models.audio_autoencoder import AudioAutoencoderModel
from nemo_audio_restore.networks.spectral_autoencoder_start import standardize_latents

INFERENCE_BLOCKS = ('target', 'sample_rate', 'network', 'card')


def export(config: Path, checkpoint: Path, out: Path) -> AudioAutoencoderModel:
    """Writes the .nemo file.

    Args:
        config: YAML that the run was trained with.
        checkpoint: ``last.pt`` of the run.
        out: file to write.

    Returns:
        The model as it was restored from the file.
    """
    model_config = OmegaConf.load(config).model
    kept = OmegaConf.masked_copy(model_config, [key for key in INFERENCE_BLOCKS if key in model_config])
    state = torch.load(checkpoint, weights_only=True, map_location='cpu')
    model = AudioAutoencoderModel(kept)
    model.network.load_state_dict(state['averaged'])
    standardize_latents(model.network, state['latent_mean'], state['latent_std'])
    model.save_to(str(out), half_precision=True)
    return AudioAutoencoderModel.restore_from(out)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, required=True, help='YAML of the run')
    parser.add_argument('--checkpoint', type=Path, required=True, help='last.pt of the run')
    parser.add_argument('--out', type=Path, required=True, help='.nemo file to write')
    arguments = parser.parse_args()
    model = export(arguments.config, arguments.checkpoint, arguments.out)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f'{arguments.out}: {arguments.out.stat().st_size:,} bytes, {count:,} parameters')


if __name__ == '__main__':
    main()
