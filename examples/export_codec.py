r"""Packs the averaged weights of a train_codec_plain.py run into a .nemo file for inference, in half precision.

    python examples/export_codec.py --config conf/speech_codec_22k_small.yaml \
        --checkpoint runs/speech_codec_22k_small/last.pt --out speech_codec_22k_small.nemo

Only the blocks that inference needs go into the file; no data set and no optimizer.
"""

import argparse
from pathlib import Path

import torch
from omegaconf import OmegaConf

from nemo_audio_restore.models.speech_codec import SpeechCodecModel

INFERENCE_BLOCKS = (
    'target',
    'sample_rate',
    'samples_per_frame',
    'audio_encoder',
    'vector_quantizer',
    'audio_decoder',
    'card',
)


def export(config: Path, checkpoint: Path, out: Path) -> SpeechCodecModel:
    """Writes the .nemo file.

    Args:
        config: YAML that the run was trained with.
        checkpoint: ``last.pt`` of the run.
        out: file to write.

    Returns:
        The model as it was restored from the file.
    """
    model_config = OmegaConf.load(config).model
    model = SpeechCodecModel(OmegaConf.masked_copy(model_config, [k for k in INFERENCE_BLOCKS if k in model_config]))
    averaged = torch.load(checkpoint, weights_only=True, map_location='cpu')['averaged']
    for name in ('audio_encoder', 'audio_decoder'):
        prefix = f'{name}.'
        weights = {key.removeprefix(prefix): value for key, value in averaged.items() if key.startswith(prefix)}
        getattr(model, name).load_state_dict(weights)
    model.save_to(str(out), half_precision=True)
    return SpeechCodecModel.restore_from(out)


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
